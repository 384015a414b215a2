import process from 'node:process';
import { AttentionCache, exactPlan } from '@iceformer/sparse-attention';
import type { AttentionJob } from '../attention-alone.ts';

/** Tokens handed over at once, as the transformer does. */
const CHUNK = 512;

const { attentionTokens, heads, kvHeads, headDim, threads, options } = JSON.parse(
  process.argv[2] ?? '',
) as AttentionJob;

function random(count: number): Float32Array {
  let state = 1;
  return Float32Array.from({ length: count }, () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return state / 2 ** 31 - 1;
  });
}

const q = random(attentionTokens * heads * headDim);
const k = random(attentionTokens * kvHeads * headDim);
const v = random(attentionTokens * kvHeads * headDim);
const out = new Float32Array(q.length);

/** Milliseconds of one layer: appending keys and values and attending, chunk by chunk. */
function pass(): number {
  const cache = new AttentionCache({
    layers: 1,
    heads,
    kvHeads,
    headDim,
    storage: options['dtype'] === 'f32' ? 'f32' : 'bf16',
    plan: exactPlan(1),
    threads,
  });
  cache.reserve(attentionTokens);
  const start = performance.now();
  for (let from = 0; from < attentionTokens; from += CHUNK) {
    const to = Math.min(from + CHUNK, attentionTokens);
    const part = (values: Float32Array, width: number): Float32Array =>
      values.subarray(from * width, to * width);
    const [wide, narrow] = [heads * headDim, kvHeads * headDim];
    cache.attend(0, part(q, wide), part(k, narrow), part(v, narrow), part(out, wide), to - from);
  }
  const ms = performance.now() - start;
  cache.close();
  return ms;
}

pass();
process.stdout.write(`${JSON.stringify({ ms: Math.min(pass(), pass(), pass()) })}\n`);
