import { type Algorithm, KnnIndex, type Storage } from '@iceformer/knn-index';
import { type BuildIndex, measure } from './measure.ts';

/** Index: `algorithm`, `storage`. Searches: `effort`, `recall` or `exact`. Threads belong to an index, so it is built anew for each number. */
const build: BuildIndex = (keys, dimensions, { index: kind }, threads) => {
  const index = new KnnIndex({
    dimensions,
    metric: 'inner-product',
    algorithm: kind['algorithm'] as Algorithm,
    storage: (kind['storage'] ?? 'f32') as Storage,
    threads,
  });
  index.addBatch(keys);
  return {
    search(queries, k, setting) {
      // A call of its own for one query, as a user would write it.
      return queries.length === dimensions
        ? index.search(queries, { k, ...setting }).ids
        : index.searchBatch(queries, { k, ...setting }).ids;
    },
    bytes: () => index.stats().reservedBytes,
    close: () => index.close(),
  };
};

measure('@iceformer/knn-index', build);
