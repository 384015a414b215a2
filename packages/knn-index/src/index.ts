export type { SearchFilter } from './filter.ts';
export type { Id, IdArray, IdKind } from './id.ts';
export { KnnIndex } from './knn-index.ts';
export { KnnIndexError } from './knn-index-error.ts';
export {
  type CausalSearch,
  estimateGroupBytes,
  type GroupStorage,
  KnnIndexGroup,
  type KnnIndexGroupOptions,
  type LaneStrategy,
  type SoftSearchQuery,
  type SoftSearchReport,
} from './knn-index-group.ts';
export type {
  Abortable,
  AddBatchOptions,
  AddOptions,
  Algorithm,
  KnnIndexOptions,
  KnnIndexStats,
  Metric,
  OpenFileOptions,
  OpenOptions,
  Storage,
  UpsertBatchOptions,
  UpsertOptions,
} from './knn-index-options.ts';
export { simdLevel, threadPool } from './native.ts';
export type {
  AsyncMeasureRecallOptions,
  AsyncRadiusSearchOptions,
  AsyncSearchOptions,
  AsyncSoftSearchOptions,
  BatchNeighbours,
  BatchRanges,
  BatchSearchOptions,
  MeasureRecallOptions,
  Neighbours,
  RadiusSearchOptions,
  SearchOptions,
  SoftNeighbours,
  SoftSearchOptions,
} from './search-options.ts';
export type { SearchOutput } from './search-output.ts';
