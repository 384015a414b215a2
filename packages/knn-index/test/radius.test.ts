import { KnnIndex } from '@iceformer/knn-index';
import { expect, test } from 'vitest';
import { randomVectors } from './random-vectors.ts';

test.each(['inner-product', 'cosine', 'l2'] as const)(
  '%s: finds all within the radius and nothing else',
  async (metric) => {
    for (const algorithm of ['exact', 'cluster', 'graph', 'dci'] as const) {
      const dimensions = 7;
      using index = new KnnIndex({ dimensions, metric, algorithm });
      index.addBatch(randomVectors(4000, dimensions, 1));
      const queries = randomVectors(30, dimensions, 2);
      const radius = metric === 'l2' ? 1.5 : 0.6;
      const ranges = index.searchRadiusBatch(queries, { radius });
      expect(await index.searchRadiusBatchAsync(queries, { radius })).toEqual(ranges);
      const all = index.searchBatch(queries, { k: 4000, exact: true });
      let end = 0;
      for (let row = 0; row < 30; row++) {
        const scores = all.scores.subarray(row * 4000, (row + 1) * 4000);
        const count = scores.filter((s) => (metric === 'l2' ? s <= radius : s >= radius)).length;
        expect(ranges.offsets[row]).toBe(end);
        end += count;
        const found = ranges.ids.subarray(end - count, end);
        expect([...found]).toEqual([...all.ids.subarray(row * 4000, row * 4000 + count)]);
        expect([...ranges.scores.subarray(end - count, end)]).toEqual([
          ...scores.subarray(0, count),
        ]);
        const query = queries.subarray(row * dimensions, (row + 1) * dimensions);
        expect([...index.searchRadius(query, { radius }).ids]).toEqual([...found]);
        const few = index.searchRadius(query, { radius, limit: 3 });
        expect([...few.ids]).toEqual([...found.subarray(0, 3)]);
      }
      expect(ranges.offsets).toHaveLength(31);
      expect(ranges.offsets[30]).toBe(end);
      expect(end).toBeGreaterThan(100);
    }
  },
);

test('with a filter, from an empty index, and stopped', async () => {
  using index = new KnnIndex({ dimensions: 1, metric: 'l2' });
  const query = new Float32Array([0]);
  expect(index.searchRadius(query, { radius: 9 }).ids).toHaveLength(0);
  index.addBatch(new Float32Array([1, 2, 3, 4]));
  expect([...index.searchRadius(query, { radius: 9 }).ids]).toEqual([0, 1, 2]);
  expect([...index.searchRadius(query, { radius: 9, filter: (id) => id !== 1 }).ids]).toEqual([
    0, 2,
  ]);
  expect([...index.searchRadius(query, { radius: 0.5 }).ids]).toEqual([]);
  const signal = AbortSignal.abort(new Error('no'));
  await expect(index.searchRadiusBatchAsync(query, { radius: 9, signal })).rejects.toBe(
    signal.reason,
  );
});
