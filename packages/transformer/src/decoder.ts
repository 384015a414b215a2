import type { AttentionCache } from '@iceformer/sparse-attention';
import type { NativeDecoder } from '../native/native.js';
import type { DecoderConfig } from './decoder-config.ts';
import type { ProfileClock } from './profile.ts';
import type { RotaryFrequencies } from './rotary.ts';
import { fillRotation, inverseFrequencies, rotationKey } from './rotary.ts';
import type { AttentionReport, Sequence } from './sequence.ts';

/** The native layers, as far as the decoder uses them. */
export type Layers = Pick<
  NativeDecoder,
  'embed' | 'rotation' | 'project' | 'finish' | 'step' | 'outputShare' | 'logits'
>;

/** The attention cache, as far as the decoder uses it. */
export type Attention = Pick<
  AttentionCache,
  'attend' | 'skip' | 'reserve' | 'truncate' | 'resetReport' | 'report'
> &
  Partial<Pick<AttentionCache, 'entries' | 'entered'>>;

/** Throws ERR_NOT_ENOUGH_MEMORY unless a cache of `tokens` tokens fits. */
export type CacheMemoryCheck = (tokens: number) => void;

/** Parts of which a native step measures the time. */
const STEP_PARTS = ['embed', 'qkv', 'attention', 'output', 'mlp'] as const;

/** Views of the working buffers for a chunk of `n` tokens. */
interface ChunkViews {
  n: number;
  /** `[n, heads, headDim]` */
  q: Float32Array;
  /** `[n, kvHeads, headDim]` */
  k: Float32Array;
  /** `[n, kvHeads, headDim]` */
  v: Float32Array;
  /** `[n, heads, headDim]` */
  attended: Float32Array;
  /** `[n, headDim / 2]` */
  cos: Float32Array;
  /** `[n, headDim / 2]` */
  sin: Float32Array;
}

/**
 * Runs tokens through the layers: projections and MLP in the native decoder, attention in the
 * cache, the rotation computed here. All working buffers are allocated once.
 */
export class Decoder implements Sequence {
  readonly vocabSize: number;
  readonly maxChunk: number;
  readonly #config: DecoderConfig;
  readonly #layers: Layers;
  readonly #attention: Attention;
  readonly #requireCacheMemory: CacheMemoryCheck;
  /** Buffers for `maxChunk` tokens, and the same for one. */
  readonly #whole: ChunkViews;
  readonly #single: ChunkViews;
  /** Views for the length of chunk used last, so that equal chunks need no new ones. */
  #views: ChunkViews;
  /** Tokens whose keys and values the cache holds: the first `#length` entries. */
  #tokens = new Uint32Array(1024);
  #length = 0;
  #frequencies: RotaryFrequencies;
  /** What the cached keys were rotated with, see {@link rotationKey}. */
  #rotationKey: number;
  readonly #lastRow = new Uint32Array(1);
  /** `[layers, kvHeads, 4]`: what the searches of a step reported. */
  readonly #reports: Float64Array;
  /** Milliseconds of each of {@link STEP_PARTS}. */
  readonly #times = new Float64Array(STEP_PARTS.length);

  constructor(
    config: DecoderConfig,
    layers: Layers,
    attention: Attention,
    maxChunk: number,
    requireCacheMemory: CacheMemoryCheck,
  ) {
    this.vocabSize = config.vocabSize;
    this.maxChunk = maxChunk;
    this.#config = config;
    this.#layers = layers;
    this.#attention = attention;
    this.#requireCacheMemory = requireCacheMemory;
    const { heads, kvHeads, headDim } = config;
    this.#reports = new Float64Array(4 * config.layers * kvHeads);
    this.#whole = {
      n: maxChunk,
      q: new Float32Array(maxChunk * heads * headDim),
      k: new Float32Array(maxChunk * kvHeads * headDim),
      v: new Float32Array(maxChunk * kvHeads * headDim),
      attended: new Float32Array(maxChunk * heads * headDim),
      cos: new Float32Array((maxChunk * headDim) / 2),
      sin: new Float32Array((maxChunk * headDim) / 2),
    };
    this.#single = this.#viewsOf(1);
    this.#views = this.#whole;
    this.#frequencies = inverseFrequencies(config.rotary);
    this.#rotationKey = rotationKey(config.rotary, 0);
  }

  rewind(tokens: Uint32Array, length: number): number {
    this.#requireCacheMemory(length);
    const key = rotationKey(this.#config.rotary, length);
    if (key !== this.#rotationKey) {
      this.#frequencies = inverseFrequencies(this.#config.rotary, length);
      this.#rotationKey = key;
      this.#length = 0;
    }
    // The last token always runs again: its logits are what the caller came for.
    const longest = Math.min(this.#length, tokens.length - 1);
    let common = 0;
    while (common < longest && this.#tokens[common] === tokens[common]) common++;
    this.#attention.truncate(common);
    this.#attention.resetReport();
    this.#length = common;
    // Room for an answer is made as it grows; a sequence begun without tokens is appended in full.
    this.#attention.reserve(tokens.length === 0 ? length : tokens.length);
    return common;
  }

  append(
    tokens: Uint32Array,
    cancelled: () => boolean,
    exactQueries = 0,
    clock?: ProfileClock,
  ): boolean {
    const layers = this.#layers;
    const views = this.#viewsFor(tokens.length);
    const { n, q, k, v, attended, cos, sin } = views;
    fillRotation(this.#frequencies, this.#length, n, cos, sin);
    if (cancelled()) return this.#undo();
    if (n === 1 && this.#step(tokens, views, exactQueries, clock)) {
      this.#remember(tokens);
      return true;
    }
    layers.embed(tokens);
    layers.rotation(cos, sin);
    clock?.lap('embed');
    for (let layer = 0; layer < this.#config.layers; layer++) {
      if (cancelled()) return this.#undo();
      if (this.#attention.skip(layer, n)) {
        layers.finish(layer);
        clock?.split('output', 'mlp', layers.outputShare);
        continue;
      }
      layers.project(layer, q, k, v);
      clock?.lap('qkv');
      if (cancelled()) return this.#undo();
      this.#attention.attend(layer, q, k, v, attended, n, exactQueries);
      clock?.lap('attention');
      if (cancelled()) return this.#undo();
      layers.finish(layer, attended);
      clock?.split('output', 'mlp', layers.outputShare);
    }
    this.#remember(tokens);
    return true;
  }

  /** Takes a token through all layers in one native call, if the cache has nothing else to do on the way. */
  #step(
    tokens: Uint32Array,
    { cos, sin }: ChunkViews,
    exactQueries: number,
    clock: ProfileClock | undefined,
  ): boolean {
    const attention = this.#attention;
    const groups = attention.entries?.(1, exactQueries);
    if (groups === undefined) return false;
    if (!this.#layers.step(tokens, cos, sin, groups, this.#reports, this.#times)) {
      // What went wrong is said on the other way.
      attention.truncate(this.#length);
      return false;
    }
    attention.entered?.(1, this.#reports);
    clock?.divide(STEP_PARTS, this.#times);
    return true;
  }

  logits(rows: Uint32Array, out: Float32Array): void {
    this.#layers.logits(rows, out);
  }

  lastLogits(out: Float32Array): void {
    this.#lastRow[0] = this.#views.n - 1;
    this.#layers.logits(this.#lastRow, out);
  }

  report(): AttentionReport {
    const { retainedMass, tilesRead, bytes } = this.#attention.report();
    return { retainedMass, tilesRead, cacheBytes: bytes };
  }

  /** Takes back what the layers so far appended of an unfinished chunk. */
  #undo(): false {
    this.#attention.truncate(this.#length);
    return false;
  }

  #remember(tokens: Uint32Array): void {
    const length = this.#length + tokens.length;
    if (length > this.#tokens.length) {
      const grown = new Uint32Array(Math.max(length, 2 * this.#tokens.length));
      grown.set(this.#tokens.subarray(0, this.#length));
      this.#tokens = grown;
    }
    this.#tokens.set(tokens, this.#length);
    this.#length = length;
  }

  #viewsFor(n: number): ChunkViews {
    if (this.#views.n !== n) this.#views = n === 1 ? this.#single : this.#viewsOf(n);
    return this.#views;
  }

  #viewsOf(n: number): ChunkViews {
    const { q, k, v, attended, cos, sin } = this.#whole;
    const { heads, kvHeads, headDim } = this.#config;
    return {
      n,
      q: q.subarray(0, n * heads * headDim),
      k: k.subarray(0, n * kvHeads * headDim),
      v: v.subarray(0, n * kvHeads * headDim),
      attended: attended.subarray(0, n * heads * headDim),
      cos: cos.subarray(0, (n * headDim) / 2),
      sin: sin.subarray(0, (n * headDim) / 2),
    };
  }
}

/** Bytes of the buffers one chunk needs: here, in the native decoder, and one row of logits. */
export function estimateScratchBytes(config: DecoderConfig, maxChunk: number): number {
  const { heads, kvHeads, headDim, hiddenSize, intermediateSize, vocabSize } = config;
  const here = 2 * heads * headDim + 2 * kvHeads * headDim + headDim;
  // Hidden state, its norm, gate and up, each once more in the kernels' packed form.
  const native = 2 * (2 * hiddenSize + 2 * intermediateSize);
  return 4 * (maxChunk * (here + native) + vocabSize);
}
