import { KnnIndex, type SearchFilter } from '@iceformer/knn-index';
import { describe, expect, test } from 'vitest';
import { randomVectors } from './random-vectors.ts';

const dimensions = 8;
const size = 6000;
const k = 12;
const vectors = randomVectors(size, dimensions, 1);
const queries = randomVectors(20, dimensions, 2);

/** Each way to say the same set of ids. */
function filters(passes: (id: number) => boolean): [string, SearchFilter][] {
  const all = Array.from({ length: size }, (_, id) => id);
  const bits = (chosen: (id: number) => boolean) => {
    const bitset = new Uint8Array(Math.ceil(size / 8));
    for (const id of all.filter(chosen)) {
      bitset[id >> 3] = (bitset[id >> 3] as number) | (1 << (id % 8));
    }
    return bitset;
  };
  const not = (id: number) => !passes(id);
  return [
    ['ids', { ids: all.filter(passes) }],
    ['excluded ids', { ids: Float64Array.from(all.filter(not)), exclude: true }],
    ['typed ids', { ids: Uint32Array.from(all.filter(passes)) }],
    ['bitset', { bitset: bits(passes) }],
    ['excluded bitset', { bitset: bits(not), exclude: true }],
    ['predicate', passes],
  ];
}

describe.each(['exact', 'cluster', 'graph', 'dci'] as const)('%s', (algorithm) => {
  test.each([
    ['one in two', (id: number) => id % 2 === 0, size / 2],
    ['one in a hundred', (id: number) => id % 100 === 7, size / 100],
    ['five', (id: number) => id % 1200 === 3, 5],
    ['none', () => false, 0],
  ])('%s: every form finds the same, and k if there are k', async (_, passes, passing) => {
    using index = new KnnIndex({ dimensions, metric: 'l2', algorithm });
    index.addBatch(vectors);
    const all = index.searchBatch(queries, { k: size, exact: true });
    for (const [name, filter] of filters(passes)) {
      const options = { k, filter, exact: true };
      const found = index.searchBatch(queries, options);
      expect(await index.searchBatchAsync(queries, options), name).toEqual(found);
      expect([...found.counts], name).toEqual(Array(20).fill(Math.min(k, passing)));
      for (let row = 0; row < 20; row++) {
        const expected = [...all.ids.subarray(row * size, (row + 1) * size)]
          .filter(passes)
          .slice(0, k);
        const ids = [...found.ids.subarray(row * k, (row + 1) * k)].filter((id) => id >= 0);
        expect(ids, name).toEqual(expected);
      }
      const quick = index.searchBatch(queries, { k, filter });
      expect([...quick.counts], name).toEqual([...found.counts]);
      expect(
        quick.ids.every((id) => id === -1 || passes(id)),
        name,
      ).toBe(true);
    }
  });
});

test('unknown ids and bits beyond the ids are no error', () => {
  using index = new KnnIndex({ dimensions: 1, metric: 'l2' });
  index.addBatch(new Float32Array([1, 2, 3]));
  const query = new Float32Array([0]);
  const ids = (filter: SearchFilter) => [...index.search(query, { k: 3, filter }).ids];
  expect(ids({ ids: [2, 99, 2] })).toEqual([2]);
  expect(ids({ ids: [] })).toEqual([]);
  expect(ids({ ids: [], exclude: true })).toEqual([0, 1, 2]);
  expect(ids({ bitset: new Uint8Array(0) })).toEqual([]);
  expect(ids({ bitset: new Uint8Array([0b1111_0110, 255]) })).toEqual([1, 2]);
});

test('a predicate is asked once for every id, and may throw', async () => {
  using index = new KnnIndex({ dimensions: 1 });
  index.addBatch(new Float32Array([1, 2, 3]), { ids: [30, 10, 20] });
  const asked: number[] = [];
  const filter = (id: number) => asked.push(id) > 0;
  const queries = new Float32Array([1, 2, 3, 4]);
  expect([...index.searchBatch(queries, { k: 1, filter }).ids]).toEqual([20, 20, 20, 20]);
  expect(asked).toEqual([10, 20, 30]);
  const reason = new Error('mine');
  const throws = () => {
    throw reason;
  };
  expect(() => index.searchBatch(queries, { k: 1, filter: throws })).toThrow(reason);
  await expect(index.searchBatchAsync(queries, { k: 1, filter: throws })).rejects.toBe(reason);
});

test('an asynchronous predicate sees the ids as they were at the call', async () => {
  using index = new KnnIndex({ dimensions: 1, metric: 'l2' });
  index.addBatch(new Float32Array([1, 2, 3]));
  const asked: number[] = [];
  const filter = (id: number) => asked.push(id) > 0;
  const search = index.searchBatchAsync(new Float32Array([9]), { k: 3, filter });
  index.remove(2);
  index.add(new Float32Array([9]));
  expect([...(await search).ids]).toEqual([2, 1, 0]);
  expect(asked).toEqual([0, 1, 2]);
});
