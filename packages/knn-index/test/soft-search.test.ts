import { KnnIndex, KnnIndexError, KnnIndexGroup } from '@iceformer/knn-index';
import { expect, test } from 'vitest';
import { randomVectors } from './random-vectors.ts';

const dimensions = 10;
const valueDimensions = 3;
const scale = 2;

test.each(['inner-product', 'l2'] as const)(
  '%s: the softmax-weighted average of all values',
  async (metric) => {
    using index = new KnnIndex({ dimensions, metric, valueDimensions, algorithm: 'cluster' });
    const vectors = randomVectors(900, dimensions, 1);
    const values = randomVectors(900, valueDimensions, 2);
    index.addBatch(vectors, { values });
    const queries = randomVectors(5, dimensions, 3);
    const found = index.softSearch(queries, { scale });
    expect(await index.softSearchAsync(queries, { scale })).toEqual(found);
    for (let row = 0; row < 5; row++) {
      const weights = Array.from({ length: 900 }, (_, id) => {
        let score = 0;
        for (let i = 0; i < dimensions; i++) {
          const q = queries[row * dimensions + i] as number;
          const x = vectors[id * dimensions + i] as number;
          score += metric === 'l2' ? -((q - x) ** 2) : q * x;
        }
        return Math.exp(scale * score);
      });
      const sum = weights.reduce((total, weight) => total + weight, 0);
      expect(found.logSumExp[row]).toBeCloseTo(Math.log(sum), 4);
      for (let i = 0; i < valueDimensions; i++) {
        const total = weights.reduce(
          (t, weight, id) => t + weight * (values[id * valueDimensions + i] as number),
          0,
        );
        expect(found.values[row * valueDimensions + i]).toBeCloseTo(total / sum, 5);
      }
    }
    expect([...found.retainedMass]).toEqual([1, 1, 1, 1, 1]);
  },
);

test('a mass target reads less and says what it kept', () => {
  using index = new KnnIndex({ dimensions, valueDimensions, algorithm: 'cluster' });
  index.addBatch(randomVectors(4000, dimensions, 4), {
    values: randomVectors(4000, valueDimensions, 5),
  });
  const { retainedMass } = index.softSearch(randomVectors(20, dimensions, 6), {
    scale: 4,
    massTarget: 0.9,
  });
  expect(Math.min(...retainedMass)).toBeGreaterThan(0.5);
  expect(Math.max(...retainedMass)).toBeLessThan(1);
});

test.each([
  [{ scale: 0 }, 'scale is 0'],
  [{ scale: Number.POSITIVE_INFINITY }, 'scale is inf'],
  [{ scale: '1' }, 'scale is "1"'],
  [{ massTarget: 0 }, 'massTarget is 0'],
  [{ massTarget: 1.5 }, 'massTarget is 1.5'],
])('%j is refused', async (options, part) => {
  using index = new KnnIndex({ dimensions, valueDimensions });
  const query = randomVectors(1, dimensions, 7);
  const refused = { code: 'ERR_SOFT_SEARCH', message: expect.stringContaining(part) };
  expect(() => index.softSearch(query, options as never)).toThrow(KnnIndexError);
  await expect(index.softSearchAsync(query, options as never)).rejects.toMatchObject(refused);
});

test('an index without values has nothing to average', () => {
  using index = new KnnIndex({ dimensions });
  index.addBatch(randomVectors(2, dimensions, 8));
  const search = () => index.softSearch(randomVectors(1, dimensions, 9));
  expect(search).toThrow(expect.objectContaining({ code: 'ERR_NO_VALUES' }));
});

test('a group writes no results to memory that another argument or thread uses', () => {
  using group = new KnnIndexGroup({ count: 1, dimensions: 4 });
  group.append(new Float32Array([1, 2, 3, 4]), new Float32Array([5, 6, 7, 8]));
  const memory = new Float32Array(12);
  const [queries, output] = [memory.subarray(0, 4), memory.subarray(4, 8)];
  const query = { queries: 1, visible: 1 };
  const refused = (what: string) =>
    expect.objectContaining({ code: 'ERR_OUTPUT', details: { what } });
  expect(() => group.softSearch(queries, memory.subarray(2, 6), query)).toThrow(refused('output'));
  const shared = new Float32Array(new SharedArrayBuffer(16));
  expect(() => group.softSearch(queries, shared, query)).toThrow(refused('output'));
  const lse = memory.subarray(7, 8);
  expect(() => group.softSearch(queries, output, { ...query, lse })).toThrow(refused('lse'));
  group.softSearch(queries, output, { ...query, lse: memory.subarray(8, 9) });
  expect([...output]).toEqual([5, 6, 7, 8]);
});
