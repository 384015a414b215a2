import { KnnIndex, KnnIndexError, type KnnIndexOptions } from '@iceformer/knn-index';
import { describe, expect, test } from 'vitest';

function errorOf(call: () => unknown): KnnIndexError {
  try {
    call();
  } catch (error) {
    expect(error).toBeInstanceOf(KnnIndexError);
    return error as KnnIndexError;
  }
  throw new Error('nothing was thrown');
}

const floats = (...numbers: number[]) => new Float32Array(numbers);

describe('options', () => {
  test.each([
    [{ dimensions: 0 }, 'ERR_DIMENSIONS'],
    [{ dimensions: 2.5 }, 'ERR_DIMENSIONS'],
    [{ dimensions: 65_537 }, 'ERR_DIMENSIONS'],
    [{}, 'ERR_DIMENSIONS'],
    [{ dimensions: 2, valueDimensions: 0 }, 'ERR_DIMENSIONS'],
    [{ dimensions: 2, metric: 'euclid' }, 'ERR_OPTION'],
    [{ dimensions: 2, storage: 'f64' }, 'ERR_OPTION'],
    [{ dimensions: 2, algorithm: 'hnsw' }, 'ERR_OPTION'],
    [{ dimensions: 2, ids: 'string' }, 'ERR_OPTION'],
    [{ dimensions: 2, seed: -1 }, 'ERR_OPTION'],
    [{ dimensions: 2, threads: 0 }, 'ERR_OPTION'],
    [null, 'ERR_OPTION'],
  ])('%j', (options, code) => {
    expect(errorOf(() => new KnnIndex(options as KnnIndexOptions)).code).toBe(code);
  });
});

describe('additions leave the index as it was', () => {
  const cases: [string, (index: KnnIndex) => unknown, string, string?][] = [
    ['wrong array', (index) => index.addBatch([1, 2] as never), 'ERR_ARRAY_TYPE', 'not an array'],
    [
      'wrong type',
      (index) => index.addBatch(new Float64Array(2) as never),
      'ERR_ARRAY_TYPE',
      'Float64Array',
    ],
    ['nothing', (index) => index.addBatch(undefined as never), 'ERR_ARRAY_TYPE', 'undefined'],
    [
      'a hint',
      (index) => index.add([1, 2] as never),
      'ERR_ARRAY_TYPE',
      'Float32Array.from(vector)',
    ],
    [
      'ids not a list',
      (index) => index.addBatch(floats(1, 2), { ids: 7 as never }),
      'ERR_ARRAY_TYPE',
    ],
    [
      'bigint in an index of numbers',
      (index) => index.add(floats(1, 2), { id: 9n as never }),
      'ERR_ID',
      "ids: 'bigint'",
    ],
    [
      'fraction in a typed array',
      (index) => index.addBatch(floats(1, 2, 3, 4), { ids: new Float64Array([9, 9.5]) }),
      'ERR_ID',
      '9.5',
    ],
    [
      'NaN in a typed array',
      (index) => index.addBatch(floats(1, 2), { ids: new Float64Array([Number.NaN]) }),
      'ERR_ID',
    ],
    [
      'upsert without id',
      (index) => index.upsert(floats(1, 2), {} as never),
      'ERR_ID',
      'undefined',
    ],
    [
      'upsert without ids',
      (index) => index.upsertBatch(floats(1, 2), {} as never),
      'ERR_ARRAY_TYPE',
    ],
    [
      'upsert of an id twice',
      (index) => index.upsertBatch(floats(1, 2, 3, 4), { ids: [4, 4] }),
      'ERR_DUPLICATE_ID',
      'id 4',
    ],
    [
      'upsert of NaN',
      (index) => index.upsertBatch(floats(1, 2, Number.NaN, 4), { ids: [4, 9] }),
      'ERR_NOT_FINITE',
    ],
    ['removal of no id', (index) => index.removeBatch([4, -1]), 'ERR_ID', '-1'],
    ['removal of a word', (index) => index.remove('4' as never), 'ERR_ID', '"4"'],
    ['ragged', (index) => index.addBatch(floats(1, 2, 3)), 'ERR_DIMENSION_MISMATCH', '3 numbers'],
    [
      'short',
      (index) => index.add(floats(1)),
      'ERR_DIMENSION_MISMATCH',
      'has 1 dimensions, the index has 2',
    ],
    [
      'NaN',
      (index) => index.addBatch(floats(1, 2, 3, Number.NaN)),
      'ERR_NOT_FINITE',
      'vector 1 has NaN at position 1',
    ],
    [
      'infinity',
      (index) => index.add(floats(Number.POSITIVE_INFINITY, 0)),
      'ERR_NOT_FINITE',
      'position 0',
    ],
    ['too large', (index) => index.add(floats(3e38, 3e38)), 'ERR_TOO_LARGE'],
    ['zero vector', (index) => index.addBatch(floats(1, 2, 0, 0)), 'ERR_ZERO_VECTOR', 'vector 1'],
    [
      'taken id',
      (index) => index.addBatch(floats(1, 2, 3, 4), { ids: [9, 5] }),
      'ERR_DUPLICATE_ID',
      'id 5',
    ],
    [
      'id twice',
      (index) => index.addBatch(floats(1, 2, 3, 4), { ids: [9, 9] }),
      'ERR_DUPLICATE_ID',
      'id 9',
    ],
    ['fraction', (index) => index.add(floats(1, 2), { id: 0.5 }), 'ERR_ID', '0.5'],
    ['negative', (index) => index.add(floats(1, 2), { id: -1 }), 'ERR_ID', '-1'],
    ['unsafe', (index) => index.add(floats(1, 2), { id: 2 ** 53 }), 'ERR_ID'],
    [
      'id as text',
      (index) => index.addBatch(floats(1, 2), { ids: ['7'] as never }),
      'ERR_ID',
      '"7"',
    ],
    [
      'too few ids',
      (index) => index.addBatch(floats(1, 2, 3, 4), { ids: [9] }),
      'ERR_COUNT_MISMATCH',
    ],
    ['values for none', (index) => index.add(floats(1, 2), { value: floats(1) }), 'ERR_NO_VALUES'],
  ];
  test.each(cases)('%s', (_, call, code, part) => {
    using index = new KnnIndex({ dimensions: 2, metric: 'cosine' });
    index.addBatch(floats(1, 0, 0, 1), { ids: [4, 5] });
    const before = index.stats();
    const error = errorOf(() => call(index));
    expect(error.code).toBe(code);
    expect(error.message).toContain(part ?? '');
    expect(index.size).toBe(2);
    expect(index.has(9)).toBe(false);
    expect(index.stats()).toEqual(before);
    expect([...index.search(floats(1, 0.1), { k: 9 }).ids]).toEqual([4, 5]);
    expect([...index.addBatch(floats(1, 1))]).toEqual([6]);
  });

  test('no id is left after the largest', () => {
    using index = new KnnIndex({ dimensions: 1 });
    index.addBatch(floats(1, 2), { ids: [0, Number.MAX_SAFE_INTEGER - 1] });
    expect(errorOf(() => index.addBatch(floats(3, 4))).code).toBe('ERR_IDS_EXHAUSTED');
    expect(index.size).toBe(2);
    expect(index.add(floats(3))).toBe(Number.MAX_SAFE_INTEGER);
    expect(errorOf(() => index.add(floats(4))).message).toContain(String(Number.MAX_SAFE_INTEGER));
    expect(index.add(floats(4), { id: 5 })).toBe(5);
  });

  test('values', () => {
    using index = new KnnIndex({ dimensions: 2, valueDimensions: 3 });
    expect(errorOf(() => index.add(floats(1, 2))).code).toBe('ERR_VALUES_MISSING');
    expect(errorOf(() => index.add(floats(1, 2), { value: floats(1, 2) })).code).toBe(
      'ERR_DIMENSION_MISMATCH',
    );
    const value = floats(1, Number.NaN, 3);
    expect(errorOf(() => index.add(floats(1, 2), { value })).details).toEqual({
      what: 'value',
      row: 0,
      position: 1,
      value: 'NaN',
    });
    expect(index.size).toBe(0);
  });
});

describe('searches', () => {
  const cases: [string, (index: KnnIndex) => unknown, string, Record<string, unknown>?][] = [
    ['k = 0', (index) => index.search(floats(1, 2), { k: 0 }), 'ERR_K', { k: 0, max: 2 ** 24 }],
    [
      'k = 1.5',
      (index) => index.search(floats(1, 2), { k: 1.5 }),
      'ERR_K',
      { k: 1.5, max: 2 ** 24 },
    ],
    [
      'k too large',
      (index) => index.search(floats(1, 2), { k: 2 ** 24 + 1 }),
      'ERR_K',
      { k: 2 ** 24 + 1, max: 2 ** 24 },
    ],
    ['no k', (index) => index.search(floats(1, 2), {} as never), 'ERR_K'],
    ['no options', (index) => index.search(floats(1, 2), undefined as never), 'ERR_OPTION'],
    [
      'effort 0',
      (index) => index.search(floats(1, 2), { k: 1, effort: 0 }),
      'ERR_EFFORT',
      { effort: 0 },
    ],
    [
      'effort 2',
      (index) => index.search(floats(1, 2), { k: 1, effort: 2 }),
      'ERR_EFFORT',
      { effort: 2 },
    ],
    [
      'effort NaN',
      (index) => index.search(floats(1, 2), { k: 1, effort: Number.NaN }),
      'ERR_EFFORT',
    ],
    [
      'effort as text',
      (index) => index.search(floats(1, 2), { k: 1, effort: '1' as never }),
      'ERR_EFFORT',
    ],
    [
      'exact as text',
      (index) => index.search(floats(1, 2), { k: 1, exact: 'yes' as never }),
      'ERR_OPTION',
    ],
    [
      'dimensions',
      (index) => index.search(floats(1, 2, 3), { k: 1 }),
      'ERR_DIMENSION_MISMATCH',
      { what: 'query', actual: 3, expected: 2 },
    ],
    ['ragged', (index) => index.searchBatch(floats(1, 2, 3), { k: 1 }), 'ERR_DIMENSION_MISMATCH'],
    [
      'NaN',
      (index) => index.searchBatch(floats(1, 2, Number.NaN, 1), { k: 1 }),
      'ERR_NOT_FINITE',
      { what: 'query', row: 1, position: 0, value: 'NaN' },
    ],
    [
      'zero vector',
      (index) => index.search(floats(0, 0), { k: 1 }),
      'ERR_ZERO_VECTOR',
      { what: 'query', row: 0 },
    ],
    ['wrong array', (index) => index.search(Buffer.alloc(8) as never, { k: 1 }), 'ERR_ARRAY_TYPE'],
    ['unknown id', (index) => index.get(12), 'ERR_UNKNOWN_ID', { id: 12 }],
    ['no id', (index) => index.get('0' as never), 'ERR_ID'],
    ['no values', (index) => index.value(0), 'ERR_NO_VALUES', {}],
    [
      'recall 0',
      (index) => index.search(floats(1, 2), { k: 1, recall: 0 }),
      'ERR_RECALL',
      { recall: 0 },
    ],
    ['recall 1.5', (index) => index.search(floats(1, 2), { k: 1, recall: 1.5 }), 'ERR_RECALL'],
    [
      'recall as text',
      (index) => index.search(floats(1, 2), { k: 1, recall: '0.9' as never }),
      'ERR_RECALL',
    ],
    [
      'radius NaN',
      (index) => index.searchRadius(floats(1, 2), { radius: Number.NaN }),
      'ERR_RADIUS',
    ],
    ['no radius', (index) => index.searchRadius(floats(1, 2), {} as never), 'ERR_RADIUS'],
    [
      'limit 0',
      (index) => index.searchRadius(floats(1, 2), { radius: 0, limit: 0 }),
      'ERR_K',
      { limit: 0, max: 2 ** 24 },
    ],
    ['sample 0', (index) => index.measureRecall({ k: 1, sample: 0 }), 'ERR_OPTION'],
    [
      'filter as text',
      (index) => index.search(floats(1, 2), { k: 1, filter: 'all' as never }),
      'ERR_FILTER',
    ],
    [
      'empty filter',
      (index) => index.search(floats(1, 2), { k: 1, filter: {} as never }),
      'ERR_FILTER',
    ],
    [
      'two filters',
      (index) =>
        index.search(floats(1, 2), {
          k: 1,
          filter: { ids: [1], bitset: new Uint8Array(1) } as never,
        }),
      'ERR_FILTER',
    ],
    [
      'filter of no ids',
      (index) => index.search(floats(1, 2), { k: 1, filter: { ids: [0, -1] } }),
      'ERR_ID',
      { id: -1, position: 1 },
    ],
    [
      'bitset as array',
      (index) => index.search(floats(1, 2), { k: 1, filter: { bitset: [1] as never } }),
      'ERR_ARRAY_TYPE',
    ],
    [
      'predicate without an answer',
      (index) => index.search(floats(1, 2), { k: 1, filter: (() => undefined) as never }),
      'ERR_FILTER',
      { id: 0, returned: undefined },
    ],
  ];
  test.each(cases)('%s', (_, call, code, details) => {
    using index = new KnnIndex({ dimensions: 2, metric: 'cosine' });
    index.addBatch(floats(1, 0, 0, 1));
    const error = errorOf(() => call(index));
    expect(error.code).toBe(code);
    if (details !== undefined) {
      expect(error.details).toEqual(details);
    }
  });

  test('promises reject with the same errors', async () => {
    using index = new KnnIndex({ dimensions: 2 });
    const rejected = { code: 'ERR_NOT_FINITE', message: /query 0 has NaN at position 1/ };
    await expect(index.searchBatchAsync(floats(1, Number.NaN), { k: 1 })).rejects.toMatchObject({
      code: rejected.code,
      message: expect.stringMatching(rejected.message),
      details: { row: 0, position: 1 },
    });
    await expect(index.addBatchAsync(floats(1, Number.NaN))).rejects.toBeInstanceOf(KnnIndexError);
    await expect(index.searchBatchAsync([1, 2] as never, { k: 1 })).rejects.toMatchObject({
      code: 'ERR_ARRAY_TYPE',
    });
    const signal = {} as never;
    await expect(index.addBatchAsync(floats(1, 2), { signal })).rejects.toMatchObject({
      code: 'ERR_OPTION',
    });
    expect(index.size).toBe(0);
  });

  test('memory that cannot be had', () => {
    using index = new KnnIndex({ dimensions: 1 });
    index.add(floats(1));
    // 16 million neighbours for each of 100,000 queries: 25 TB.
    const error = errorOf(() => index.searchBatch(new Float32Array(100_000), { k: 2 ** 24 }));
    expect(error.code).toBe('ERR_OUT_OF_MEMORY');
    expect(index.size).toBe(1);
  });
});

test('use after close', async () => {
  const index = new KnnIndex({ dimensions: 2 });
  index.addBatch(floats(1, 0, 0, 1));
  index.close();
  index.close();
  const calls = [
    () => index.size,
    () => index.stats(),
    () => index.add(floats(1, 2)),
    () => index.search(floats(1, 2), { k: 1 }),
    () => index.has(0),
    () => index.get(0),
  ];
  for (const call of calls) {
    const error = errorOf(call);
    expect(error.code).toBe('ERR_CLOSED');
    expect(error.message).toBe('the index is closed');
  }
  await expect(index.searchBatchAsync(floats(1, 2), { k: 1 })).rejects.toMatchObject({
    code: 'ERR_CLOSED',
  });
  await expect(index.addBatchAsync(floats(1, 2))).rejects.toMatchObject({ code: 'ERR_CLOSED' });
});
