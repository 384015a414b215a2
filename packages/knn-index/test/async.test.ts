import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import { KnnIndex } from '@iceformer/knn-index';
import { expect, test } from 'vitest';
import { randomVectors } from './random-vectors.ts';

const dimensions = 64;

test('gives what the synchronous call gives', async () => {
  using index = new KnnIndex({ dimensions, algorithm: 'cluster' });
  await index.addBatchAsync(randomVectors(5000, dimensions, 1));
  const queries = randomVectors(300, dimensions, 2);
  const options = { k: 10, effort: 0.05 };
  expect(await index.searchBatchAsync(queries, options)).toEqual(
    index.searchBatch(queries, options),
  );
});

test('short arrays are copied before the call returns', async () => {
  using index = new KnnIndex({ dimensions: 2, metric: 'l2' });
  const vectors = new Float32Array([0, 0, 5, 5]);
  const added = index.addBatchAsync(vectors);
  vectors.fill(99);
  await added;
  expect([...index.get(1)]).toEqual([5, 5]);
  const query = new Float32Array([5, 4]);
  const found = index.searchBatchAsync(query, { k: 1 });
  query.fill(0);
  expect([...(await found).ids]).toEqual([1]);
});

test('a search sees the index as it was when it was called', async () => {
  using index = new KnnIndex({ dimensions, algorithm: 'exact' });
  index.addBatch(randomVectors(20_000, dimensions, 3));
  const queries = randomVectors(2000, dimensions, 4);
  const before = index.searchBatch(queries, { k: 3 });
  const searching = index.searchBatchAsync(queries, { k: 3 });
  index.addBatch(queries.map((x) => x * 100));
  expect(await searching).toEqual(before);
  expect(index.searchBatch(queries, { k: 3 })).not.toEqual(before);
});

test('timers and files go on while searches run', async () => {
  using index = new KnnIndex({ dimensions, algorithm: 'exact' });
  index.addBatch(randomVectors(20_000, dimensions, 5));
  const queries = randomVectors(20_000, dimensions, 6);
  // More calls than libuv has threads, and far more work than the ticks below.
  const controller = new AbortController();
  const { signal } = controller;
  let running = 6;
  const searches = Array.from({ length: running }, () =>
    index.searchBatchAsync(queries, { k: 10, signal }).finally(() => running--),
  );
  for (let tick = 0; tick < 5; tick++) {
    await sleep(1);
    await readFile(new URL(import.meta.url));
  }
  expect(running).toBeGreaterThan(0);
  controller.abort();
  await Promise.allSettled(searches);
  expect(running).toBe(0);
});

test('a synchronous search does not wait for an asynchronous one', async () => {
  using index = new KnnIndex({ dimensions, algorithm: 'exact' });
  index.addBatch(randomVectors(20_000, dimensions, 20));
  const queries = randomVectors(50_000, dimensions, 21);
  const controller = new AbortController();
  let done = false;
  const search = index
    .searchBatchAsync(queries, { k: 10, signal: controller.signal })
    .finally(() => {
      done = true;
    });
  await sleep(20);
  expect(index.search(queries.subarray(0, dimensions), { k: 3 }).ids).toHaveLength(3);
  await sleep(1); // so that the other could have told that it is done
  expect(done).toBe(false);
  controller.abort();
  await expect(search).rejects.toMatchObject({ name: 'AbortError' });
});

test('long arrays are copied in turns', async () => {
  using index = new KnnIndex({ dimensions: 1024, algorithm: 'exact', valueDimensions: 1024 });
  // 32 MB each: several parts.
  const vectors = randomVectors(8192, 1024, 13);
  const ids = Array.from({ length: 8192 }, (_, i) => i * 3);
  let turns = 0;
  const count = setInterval(() => turns++, 0);
  const adding = index.addBatchAsync(vectors, { ids, values: vectors });
  expect([...(await adding)]).toEqual(ids);
  clearInterval(count);
  expect(turns).toBeGreaterThan(2);
  for (const i of [0, 4095, 8191]) {
    const expected = vectors.slice(i * 1024, (i + 1) * 1024);
    expect(index.get(i * 3)).toEqual(expected);
    expect(index.value(i * 3)).toEqual(expected);
  }
  const out = {
    ids: new Float64Array(8192),
    scores: new Float32Array(8192),
    counts: new Uint32Array(8192),
  };
  const found = await index.searchBatchAsync(vectors, { k: 1, out });
  expect([...found.ids]).toEqual(ids);
});

test('an array that is taken away while it is copied is an error', async () => {
  using index = new KnnIndex({ dimensions: 1024 });
  const vectors = new Float32Array(4096 * 1024);
  const adding = index.addBatchAsync(vectors);
  structuredClone(vectors.buffer, { transfer: [vectors.buffer] });
  await expect(adding).rejects.toMatchObject({
    code: 'ERR_ARRAY_TYPE',
    details: { what: 'vectors', before: 4096 * 1024, after: 0 },
  });
  expect(index.size).toBe(0);
});

test('changes are made in the order of the calls', async () => {
  using index = new KnnIndex({ dimensions: 1024, metric: 'l2' });
  const many = randomVectors(4096, 1024, 14);
  const one = many.slice(0, 1024);
  const outcomes = await Promise.allSettled([
    index.addBatchAsync(many), // copied in parts, so it begins long after the others were called
    index.addBatchAsync(one),
    index.addBatchAsync(one, { ids: [0] }),
    index.removeBatchAsync([0, 1, 4096]),
    index.compactAsync(),
    index.upsertBatchAsync(one, { ids: [0] }),
    index.addBatchAsync(one),
  ]);
  expect(outcomes.map((outcome) => outcome.status === 'fulfilled')).toEqual([
    true,
    true,
    false,
    true,
    true,
    true,
    true,
  ]);
  expect(outcomes[1]).toMatchObject({ value: new Float64Array([4096]) });
  expect(outcomes[2]).toMatchObject({ reason: { code: 'ERR_DUPLICATE_ID', details: { id: 0 } } });
  expect(outcomes[3]).toMatchObject({ value: 3 });
  expect(outcomes[5]).toMatchObject({ value: 0 });
  expect(outcomes[6]).toMatchObject({ value: new Float64Array([4097]) });
  expect(index.size).toBe(4096);
});

test('a change that waits can be aborted and lets the next one through', async () => {
  using index = new KnnIndex({ dimensions: 1024 });
  const controller = new AbortController();
  const first = index.addBatchAsync(randomVectors(4096, 1024, 15));
  const { signal } = controller;
  const second = index.addBatchAsync(randomVectors(1, 1024, 16), { signal });
  const third = index.addBatchAsync(randomVectors(1, 1024, 17));
  const reason = new Error('never mind');
  controller.abort(reason);
  await expect(second).rejects.toBe(reason);
  expect(index.size).toBe(0);
  expect(await first).toHaveLength(4096);
  expect([...(await third)]).toEqual([4096]);
});

test('every search sees whole batches while a writer changes the index', async () => {
  using index = new KnnIndex({ dimensions: 8, metric: 'l2', algorithm: 'cluster' });
  const batch = 500;
  let writing = true;
  const write = async () => {
    for (let round = 0; round < 30; round++) {
      // A batch is 500 times the same vector, [round, round, ...].
      const ids = await index.addBatchAsync(new Float32Array(batch * 8).fill(round));
      if (round % 3 === 2) {
        await index.removeBatchAsync(ids);
      }
    }
    writing = false;
  };
  const read = async (round: number) => {
    let searches = 0;
    while (writing || searches === 0) {
      const query = new Float32Array(8).fill(round);
      const { offsets } = await index.searchRadiusBatchAsync(query, { radius: 0.5 });
      expect([0, batch]).toContain(offsets[1]);
      const { counts } = await index.searchBatchAsync(query, { k: 20_000 });
      expect((counts[0] as number) % batch).toBe(0);
      searches++;
    }
  };
  await Promise.all([write(), ...Array.from({ length: 8 }, (_, i) => read(i * 4))]);
  expect(index.size).toBe(20 * batch);
});

test('an abort stops running work with its reason', async () => {
  using index = new KnnIndex({ dimensions, algorithm: 'exact' });
  index.addBatch(randomVectors(50_000, dimensions, 7));
  const controller = new AbortController();
  const queries = randomVectors(50_000, dimensions, 8);
  const search = index.searchBatchAsync(queries, { k: 10, signal: controller.signal });
  await sleep(50);
  const reason = new Error('enough');
  controller.abort(reason);
  await expect(search).rejects.toBe(reason);
  await expect(index.searchBatchAsync(queries, { k: 1, signal: controller.signal })).rejects.toBe(
    reason,
  );
  // The index is still good.
  expect(index.search(queries.subarray(0, dimensions), { k: 1 }).ids).toHaveLength(1);
});

test('an abort reaches work that still waits for a thread', async () => {
  using index = new KnnIndex({ dimensions, algorithm: 'exact' });
  index.addBatch(randomVectors(20_000, dimensions, 9));
  const queries = randomVectors(20_000, dimensions, 10);
  const controller = new AbortController();
  const searches = Array.from({ length: 40 }, () =>
    index.searchBatchAsync(queries, { k: 10, signal: controller.signal }),
  );
  controller.abort();
  for (const outcome of await Promise.allSettled(searches)) {
    expect(outcome).toMatchObject({ status: 'rejected', reason: { name: 'AbortError' } });
  }
});

test('closing does not take the index from under a search', async () => {
  const index = new KnnIndex({ dimensions, algorithm: 'exact' });
  index.addBatch(randomVectors(20_000, dimensions, 11));
  const search = index.searchBatchAsync(randomVectors(2000, dimensions, 12), { k: 5 });
  index.close();
  expect((await search).counts.every((count) => count === 5)).toBe(true);
});

test('a worker thread may end while its searches run', async () => {
  const source = `
    import { parentPort } from 'node:worker_threads';
    import { KnnIndex } from '@iceformer/knn-index';
    const index = new KnnIndex({ dimensions: 64, algorithm: 'exact' });
    const vectors = Float32Array.from({ length: 64 * 20_000 }, (_, i) => Math.sin(i * i));
    index.addBatch(vectors);
    void index.searchBatchAsync(vectors, { k: 10 });
    void index.addBatchAsync(vectors);
    parentPort.postMessage('searching');`;
  const worker = new Worker(
    new URL(`data:text/javascript,${encodeURIComponent(absolute(source))}`),
  );
  await once(worker, 'message');
  expect(await worker.terminate()).toBe(1);
  // The addon goes on working here.
  using index = new KnnIndex({ dimensions, algorithm: 'exact' });
  await index.addBatchAsync(randomVectors(100, dimensions, 18));
  expect(
    (await index.searchBatchAsync(randomVectors(1, dimensions, 19), { k: 3 })).ids,
  ).toHaveLength(3);
});

test('works in worker threads at the same time', async () => {
  const source = `
    import { parentPort } from 'node:worker_threads';
    import { KnnIndex } from '@iceformer/knn-index';
    const index = new KnnIndex({ dimensions: 8, metric: 'l2', algorithm: 'cluster', threads: 2 });
    const vectors = Float32Array.from({ length: 8 * 5000 }, (_, i) => Math.sin(i * i));
    index.addBatch(vectors);
    const { ids } = await index.searchBatchAsync(vectors, { k: 1, exact: true });
    parentPort.postMessage(ids.every((id, i) => id === i));
    index.close();`;
  const outcomes = Array.from({ length: 4 }, () => {
    const worker = new Worker(
      new URL(`data:text/javascript,${encodeURIComponent(absolute(source))}`),
    );
    return new Promise((resolve, reject) => {
      let right: unknown;
      worker.on('message', (message) => {
        right = message;
      });
      worker.on('error', reject);
      worker.on('exit', (code) => resolve([code, right]));
    });
  });
  expect(await Promise.all(outcomes)).toEqual(Array(4).fill([0, true]));
});

/** A worker made from text has no folder to resolve names from. */
function absolute(source: string): string {
  return source.replace(
    "'@iceformer/knn-index'",
    JSON.stringify(import.meta.resolve('@iceformer/knn-index')),
  );
}
