import { threadPool } from '@iceformer/knn-index';
import {
  modelFingerprint,
  openModel,
  readTokenTexts,
  type TokenTexts,
} from '@iceformer/model-loader';
import { AttentionCache, estimateCacheBytes } from '@iceformer/sparse-attention';
import { CallCancelled } from './call-cancelled.ts';
import type {
  ComparisonParams,
  ComparisonProgress,
  ComparisonResult,
  MeasuredSequence,
} from './comparison.ts';
import { compareWithDense } from './comparison.ts';
import { type Attention, Decoder, estimateScratchBytes } from './decoder.ts';
import type { DecoderConfig } from './decoder-config.ts';
import type { GenerateParams, GenerationSummary } from './generation-loop.ts';
import { checkPrompt, generateTokens } from './generation-loop.ts';
import { MeasuredAttention } from './measured-attention.ts';
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
import type { AttentionChoice, LoadParams, LoadProgress, ModelInfo } from './runtime-options.ts';
import { cacheOptions, configure, nameOfAttention, planOf } from './runtime-options.ts';

/** A model in memory, inside the worker thread. Its calls block that thread until they are done. */
export class Runtime {
  readonly #config: DecoderConfig;
  readonly #params: LoadParams;
  readonly #native: NativeDecoder;
  /** How tokens become text; set once the main thread has read the tokenizer. */
  #texts: TokenTexts | undefined;
  #info: ModelInfo;
  #cache: AttentionCache;
  #decoder: Decoder;

  private constructor(
    config: DecoderConfig,
    params: LoadParams,
    info: ModelInfo,
    native: NativeDecoder,
  ) {
    this.#config = config;
    this.#params = params;
    this.#info = info;
    this.#native = native;
    this.#cache = this.#openCache(params.attention);
    this.#decoder = this.#decode(this.#cache, this.#cache);
  }

  get info(): ModelInfo {
    return this.#info;
  }

  /** Checks everything, checks memory, then packs the weights layer by layer. */
  static async load(params: LoadParams, context: CallContext<LoadProgress>): Promise<Runtime> {
    const folder = await openModel(params.model);
    const config = configure(folder, params);
    const options = describeDecoder(config, folder.tensors, params);
    const fingerprint = await modelFingerprint(folder);
    planOf(params.attention, config, fingerprint); // throws before the work if it does not fit
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
      kvDtype: params.kvDtype,
      attention: nameOfAttention(params.attention),
      fingerprint,
      simd: simdLevel(),
      threads: params.threads,
      weightBytes: native.weightBytes,
    };
    return new Runtime(config, params, info, native);
  }

  /** Says how tokens become text, which {@link generate} needs and nothing else does. */
  setTexts(texts: TokenTexts): void {
    this.#texts = texts;
  }

  generate(params: GenerateParams, context: CallContext<GenerateEvent>): GenerationSummary {
    const texts = this.#texts;
    if (texts === undefined) throw new Error('generate was called before setTexts');
    return generateTokens(
      {
        sequence: this.#decoder,
        text: readTokenTexts(texts),
        eosTokens: new Set(texts.eosTokenIds),
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

  /** Attends this way from now on; keys and values so far are forgotten. */
  setAttention(attention: AttentionChoice): ModelInfo {
    const cache = this.#openCache(attention);
    this.#cache.close();
    this.#cache = cache;
    this.#decoder = this.#decode(cache, cache);
    this.#info = { ...this.#info, attention: nameOfAttention(attention) };
    return this.#info;
  }

  /** The same text read densely and in other ways, with the weights that are loaded. */
  compare(params: ComparisonParams, context: CallContext<ComparisonProgress>): ComparisonResult {
    const { contextLength, vocabSize, fingerprint } = this.info;
    checkPrompt(params.tokens, Number.POSITIVE_INFINITY, vocabSize);
    for (const choice of params.attention) planOf(choice, this.#config, fingerprint);
    requireMemory('to compare ways to attend', {
      logits: 4 * Math.min(params.divergences, params.context) * vocabSize,
    });
    const open = (choice: AttentionChoice = 'dense'): MeasuredSequence => {
      const cache = this.#openCache(choice);
      const attention = new MeasuredAttention(cache);
      return {
        sequence: this.#decode(cache, attention),
        layers: () => attention.layers(),
        close: () => cache.close(),
      };
    };
    return compareWithDense(open, contextLength, params, context);
  }

  /** Frees weights, keys and values. */
  close(): void {
    this.#cache.close();
    this.#native.close();
  }

  #openCache(attention: AttentionChoice): AttentionCache {
    const plan = planOf(attention, this.#config, this.#info.fingerprint);
    return new AttentionCache({ ...cacheOptions(this.#config, this.#params), plan });
  }

  /** A sequence of this model whose keys and values are in `cache`. */
  #decode(cache: AttentionCache, attention: Attention): Decoder {
    const options = cacheOptions(this.#config, this.#params);
    return new Decoder(this.#config, this.#native, attention, this.#params.maxChunk, (tokens) =>
      requireMemory(`for a sequence of ${tokens} tokens`, {
        cache: Math.max(
          0,
          estimateCacheBytes({ ...options, plan: cache.plan, tokens }) - cache.bytes,
        ),
      }),
    );
  }
}
