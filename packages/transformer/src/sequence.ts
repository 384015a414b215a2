import type { ProfileClock } from './profile.ts';

/** What attention did since the last {@link Sequence.rewind}. */
export interface AttentionReport {
  /** Mean share of attention that the keys read hold, 0 to 1. */
  retainedMass: number;
  /** Share of key tiles read of those a dense causal pass reads, 0 to 1. */
  tilesRead: number;
  /** Memory of the keys and values. */
  cacheBytes: number;
}

/**
 * One sequence of tokens inside a model: tokens go in, logits come out, keys and values of all
 * tokens so far stay. The decoder is one; generation and perplexity need no more than this of it.
 */
export interface Sequence {
  readonly vocabSize: number;
  /** Most tokens one {@link append} takes. */
  readonly maxChunk: number;
  /**
   * Begins a new sequence with `tokens`, of which those the cache still holds need not be appended
   * again. At least the last one is left to append, so that its logits can be had.
   *
   * @param length - most tokens the sequence will have; memory for them must be free, or this throws
   * ERR_NOT_ENOUGH_MEMORY.
   * @returns how many of `tokens` the cache holds.
   */
  rewind(tokens: Uint32Array, length: number): number;
  /**
   * Runs the next tokens through all layers.
   *
   * @param exactQueries - so many of the tokens, the last ones, attend to every key even where attention is sparse
   * @param clock - told of each part of the work as it ends
   * @returns false if `cancelled` said so on the way; then nothing was appended.
   */
  append(
    tokens: Uint32Array,
    cancelled: () => boolean,
    exactQueries?: number,
    clock?: ProfileClock,
  ): boolean;
  /**
   * Logits at some rows of the last chunk appended.
   *
   * @param rows - positions within that chunk.
   * @param out - `[rows, vocabSize]`
   */
  logits(rows: Uint32Array, out: Float32Array): void;
  /** Logits after the last token, `[vocabSize]`. */
  lastLogits(out: Float32Array): void;
  report(): AttentionReport;
}
