import { mkdtemp, readdir, readFile, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { KnnIndex } from '@iceformer/knn-index';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { randomVectors } from './random-vectors.ts';

const dimensions = 12;
let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'knn-index-'));
});
afterAll(() => rm(folder, { recursive: true }));

const queries = randomVectors(20, dimensions, 2);
function filled(algorithm: 'exact' | 'cluster' | 'graph' | 'dci' = 'cluster'): KnnIndex {
  const index = new KnnIndex({
    dimensions,
    algorithm,
    metric: 'cosine',
    storage: 'f16',
    valueDimensions: 2,
    seed: 7,
  });
  index.addBatch(randomVectors(5000, dimensions, 1), { values: randomVectors(5000, 2, 3) });
  index.removeBatch(Array.from({ length: 500 }, (_, i) => i * 9));
  return index;
}

async function expectSame(index: KnnIndex, other: KnnIndex): Promise<void> {
  for (const name of [
    'dimensions',
    'metric',
    'storage',
    'algorithm',
    'valueDimensions',
    'idKind',
  ] as const) {
    expect(other[name]).toBe(index[name]);
  }
  expect(other.ids()).toEqual(index.ids());
  expect(other.get(1)).toEqual(index.get(1));
  expect(other.value(1)).toEqual(index.value(1));
  const options = { k: 10, effort: 0.1 };
  expect(await other.searchBatchAsync(queries, options)).toEqual(
    index.searchBatch(queries, options),
  );
  // It can be changed, and default ids go on from the largest one there was.
  const vector = queries.subarray(0, dimensions);
  const id = other.add(vector, { value: queries.subarray(0, 2) });
  expect(id).toBe(5000);
  expect([...other.search(vector, { k: 1 }).ids]).toEqual([id]);
  other.remove(id);
  expect(other.size).toBe(index.size);
}

describe.each(['exact', 'cluster', 'graph', 'dci'] as const)('%s', (algorithm) => {
  test('saved and opened, it finds the same', async () => {
    using index = filled(algorithm);
    const path = join(folder, `${algorithm}.knn`);
    await index.save(path);
    for (const options of [{}, { mapped: true }, { mapped: true, verify: false, threads: 1 }]) {
      using opened = await KnnIndex.open(path, options);
      await expectSame(index, opened);
      using also = KnnIndex.openSync(pathToFileURL(path), options);
      await expectSame(index, also);
    }
    using copy = KnnIndex.fromBuffer(index.toBuffer());
    await expectSame(index, copy);
    using later = await KnnIndex.fromBufferAsync(await index.toBufferAsync());
    await expectSame(index, later);
  });
});

test('saving replaces the file as a whole and leaves nothing else behind', async () => {
  using index = filled();
  const path = join(folder, 'replaced.knn');
  index.saveSync(path);
  using mapped = await KnnIndex.open(path, { mapped: true });
  index.clear();
  index.saveSync(pathToFileURL(path));
  expect(mapped.size).toBe(4500);
  expect(mapped.search(queries.subarray(0, dimensions), { k: 3 }).ids).toHaveLength(3);
  using empty = KnnIndex.openSync(path);
  expect(empty.size).toBe(0);
  expect((await readdir(folder)).filter((name) => name.startsWith('replaced'))).toEqual([
    'replaced.knn',
  ]);
});

test('saved is what the changes called before leave', async () => {
  using index = new KnnIndex({ dimensions: 1024 });
  const added = index.addBatchAsync(randomVectors(3000, 1024, 4));
  const removed = index.removeBatchAsync([0]);
  const buffer = index.toBufferAsync();
  const more = index.addBatchAsync(randomVectors(1, 1024, 5));
  await Promise.all([added, removed, more]);
  using copy = KnnIndex.fromBuffer(await buffer);
  expect(copy.size).toBe(2999);
  expect(index.size).toBe(3000);
});

test('bigint ids are asked for when a file is opened', async () => {
  using index = new KnnIndex({ dimensions: 1, ids: 'bigint' });
  index.addBatch(new Float32Array([1, 2]), { ids: [3n, 2n ** 60n] });
  const path = join(folder, 'bigint.knn');
  await index.save(path);
  using opened = await KnnIndex.open(path, { ids: 'bigint' });
  expect([...opened.ids()]).toEqual([3n, 2n ** 60n]);
  await expect(KnnIndex.open(path)).rejects.toMatchObject({
    code: 'ERR_ID',
    message: expect.stringContaining("ids: 'bigint'"),
  });
  index.remove(2n ** 60n);
});

test('what cannot be opened', async () => {
  using index = filled();
  const path = join(folder, 'damaged.knn');
  await index.save(path);
  const good = await readFile(path);
  const refused = async (code: string, details: object = {}) => {
    const expected = { name: 'KnnIndexError', code, details: expect.objectContaining(details) };
    await expect(KnnIndex.open(path)).rejects.toMatchObject(expected);
    expect(() => KnnIndex.openSync(path)).toThrow(expect.objectContaining(expected));
  };
  // One bit in the middle.
  const bent = Buffer.from(good);
  bent[good.length >> 1] = (bent[good.length >> 1] as number) ^ 1;
  await writeFile(path, bent);
  await refused('ERR_FILE_CORRUPT', { file: path });
  expect(() => KnnIndex.fromBuffer(bent)).toThrow(
    expect.objectContaining({ code: 'ERR_FILE_CORRUPT' }),
  );

  await writeFile(path, good);
  await truncate(path, good.length - 100);
  await refused('ERR_FILE_CORRUPT');

  await writeFile(
    path,
    'something else, and long enough to hold a header of an index, one would think',
  );
  await refused('ERR_NOT_AN_INDEX', { file: path });
  await expect(KnnIndex.fromBufferAsync(Buffer.from('short'))).rejects.toMatchObject({
    code: 'ERR_NOT_AN_INDEX',
  });

  // The version stands after the mark, in bytes 8 to 11.
  const newer = Buffer.from(good);
  newer.writeUInt32LE(99, 8);
  await writeFile(path, newer);
  await refused('ERR_FILE_VERSION', { version: 99, supported: 1, file: path });

  await rm(path);
  await refused('ERR_IO', { action: 'open', osCode: 2, file: path });
  await expect(index.save(join(folder, 'no', 'such', 'folder'))).rejects.toMatchObject({
    code: 'ERR_IO',
  });
});

test('arguments', async () => {
  using index = filled();
  for (const path of ['', 7, undefined]) {
    expect(() => index.saveSync(path as never)).toThrow(
      expect.objectContaining({ code: 'ERR_OPTION' }),
    );
    await expect(KnnIndex.open(path as never)).rejects.toMatchObject({ code: 'ERR_OPTION' });
  }
  const option = expect.objectContaining({ code: 'ERR_OPTION' });
  expect(() => KnnIndex.openSync('x', { mapped: 'yes' as never })).toThrow(option);
  expect(() => KnnIndex.openSync('x', { verify: 1 as never })).toThrow(option);
  expect(() => KnnIndex.openSync('x', { ids: 'text' as never })).toThrow(option);
  expect(() => KnnIndex.fromBuffer([1, 2] as never)).toThrow(
    expect.objectContaining({ code: 'ERR_ARRAY_TYPE' }),
  );
  const signal = AbortSignal.abort();
  await expect(KnnIndex.open('x', { signal })).rejects.toBe(signal.reason);
  const buffer = index.toBuffer();
  await expect(KnnIndex.fromBufferAsync(buffer, { signal })).rejects.toBe(signal.reason);
});
