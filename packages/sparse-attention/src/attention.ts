import { AttentionCache, type AttentionCacheOptions } from './attention-cache.ts';
import { AttentionError } from './attention-error.ts';
import type { LayerPlan } from './plan.ts';

/** Queries, keys and values of one attention layer, and how they attend. */
export interface AttentionInput {
  /** `[batch, nq, heads, headDim]`, rotated if the model rotates. */
  q: Float32Array;
  /** `[batch, nk, kvHeads, headDim]`, rotated if the model rotates. */
  k: Float32Array;
  /** `[batch, nk, kvHeads, valueDim]` */
  v: Float32Array;
  /** Query heads; a multiple of `kvHeads`. */
  heads: number;
  /** Key/value heads. Default: `heads`. */
  kvHeads?: number;
  /** Numbers per head, of queries and keys. */
  headDim: number;
  /** Numbers per head, of values and outputs. Default: `headDim`. */
  valueDim?: number;
  /** Sequences, which do not see each other. Default: 1. */
  batch?: number;
  /**
   * True: a query sees no key behind its own position. Queries are the last nq of nk positions, so with nq = nk query i
   * sees keys 0 to i. False: every query sees every key. Default: false.
   */
  causal?: boolean;
  /**
   * Positions that a query sees at most, its own included; without causality, as many to either side (that needs
   * nq = nk). Default: all.
   */
  slidingWindow?: number;
  /** `[batch]`: keys of each sequence that are not padding, which is behind them. Default: all. */
  keyLengths?: ArrayLike<number>;
  /** `[batch, nk]`, 0 for keys that are padding. Instead of `keyLengths`. Default: none is. */
  keyMask?: Uint8Array;
  /** How keys are read. Default: `{ strategy: 'exact' }`. */
  plan?: LayerPlan;
  /** So many of the last queries read every key in heads that select; causal only. Default: 0. */
  exactQueries?: number;
  /** Factor of the scores. Default: 1 / sqrt(headDim). */
  scale?: number;
  /** How keys and values are kept during the call. Default: `f32`. */
  storage?: AttentionCacheOptions['storage'];
  /** Threads that work on the call. Default: all that the process may use. */
  threads?: number;
}

/** What the queries attended to. */
export interface AttentionOutput {
  /** `[batch, nq, heads, valueDim]`; zeros for a query that sees nothing. */
  output: Float32Array;
  /** `[batch, nq, heads]`: natural logarithm of the sum of exponentials of the scores; minus infinity for a query that sees nothing. */
  lse: Float32Array;
  /** Mean share of a query's softmax mass that was computed exactly, 0 to 1; `null` where the plan's strategies do not know it. */
  retainedMass: number | null;
  /** Share of the visible key tiles that were read, 0 to 1. */
  tilesRead: number;
}

/**
 * Attention over plain arrays, all at once: softmax(scale · q kᵀ) v per head, exactly or as a plan says.
 *
 * The call is synchronous and multi-threaded inside. For keys that come bit by bit there is {@link AttentionCache}.
 *
 * @example
 * ```ts
 * import { attention } from '@iceformer/sparse-attention';
 *
 * const q = Float32Array.of(10, 0, 0, 10); // two queries of one head
 * const k = Float32Array.of(1, 0, 0, 1);
 * const v = Float32Array.of(1, 2, 3, 4);
 * const { output } = attention({ q, k, v, heads: 1, headDim: 2, scale: 5 });
 * console.log(output); // [1, 2, 3, 4]: each query finds its key
 * ```
 * @throws {@link AttentionError} `ERR_SHAPE`, `ERR_PLAN`, `ERR_PLAN_STRATEGY`, `ERR_PLAN_HEADS`; `KnnIndexError`
 *   `ERR_NOT_FINITE`, `ERR_TOO_LARGE`, `ERR_OUT_OF_MEMORY`
 */
export function attention(input: AttentionInput): AttentionOutput {
  const { q, k, v, heads, headDim, causal = false, slidingWindow, exactQueries = 0 } = input;
  const { kvHeads = heads, valueDim = headDim, batch = 1 } = input;
  if (!Number.isSafeInteger(batch) || batch < 1) {
    throw refused('batch', batch, 'a positive integer');
  }
  if (!Number.isSafeInteger(exactQueries) || exactQueries < 0) {
    throw refused('exactQueries', exactQueries, 'an integer of at least 0');
  }
  const cache = new AttentionCache({
    layers: 1,
    heads,
    kvHeads,
    headDim,
    valueDim,
    plan: { version: 1, layers: [input.plan ?? { strategy: 'exact' }] },
    storage: input.storage ?? 'f32',
    slidingWindow: [slidingWindow ?? null],
    ...(input.scale === undefined ? {} : { scale: input.scale }),
    ...(input.threads === undefined ? {} : { threads: input.threads }),
  });
  try {
    const rows = { q: heads * headDim, k: kvHeads * headDim, v: kvHeads * valueDim };
    const nq = countOf('q', q, batch * rows.q);
    const nk = countOf('k', k, batch * rows.k);
    if (countOf('v', v, batch * rows.v) !== nk) {
      throw new AttentionError(
        'ERR_SHAPE',
        `v has ${v.length} numbers, ${nk * batch * rows.v} are needed for ${nk * batch} keys`,
        { name: 'v', actual: v.length, expected: nk * batch * rows.v },
      );
    }
    if (causal && nq > nk) {
      const message = `there are ${nq} queries and ${nk} keys: causal queries are the last of the keys' positions`;
      throw new AttentionError('ERR_SHAPE', message, { queries: nq, keys: nk });
    }
    if (!causal && slidingWindow !== undefined && nq !== nk) {
      const message = `there are ${nq} queries and ${nk} keys: a sliding window without causality needs as many`;
      throw new AttentionError('ERR_SHAPE', message, { queries: nq, keys: nk });
    }
    const masks = keyMasks(input, batch, nk);
    const output = new Float32Array(batch * nq * heads * valueDim);
    const lse = new Float32Array(batch * nq * heads);
    for (let item = 0; item < batch; item++) {
      const of = (array: Float32Array, from: number, to: number, row: number, n: number) =>
        array.subarray((item * n + from) * row, (item * n + to) * row);
      const keys = (from: number, to: number) => of(k, from, to, rows.k, nk);
      const values = (from: number, to: number) => of(v, from, to, rows.v, nk);
      const mask = masks?.subarray(item * nk, (item + 1) * nk);
      cache.truncate(0);
      if (nk > 0) cache.reserve(nk);
      const queries = of(q, 0, nq, rows.q, nq);
      const out = of(output, 0, nq, heads * valueDim, nq);
      const sums = { lse: of(lse, 0, nq, heads, nq) };
      const self = causal || (nq === nk && slidingWindow !== undefined);
      const before = self ? nk - nq : nk;
      if (before > 0) cache.append(0, keys(0, before), values(0, before), before, mask);
      if (nq === 0) continue;
      if (!self) {
        cache.crossAttend(0, queries, out, nq, sums);
        continue;
      }
      cache.attend(
        0,
        queries,
        keys(before, nk),
        values(before, nk),
        out,
        nq,
        Math.min(nq, exactQueries),
        {
          ...sums,
          causal,
          ...(mask === undefined ? {} : { keyMask: mask.subarray(before, nk) }),
        },
      );
    }
    const { layers } = cache.report();
    const { retainedMass, tilesRead } = layers[0] ?? { retainedMass: null, tilesRead: 1 };
    return { output, lse, retainedMass, tilesRead };
  } finally {
    cache.close();
  }
}

/** Rows of so many numbers in an array. */
function countOf(name: string, array: Float32Array, row: number): number {
  if (!(array instanceof Float32Array)) {
    throw refused(name, typeof array, 'a Float32Array');
  }
  if (array.length % row !== 0) {
    const message = `${name} has ${array.length} numbers, which is not a multiple of ${row}`;
    throw new AttentionError('ERR_SHAPE', message, { name, actual: array.length, row });
  }
  return array.length / row;
}

/** `[batch, nk]`: 0 for keys that are padding. */
function keyMasks(
  { keyLengths, keyMask }: AttentionInput,
  batch: number,
  nk: number,
): Uint8Array | undefined {
  if (keyMask !== undefined) {
    if (!(keyMask instanceof Uint8Array) || keyMask.length !== batch * nk) {
      throw refused('keyMask', keyMask.length, `a Uint8Array of ${batch * nk} numbers`);
    }
    return keyMask;
  }
  if (keyLengths === undefined) {
    return undefined;
  }
  if (keyLengths.length !== batch) {
    throw refused('keyLengths', keyLengths.length, `a list of ${batch} numbers`);
  }
  const mask = new Uint8Array(batch * nk);
  for (let item = 0; item < batch; item++) {
    const length = keyLengths[item] ?? Number.NaN;
    if (!Number.isSafeInteger(length) || length < 0 || length > nk) {
      throw refused(`keyLengths[${item}]`, length, `an integer from 0 to ${nk}`);
    }
    mask.fill(1, item * nk, item * nk + length);
  }
  return mask;
}

function refused(name: string, value: unknown, allowed: string): AttentionError {
  const message = `${name} is ${String(value)}, it must be ${allowed}`;
  return new AttentionError('ERR_SHAPE', message, { name, value });
}
