import { Worker } from 'node:worker_threads';
import { resolveModel, Tokenizer, type TokenTexts } from '@iceformer/model-loader';
import type { ComparisonProgress, ComparisonResult } from './comparison.ts';
import { TransformerError } from './errors.ts';
import type { GenerateOptions, Generation } from './generation.ts';
import { TokenStream } from './generation.ts';
import type { GenerationSummary } from './generation-loop.ts';
import { checkPrompt, unstartedSummary } from './generation-loop.ts';
import type { PerplexityProgress, PerplexityResult } from './perplexity.ts';
import type { RuntimeCalls } from './protocol.ts';
import { WorkerClient } from './protocol.ts';
import type {
  AttentionChoice,
  LoadProgress,
  ModelInfo,
  RuntimeOptions,
} from './runtime-options.ts';
import { checkAttention, resolveRuntimeOptions } from './runtime-options.ts';
import type { ResolvedSampling } from './sampler.ts';
import { resolveSampling } from './sampler.ts';
import { StopSequences } from './stop-sequences.ts';

/** What {@link loadModel} loads and how. */
export interface LoadModelOptions extends RuntimeOptions {
  /** Gives up loading; `loadModel` rejects with the signal's reason. */
  signal?: AbortSignal;
  /** Called as weights are packed. */
  onProgress?: (progress: LoadProgress) => void;
}

/** What to measure, see {@link Model.perplexity}. */
export interface PerplexityOptions {
  /** Window length in tokens, at least 4. */
  context: number;
  /** Token put first in every window; null for none. Default: what the tokenizer puts before a text. */
  bosToken?: number | null;
  /** Ends the measurement; the call rejects with the signal's reason. */
  signal?: AbortSignal;
  /** Called after each window. */
  onProgress?: (progress: PerplexityProgress) => void;
}

/** What to compare, see {@link Model.compare}. */
export interface CompareOptions {
  /** Ways to attend, each compared with dense attention. */
  attention: readonly AttentionChoice[];
  /** Window length in tokens, at least 4. */
  context: number;
  /** Positions scored in a window at most, evenly spread over its second half. Default: all. */
  scored?: number;
  /**
   * So many of a window's last tokens are run one at a time, as the tokens of an answer are, after all before them were
   * read densely in every pass; their predictions are scored, instead of those of the second half. Default: 0, none.
   */
  decode?: number;
  /**
   * Of these, positions at which whole distributions are compared, at most: logits of so many rows are kept. Default: 256.
   */
  divergences?: number;
  /** Token put first in every window; null for none. Default: what the tokenizer puts before a text. */
  bosToken?: number | null;
  /** Ends the comparison; the call rejects with the signal's reason. */
  signal?: AbortSignal;
  /** Called after each pass over a window. */
  onProgress?: (progress: ComparisonProgress) => void;
}

/** Which positions to compute logits for, see {@link Model.logits}. */
export interface LogitsOptions {
  /** Ascending positions in the prompt. Default: the last. */
  rows?: Uint32Array;
  /** Ends the call, which rejects with the signal's reason. */
  signal?: AbortSignal;
}

/**
 * A model in memory. It runs in a thread of its own: no call blocks the event loop. Calls on one
 * model run one after another.
 */
export interface Model extends AsyncDisposable {
  /** Facts about the model; `attention` follows {@link Model.setAttention}. */
  readonly info: ModelInfo;
  /** Throws the loader's error if the folder has no usable tokenizer. */
  readonly tokenizer: Tokenizer;
  /**
   * Generates text. Keys and values of the longest common beginning of this prompt and the
   * sequence before it are reused.
   *
   * @throws TransformerError ERR_INVALID_ARGUMENT at once. Iterator and summary fail with
   * ERR_EMPTY_PROMPT, ERR_PROMPT_TOO_LONG (a prompt is never truncated), ERR_INVALID_TOKEN,
   * ERR_NOT_ENOUGH_MEMORY, ERR_NON_FINITE_LOGITS, ERR_MODEL_CLOSED or ERR_WORKER_CRASHED.
   */
  generate(options: GenerateOptions): Generation;
  /** Logits after each of `rows` in `tokens`: `[rows, vocabSize]`, row-major. Rejects as `generate` fails. */
  logits(tokens: Uint32Array, options?: LogitsOptions): Promise<Float32Array>;
  /**
   * Perplexity of a text in consecutive windows, each scored on its second half. Rejects with
   * ERR_TEXT_TOO_SHORT for a text shorter than one window, and otherwise as `generate` fails.
   */
  perplexity(tokens: Uint32Array, options: PerplexityOptions): Promise<PerplexityResult>;
  /**
   * Reads consecutive windows of a text with dense attention and in other ways, and compares what they predict, token
   * by token: losses, the likeliest token, whole distributions. What `perplexity` scores is scored. The model goes on
   * attending as it did. Rejects as `perplexity` does, and with an AttentionError for a plan that does not fit.
   */
  compare(tokens: Uint32Array, options: CompareOptions): Promise<ComparisonResult>;
  /**
   * Attends in another way from the next call on, with the same weights; keys and values so far are forgotten. Rejects
   * with an AttentionError for a plan that does not fit.
   */
  setAttention(attention: AttentionChoice): Promise<void>;
  /** Ends calls under way and frees everything. May be called twice. */
  close(): Promise<void>;
}

/**
 * Loads a model: checks its files and the free memory, then packs the weights for this CPU.
 *
 * @throws ModelLoaderError for a folder that is missing or damaged. TransformerError
 * ERR_INVALID_ARGUMENT, ERR_INVALID_CONFIG, ERR_UNSUPPORTED_ARCHITECTURE, ERR_UNSUPPORTED_FEATURE,
 * ERR_NOT_ENOUGH_MEMORY. The signal's reason if it is aborted.
 */
export async function loadModel(options: LoadModelOptions): Promise<Model> {
  const { signal, onProgress } = options;
  const params = resolveRuntimeOptions(options);
  signal?.throwIfAborted();
  const folder = await resolveModel(params.model);
  const tokenizer = loadTokenizer(folder);
  signal?.throwIfAborted();
  const client = new WorkerClient<RuntimeCalls>(
    // Flags of the host process are not for this thread: some (--input-type) would keep it from starting.
    new Worker(new URL('./worker.js', import.meta.url), {
      execArgv: [],
      resourceLimits: { maxYoungGenerationSizeMb: WORKER_YOUNG_MB },
    }),
  );
  try {
    const call = client.call(
      'load',
      { ...params, model: folder },
      { signal, ...(onProgress && { onEvent: onProgress }) },
    );
    const info = await call.result;
    const loaded = await tokenizer;
    if ('value' in loaded.texts) await client.call('setTexts', loaded.texts.value).result;
    const model = new WorkerModel(client, info, loaded);
    signal?.throwIfAborted(); // aborted while the last step ran
    return model;
  } catch (error) {
    await client.terminate();
    throw error;
  }
}

/** Space for young objects in the thread that computes, in MB. Few are made there; by default it would take up to 48. */
const WORKER_YOUNG_MB = 6;

/** Characters that are tokenized in some milliseconds, less than it takes to start a thread for it. */
const ENCODED_AT_ONCE = 16_384;

/** What came of reading something whose error waits until it is asked for. */
type Outcome<T> = { value: T } | { error: unknown };

/** A model without a tokenizer can still compute logits. */
interface LoadedTokenizer {
  tokenizer: Outcome<Tokenizer>;
  /** What the thread that computes needs of it: it reads no tokenizer of its own, which would double time and memory. */
  texts: Outcome<TokenTexts>;
}

async function loadTokenizer(path: string): Promise<LoadedTokenizer> {
  try {
    const tokenizer = await Tokenizer.load(path);
    return { tokenizer: { value: tokenizer }, texts: textsOf(tokenizer) };
  } catch (error) {
    return { tokenizer: { error }, texts: { error } };
  }
}

function textsOf(tokenizer: Tokenizer): Outcome<TokenTexts> {
  try {
    return { value: tokenizer.tokenTexts() };
  } catch (error) {
    return { error };
  }
}

function taken<T>(outcome: Outcome<T>): T {
  if ('error' in outcome) throw outcome.error;
  return outcome.value;
}

class WorkerModel implements Model {
  #info: ModelInfo;
  readonly #client: WorkerClient<RuntimeCalls>;
  readonly #loaded: LoadedTokenizer;
  #closing: Promise<void> | undefined;

  constructor(client: WorkerClient<RuntimeCalls>, info: ModelInfo, loaded: LoadedTokenizer) {
    this.#client = client;
    this.#info = info;
    this.#loaded = loaded;
  }

  get info(): ModelInfo {
    return this.#info;
  }

  get tokenizer(): Tokenizer {
    return taken(this.#loaded.tokenizer);
  }

  generate(options: GenerateOptions): Generation {
    const sampling = resolveSampling(options);
    checkGenerateOptions(options);
    const abort = new AbortController();
    const { signal } = options;
    const forward = (): void => abort.abort(signal?.reason);
    if (signal?.aborted) forward();
    signal?.addEventListener('abort', forward, { once: true });
    return new TokenStream(
      async (push) => {
        try {
          return await this.#generate(options, sampling, abort.signal, push);
        } finally {
          signal?.removeEventListener('abort', forward);
        }
      },
      () => abort.abort(),
    );
  }

  async logits(tokens: Uint32Array, options: LogitsOptions = {}): Promise<Float32Array> {
    checkTokens(tokens);
    const { signal } = options;
    checkPrompt(tokens, this.info.contextLength, this.info.vocabSize);
    const rows = options.rows ?? Uint32Array.of(tokens.length - 1);
    rows.forEach((row, index) => {
      if (row >= tokens.length || (index > 0 && row <= (rows[index - 1] as number))) {
        throw new TransformerError(
          'ERR_INVALID_ARGUMENT',
          `rows must ascend and be less than the ${tokens.length} tokens, got ${row} at ${index}`,
          { row, index, tokens: tokens.length },
        );
      }
    });
    return await this.#client.call('logits', { tokens, rows }, { signal }).result;
  }

  async perplexity(tokens: Uint32Array, options: PerplexityOptions): Promise<PerplexityResult> {
    checkTokens(tokens);
    const { context, signal, onProgress } = options;
    const bosToken = options.bosToken === undefined ? this.#textPrefix() : options.bosToken;
    const call = this.#client.call(
      'perplexity',
      { tokens, context, bosToken },
      { signal, ...(onProgress && { onEvent: onProgress }) },
    );
    return await call.result;
  }

  async compare(tokens: Uint32Array, options: CompareOptions): Promise<ComparisonResult> {
    checkTokens(tokens);
    const { attention, context, signal, onProgress } = options;
    const { scored = Number.POSITIVE_INFINITY, divergences = 256 } = options;
    for (const choice of attention) checkAttention(choice);
    for (const [name, value] of Object.entries({ scored, divergences })) {
      if (value === Number.POSITIVE_INFINITY || (Number.isSafeInteger(value) && value >= 1))
        continue;
      throw new TransformerError(
        'ERR_INVALID_ARGUMENT',
        `${name} must be a whole number of at least 1, got ${value}`,
        { name, value },
      );
    }
    const { decode = 0 } = options;
    if (!(Number.isSafeInteger(decode) && decode >= 0 && decode < context && decode !== 1)) {
      throw new TransformerError(
        'ERR_INVALID_ARGUMENT',
        `decode must be 0 or a whole number of at least 2 and less than the context of ${context}, got ${decode}`,
        { name: 'decode', value: decode },
      );
    }
    const bosToken = options.bosToken === undefined ? this.#textPrefix() : options.bosToken;
    const call = this.#client.call(
      'compare',
      { tokens, context, attention, scored, decode, divergences, bosToken },
      { signal, ...(onProgress && { onEvent: onProgress }) },
    );
    return await call.result;
  }

  async setAttention(attention: AttentionChoice): Promise<void> {
    checkAttention(attention);
    this.#info = await this.#client.call('setAttention', attention).result;
  }

  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #generate(
    options: GenerateOptions,
    sampling: ResolvedSampling,
    signal: AbortSignal,
    push: (chunk: { text: string; token: number }) => void,
  ): Promise<GenerationSummary> {
    const startedAt = performance.timeOrigin + performance.now();
    taken(this.#loaded.texts);
    let tokens: Uint32Array;
    try {
      tokens = await this.#encode(options, signal);
    } catch (error) {
      if (signal.aborted) return unstartedSummary(this.info.simd, sampling.seed);
      throw error;
    }
    const call = this.#client.call(
      'generate',
      {
        tokens,
        maxTokens: options.maxTokens ?? 256,
        sampling,
        stop: [...(options.stop ?? [])],
        ignoreEos: options.ignoreEos ?? false,
        profile: options.profile ?? false,
        startedAt,
      },
      {
        signal,
        onEvent(event) {
          if (event.kind === 'token') push(event.chunk);
          else options.onPrefill?.(event.progress);
        },
      },
    );
    return call.result;
  }

  async #encode(
    { text, messages, tokens }: GenerateOptions,
    signal: AbortSignal,
  ): Promise<Uint32Array> {
    signal.throwIfAborted();
    if (tokens !== undefined) return tokens;
    const { tokenizer } = this;
    const prompt =
      text ?? tokenizer.applyChatTemplate(messages ?? [], { addGenerationPrompt: true });
    // A chat template writes the special tokens itself.
    const addSpecialTokens = text !== undefined;
    if (prompt.length <= ENCODED_AT_ONCE) return tokenizer.encode(prompt, { addSpecialTokens });
    return await tokenizer.encodeAsync(prompt, { addSpecialTokens, signal });
  }

  /** The token the tokenizer puts before every text, if it does. */
  #textPrefix(): number | null {
    if ('error' in this.#loaded.tokenizer) return null;
    const tokenizer = this.#loaded.tokenizer.value;
    const first = tokenizer.encode('')[0];
    return first !== undefined && first === tokenizer.bosTokenId ? first : null;
  }

  async #close(): Promise<void> {
    this.#client.cancelAll();
    try {
      await this.#client.call('close', null).result;
    } finally {
      await this.#client.terminate();
      const { tokenizer } = this.#loaded;
      if ('value' in tokenizer) await tokenizer.value.close();
    }
  }
}

function checkGenerateOptions({ text, messages, tokens, maxTokens, stop }: GenerateOptions): void {
  const given = Object.entries({ text, messages, tokens }).filter(
    ([, value]) => value !== undefined,
  );
  if (given.length !== 1) {
    const names = given.map(([name]) => name).join(' and ') || 'none';
    throw new TransformerError(
      'ERR_INVALID_ARGUMENT',
      `give exactly one of text, messages and tokens as the prompt, got ${names}`,
      { given: given.map(([name]) => name) },
    );
  }
  if (tokens !== undefined) checkTokens(tokens);
  if (text !== undefined && typeof text !== 'string') {
    throw new TransformerError(
      'ERR_INVALID_ARGUMENT',
      `text must be a string, got ${typeof text}`,
      {
        name: 'text',
        value: text,
      },
    );
  }
  if (maxTokens !== undefined && !(Number.isSafeInteger(maxTokens) && maxTokens >= 1)) {
    throw new TransformerError(
      'ERR_INVALID_ARGUMENT',
      `maxTokens must be a whole number of at least 1, got ${maxTokens}`,
      { name: 'maxTokens', value: maxTokens },
    );
  }
  new StopSequences(stop ?? []); // checks them
}

/** Callers in JavaScript may pass anything. */
function checkTokens(tokens: unknown): void {
  if (!(tokens instanceof Uint32Array)) {
    throw new TransformerError(
      'ERR_INVALID_ARGUMENT',
      `tokens must be a Uint32Array, got ${Array.isArray(tokens) ? 'an array' : typeof tokens}`,
      { name: 'tokens' },
    );
  }
}
