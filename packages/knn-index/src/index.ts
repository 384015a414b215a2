export {
  type AddOptions,
  type Algorithm,
  type AsyncSearchOptions,
  type AsyncSoftSearchOptions,
  type BatchNeighbours,
  KnnIndex,
  type KnnIndexOptions,
  type KnnIndexStats,
  type Metric,
  type Neighbours,
  type SearchOptions,
  type SoftNeighbours,
  type SoftSearchOptions,
  type Storage,
} from './knn-index.ts';
export { KnnIndexError } from './knn-index-error.ts';
export {
  estimateGroupBytes,
  type GroupStorage,
  KnnIndexGroup,
  type KnnIndexGroupOptions,
  type SoftSearchQuery,
  type SoftSearchReport,
} from './knn-index-group.ts';
export { simdLevel, threadPool } from './native.ts';
