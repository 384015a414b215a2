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

test('works on copies: the arrays may change at once', async () => {
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

test('the event loop goes on during a search', async () => {
  using index = new KnnIndex({ dimensions, algorithm: 'exact' });
  index.addBatch(randomVectors(20_000, dimensions, 5));
  const queries = randomVectors(20_000, dimensions, 6);
  let done = false;
  const search = index.searchBatchAsync(queries, { k: 10 }).then((found) => {
    done = true;
    return found;
  });
  const late: number[] = [];
  while (!done) {
    const start = performance.now();
    await sleep(10);
    late.push(performance.now() - start - 10);
  }
  expect((await search).counts).toHaveLength(20_000);
  late.sort((a, b) => a - b);
  expect(late.length).toBeGreaterThan(5);
  expect(late[Math.floor(late.length / 2)]).toBeLessThan(20);
});

test('an abort stops running work with its reason', async () => {
  using index = new KnnIndex({ dimensions, algorithm: 'exact' });
  index.addBatch(randomVectors(50_000, dimensions, 7));
  const controller = new AbortController();
  const queries = randomVectors(50_000, dimensions, 8);
  const start = performance.now();
  const search = index.searchBatchAsync(queries, { k: 10, signal: controller.signal });
  await sleep(50);
  const reason = new Error('enough');
  controller.abort(reason);
  await expect(search).rejects.toBe(reason);
  const stopped = performance.now() - start;
  // The same work without an abort takes many times longer; a machine that is fast enough to finish it in
  // this time would have resolved above.
  expect(stopped).toBeLessThan(3000);
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
  const searches = Array.from({ length: 8 }, () =>
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
