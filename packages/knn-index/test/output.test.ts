import { KnnIndex } from '@iceformer/knn-index';
import { expect, test } from 'vitest';
import { randomVectors } from './random-vectors.ts';

const dimensions = 4;
const queries = randomVectors(3, dimensions, 1);
const arrays = () => ({
  ids: new Float64Array(6),
  scores: new Float32Array(6),
  counts: new Uint32Array(3),
});

function filled(): KnnIndex {
  const index = new KnnIndex({ dimensions });
  index.addBatch(randomVectors(50, dimensions, 2));
  return index;
}

test('neighbours go where the caller says', async () => {
  using index = filled();
  const expected = index.searchBatch(queries, { k: 2 });
  const out = arrays();
  const found = index.searchBatch(queries, { k: 2, out });
  expect(found.ids).toBe(out.ids);
  expect(found.scores).toBe(out.scores);
  expect(found.counts).toBe(out.counts);
  expect(out).toEqual(expected);

  const later = arrays();
  const promise = index.searchBatchAsync(queries, { k: 2, out: later });
  expect([...later.counts]).toEqual([0, 0, 0]);
  expect((await promise).ids).toBe(later.ids);
  expect(later).toEqual(expected);
});

test('parts of one buffer', () => {
  using index = filled();
  const buffer = new ArrayBuffer(100);
  const out = {
    ids: new Float64Array(buffer, 8, 6),
    scores: new Float32Array(buffer, 56, 6),
    counts: new Uint32Array(buffer, 80, 3),
  };
  expect(index.searchBatch(queries, { k: 2, out })).toEqual(index.searchBatch(queries, { k: 2 }));
  expect(new Float64Array(buffer, 0, 1)[0]).toBe(0);
});

const overlapping = new Float32Array(16);
const wrong: [string, object, string, object?][] = [
  ['nothing', {}, 'ERR_ARRAY_TYPE'],
  ['ids as numbers', { ...arrays(), ids: [1, 2] }, 'ERR_ARRAY_TYPE'],
  ['bigint ids', { ...arrays(), ids: new BigUint64Array(6) }, 'ERR_ARRAY_TYPE'],
  ['scores', { ...arrays(), scores: new Float64Array(6) }, 'ERR_ARRAY_TYPE'],
  ['counts', { ...arrays(), counts: new Int32Array(3) }, 'ERR_ARRAY_TYPE'],
  [
    'short ids',
    { ...arrays(), ids: new Float64Array(5) },
    'ERR_OUTPUT',
    { what: 'out.ids', actual: 5, expected: 6 },
  ],
  ['long scores', { ...arrays(), scores: new Float32Array(7) }, 'ERR_OUTPUT'],
  ['short counts', { ...arrays(), counts: new Uint32Array(2) }, 'ERR_OUTPUT'],
  [
    'overlap',
    {
      ...arrays(),
      scores: overlapping.subarray(0, 6),
      counts: new Uint32Array(overlapping.buffer, 20, 3),
    },
    'ERR_OUTPUT',
    { what: 'out.counts' },
  ],
  [
    'overlap with the queries',
    { ...arrays(), scores: queries.subarray(0, 6) },
    'ERR_OUTPUT',
    { what: 'out.scores' },
  ],
  [
    'memory of several threads',
    { ...arrays(), ids: new Float64Array(new SharedArrayBuffer(48)) },
    'ERR_OUTPUT',
    { what: 'out.ids' },
  ],
];
test.each(wrong)('%s', async (_, out, code, details = {}) => {
  using index = filled();
  const options = { k: 2, out: out as ReturnType<typeof arrays> };
  const refused = { code, details: expect.objectContaining(details) };
  expect(() => index.searchBatch(queries, options)).toThrow(expect.objectContaining(refused));
  await expect(index.searchBatchAsync(queries, options)).rejects.toMatchObject(refused);
});
