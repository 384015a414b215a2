import { threadPool } from '@iceformer/knn-index';
import type { Tokenizer } from '@iceformer/model-loader';
import { openModel } from '@iceformer/model-loader';
import { AttentionCache, estimateCacheBytes } from '@iceformer/sparse-attention';
import { CallCancelled } from './call-cancelled.ts';
import { Decoder, estimateScratchBytes } from './decoder.ts';
import type { GenerateParams, GenerationSummary } from './generation-loop.ts';
import { checkPrompt, generateTokens } from './generation-loop.ts';
import { requireMemory } from './memory.ts';
import {
  countParameters,
  describeDecoder,
  estimateWeightBytes,
  NativeDecoder,
  simdLevel,
} from './native.ts';
import type { PerplexityParams, PerplexityProgress, PerplexityResult } from './perplexity.ts';
import { measurePerplexity } from './perplexity.ts';
import type { CallContext, GenerateEvent } from './protocol.ts';
import { scaledContext } from './rotary.ts';
import type { LoadParams, LoadProgress, ModelInfo } from './runtime-options.ts';
import { cacheOptions, configure } from './runtime-options.ts';

/** A model in memory, inside the worker thread. Its calls block that thread until they are done. */
export class Runtime {
  readonly info: ModelInfo;
  readonly #native: NativeDecoder;
  readonly #cache: AttentionCache;
  readonly #decoder: Decoder;
  readonly #tokenizer: Promise<Tokenizer>;

  private constructor(
    info: ModelInfo,
    native: NativeDecoder,
    cache: AttentionCache,
    decoder: Decoder,
    tokenizer: Promise<Tokenizer>,
  ) {
    this.info = info;
    this.#native = native;
    this.#cache = cache;
    this.#decoder = decoder;
    this.#tokenizer = tokenizer;
  }

  /** Checks everything, checks memory, then packs the weights layer by layer. */
  static async load(params: LoadParams, context: CallContext<LoadProgress>): Promise<Runtime> {
    const folder = await openModel(params.model);
    const config = configure(folder, params);
    const options = describeDecoder(config, folder.tensors, params);
    const attention = cacheOptions(config, params);
    requireMemory('to load the model', {
      weights: estimateWeightBytes(options),
      scratch: estimateScratchBytes(config, params.maxChunk),
    });
    const native = new NativeDecoder(options, threadPool(params.threads));
    try {
      for (let step = 0; step < native.steps; step++) {
        if (context.cancelled()) throw new CallCancelled();
        native.load(step);
        context.emit({ done: step + 1, total: native.steps });
      }
    } catch (error) {
      native.close();
      throw error;
    }
    const cache = new AttentionCache(attention);
    const decoder = new Decoder(config, native, cache, params.maxChunk, (tokens) =>
      requireMemory(`for a sequence of ${tokens} tokens`, {
        cache: Math.max(0, estimateCacheBytes({ ...attention, tokens }) - cache.report().bytes),
      }),
    );
    const info: ModelInfo = {
      family: config.family,
      architecture: config.architecture,
      layers: config.layers,
      heads: config.heads,
      kvHeads: config.kvHeads,
      headDim: config.headDim,
      hiddenSize: config.hiddenSize,
      vocabSize: config.vocabSize,
      contextLength: params.context ?? scaledContext(config.rotary),
      parameters: countParameters(config, folder.tensors),
      dtype: params.dtype,
      attention: typeof params.attention === 'string' ? params.attention : 'plan',
      simd: simdLevel(),
      threads: params.threads,
      weightBytes: native.weightBytes,
    };
    // Parsed now rather than inside the first call, which would pay for it in time to first token. A
    // model without a tokenizer still computes logits: its error comes out of `generate`.
    const tokenizer = folder.tokenizer();
    await tokenizer.catch(() => undefined);
    return new Runtime(info, native, cache, decoder, tokenizer);
  }

  async generate(
    params: GenerateParams,
    context: CallContext<GenerateEvent>,
  ): Promise<GenerationSummary> {
    const tokenizer = await this.#tokenizer;
    return generateTokens(
      {
        sequence: this.#decoder,
        text: tokenizer.streamingDecoder({ skipSpecialTokens: true }),
        eosTokens: new Set(tokenizer.eosTokenIds),
        contextLength: this.info.contextLength,
        simd: this.info.simd,
      },
      params,
      context,
    );
  }

  /** Logits at `rows`, which ascend: `[rows, vocabSize]`. */
  logits(
    { tokens, rows }: { tokens: Uint32Array; rows: Uint32Array },
    context: CallContext<never>,
  ): Float32Array {
    const { contextLength, vocabSize } = this.info;
    checkPrompt(tokens, contextLength, vocabSize);
    requireMemory(`for the logits of ${rows.length} rows`, { logits: 4 * rows.length * vocabSize });
    const decoder = this.#decoder;
    const out = new Float32Array(rows.length * vocabSize);
    decoder.rewind(new Uint32Array(0), tokens.length);
    let done = 0; // rows written
    for (let start = 0; start < tokens.length; start += decoder.maxChunk) {
      const chunk = tokens.subarray(start, start + decoder.maxChunk);
      if (!decoder.append(chunk, () => context.cancelled())) throw new CallCancelled();
      let end = done;
      while (end < rows.length && (rows[end] as number) < start + chunk.length) end++;
      if (end === done) continue;
      const inChunk = rows.slice(done, end).map((row) => row - start);
      decoder.logits(inChunk, out.subarray(done * vocabSize, end * vocabSize));
      done = end;
    }
    return out;
  }

  perplexity(params: PerplexityParams, context: CallContext<PerplexityProgress>): PerplexityResult {
    const { contextLength, vocabSize } = this.info;
    checkPrompt(params.tokens, Number.POSITIVE_INFINITY, vocabSize);
    const result = measurePerplexity(this.#decoder, contextLength, params, context);
    return { ...result, attention: this.info.attention };
  }

  /** Frees weights, keys and values. */
  close(): void {
    this.#cache.close();
    this.#native.close();
  }
}
