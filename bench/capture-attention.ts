import { AttentionCache } from '@iceformer/sparse-attention';
import type { AttentionChoice, RopeScaling } from '@iceformer/transformer';

/** What one layer hands to attention for one chunk of tokens: queries and keys after rotation, and values. */
export type AttentionListener = (
  layer: number,
  /** `[n, heads, headDim]` */
  queries: Float32Array,
  /** `[n, kvHeads, headDim]` */
  keys: Float32Array,
  /** `[n, kvHeads, headDim]` */
  values: Float32Array,
  n: number,
) => void;

/** A prompt to run, and who watches. */
export interface Capture {
  /** Model folder. */
  folder: string;
  tokens: Uint32Array;
  threads: number;
  attention: AttentionChoice;
  /** Default: as the model says. */
  ropeScaling?: RopeScaling;
  /** Last layer whose queries and keys must be true; layers behind it skip attention. Default: all. */
  lastLayer?: number;
  listener: AttentionListener;
}

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
      params: unknown,
      context: { cancelled(): boolean; emit(event: unknown): void },
    ): Promise<Runtime>;
  };
}

interface RuntimeOptionsModule {
  /** Fills in the defaults. */
  resolveRuntimeOptions(options: Record<string, unknown>): unknown;
}

/** Runs tokens through a model and shows the listener all queries, keys and values on the way. */
export async function captureAttention(capture: Capture): Promise<void> {
  const { folder, tokens, threads, attention, ropeScaling, listener } = capture;
  const lastLayer = capture.lastLayer ?? Number.POSITIVE_INFINITY;
  const entry = import.meta.resolve('@iceformer/transformer');
  // The public API runs the model in a worker, out of reach of the listener.
  const inside = (file: string): Promise<unknown> => import(new URL(file, entry).href);
  const { Runtime } = (await inside('./runtime.js')) as RuntimeModule;
  const { resolveRuntimeOptions } = (await inside('./runtime-options.js')) as RuntimeOptionsModule;
  const { attend } = AttentionCache.prototype;
  AttentionCache.prototype.attend = function (
    this: AttentionCache,
    layer,
    q,
    k,
    v,
    out,
    n,
    ...rest
  ) {
    listener(layer, q, k, v, n);
    if (layer <= lastLayer) attend.call(this, layer, q, k, v, out, n, ...rest);
  };
  try {
    const context = { cancelled: () => false, emit: () => undefined };
    const params = resolveRuntimeOptions({
      model: folder,
      threads,
      attention,
      context: tokens.length,
      ...(ropeScaling ? { ropeScaling } : {}),
    });
    const runtime = await Runtime.load(params, context);
    runtime.logits({ tokens, rows: Uint32Array.of(tokens.length - 1) }, context);
    runtime.close();
  } finally {
    AttentionCache.prototype.attend = attend;
  }
}
