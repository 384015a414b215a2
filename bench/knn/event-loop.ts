// Event loop: how late is a 10 ms timer while searchBatchAsync works through 100,000 queries?
//
//   node bench/dist/knn/event-loop.js [vectors = 100000] [dimensions = 384] [algorithm = auto]
//
// Prints one JSON object. The bar: never late by more than 20 ms, at the median of the runs of what was latest.

import process from 'node:process';
import { type Algorithm, KnnIndex } from '@iceformer/knn-index';

const QUERIES = 100_000;
const PERIOD_MS = 10;
const RUNS = 5;

const [vectors = '100000', dimensions = '384', algorithm = 'auto'] = process.argv.slice(2);
const result = await measure(Number(vectors), Number(dimensions), algorithm as Algorithm);
console.log(JSON.stringify(result, undefined, 2));

async function measure(count: number, width: number, chosen: Algorithm) {
  using index = new KnnIndex({ dimensions: width, metric: 'cosine', algorithm: chosen });
  await index.addBatchAsync(randomVectors(count, width));
  const queries = randomVectors(QUERIES, width);
  // What a timer is late by when nothing runs, and the first search, which also measures recall.
  const idle = await lateness(new Promise((resolve) => setTimeout(resolve, 1000)));
  const runs = [];
  for (let run = 0; run < RUNS; run++) {
    const start = performance.now();
    const late = await lateness(index.searchBatchAsync(queries, { k: 10 }));
    runs.push({ searchMs: Math.round(performance.now() - start), ...late });
  }
  const adding = await lateness(index.addBatchAsync(queries));
  return {
    vectors: count,
    dimensions: width,
    queries: QUERIES,
    ...index.stats(),
    idle,
    runs,
    adding,
    medianOfLargestMs: middle(runs.map(({ largestMs }) => largestMs)),
  };
}

/** How late a timer fires while `work` is not done. */
async function lateness(work: Promise<unknown>) {
  const late: number[] = [];
  let due = performance.now() + PERIOD_MS;
  const timer = setInterval(() => {
    const now = performance.now();
    late.push(Math.max(0, now - due));
    due = now + PERIOD_MS;
  }, PERIOD_MS);
  await work;
  clearInterval(timer);
  // The work may have held up the tick that was due.
  late.push(Math.max(0, performance.now() - due));
  return { ticks: late.length, medianMs: middle(late), largestMs: rounded(Math.max(...late)) };
}

function middle(numbers: number[]): number {
  const sorted = [...numbers].sort((a, b) => a - b);
  return rounded(sorted[Math.floor(sorted.length / 2)] ?? 0);
}

function rounded(ms: number): number {
  return Math.round(ms * 100) / 100;
}

/** Numbers of around a hundred centres: data without any order would tell nothing of clusters. */
function randomVectors(count: number, width: number): Float32Array {
  const made = new Float32Array(count * width);
  for (let i = 0; i < count; i++) {
    const centre = Math.floor(Math.random() * 100) + 1;
    for (let j = 0; j < width; j++) {
      made[i * width + j] = Math.sin(centre * (j + 1)) + Math.random() - 0.5;
    }
  }
  return made;
}
