import {
  estimateGroupBytes,
  type GroupStorage,
  KnnIndexGroup,
  type KnnIndexGroupOptions,
} from '@iceformer/knn-index';
import { AttentionError } from './attention-error.ts';
import type { AttentionPlan, LayerPlan } from './plan.ts';

/** The shape of a model's attention and what is done in each layer. */
export interface AttentionCacheOptions {
  /** Layers of the model. */
  layers: number;
  /** Query heads; a multiple of `kvHeads`. */
  heads: number;
  /** Key/value heads: each serves `heads / kvHeads` query heads (1: multi-query, `heads`: multi-head). */
  kvHeads: number;
  /** Numbers per head, of keys and of values. */
  headDim: number;
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
  /** Per layer: tokens that a query sees at most, itself included; `null` for all. Default: all in every layer. */
  slidingWindow?: readonly (number | null)[];
}

/** What one layer kept and read since the last {@link AttentionCache.resetReport}. */
export interface LayerReport {
  strategy: LayerPlan['strategy'];
  /** Mean over query rows of the share of the softmax's mass that was computed exactly, 0 to 1. */
  retainedMass: number;
  /** Share of the visible key tiles that were read, 0 to 1. */
  tilesRead: number;
}

/** What all layers kept and read since the last {@link AttentionCache.resetReport}. */
export interface AttentionReport {
  /** Mean over layers and query rows, 0 to 1; 1 before anything was attended. */
  retainedMass: number;
  /** Share of the visible key tiles of all layers that were read, 0 to 1; 1 before anything was attended. */
  tilesRead: number;
  /** Native bytes of keys, values and summaries. */
  bytes: number;
  layers: LayerReport[];
}

interface Layer {
  readonly plan: LayerPlan;
  readonly window: number | null;
  readonly index: KnnIndexGroup;
  rows: number;
  retainedMass: number;
  tilesRead: number;
  tilesVisible: number;
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
  readonly plan: AttentionPlan;
  readonly #scale: number;
  readonly #layers: Layer[];

  /** @throws {@link AttentionError} `ERR_SHAPE`, `ERR_PLAN_LAYERS` */
  constructor(options: AttentionCacheOptions) {
    const { layers, heads, kvHeads, headDim, plan, slidingWindow } = options;
    checkShape(options);
    if (plan.layers.length !== layers) {
      const message = `the plan is for ${plan.layers.length} layers, the model has ${layers}`;
      throw new AttentionError('ERR_PLAN_LAYERS', message, {
        plan: plan.layers.length,
        model: layers,
      });
    }
    this.heads = heads;
    this.kvHeads = kvHeads;
    this.headDim = headDim;
    this.plan = plan;
    this.#scale = options.scale ?? 1 / Math.sqrt(headDim);
    this.#layers = plan.layers.map((layer, index) => ({
      plan: layer,
      window: slidingWindow?.[index] ?? null,
      index: new KnnIndexGroup(groupOptions(options)),
      rows: 0,
      retainedMass: 0,
      tilesRead: 0,
      tilesVisible: 0,
    }));
  }

  /** Tokens in the cache: those of the last layer, which is the last to get them. */
  get length(): number {
    return this.#layers.at(-1)?.index.length ?? 0;
  }

  /** Native bytes of keys, values and summaries. */
  get bytes(): number {
    return this.#layers.reduce((sum, layer) => sum + layer.index.bytes, 0);
  }

  /**
   * Makes room for `tokens` tokens in all, in every layer.
   * @throws `KnnIndexError` `ERR_OUT_OF_MEMORY`
   */
  reserve(tokens: number): void {
    for (const layer of this.#layers) {
      layer.index.reserve(tokens);
    }
  }

  /**
   * Appends n tokens to a layer, then lets each of them attend to all tokens up to itself.
   * @param q - `[n, heads, headDim]`, rotated
   * @param k - `[n, kvHeads, headDim]`, rotated
   * @param v - `[n, kvHeads, headDim]`
   * @param out - takes `[n, heads, headDim]`
   * @param n - number of tokens; the arrays may be longer
   * @param exactQueries - so many of the n tokens, the last ones, read every key whatever the plan says. The question
   *   at the end of a prompt and the tokens of an answer often need a single far key, which a selection for a whole
   *   block of queries can miss. Default: 0.
   * @throws {@link AttentionError} `ERR_LAYER`, `ERR_SHAPE`; `KnnIndexError` `ERR_NOT_FINITE`, `ERR_OUT_OF_MEMORY`
   */
  attend(
    layer: number,
    q: Float32Array,
    k: Float32Array,
    v: Float32Array,
    out: Float32Array,
    n: number,
    exactQueries = 0,
  ): void {
    const state = this.#layers[layer];
    if (state === undefined) {
      const message = `layer is ${layer}, the cache has ${this.#layers.length} layers`;
      throw new AttentionError('ERR_LAYER', message, { layer, layers: this.#layers.length });
    }
    const { index, plan } = state;
    const keys = part('k', k, n * this.kvHeads * this.headDim);
    const values = part('v', v, n * this.kvHeads * this.headDim);
    const queries = part('q', q, n * this.heads * this.headDim);
    const output = part('out', out, n * this.heads * this.headDim);
    const before = index.length;
    index.append(keys, values);
    if (plan.strategy === 'selected' && state.window === null) {
      settle(index, plan, before);
    }
    const row = this.heads * this.headDim;
    const search = (from: number, to: number, massTarget?: number): void => {
      const report = index.softSearch(
        queries.subarray(from * row, to * row),
        output.subarray(from * row, to * row),
        {
          queries: to - from,
          visible: before + 1 + from,
          causal: true,
          scale: this.#scale,
          ...(state.window === null ? {} : { window: state.window }),
          ...(massTarget === undefined ? {} : { massTarget }),
        },
      );
      state.rows += report.rows;
      state.retainedMass += report.retainedMass;
      state.tilesRead += report.tilesRead;
      state.tilesVisible += report.tilesVisible;
    };
    const selected = plan.strategy === 'selected' ? Math.max(0, n - exactQueries) : 0;
    if (plan.strategy === 'selected' && selected > 0) search(0, selected, plan.massTarget);
    if (selected < n) search(selected, n);
  }

  /** What was kept and read. */
  report(): AttentionReport {
    const share = (part: number, whole: number) => (whole === 0 ? 1 : part / whole);
    const sum = (of: (layer: Layer) => number) =>
      this.#layers.reduce((total, layer) => total + of(layer), 0);
    return {
      retainedMass: share(
        sum((l) => l.retainedMass),
        sum((l) => l.rows),
      ),
      tilesRead: share(
        sum((l) => l.tilesRead),
        sum((l) => l.tilesVisible),
      ),
      bytes: this.bytes,
      layers: this.#layers.map((layer) => ({
        strategy: layer.plan.strategy,
        retainedMass: share(layer.retainedMass, layer.rows),
        tilesRead: share(layer.tilesRead, layer.tilesVisible),
      })),
    };
  }

  /** Starts the report anew. */
  resetReport(): void {
    for (const layer of this.#layers) {
      layer.rows = 0;
      layer.retainedMass = 0;
      layer.tilesRead = 0;
      layer.tilesVisible = 0;
    }
  }

  /** Forgets tokens from number `tokens` on, in every layer; memory that is not needed is given back. */
  truncate(tokens: number): void {
    for (const layer of this.#layers) {
      layer.index.truncate(tokens);
    }
  }

  /** Forgets all tokens. */
  reset(): void {
    this.truncate(0);
    this.resetReport();
  }

  /** Frees the native memory. */
  close(): void {
    for (const layer of this.#layers) {
      layer.index.close();
    }
  }

  /** Does what {@link close} does, for `using`. */
  [Symbol.dispose](): void {
    this.close();
  }
}

/** Native bytes that the keys, values and summaries of `tokens` tokens need. */
export function estimateCacheBytes(
  options: Omit<AttentionCacheOptions, 'plan'> & { tokens: number },
): number {
  checkShape(options);
  return options.layers * estimateGroupBytes(groupOptions(options), options.tokens);
}

function groupOptions(options: Omit<AttentionCacheOptions, 'plan'>): KnnIndexGroupOptions {
  return {
    count: options.kvHeads,
    dimensions: options.headDim,
    storage: options.storage ?? 'bf16',
    ...(options.threads === undefined ? {} : { threads: options.threads }),
  };
}

/** Settles what has left the recent part, once it fills a batch. */
function settle(
  index: KnnIndexGroup,
  plan: Extract<LayerPlan, { strategy: 'selected' }>,
  before: number,
): void {
  const settled = Math.max(index.settled, plan.sinks);
  const batches = Math.floor((before - plan.recent - settled) / plan.batch);
  for (let batch = 1; batch <= batches; batch++) {
    index.settle(plan.sinks, settled + batch * plan.batch);
  }
}

function part(name: string, array: Float32Array, length: number): Float32Array {
  if (!(array instanceof Float32Array) || array.length < length) {
    const actual = array instanceof Float32Array ? array.length : typeof array;
    throw new AttentionError('ERR_SHAPE', `${name} has ${actual} numbers, ${length} are needed`, {
      name,
      actual,
      expected: length,
    });
  }
  return array.length === length ? array : array.subarray(0, length);
}

function checkShape(options: Omit<AttentionCacheOptions, 'plan'>): void {
  const { layers, heads, kvHeads, headDim } = options;
  for (const [name, value] of Object.entries({ layers, heads, kvHeads, headDim })) {
    if (!Number.isSafeInteger(value) || value < 1) {
      throw new AttentionError('ERR_SHAPE', `${name} is ${value}, it must be a positive integer`, {
        name,
        value,
      });
    }
  }
  if (heads % kvHeads !== 0) {
    const message = `heads is ${heads}, it must be a multiple of kvHeads, which is ${kvHeads}`;
    throw new AttentionError('ERR_SHAPE', message, { heads, kvHeads });
  }
}
