import { type Id, type IdArray, KnnIndex } from '@iceformer/knn-index';
import { expect, expectTypeOf, test } from 'vitest';

const floats = (...numbers: number[]) => new Float32Array(numbers);
const LARGEST = 2n ** 64n - 2n;

test('every id is a bigint', async () => {
  using index = new KnnIndex({ dimensions: 1, metric: 'l2', ids: 'bigint' });
  expectTypeOf(index).toEqualTypeOf<KnnIndex<'bigint'>>();
  expect(index.idKind).toBe('bigint');
  const given = [5n, LARGEST, 2n ** 53n + 1n];
  const added = index.addBatch(floats(10, 20, 30), { ids: given });
  expectTypeOf(added).toEqualTypeOf<BigUint64Array>();
  expect([...added]).toEqual(given);
  expect([...index.ids()]).toEqual([5n, 2n ** 53n + 1n, LARGEST]);
  expect(index.has(LARGEST)).toBe(true);
  expect(index.has(LARGEST - 1n)).toBe(false);
  expect([...index.get(2n ** 53n + 1n)]).toEqual([30]);
  expect([...index.search(floats(19), { k: 2 }).ids]).toEqual([LARGEST, 5n]);

  const batch = await index.searchBatchAsync(floats(31), {
    k: 4,
    filter: { ids: given, exclude: false },
  });
  expect([...batch.ids]).toEqual([2n ** 53n + 1n, LARGEST, 5n, 2n ** 64n - 1n]);
  expect([...batch.counts]).toEqual([3]);
  const small = await index.searchBatchAsync(floats(31), { k: 1, filter: (id) => id < 100n });
  expect([...small.ids]).toEqual([5n]);
  expect([...index.searchRadius(floats(19), { radius: 81 }).ids]).toEqual([LARGEST, 5n]);

  const out = { ids: new BigUint64Array(2), scores: floats(0, 0), counts: new Uint32Array(1) };
  expect(index.searchBatch(floats(9), { k: 2, out })).toEqual(out);
  expect([...out.ids]).toEqual([5n, LARGEST]);

  expect(index.upsert(floats(7), { id: LARGEST })).toBe(true);
  expect(index.remove(LARGEST)).toBe(true);
  expect(await index.removeBatchAsync(new BigUint64Array([5n, 6n]))).toBe(1);
  expect(index.size).toBe(1);
});

test('default ids count on as bigints', () => {
  using index = new KnnIndex({ dimensions: 1, ids: 'bigint' });
  expect(index.add(floats(1))).toBe(0n);
  expect(index.add(floats(1), { id: 2n ** 60n })).toBe(2n ** 60n);
  expect([...index.addBatch(floats(1, 2))]).toEqual([2n ** 60n + 1n, 2n ** 60n + 2n]);
});

test.each([
  [7, 'number'],
  [-1n, '-1n'],
  [2n ** 64n - 1n, '18446744073709551615n'],
  ['7', '"7"'],
])('%s is not a bigint id', (id, shown) => {
  using index = new KnnIndex({ dimensions: 1, ids: 'bigint' });
  const refused = expect.objectContaining({ code: 'ERR_ID', details: { id, position: 0 } });
  expect(() => index.add(floats(1), { id: id as bigint })).toThrow(refused);
  expect(() => index.get(id as bigint)).toThrow(shown === 'number' ? "ids: 'bigint'" : shown);
  expect(() => index.removeBatch([id as bigint])).toThrow(refused);
  expect(index.has(id as bigint)).toBe(false);
  expect(index.size).toBe(0);
});

test('the reserved id is refused in a typed array, too', () => {
  using index = new KnnIndex({ dimensions: 1, ids: 'bigint' });
  const ids = new BigUint64Array([2n ** 64n - 1n]);
  expect(() => index.addBatch(floats(1), { ids })).toThrow(
    expect.objectContaining({ code: 'ERR_ID' }),
  );
});

test('types follow the option', () => {
  using numbers = new KnnIndex({ dimensions: 1 });
  expectTypeOf(numbers).toEqualTypeOf<KnnIndex>();
  expectTypeOf(numbers.add).returns.toEqualTypeOf<number>();
  expectTypeOf<IdArray>().toEqualTypeOf<Float64Array>();
  expectTypeOf<Id<'bigint'>>().toEqualTypeOf<bigint>();
  // @ts-expect-error a bigint is no id of this index
  expect(() => numbers.get(0n)).toThrow(expect.objectContaining({ code: 'ERR_ID' }));
  using bigints = new KnnIndex({ dimensions: 1, ids: 'bigint' });
  // @ts-expect-error a number is no id of this index
  expect(() => bigints.get(0)).toThrow(expect.objectContaining({ code: 'ERR_ID' }));
});
