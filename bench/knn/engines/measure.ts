import { readFileSync } from 'node:fs';
import process from 'node:process';
import { readDescription, readNumbers, readTruth } from '../data/dataset-files.ts';
import type { EngineJob, EngineResult, Setting, ThreadsResult } from '../engine-job.ts';

/** An index of some engine, as the measurement sees it. */
export interface MeasuredIndex {
  /** Ids of the nearest, `[queries, k]`; ids are the numbers of the vectors. */
  search(
    queries: Float32Array,
    k: number,
    setting: Setting,
    threads: number,
  ): ArrayLike<number | bigint>;
  /** Bytes of the index, 0 if the engine does not say. */
  bytes(): number;
  close(): void;
}

export type BuildIndex = (
  keys: Float32Array,
  dimensions: number,
  job: EngineJob,
  threads: number,
) => MeasuredIndex;

/** Does the job given on the command line, as `measure.py` does for Python, and prints the result. */
export function measure(engine: string, build: BuildIndex): void {
  const job = JSON.parse(process.argv[2] ?? '') as EngineJob;
  const about = readDescription(job.folder, job.data);
  const { dimensions, k } = about;
  const stride = Math.max(1, Math.floor(about.queries / (job.queries ?? about.queries)));
  const used = Math.min(about.sets, job.sets ?? about.sets);
  const allKeys = readNumbers(job.folder, job.data, 'keys.f32');
  const allQueries = readNumbers(job.folder, job.data, 'queries.f32');
  const allTruth = readTruth(job.folder, job.data);
  const part = (array: Float32Array, set: number): Float32Array =>
    array.subarray((set * array.length) / about.sets, ((set + 1) * array.length) / about.sets);
  const runs: ThreadsResult[] = job.threads.map((threads) => ({
    threads,
    points: job.searches.map((setting) => ({ setting, seconds: 0, recall: 0 })),
  }));
  let indexBytes = 0;
  let grownBytes = 0;
  let count = 0;
  for (let set = 0; set < used; set++) {
    const keys = part(allKeys, set);
    const queries = strided(part(allQueries, set), dimensions, stride);
    count = queries.length / dimensions;
    const truth = allTruth.subarray(
      set * about.queries * about.truth,
      (set + 1) * about.queries * about.truth,
    );
    let index: MeasuredIndex | undefined;
    for (const [number, result] of runs.entries()) {
      const { threads } = result;
      if (index === undefined || job.rebuild) {
        index?.close();
        const before = resident();
        const start = performance.now();
        index = build(keys, dimensions, job, threads);
        result.buildSeconds = (result.buildSeconds ?? 0) + seconds(start);
        if (number === 0) {
          grownBytes += Math.max(0, resident() - before);
          indexBytes += index.bytes();
        }
      }
      const warm = Math.min(64, count) * dimensions;
      index.search(queries.subarray(0, warm), k, job.searches[0] ?? {}, threads);
      for (const point of result.points) {
        const start = performance.now();
        const found = index.search(queries, k, point.setting, threads);
        point.seconds += seconds(start);
        point.recall += recall(found, truth, k, about.truth, stride) / used;
        if (job.singles && set === 0 && threads === Math.min(...job.threads)) {
          point.single = singles(index, queries, dimensions, k, point.setting, job.singles);
        }
      }
    }
    index?.close();
  }
  const rawBytes = (used * allKeys.byteLength) / about.sets;
  const result: EngineResult = {
    engine,
    indexBytes,
    grownBytes,
    rawBytes,
    sets: used,
    queries: count,
    runs,
  };
  process.stdout.write(`${JSON.stringify(result)}\n`);
}

function strided(queries: Float32Array, dimensions: number, stride: number): Float32Array {
  if (stride === 1) return queries;
  const count = Math.ceil(queries.length / dimensions / stride);
  const kept = new Float32Array(count * dimensions);
  for (let row = 0; row < count; row++) {
    const from = row * stride * dimensions;
    kept.set(queries.subarray(from, from + dimensions), row * dimensions);
  }
  return kept;
}

function recall(
  found: ArrayLike<number | bigint>,
  truth: Int32Array,
  k: number,
  width: number,
  stride: number,
): number {
  const rows = found.length / k;
  let hits = 0;
  for (let row = 0; row < rows; row++) {
    const first = row * stride * width;
    const wanted = new Set(truth.subarray(first, first + k));
    for (let place = 0; place < k; place++) {
      if (wanted.delete(Number(found[row * k + place]))) hits++;
    }
  }
  return hits / (rows * k);
}

function singles(
  index: MeasuredIndex,
  queries: Float32Array,
  dimensions: number,
  k: number,
  setting: Setting,
  count: number,
): { median: number; p95: number } {
  const rows = queries.length / dimensions;
  const times: number[] = [];
  for (let number = -20; number < count; number++) {
    const row = (number + 20) % rows;
    const query = queries.subarray(row * dimensions, (row + 1) * dimensions);
    const start = performance.now();
    index.search(query, k, setting, 1);
    if (number >= 0) times.push(seconds(start));
  }
  times.sort((a, b) => a - b);
  const at = (share: number): number => times[Math.floor(share * (times.length - 1))] as number;
  return { median: at(0.5), p95: at(0.95) };
}

const seconds = (start: number): number => (performance.now() - start) / 1000;

/** Resident memory now; /proc is exact, the fallback counts whole pages too. */
function resident(): number {
  globalThis.gc?.();
  try {
    return Number(readFileSync('/proc/self/statm', 'utf8').split(' ')[1]) * 4096;
  } catch {
    return process.memoryUsage.rss();
  }
}
