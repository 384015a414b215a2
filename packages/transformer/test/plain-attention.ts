import type { Attention } from '../src/decoder.ts';
import type { DecoderConfig } from '../src/decoder-config.ts';

interface Layer {
  /** One `[kvHeads, headDim]` per token. */
  keys: Float32Array[];
  /** One `[kvHeads, headDim]` per token. */
  values: Float32Array[];
}

/**
 * Causal attention as the formula says it, in double precision: what the decoder is tested with
 * apart from the real cache.
 */
export class PlainAttention implements Attention {
  readonly #config: DecoderConfig;
  readonly #layers: Layer[];

  constructor(config: DecoderConfig) {
    this.#config = config;
    this.#layers = Array.from({ length: config.layers }, () => ({ keys: [], values: [] }));
  }

  skip(): boolean {
    return false;
  }

  attend(
    layer: number,
    q: Float32Array,
    k: Float32Array,
    v: Float32Array,
    out: Float32Array,
    n: number,
  ): void {
    const { heads, kvHeads, headDim, slidingWindows } = this.#config;
    const { keys, values } = this.#layers[layer] as Layer;
    const start = keys.length;
    for (let row = 0; row < n; row++) {
      keys.push(k.slice(row * kvHeads * headDim, (row + 1) * kvHeads * headDim));
      values.push(v.slice(row * kvHeads * headDim, (row + 1) * kvHeads * headDim));
    }
    const window = slidingWindows[layer] ?? Number.POSITIVE_INFINITY;
    for (let row = 0; row < n; row++) {
      const last = start + row;
      const first = Math.max(0, last - window + 1);
      for (let head = 0; head < heads; head++) {
        const query = q.subarray(
          (row * heads + head) * headDim,
          (row * heads + head + 1) * headDim,
        );
        const group = Math.floor(head / (heads / kvHeads)) * headDim;
        const scores = [];
        for (let token = first; token <= last; token++) {
          const key = keys[token] as Float32Array;
          let score = 0;
          for (let d = 0; d < headDim; d++) {
            score += (query[d] as number) * (key[group + d] as number);
          }
          scores.push(score / Math.sqrt(headDim));
        }
        const top = Math.max(...scores);
        const weights = scores.map((score) => Math.exp(score - top));
        const sum = weights.reduce((a, b) => a + b, 0);
        for (let d = 0; d < headDim; d++) {
          let value = 0;
          weights.forEach((weight, index) => {
            value += weight * ((values[first + index] as Float32Array)[group + d] as number);
          });
          out[(row * heads + head) * headDim + d] = value / sum;
        }
      }
    }
  }

  truncate(tokens: number): void {
    for (const { keys, values } of this.#layers) {
      keys.length = Math.min(keys.length, tokens);
      values.length = Math.min(values.length, tokens);
    }
  }

  reserve(): void {
    // Arrays grow by themselves.
  }

  resetReport(): void {
    // Nothing is ever left out.
  }

  report() {
    return { retainedMass: 1, tilesRead: 1, bytes: 0, layers: [] };
  }
}
