import { KnnIndex, type Metric, simdLevel, threadPool } from '@iceformer/knn-index';
import { describe, expect, test } from 'vitest';
import { randomVectors } from './random-vectors.ts';

function score(metric: Metric, query: Float32Array, vector: Float32Array): number {
  let dot = 0;
  let distance = 0;
  for (const [i, q] of query.entries()) {
    const x = vector[i] as number;
    dot += q * x;
    distance += (q - x) ** 2;
  }
  if (metric === 'cosine') {
    return dot / (Math.hypot(...query) * Math.hypot(...vector));
  }
  return metric === 'l2' ? distance : dot;
}

/** Ids of the k nearest by a plain loop. */
function bruteForce(
  metric: Metric,
  vectors: Float32Array,
  query: Float32Array,
  k: number,
): number[] {
  const dimensions = query.length;
  const sign = metric === 'l2' ? 1 : -1;
  return Array.from({ length: vectors.length / dimensions }, (_, id) => ({
    id,
    rank: sign * score(metric, query, vectors.subarray(id * dimensions, (id + 1) * dimensions)),
  }))
    .sort((a, b) => a.rank - b.rank || a.id - b.id)
    .slice(0, k)
    .map(({ id }) => id);
}

describe.each(['inner-product', 'cosine', 'l2'] as const)('%s', (metric) => {
  const dimensions = 12;
  const vectors = randomVectors(3000, dimensions, 1);
  const queries = randomVectors(70, dimensions, 2);

  test.each(['auto', 'exact', 'cluster', 'graph', 'dci'] as const)(
    '%s finds what a plain loop finds',
    (algorithm) => {
      using index = new KnnIndex({ dimensions, metric, algorithm });
      expect([...index.addBatch(vectors.subarray(0, 12 * 2500))]).toEqual([...Array(2500).keys()]);
      index.addBatch(vectors.subarray(12 * 2500));
      expect(index.size).toBe(3000);
      const found = index.searchBatch(queries, { k: 7, exact: true });
      expect([...found.counts]).toEqual(Array(70).fill(7));
      for (let row = 0; row < 70; row++) {
        const query = queries.subarray(row * dimensions, (row + 1) * dimensions);
        expect([...found.ids.subarray(row * 7, row * 7 + 7)]).toEqual(
          bruteForce(metric, vectors, query, 7),
        );
        const first = found.ids[row * 7] as number;
        const expected = score(
          metric,
          query,
          vectors.subarray(first * dimensions, (first + 1) * dimensions),
        );
        expect(found.scores[row * 7]).toBeCloseTo(expected, 5);
        const one = index.search(query, { k: 7, exact: true });
        expect(one.ids).toEqual(found.ids.slice(row * 7, row * 7 + 7));
        expect(one.scores).toEqual(found.scores.slice(row * 7, row * 7 + 7));
      }
    },
  );
});

test.each(['cluster', 'graph', 'dci'] as const)('%s: more effort finds more', (algorithm) => {
  const dimensions = 16;
  using index = new KnnIndex({ dimensions, algorithm, metric: 'l2' });
  index.addBatch(randomVectors(20_000, dimensions, 21));
  const queries = randomVectors(64, dimensions, 22);
  const truth = index.searchBatch(queries, { k: 10, exact: true });
  const recall = (effort: number) => {
    const found = index.searchBatch(queries, { k: 10, effort });
    expect([...found.counts]).toEqual(Array(64).fill(10));
    const hits = found.ids.filter((id, i) =>
      truth.ids.subarray(i - (i % 10), i - (i % 10) + 10).includes(id),
    );
    return hits.length / truth.ids.length;
  };
  const [little, much] = [recall(0.0001), recall(0.5)];
  expect(little).toBeLessThan(much);
  expect(much).toBeGreaterThan(0.9);
});

test('a target recall is reached, and measured on demand', async () => {
  const dimensions = 24;
  using index = new KnnIndex({ dimensions, algorithm: 'cluster' });
  index.addBatch(randomVectors(20_000, dimensions, 23));
  const queries = randomVectors(400, dimensions, 24);
  const truth = index.searchBatch(queries, { k: 10, exact: true });
  for (const recall of [0.8, 0.95]) {
    const found = index.searchBatch(queries, { k: 10, recall });
    const hits = found.ids.filter((id, i) =>
      truth.ids.subarray(i - (i % 10), i - (i % 10) + 10).includes(id),
    );
    expect(hits.length / truth.ids.length).toBeGreaterThan(recall - 0.03);
    const measured = index.measureRecall({ k: 10, recall, sample: 200 });
    expect(measured).toBeGreaterThan(recall - 0.05);
    expect(measured).toBeLessThanOrEqual(1);
  }
  expect(await index.measureRecallAsync({ k: 10, effort: 1, sample: 20 })).toBeGreaterThan(0.99);
});

test.each([
  ['f16', 2, 3],
  ['bf16', 2, 2],
  ['i8', 1, 1],
] as const)('%s takes less memory and scores what it stores', (storage, bytes, digits) => {
  const dimensions = 64;
  const vectors = randomVectors(4096, dimensions, 3);
  using full = new KnnIndex({ dimensions, algorithm: 'exact' });
  using half = new KnnIndex({ dimensions, algorithm: 'exact', storage });
  full.addBatch(vectors);
  half.addBatch(vectors);
  const saved = full.stats().liveBytes - half.stats().liveBytes;
  expect(saved).toBeGreaterThan(0.9 * 4096 * dimensions * (4 - bytes));
  const query = randomVectors(1, dimensions, 4);
  const { ids, scores } = half.search(query, { k: 3 });
  for (const [place, id] of ids.entries()) {
    const stored = half.get(id);
    expect(scores[place]).toBeCloseTo(score('inner-product', query, stored), 5);
    expect(stored[0]).toBeCloseTo(full.get(id)[0] as number, digits);
  }
});

test('equal vectors come in the order of insertion', () => {
  using index = new KnnIndex({ dimensions: 3, metric: 'l2' });
  index.addBatch(new Float32Array(Array(50).fill([1, 2, 3]).flat()));
  const { ids, scores } = index.search(new Float32Array([1, 2, 3]), { k: 5 });
  expect([...ids]).toEqual([0, 1, 2, 3, 4]);
  expect([...scores]).toEqual([0, 0, 0, 0, 0]);
});

test('counts are honest when there are fewer than k', () => {
  using index = new KnnIndex({ dimensions: 2 });
  const query = new Float32Array([1, 0]);
  expect(index.search(query, { k: 3 })).toEqual({
    ids: new Float64Array(0),
    scores: new Float32Array(0),
  });
  index.addBatch(new Float32Array([1, 0, 2, 0]));
  const { ids, scores, counts } = index.searchBatch(query, { k: 4 });
  expect([...counts]).toEqual([2]);
  expect([...ids]).toEqual([1, 0, -1, -1]);
  expect([...scores]).toEqual([2, 1, Number.NaN, Number.NaN]);
  expect([...index.search(query, { k: 4 }).ids]).toEqual([1, 0]);
  expect(index.searchBatch(new Float32Array(0), { k: 4 }).counts).toHaveLength(0);
});

test('ids may be any safe integers, in any order', () => {
  using index = new KnnIndex({ dimensions: 1, metric: 'l2' });
  const ids = [7, 0, Number.MAX_SAFE_INTEGER - 1, 3];
  expect([...index.addBatch(new Float32Array([10, 20, 30, 40]), { ids })]).toEqual(ids);
  expect(index.add(new Float32Array([50]))).toBe(Number.MAX_SAFE_INTEGER);
  expect([...index.search(new Float32Array([26]), { k: 2 }).ids]).toEqual([ids[2], 0]);
  expect(index.has(7)).toBe(true);
  expect(index.has(8)).toBe(false);
  expect(index.has(0.5)).toBe(false);
  expect([...index.get(3)]).toEqual([40]);
});

test('values stay with their vectors through clustering', () => {
  const dimensions = 8;
  using index = new KnnIndex({ dimensions, algorithm: 'cluster', valueDimensions: 2 });
  const vectors = randomVectors(2000, dimensions, 5);
  const values = randomVectors(2000, 2, 6);
  index.addBatch(vectors, { values });
  expect(index.stats().clusters).toBeGreaterThan(1);
  for (const id of [0, 777, 1999]) {
    expect(index.value(id)).toEqual(values.slice(id * 2, id * 2 + 2));
    expect(index.get(id)).toEqual(vectors.slice(id * dimensions, (id + 1) * dimensions));
  }
});

test('equal seeds give equal results', () => {
  const vectors = randomVectors(6000, 16, 8);
  const queries = randomVectors(20, 16, 9);
  const search = (seed: number, threads: number) => {
    using index = new KnnIndex({ dimensions: 16, algorithm: 'cluster', seed, threads });
    index.addBatch(vectors);
    return index.searchBatch(queries, { k: 10, effort: 0.02 });
  };
  expect(search(1, 1)).toEqual(search(1, 2));
  expect(search(1, 1)).not.toEqual(search(2, 1));
});

test('arrays that other threads may write are copied', () => {
  using index = new KnnIndex({ dimensions: 2 });
  const shared = new Float32Array(new SharedArrayBuffer(16));
  shared.set([1, 2, 3, 4]);
  index.addBatch(shared);
  expect([...index.search(shared.subarray(2), { k: 1 }).ids]).toEqual([1]);
});

test('stats tell what the index chose', () => {
  using index = new KnnIndex({ dimensions: 4, threads: 1 });
  expect(index.stats()).toMatchObject({
    size: 0,
    algorithm: 'exact',
    clusters: 0,
    simd: simdLevel(),
  });
  index.addBatch(randomVectors(1000, 4, 25));
  const { size, liveBytes, reservedBytes } = index.stats();
  expect(size).toBe(1000);
  expect(liveBytes).toBeGreaterThanOrEqual(1000 * 4 * 4);
  expect(reservedBytes).toBeGreaterThanOrEqual(liveBytes);
});

test('the thread pool of a size has one address', () => {
  expect(threadPool(2)).toBe(threadPool(2));
  expect(threadPool(2)).not.toBe(threadPool(1));
  const levels = [
    'scalar',
    'neon',
    'avx2',
    'avx2-vnni',
    'avx512',
    'avx512-vnni',
    'avx512-fp16',
    'avx512-bf16',
    'amx',
  ];
  expect(levels).toContain(simdLevel());
});
