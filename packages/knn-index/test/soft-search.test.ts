import { KnnIndex, KnnIndexError, KnnIndexGroup, type LaneStrategy } from '@iceformer/knn-index';
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

test.each(['exact', 'window', 'top-k', 'selected'] as const)(
  'appending and searching in one call is both after each other: %s',
  (kind) => {
    const lanes = { count: 2, dimensions: 32, valueDimensions: 16, storage: 'bf16' } as const;
    using together = new KnnIndexGroup(lanes);
    using apart = new KnnIndexGroup(lanes);
    const strategy: LaneStrategy = {
      exact: { kind: 'exact' },
      window: { kind: 'window', sinks: 4, recent: 10 },
      'top-k': { kind: 'top-k', k: 5, algorithm: 'exact' },
      selected: { kind: 'selected', massTarget: 0.9 },
    }[kind] as LaneStrategy;
    const strategies: LaneStrategy[] = [strategy, { kind: 'exact' }];
    let length = 0;
    for (const [step, n] of [40, 3, 1, 100, 1, 1].entries()) {
      const keys = randomVectors(n * 2, 32, step);
      const values = randomVectors(n * 2, 16, 50 + step);
      const queries = randomVectors(n * 6, 32, 100 + step);
      const found = [new Float32Array(n * 6 * 16), new Float32Array(n * 6 * 16)] as const;
      const reports = [new Float64Array(8), new Float64Array(8)] as const;
      const window = step === 3 && kind === 'exact' ? { window: 7 } : {};
      const search = { strategies, scale: 0.3, ...window };
      together.appendAndSearch(keys, values, queries, found[0], {
        ...search,
        laneReports: reports[0],
      });
      apart.append(keys, values);
      apart.softSearch(queries, found[1], {
        ...search,
        queries: n,
        visible: length + 1,
        causal: true,
        laneReports: reports[1],
      });
      length += n;
      expect(together.length).toBe(length);
      expect(found[0].some((x) => x !== 0)).toBe(true);
      expect(found[0]).toEqual(found[1]);
      expect(reports[0]).toEqual(reports[1]);
    }
  },
);

test('settled vectors stand in tiles of sixteen near ones, and their order says which', () => {
  using group = new KnnIndexGroup({ count: 2, dimensions: 4, valueDimensions: 2, storage: 'f32' });
  const n = 16 + 64 + 9;
  // Four far places in the first lane, by turns; the second lane has its vectors anywhere.
  const keys = randomVectors(n * 2, 4, 1);
  for (let i = 0; i < n; i++) keys[i * 8 + (i % 4)] = 100;
  const values = randomVectors(n * 2, 2, 2);
  group.append(keys, values);
  expect(group.settledOrder(0)).toEqual(new Uint32Array(0));
  group.settle(16, 80);
  const inside = Array.from({ length: 64 }, (_, i) => 16 + i);
  for (const lane of [0, 1]) {
    expect([...group.settledOrder(lane)].sort((a, b) => a - b)).toEqual(inside);
  }
  const places = [...group.settledOrder(0)].map((number) => number % 4);
  for (let tile = 0; tile < 64; tile += 16) {
    expect(new Set(places.slice(tile, tile + 16)).size).toBe(1);
  }
  expect(group.settledOrder(2)).toEqual(new Uint32Array(0));
  group.truncate(40);
  expect(group.settledOrder(0)).toEqual(new Uint32Array(0));
  group.close();
  expect(() => group.settledOrder(0)).toThrow(expect.objectContaining({ code: 'ERR_CLOSED' }));
});

test.each([-1, 0.5, Number.NaN, Number.POSITIVE_INFINITY, 2 ** 32, '7'])(
  'a group refuses %s as a count, and stays as it is',
  (odd) => {
    using group = new KnnIndexGroup({ count: 1, dimensions: 4 });
    group.append(randomVectors(32, 4, 1), randomVectors(32, 4, 2));
    const refused = (name: string) =>
      expect.objectContaining({
        code: 'ERR_OPTION',
        details: { [name]: odd, min: 0, max: 2 ** 32 - 1 },
      });
    const value = odd as number;
    expect(() => group.reserve(value)).toThrow(refused('vectors'));
    expect(() => group.truncate(value)).toThrow(refused('length'));
    expect(() => group.settle(value, 16)).toThrow(refused('sinks'));
    expect(() => group.settle(0, value)).toThrow(refused('end'));
    expect(group.length).toBe(32);
  },
);

test('appending and searching in one call: what is refused leaves everything as it was', () => {
  using group = new KnnIndexGroup({ count: 1, dimensions: 4 });
  const one = (x: number) => new Float32Array(4).fill(x);
  const search = {
    strategies: [{ kind: 'exact' }] as LaneStrategy[],
    laneReports: new Float64Array(4),
  };
  const output = new Float32Array(4);
  group.appendAndSearch(one(1), one(2), one(3), output, search);
  expect([...output]).toEqual([2, 2, 2, 2]);
  const refused = (code: string) => expect.objectContaining({ code });
  const tryWith = (keys: Float32Array, queries: Float32Array, out: Float32Array) => () =>
    group.appendAndSearch(keys, one(2), queries, out, search);
  expect(tryWith(one(Number.NaN), one(3), output)).toThrow(refused('ERR_NOT_FINITE'));
  expect(tryWith(one(1), one(Number.NaN), output)).toThrow(refused('ERR_NOT_FINITE'));
  expect(tryWith(one(1), one(3), new Float32Array(5))).toThrow(refused('ERR_COUNT_MISMATCH'));
  expect(tryWith(new Float32Array(0), one(3), output)).toThrow(refused('ERR_COUNT_MISMATCH'));
  const queries = one(3);
  expect(tryWith(one(1), queries, queries)).toThrow(refused('ERR_OUTPUT'));
  expect(tryWith([1, 2, 3, 4] as unknown as Float32Array, one(3), output)).toThrow(
    refused('ERR_ARRAY_TYPE'),
  );
  expect(() =>
    group.appendAndSearch(one(1), one(2), one(3), output, { ...search, window: 0 }),
  ).toThrow(refused('ERR_VISIBLE'));
  expect(group.length).toBe(1);
  group.close();
  expect(tryWith(one(1), one(3), output)).toThrow(refused('ERR_CLOSED'));
});
