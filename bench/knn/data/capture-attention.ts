import { AttentionCache } from '@iceformer/sparse-attention';

/** What one layer hands to attention for one chunk of tokens: queries and keys after rotation. */
export type AttentionListener = (
  layer: number,
  /** `[n, heads, headDim]` */
  queries: Float32Array,
  /** `[n, kvHeads, headDim]` */
  keys: Float32Array,
  n: number,
) => void;

/** The part of the transformer's runtime that runs a prompt; it lives in a worker there, and here in this thread. */
interface Runtime {
  logits(
    call: { tokens: Uint32Array; rows: Uint32Array },
    context: { cancelled(): boolean; emit(event: never): void },
  ): Float32Array;
  close(): void;
}

interface RuntimeModule {
  Runtime: {
    load(
      params: Record<string, unknown>,
      context: { cancelled(): boolean; emit(event: unknown): void },
    ): Promise<Runtime>;
  };
}

/** Runs `tokens` through a model and shows `listener` all queries and keys on the way. */
export async function captureAttention(
  folder: string,
  tokens: Uint32Array,
  ropeFactor: number,
  threads: number,
  listener: AttentionListener,
): Promise<void> {
  const entry = import.meta.resolve('@iceformer/transformer');
  // The public API runs the model in a worker, out of reach of the listener.
  const { Runtime } = (await import(new URL('./runtime.js', entry).href)) as RuntimeModule;
  const { attend } = AttentionCache.prototype;
  AttentionCache.prototype.attend = function (this: AttentionCache, layer, q, k, v, out, n, exact) {
    listener(layer, q, k, n);
    attend.call(this, layer, q, k, v, out, n, exact);
  };
  try {
    const context = { cancelled: () => false, emit: () => undefined };
    const runtime = await Runtime.load(
      {
        model: folder,
        dtype: 'bf16',
        threads,
        attention: 'dense',
        context: tokens.length,
        ropeScaling: ropeFactor > 1 ? { type: 'dynamic', factor: ropeFactor } : null,
        maxChunk: 512,
      },
      context,
    );
    runtime.logits({ tokens, rows: Uint32Array.of(tokens.length - 1) }, context);
    runtime.close();
  } finally {
    AttentionCache.prototype.attend = attend;
  }
}
