import { KnnIndex } from '@iceformer/knn-index';
import { describe, expect, test } from 'vitest';
import { randomVectors } from './random-vectors.ts';

const floats = (...numbers: number[]) => new Float32Array(numbers);

test('upsert adds and replaces', () => {
  using index = new KnnIndex({ dimensions: 1, metric: 'l2', valueDimensions: 1 });
  expect(index.upsert(floats(1), { id: 7, value: floats(10) })).toBe(false);
  expect(index.upsert(floats(2), { id: 7, value: floats(20) })).toBe(true);
  expect(index.size).toBe(1);
  expect([...index.get(7)]).toEqual([2]);
  expect([...index.value(7)]).toEqual([20]);
  const replaced = index.upsertBatch(floats(5, 6, 7), {
    ids: new Uint8Array([6, 7, 8]),
    values: floats(50, 60, 70),
  });
  expect(replaced).toBe(1);
  expect([...index.ids()]).toEqual([6, 7, 8]);
  expect([...index.search(floats(2), { k: 9 }).scores]).toEqual([9, 16, 25]);
});

test('what is removed is gone, at once and for good', () => {
  using index = new KnnIndex({ dimensions: 1, metric: 'l2' });
  index.addBatch(floats(0, 1, 2, 3));
  expect(index.remove(1)).toBe(true);
  expect(index.remove(1)).toBe(false);
  expect(index.removeBatch([1, 2, 2, 99])).toBe(1);
  expect(index.has(2)).toBe(false);
  expect(() => index.get(2)).toThrow(expect.objectContaining({ code: 'ERR_UNKNOWN_ID' }));
  expect([...index.search(floats(1), { k: 4 }).ids]).toEqual([0, 3]);
  expect(index.add(floats(9))).toBe(4);
  index.addBatch(floats(1), { ids: [1] });
  expect([...index.search(floats(1), { k: 1 }).ids]).toEqual([1]);
});

test('clear begins anew', () => {
  using index = new KnnIndex({ dimensions: 4 });
  index.addBatch(randomVectors(5000, 4, 1));
  index.clear();
  expect(index.size).toBe(0);
  expect(index.ids()).toHaveLength(0);
  expect([...index.addBatch(floats(1, 2, 3, 4))]).toEqual([0]);
});

describe.each(['exact', 'cluster', 'graph', 'dci'] as const)('%s', (algorithm) => {
  test('random changes leave what a plain map holds', async () => {
    const dimensions = 6;
    using index = new KnnIndex({ dimensions, metric: 'l2', algorithm });
    const model = new Map<number, Float32Array>();
    let next = 0;
    for (let round = 0; round < 40; round++) {
      const vectors = randomVectors(60, dimensions, round);
      const known = [...model.keys()];
      if (round % 4 === 3) {
        const ids = known.filter((id) => (id * 7 + round) % 3 === 0);
        expect(await index.removeBatchAsync(ids)).toBe(ids.length);
        for (const id of ids) {
          model.delete(id);
        }
      } else if (round % 4 === 2) {
        const ids = Array.from({ length: 60 }, (_, i) => known[i * 2] ?? next + i);
        const replaced = ids.filter((id) => model.has(id)).length;
        expect(await index.upsertBatchAsync(vectors, { ids })).toBe(replaced);
        for (const [i, id] of ids.entries()) {
          model.set(id, vectors.subarray(i * dimensions, (i + 1) * dimensions));
          next = Math.max(next, id + 1);
        }
      } else {
        for (const [i, id] of (await index.addBatchAsync(vectors)).entries()) {
          expect(id).toBe(next++);
          model.set(id, vectors.subarray(i * dimensions, (i + 1) * dimensions));
        }
      }
      if (round % 10 === 9) {
        await index.compactAsync();
      }
      expect(index.size).toBe(model.size);
    }
    expect([...index.ids()]).toEqual([...model.keys()].sort((a, b) => a - b));
    for (const [id, vector] of model) {
      expect(index.get(id)).toEqual(vector);
      expect([...index.search(vector, { k: 1, exact: true }).ids]).toEqual([id]);
    }
  });
});
