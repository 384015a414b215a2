import { setTimeout as sleep } from 'node:timers/promises';
import { KnnIndex } from '@iceformer/knn-index';
import { expect, test } from 'vitest';
import { randomVectors } from './random-vectors.ts';

// Few long vectors: much native memory behind little JavaScript memory.
const dimensions = 65_536;
const vectors = new Float32Array(20 * dimensions).fill(1);
const mebibytes = () => process.memoryUsage().rss / 2 ** 20;

test('indexes that are dropped are collected, because V8 hears of their memory', async () => {
  const before = mebibytes();
  let largest = 0;
  for (let i = 0; i < 400; i++) {
    // 5 MiB that only the collector gives back: 2 GiB if it does not run.
    new KnnIndex({ dimensions }).addBatch(vectors);
    await sleep(0); // finalizers run between turns of the event loop
    largest = Math.max(largest, mebibytes() - before);
  }
  expect(largest).toBeLessThan(1000);
});

test('closing gives memory back at once', () => {
  const index = new KnnIndex({ dimensions });
  for (let i = 0; i < 40; i++) {
    index.addBatch(vectors);
  }
  const open = mebibytes();
  index.close();
  expect(open - mebibytes()).toBeGreaterThan(150);
  expect(() => index.size).toThrow('closed');
});

test('compacting gives memory of removed vectors back', () => {
  using index = new KnnIndex({ dimensions: 64 });
  const ids = index.addBatch(randomVectors(20_000, 64, 1));
  const full = index.stats();
  index.removeBatch(ids.subarray(1000));
  expect(index.stats().liveBytes).toBeLessThan(full.liveBytes * 0.2);
  index.compact();
  expect(index.stats().reservedBytes).toBeLessThan(full.liveBytes * 0.2);
});

test('churn does not grow the index', () => {
  using index = new KnnIndex({ dimensions: 64, algorithm: 'exact' });
  let ids = index.addBatch(randomVectors(5000, 64, 2));
  const before = index.stats().reservedBytes;
  for (let round = 0; round < 20; round++) {
    index.removeBatch(ids);
    ids = index.addBatch(randomVectors(5000, 64, round));
  }
  expect(index.size).toBe(5000);
  expect(index.stats().reservedBytes).toBeLessThan(before * 1.5);
});
