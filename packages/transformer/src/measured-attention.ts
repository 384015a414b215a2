import type { AttentionCache, LayerReport } from '@iceformer/sparse-attention';
import type { ComparedLayer } from './comparison.ts';
import type { Attention } from './decoder.ts';

/** An attention cache whose layers are timed. */
export class MeasuredAttention implements Attention {
  readonly #cache: AttentionCache;
  readonly #milliseconds: number[] = [];

  constructor(cache: AttentionCache) {
    this.#cache = cache;
  }

  attend(...args: Parameters<AttentionCache['attend']>): void {
    const begin = performance.now();
    this.#cache.attend(...args);
    const [layer] = args;
    this.#milliseconds[layer] = (this.#milliseconds[layer] ?? 0) + performance.now() - begin;
  }

  skip(layer: number, n: number): boolean {
    return this.#cache.skip(layer, n);
  }

  reserve(tokens: number): void {
    this.#cache.reserve(tokens);
  }

  truncate(tokens: number): void {
    this.#cache.truncate(tokens);
  }

  resetReport(): void {
    this.#cache.resetReport();
    this.#milliseconds.length = 0;
  }

  report(): ReturnType<AttentionCache['report']> {
    return this.#cache.report();
  }

  /** What each layer kept, read and took since {@link resetReport}. */
  layers(): ComparedLayer[] {
    return this.report().layers.map((layer: LayerReport, index) => ({
      ...layer,
      attentionMs: this.#milliseconds[index] ?? 0,
    }));
  }
}
