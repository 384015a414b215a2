import {
  estimateGroupBytes,
  type GroupStorage,
  type KnnIndexGroupOptions,
} from '@iceformer/knn-index';
import { AttentionError } from './attention-error.ts';
import { AttentionLayer, type LayerQuery, REPORT } from './attention-layer.ts';
import { type AttentionReport, retainedMassOf, tilesReadOf } from './attention-report.ts';
import { type AttentionPlan, readPlan, reusedLayer, skipsAll } from './plan.ts';

/** Largest number that native code takes. */
const MOST = 2 ** 32 - 1;

const STORAGES: readonly GroupStorage[] = ['f32', 'bf16', 'i8'];

/** The shape of a model's attention and what is done in each layer. */
export interface AttentionCacheOptions {
  /** Layers of the model. */
  layers: number;
  /** Query heads; a multiple of `kvHeads`. */
  heads: number;
  /** Key/value heads: each serves `heads / kvHeads` query heads (1: multi-query, `heads`: multi-head). */
  kvHeads: number;
  /** Numbers per head, of queries and keys; 1 to 1024. */
  headDim: number;
  /** Numbers per head, of values and outputs; 1 to 1024. Default: `headDim`. */
  valueDim?: number;
  /**
   * How keys and values are kept: `bf16`; `f32`, as they come; `i8`, half of the memory of `bf16` and less to read for
   * every token. Default: `bf16`.
   */
  storage?: GroupStorage;
  /** One entry per layer. */
  plan: AttentionPlan;
  /** Threads that work on one call. Default: all that the process may use. */
  threads?: number;
  /** Factor of the scores. Default: 1 / sqrt(headDim). */
  scale?: number;
  /**
   * Per layer: positions that a query sees at most, its own included; `null` for all. Such a layer keeps its order and
   * is read exactly within the window where the plan selects. Without causality a query sees as many to either side.
   * Default: all in every layer.
   */
  slidingWindow?: readonly (number | null)[];
}

/** What one call of {@link AttentionCache.attend} does besides. */
export interface AttendOptions {
  /** False: each token attends to all tokens in the cache, later ones included, as in an encoder. Default: true. */
  causal?: boolean;
  /**
   * `[n]`, 0 for padding. The keys and values of padding are not kept, so nothing ever attends to them; its queries run
   * like all others, and see what their position allows. Default: no padding.
   */
  keyMask?: Uint8Array;
  /** Takes `[n, heads]`: natural logarithm of the sum of exponentials; minus infinity where nothing was seen. */
  lse?: Float32Array;
}

/**
 * The keys and values of a model's past tokens, layer by layer, in nearest-neighbour indexes, and attention over them.
 *
 * Each layer has one index per key/value head. Its tokens are sinks (the first ones, always read), settled (in
 * clusters, read as far as they matter) and recent (the last ones, always read, in order). Tokens that leave the
 * recent part settle in batches.
 *
 * Calls are synchronous and multi-threaded inside: run them in a worker thread.
 *
 * @example
 * ```ts
 * import { AttentionCache, exactPlan } from '@iceformer/sparse-attention';
 *
 * const cache = new AttentionCache({ layers: 1, heads: 2, kvHeads: 1, headDim: 4, plan: exactPlan(1) });
 * const tokens = 3;
 * const q = new Float32Array(tokens * 2 * 4).fill(0.1);
 * const k = new Float32Array(tokens * 1 * 4).fill(0.1);
 * const v = new Float32Array(tokens * 1 * 4).fill(0.5);
 * const out = new Float32Array(q.length);
 * cache.attend(0, q, k, v, out, tokens);
 * console.log(out[0], cache.length); // 0.5 3
 * cache.close();
 * ```
 */
export class AttentionCache {
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly valueDim: number;
  readonly plan: AttentionPlan;
  readonly #layers: AttentionLayer[];
  readonly #entries: BigUint64Array;
  /** True while the entries stay as they are, and no layer can have more to do than append and attend. */
  #steady = false;
  /** `[layers, kvHeads, 4]`: sums of what native searches reported and layers do not know yet. */
  readonly #reported: Float64Array;

  /** @throws {@link AttentionError} `ERR_SHAPE`, and what {@link readPlan} throws for a plan that does not fit */
  constructor(options: AttentionCacheOptions) {
    const { layers, heads, kvHeads, headDim, slidingWindow } = options;
    checkShape(options);
    this.heads = heads;
    this.kvHeads = kvHeads;
    this.headDim = headDim;
    this.valueDim = options.valueDim ?? headDim;
    this.plan = readPlan(options.plan, layers, kvHeads);
    const scale = options.scale ?? 1 / Math.sqrt(headDim);
    const group = groupOptions(options);
    this.#layers = [];
    this.plan.layers.forEach((plan, index) => {
      const source = this.#layers[reusedLayer(plan) ?? -1];
      const window = slidingWindow?.[index] ?? null;
      this.#layers.push(new AttentionLayer(plan, window, scale, group, source));
    });
    this.#entries = new BigUint64Array(layers);
    this.#reported = new Float64Array(layers * kvHeads * REPORT);
  }

  /** Positions in the cache, padding included: those of the last layer, which is the last to get them. */
  get length(): number {
    return this.#layers.at(-1)?.length ?? 0;
  }

  /** Native bytes of keys, values and summaries. */
  get bytes(): number {
    return this.#layers.reduce((sum, layer) => sum + layer.bytes, 0);
  }

  /**
   * Makes room for `tokens` tokens in all, in every layer.
   * @throws {@link AttentionError} `ERR_SHAPE`; `KnnIndexError` `ERR_OUT_OF_MEMORY`
   */
  reserve(tokens: number): void {
    checkCount('tokens', tokens, 0);
    for (const layer of this.#layers) {
      layer.reserve(tokens);
    }
  }

  /**
   * Appends n tokens to a layer, then lets each of them attend to all tokens up to itself, or to all. A whole prompt may
   * come in one call: keys settle on the way, so that it takes no longer than in pieces. (Only a layer that reads again what
   * another one selected, and that other one, take each call as a whole; give these 512 tokens or so at a time.)
   * @param q - `[n, heads, headDim]`, rotated
   * @param k - `[n, kvHeads, headDim]`, rotated
   * @param v - `[n, kvHeads, valueDim]`
   * @param out - takes `[n, heads, valueDim]`
   * @param n - number of tokens; the arrays may be longer
   * @param exactQueries - so many of the n tokens, the last ones, read every key in heads that select. The question
   *   at the end of a prompt often needs a single far key, which a selection for a whole block of queries can miss. A
   *   few tokens alone, as those of an answer, select from estimates of every single key and need no such care.
   *   Default: 0.
   * @throws {@link AttentionError} `ERR_LAYER`, `ERR_SHAPE`; `KnnIndexError` `ERR_NOT_FINITE`, `ERR_TOO_LARGE`,
   *   `ERR_OUT_OF_MEMORY`; the layer is as it was then
   */
  attend(
    layer: number,
    q: Float32Array,
    k: Float32Array,
    v: Float32Array,
    out: Float32Array,
    n: number,
    exactQueries = 0,
    options: AttendOptions = {},
  ): void {
    const state = this.#layer(layer);
    checkCount('exactQueries', exactQueries, 0);
    const { keyMask, lse, causal = true } = options;
    const query = this.#query(q, out, n, lse);
    if (
      keyMask === undefined &&
      lse === undefined &&
      causal &&
      state.takesAtOnce(n, exactQueries)
    ) {
      const keys = part('k', k, n * this.kvHeads * this.headDim);
      const values = part('v', v, n * this.kvHeads * this.valueDim);
      state.appendAndAttend(keys, values, query.q, query.out, n, exactQueries);
      return;
    }
    const position = state.length;
    this.#append(state, k, v, n, keyMask);
    try {
      state.settleAndAttend({ ...query, position, causal, exactQueries });
    } catch (error) {
      state.truncate(position);
      throw error;
    }
  }

  /**
   * Appends n tokens to a layer that the plan skips in all heads: nothing is stored and there is nothing to attend to, so
   * their queries, keys and values need not be computed. What follows may take the attention sublayer's output as zero.
   * @returns false, and nothing is appended, if some head of the layer attends: {@link attend} is to be called
   * @throws {@link AttentionError} `ERR_LAYER`, `ERR_SHAPE`
   */
  skip(layer: number, n: number): boolean {
    const state = this.#layer(layer);
    checkCount('n', n, 1);
    if (!state.skipped) return false;
    state.skip(n);
    return true;
  }

  /**
   * What a native decoder of this process needs to append n tokens to every layer and let them attend, as
   * {@link attend} does: `[layers]`, the address of each layer's entry, 0 for a layer that the plan skips. The addresses
   * are valid until the cache is used otherwise. Undefined if some layer has more to do now than append and attend, which {@link attend} must do then.
   *
   * Afterwards {@link entered} takes note of what was done; where it was not done to its end, {@link truncate} takes
   * back what was.
   */
  entries(n: number, exactQueries = 0): BigUint64Array | undefined {
    if (this.#steady) return this.#entries;
    for (const layer of this.#layers) {
      if (!layer.takesAtOnce(n, exactQueries)) return undefined;
    }
    this.#layers.forEach((layer, index) => {
      this.#entries[index] = layer.entry(exactQueries >= n);
    });
    this.#steady = this.#layers.every((layer) => layer.steady);
    return this.#entries;
  }

  /**
   * Takes note that a native decoder has appended n tokens to every layer.
   * @param reports - `[layers, kvHeads, 4]`, what the searches reported
   */
  entered(n: number, reports: Float64Array): void {
    // This runs for every token: what layers and heads make of it waits until someone asks.
    const sums = this.#reported;
    for (let i = 0; i < sums.length; i++) {
      sums[i] = (sums[i] as number) + (reports[i] as number);
    }
    for (const layer of this.#layers) layer.entered(n);
  }

  /**
   * Appends n tokens to a layer without attending: what {@link crossAttend} reads, such as an encoder's output.
   * @param k - `[n, kvHeads, headDim]`
   * @param v - `[n, kvHeads, valueDim]`
   * @param n - number of tokens; the arrays may be longer
   * @param keyMask - `[n]`, 0 for padding, see {@link AttendOptions.keyMask}
   * @throws as {@link attend}; the layer is as it was then
   */
  append(layer: number, k: Float32Array, v: Float32Array, n: number, keyMask?: Uint8Array): void {
    const state = this.#layer(layer);
    checkCount('n', n, 0);
    this.#append(state, k, v, n, keyMask);
    // How many queries will come at once is not known yet.
    state.settle(state.length, Number.POSITIVE_INFINITY);
  }

  /**
   * Lets n queries attend to all tokens of a layer: cross-attention. A sliding window does not apply, for these
   * queries have no position among the keys.
   * @param q - `[n, heads, headDim]`
   * @param out - takes `[n, heads, valueDim]`; zeros if there are no tokens
   * @param n - number of queries; the arrays may be longer
   * @throws as {@link attend}
   */
  crossAttend(
    layer: number,
    q: Float32Array,
    out: Float32Array,
    n: number,
    options: Pick<AttendOptions, 'lse'> = {},
  ): void {
    const state = this.#layer(layer);
    const query = this.#query(q, out, n, options.lse);
    state.attend({ ...query, position: null, causal: false, exactQueries: 0 });
  }

  #layer(layer: number): AttentionLayer {
    this.#steady = false;
    const state = this.#layers[layer];
    if (state === undefined) {
      const message = `layer is ${layer}, the cache has ${this.#layers.length} layers`;
      throw new AttentionError('ERR_LAYER', message, { layer, layers: this.#layers.length });
    }
    return state;
  }

  #query(
    q: Float32Array,
    out: Float32Array,
    n: number,
    lse: Float32Array | undefined,
  ): Pick<LayerQuery, 'q' | 'out' | 'lse' | 'n'> {
    checkCount('n', n, 1);
    return {
      q: part('q', q, n * this.heads * this.headDim),
      out: part('out', out, n * this.heads * this.valueDim),
      lse: lse === undefined ? undefined : part('lse', lse, n * this.heads),
      n,
    };
  }

  #append(
    state: AttentionLayer,
    k: Float32Array,
    v: Float32Array,
    n: number,
    keyMask: Uint8Array | undefined,
  ): void {
    const keys = part('k', k, n * this.kvHeads * this.headDim);
    const values = part('v', v, n * this.kvHeads * this.valueDim);
    if (keyMask !== undefined && !(keyMask instanceof Uint8Array && keyMask.length >= n)) {
      throw wrongLength('keyMask', keyMask, n);
    }
    state.append(keys, values, n, keyMask?.subarray(0, n));
  }

  /** What was kept and read. */
  report(): AttentionReport {
    this.#layers.forEach((layer, index) => {
      layer.reported(this.#reported, index * this.kvHeads * REPORT);
    });
    this.#reported.fill(0);
    const tallies = this.#layers.flatMap((layer) => layer.tallies);
    return {
      retainedMass: retainedMassOf(tallies) ?? 1,
      tilesRead: tilesReadOf(tallies),
      bytes: this.bytes,
      layers: this.#layers.map((layer) => layer.report()),
    };
  }

  /** Starts the report anew. */
  resetReport(): void {
    this.#reported.fill(0);
    for (const layer of this.#layers) {
      layer.resetReport();
    }
  }

  /**
   * Forgets tokens from number `tokens` on, in every layer; memory that is not needed is given back.
   * @throws {@link AttentionError} `ERR_SHAPE`
   */
  truncate(tokens: number): void {
    checkCount('tokens', tokens, 0);
    this.#steady = false;
    for (const layer of this.#layers) {
      layer.truncate(tokens);
    }
  }

  /** Forgets all tokens. */
  reset(): void {
    this.truncate(0);
    this.resetReport();
  }

  /** Frees the native memory. */
  close(): void {
    this.#steady = false;
    for (const layer of this.#layers) {
      layer.close();
    }
  }

  /** Does what {@link close} does, for `using`. */
  [Symbol.dispose](): void {
    this.close();
  }
}

/**
 * Native bytes that the keys, values and summaries of `tokens` tokens need; without a plan those of a cache in which every
 * layer attends.
 * @throws {@link AttentionError} `ERR_SHAPE`, and what {@link readPlan} throws for a plan that does not fit
 */
export function estimateCacheBytes(
  options: Omit<AttentionCacheOptions, 'plan'> & { plan?: AttentionPlan; tokens: number },
): number {
  checkShape(options);
  const { layers, kvHeads, tokens } = options;
  const plan = options.plan && readPlan(options.plan, layers, kvHeads);
  const skipped = plan?.layers.filter((layer) => skipsAll(layer, kvHeads)).length ?? 0;
  return (layers - skipped) * estimateGroupBytes(groupOptions(options), tokens);
}

function groupOptions(options: Omit<AttentionCacheOptions, 'plan'>): KnnIndexGroupOptions {
  return {
    count: options.kvHeads,
    dimensions: options.headDim,
    valueDimensions: options.valueDim ?? options.headDim,
    storage: options.storage ?? 'bf16',
    ...(options.threads === undefined ? {} : { threads: options.threads }),
  };
}

/** Checks a number of tokens, queries or threads: an integer of at least 0 or 1. */
function checkCount(name: string, value: number, least: 0 | 1): void {
  if (Number.isSafeInteger(value) && value >= least && value <= MOST) return;
  const allowed = least === 0 ? 'an integer of at least 0' : 'a positive integer';
  throw new AttentionError('ERR_SHAPE', `${name} is ${value}, it must be ${allowed}`, {
    name,
    value,
  });
}

function part(name: string, array: Float32Array, length: number): Float32Array {
  if (!(array instanceof Float32Array) || array.length < length) {
    throw wrongLength(name, array, length);
  }
  return array.length === length ? array : array.subarray(0, length);
}

function wrongLength(name: string, array: unknown, expected: number): AttentionError {
  const actual = ArrayBuffer.isView(array) ? (array as Uint8Array).length : typeof array;
  const message = `${name} has ${actual} numbers, ${expected} are needed`;
  return new AttentionError('ERR_SHAPE', message, { name, actual, expected });
}

function checkShape(options: Omit<AttentionCacheOptions, 'plan'>): void {
  const { layers, heads, kvHeads, headDim, valueDim = headDim, slidingWindow, scale } = options;
  const { threads, storage = 'bf16' } = options;
  for (const [name, value] of Object.entries({ layers, heads, kvHeads, headDim, valueDim })) {
    checkCount(name, value, 1);
  }
  if (threads !== undefined) checkCount('threads', threads, 1);
  if (!STORAGES.includes(storage)) {
    const message = `storage is ${JSON.stringify(storage)}, it must be one of ${STORAGES.join(', ')}`;
    throw new AttentionError('ERR_SHAPE', message, { name: 'storage', value: storage });
  }
  if (heads % kvHeads !== 0) {
    const message = `heads is ${heads}, it must be a multiple of kvHeads, which is ${kvHeads}`;
    throw new AttentionError('ERR_SHAPE', message, { heads, kvHeads });
  }
  if (scale !== undefined && !Number.isFinite(scale)) {
    throw new AttentionError('ERR_SHAPE', `scale is ${scale}, it must be finite`, {
      name: 'scale',
      value: scale,
    });
  }
  const windows = Array.isArray(slidingWindow) ? slidingWindow.length : typeof slidingWindow;
  if (slidingWindow !== undefined && windows !== layers) {
    const message = `slidingWindow has ${windows} entries, there are ${layers} layers`;
    throw new AttentionError('ERR_SHAPE', message, {
      name: 'slidingWindow',
      actual: windows,
      expected: layers,
    });
  }
  slidingWindow?.forEach((window, layer) => {
    if (window !== null && !(Number.isSafeInteger(window) && window >= 1)) {
      const message = `slidingWindow of layer ${layer} is ${window}, it must be null or a positive integer`;
      throw new AttentionError('ERR_SHAPE', message, {
        name: 'slidingWindow',
        layer,
        value: window,
      });
    }
  });
}
