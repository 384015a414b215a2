import { closeSync, openSync, readSync, writeFileSync } from 'node:fs';
import process from 'node:process';
import {
  AttentionCache,
  type AttentionCacheOptions,
  type LayerPlan,
} from '@iceformer/sparse-attention';
import { simdLevel } from '@iceformer/transformer';
import type { AttentionJob, AttentionResult, LayerFigure, TensorFiles } from '../job.ts';

/** Tokens handed over at once, as the transformer does. */
const CHUNK = 512;

/** Tokens of the pass that comes before the clock starts: code and threads are warm then. */
const WARM_UP = 1024;

/** Settings of this engine. */
interface Options {
  storage: NonNullable<AttentionCacheOptions['storage']>;
  /** What is done in each of the job's layers. */
  plan: LayerPlan[];
}

/** One layer's tokens, `[tokens, heads or kvHeads, headDim]`. */
interface Tensors {
  q: Float32Array;
  k: Float32Array;
  v: Float32Array;
}

const job = JSON.parse(process.argv[2] ?? '') as AttentionJob;
const { n, heads, kvHeads, headDim, threads } = job;
const { storage, plan } = job.options as unknown as Options;
const wide = heads * headDim;
const narrow = kvHeads * headDim;

function read(file: string, numbers: number): Float32Array {
  const array = new Float32Array(numbers);
  const handle = openSync(file, 'r');
  for (let done = 0; done < array.byteLength; ) {
    const length = Math.min(2 ** 30, array.byteLength - done);
    const bytes = readSync(handle, array, done, length, done);
    if (bytes === 0) throw new Error(`${file} ended after ${done} bytes`);
    done += bytes;
  }
  closeSync(handle);
  return array;
}

/** Attends to tokens `from` to `to`, in chunks. */
function attend(
  cache: AttentionCache,
  { q, k, v }: Tensors,
  out: Float32Array,
  from: number,
  to: number,
  chunk: number,
): number {
  const start = performance.now();
  for (let first = from; first < to; first += chunk) {
    const end = Math.min(first + chunk, to);
    const part = (values: Float32Array, width: number): Float32Array =>
      values.subarray(first * width, end * width);
    cache.attend(0, part(q, wide), part(k, narrow), part(v, narrow), part(out, wide), end - first);
  }
  return performance.now() - start;
}

function emptyCache(layer: LayerPlan, tokens: number): AttentionCache {
  const cache = new AttentionCache({
    layers: 1,
    heads,
    kvHeads,
    headDim,
    storage,
    plan: { version: 1, layers: [layer] },
    threads,
  });
  cache.reserve(tokens);
  return cache;
}

function measure(files: TensorFiles, layer: LayerPlan, output: Float32Array): LayerFigure {
  const tensors = {
    q: read(files.q, n * wide),
    k: read(files.k, n * narrow),
    v: read(files.v, n * narrow),
  };
  const out = new Float32Array(n * wide);
  const warm = Math.min(n, WARM_UP);
  const warmUp = emptyCache(layer, warm);
  attend(warmUp, tensors, out, 0, warm, CHUNK);
  warmUp.close();
  let figure: LayerFigure = { ms: Number.POSITIVE_INFINITY };
  for (let pass = 0; pass < job.passes; pass++) {
    const cache = emptyCache(layer, n);
    const ms = attend(cache, tensors, out, 0, n, CHUNK);
    if (ms < figure.ms) {
      const { retainedMass, tilesRead } = cache.report();
      figure = { ms, retainedMass, tilesRead };
    }
    if (pass === job.passes - 1) {
      for (const [place, row] of job.rows.entries()) {
        output.set(out.subarray(row * wide, (row + 1) * wide), place * wide);
      }
      if (job.decode > 0) {
        cache.truncate(n - job.decode);
        figure.decodeMs = attend(cache, tensors, out, n - job.decode, n, 1) / job.decode;
      }
    }
    cache.close();
  }
  return figure;
}

const size = job.rows.length * wide;
const output = new Float32Array(job.layers.length * size);
const layers = job.layers.map((files, place) =>
  measure(files, plan[place] as LayerPlan, output.subarray(place * size, (place + 1) * size)),
);
writeFileSync(job.output, output);
const result: AttentionResult = { layers, engine: `iceformer, ${storage} cache, ${simdLevel()}` };
process.stdout.write(`${JSON.stringify(result)}\n`);
