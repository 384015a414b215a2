import { join } from 'node:path';
import { Worker } from 'node:worker_threads';
import { type ChatMessage, ChatTemplate, type ChatTemplateOptions } from './chat-template.ts';
import { readJsonIfPresent, readTextIfPresent } from './json-file.ts';
import { ModelLoaderError, type ModelLoaderErrorCode } from './model-loader-error.ts';
import {
  packTokenBytes,
  StreamingDecoder,
  TokenBytes,
  type TokenTexts,
  tokenTextRule,
} from './token-text.ts';
import { TokenizerPipeline } from './tokenizer-pipeline.ts';
import type { WorkerReply, WorkerRequest, WorkerSource } from './tokenizer-worker.ts';

/** Options of {@link Tokenizer.encode}. */
export interface EncodeOptions {
  /**
   * Whether to add what the model expects around a text, usually a token at its beginning. Defaults to true;
   * pass false for a text that a chat template made, which holds those tokens already.
   */
  addSpecialTokens?: boolean;
}

/** Options of {@link Tokenizer.encodeAsync}. */
export interface EncodeAsyncOptions extends EncodeOptions {
  /** Stops the work; the promise rejects with the signal's reason. */
  signal?: AbortSignal | undefined;
}

/** Options of {@link Tokenizer.decode}. */
export interface DecodeOptions {
  /** Whether to leave out control tokens such as the end-of-text token. Defaults to false. */
  skipSpecialTokens?: boolean;
}

/** What a tokenizer is made of: the parsed files of a model folder. */
export interface TokenizerFiles {
  /** tokenizer.json. */
  tokenizer: Record<string, unknown>;
  /** tokenizer_config.json. */
  tokenizerConfig?: Record<string, unknown> | undefined;
  /** generation_config.json, for the end-of-text tokens. */
  generationConfig?: Record<string, unknown> | undefined;
  /** config.json, for the end-of-text tokens when generation_config.json has none. */
  config?: Record<string, unknown> | undefined;
  /** The text of chat_template.jinja, which takes precedence over the one in tokenizer_config.json. */
  chatTemplate?: string | undefined;
}

/**
 * Text to token ids and back, and conversations to text.
 *
 * Ids are those the Python and Rust libraries give for the same tokenizer.json.
 */
export class Tokenizer {
  /** Ids that end a generation, from generation_config.json, else config.json, else the tokenizer's own. */
  readonly eosTokenIds: readonly number[];
  /** Id of the token that begins a text, if the tokenizer names one. */
  readonly bosTokenId: number | undefined;
  /** One more than the highest id. */
  readonly vocabSize: number;
  /** Ids of control tokens. */
  readonly specialTokenIds: ReadonlySet<number>;
  readonly #config: Record<string, unknown>;
  readonly #decoderType: unknown;
  /** What a worker thread makes its own tokenizer of. */
  readonly #source: WorkerSource;
  readonly #pipeline: TokenizerPipeline;
  readonly #bytes: TokenBytes | undefined;
  readonly #chatTemplateSource: string | undefined;
  #chatTemplate: ChatTemplate | undefined;
  #worker: EncodingWorker | undefined;

  /**
   * @param files The parsed files.
   * @param folder The folder they were read from, if any: the worker thread then reads them itself.
   * @throws `ModelLoaderError` `ERR_TOKENIZER_INVALID` or `ERR_TOKENIZER_UNSUPPORTED`.
   */
  constructor(files: TokenizerFiles, folder?: string) {
    const config = files.tokenizerConfig ?? {};
    this.#config = config;
    this.#source = folder === undefined ? { tokenizer: files.tokenizer, config } : { folder };
    this.#decoderType = (files.tokenizer['decoder'] as { type?: unknown } | null | undefined)?.type;
    this.#pipeline = new TokenizerPipeline(files.tokenizer, config);
    const { tokens, added } = this.#pipeline;
    const rule = tokenTextRule(files.tokenizer['decoder']);
    this.#bytes = rule === undefined ? undefined : new TokenBytes(rule, tokens, added);
    this.vocabSize = tokens.length;
    this.specialTokenIds = new Set(
      [...added.values()].filter((token) => token.special).map((token) => token.id),
    );
    this.#chatTemplateSource = files.chatTemplate ?? templateOf(config['chat_template']);
    const named = (key: string) => {
      const text = tokenText(config[key]);
      return text === undefined ? undefined : this.#pipeline.idOf(text);
    };
    this.bosTokenId = named('bos_token');
    const own = named('eos_token');
    this.eosTokenIds =
      idList(files.generationConfig?.['eos_token_id']) ??
      idList(files.config?.['eos_token_id']) ??
      (own === undefined ? [] : [own]);
  }

  /**
   * Reads the tokenizer of a model folder.
   *
   * @throws `ModelLoaderError` `ERR_TOKENIZER_MISSING`, `ERR_TOKENIZER_INVALID`,
   *   `ERR_TOKENIZER_UNSUPPORTED`, `ERR_CONFIG_INVALID`.
   */
  static async load(folder: string): Promise<Tokenizer> {
    const path = join(folder, 'tokenizer.json');
    const [tokenizer, tokenizerConfig, generationConfig, config, chatTemplate] = await Promise.all([
      readJsonIfPresent(path, 'ERR_TOKENIZER_INVALID'),
      readJsonIfPresent(join(folder, 'tokenizer_config.json'), 'ERR_TOKENIZER_INVALID'),
      readJsonIfPresent(join(folder, 'generation_config.json'), 'ERR_CONFIG_INVALID'),
      readJsonIfPresent(join(folder, 'config.json'), 'ERR_CONFIG_INVALID'),
      readTextIfPresent(join(folder, 'chat_template.jinja')),
    ]);
    if (tokenizer === undefined) {
      throw new ModelLoaderError('ERR_TOKENIZER_MISSING', `${folder} has no tokenizer.json`, {
        path,
      });
    }
    return new Tokenizer(
      { tokenizer, tokenizerConfig, generationConfig, config, chatTemplate },
      folder,
    );
  }

  /** Ids of a text. Works on the calling thread; {@link Tokenizer.encodeAsync} is for long texts. */
  encode(text: string, options: EncodeOptions = {}): Uint32Array {
    return this.#pipeline.encode(text, options.addSpecialTokens ?? true);
  }

  /**
   * Ids of a text, computed in a worker thread, which waits two seconds for the next call, or until
   * {@link Tokenizer.close}. The worker does not keep the process alive.
   */
  encodeAsync(text: string, options: EncodeAsyncOptions = {}): Promise<Uint32Array> {
    if (options.signal?.aborted) return Promise.reject(options.signal.reason);
    if (this.#worker === undefined || this.#worker.stopped) {
      this.#worker = new EncodingWorker(this.#source);
    }
    return this.#worker.encode(text, options.addSpecialTokens ?? true, options.signal);
  }

  /** Text of token ids. Ids without a token give nothing; bytes that are not UTF-8 give U+FFFD. */
  decode(ids: Iterable<number>, options: DecodeOptions = {}): string {
    const skip = options.skipSpecialTokens ?? false;
    if (this.#bytes === undefined) {
      const known = Array.from(ids).filter((id) => this.#pipeline.tokens[id] !== undefined);
      return this.#pipeline.decodeWithLibrary(known, skip);
    }
    const decoder = this.streamingDecoder({ skipSpecialTokens: skip });
    const parts: string[] = [];
    for (const id of ids) parts.push(decoder.push(id));
    parts.push(decoder.end());
    return parts.join('');
  }

  /**
   * A decoder that takes tokens one by one and gives text as soon as its characters are complete.
   *
   * @throws `ModelLoaderError` `ERR_TOKENIZER_UNSUPPORTED` for tokenizers whose text depends on later
   *   tokens (WordPiece and the like, which no decoder-only model uses).
   */
  streamingDecoder(options: DecodeOptions = {}): StreamingDecoder {
    return new StreamingDecoder(
      this.#streamable(),
      options.skipSpecialTokens ? this.specialTokenIds : new Set(),
    );
  }

  /**
   * How ids become text, for a thread that does not need the rest of the tokenizer: see `readTokenTexts`.
   *
   * @throws as {@link streamingDecoder}
   */
  tokenTexts(): TokenTexts {
    const source = this.#streamable();
    const of = (id: number): Uint8Array => source.compute(id);
    return {
      ...packTokenBytes({ stripStart: source.stripStart, of }, this.vocabSize),
      stripStart: source.stripStart,
      specialTokenIds: [...this.specialTokenIds],
      eosTokenIds: [...this.eosTokenIds],
    };
  }

  #streamable(): TokenBytes {
    if (this.#bytes !== undefined) return this.#bytes;
    throw new ModelLoaderError(
      'ERR_TOKENIZER_UNSUPPORTED',
      `text cannot be streamed through the decoder ${JSON.stringify(this.#decoderType ?? null)} of tokenizer.json`,
      { decoder: this.#decoderType },
    );
  }

  /** Id of a token as the vocabulary spells it, or undefined. */
  tokenToId(token: string): number | undefined {
    return this.#pipeline.idOf(token);
  }

  /** A token as the vocabulary spells it (`Ġthe`, `▁the`), or undefined. */
  idToToken(id: number): string | undefined {
    return this.#pipeline.tokens[id];
  }

  /** Whether the model has a chat template. */
  get hasChatTemplate(): boolean {
    return this.#chatTemplateSource !== undefined;
  }

  /**
   * A conversation as the text the model was trained on. Encode it with `addSpecialTokens: false`.
   *
   * @throws `ModelLoaderError` `ERR_CHAT_TEMPLATE_MISSING` or `ERR_CHAT_TEMPLATE_INVALID`.
   */
  applyChatTemplate(messages: readonly ChatMessage[], options: ChatTemplateOptions = {}): string {
    if (this.#chatTemplate === undefined) {
      if (this.#chatTemplateSource === undefined) {
        throw new ModelLoaderError(
          'ERR_CHAT_TEMPLATE_MISSING',
          'the model has no chat template; give it plain text instead of messages',
        );
      }
      const specialTokens: Record<string, string> = {};
      for (const [key, value] of Object.entries(this.#config)) {
        const text = key.endsWith('_token') ? tokenText(value) : undefined;
        if (text !== undefined) specialTokens[key] = text;
      }
      this.#chatTemplate = new ChatTemplate(this.#chatTemplateSource, specialTokens);
    }
    return this.#chatTemplate.render(messages, options);
  }

  /** Stops the worker thread, if one was started. The tokenizer stays usable. */
  async close(): Promise<void> {
    const worker = this.#worker;
    this.#worker = undefined;
    await worker?.stop();
  }
}

/** How long an encoding thread waits for another text before it ends and gives its memory (some 50 MB) back, in ms. */
const IDLE_MS = 2000;

/** Space for young objects in that thread, in MB: more makes it no faster. */
const YOUNG_MB = 12;

/** A worker thread that encodes, one text after the other, until it has had nothing to do for some time. */
class EncodingWorker {
  readonly #worker: Worker;
  readonly #waiting = new Map<
    number,
    { resolve: (ids: Uint32Array) => void; reject: (error: unknown) => void }
  >();
  #next = 0;
  #idle: NodeJS.Timeout | undefined;
  stopped = false;

  constructor(source: WorkerSource) {
    this.#worker = new Worker(new URL('./tokenizer-worker.js', import.meta.url), {
      workerData: source,
      // Flags of the host are not for this thread: --input-type would stop it from starting.
      execArgv: [],
      resourceLimits: { maxYoungGenerationSizeMb: YOUNG_MB },
    });
    this.#worker.unref();
    this.#worker.on('message', (reply: WorkerReply) => {
      const waiting = this.#take(reply.call);
      if ('ids' in reply) waiting?.resolve(reply.ids);
      else {
        waiting?.reject(
          new ModelLoaderError(
            (reply.code as ModelLoaderErrorCode | undefined) ?? 'ERR_TOKENIZER_FAILED',
            reply.message,
          ),
        );
      }
    });
    this.#worker.on('error', (error) => this.#fail(error));
    this.#worker.on('exit', () => this.#fail(undefined));
  }

  encode(text: string, addSpecialTokens: boolean, signal?: AbortSignal): Promise<Uint32Array> {
    const call = this.#next++;
    clearTimeout(this.#idle);
    return new Promise<Uint32Array>((resolve, reject) => {
      const abort = () => {
        if (this.#take(call) === undefined) return;
        reject(signal?.reason);
        // The thread is in the middle of a text and hears nothing: it ends when nobody else waits for it.
        if (this.#waiting.size === 0) void this.stop();
      };
      const done = () => signal?.removeEventListener('abort', abort);
      this.#waiting.set(call, {
        resolve: (ids) => {
          done();
          resolve(ids);
        },
        reject: (error) => {
          done();
          reject(error);
        },
      });
      signal?.addEventListener('abort', abort, { once: true });
      this.#worker.ref();
      this.#worker.postMessage({ call, text, addSpecialTokens } satisfies WorkerRequest);
    });
  }

  async stop(): Promise<void> {
    this.stopped = true;
    clearTimeout(this.#idle);
    await this.#worker.terminate();
  }

  #take(call: number) {
    const waiting = this.#waiting.get(call);
    this.#waiting.delete(call);
    if (this.#waiting.size === 0) {
      this.#worker.unref();
      clearTimeout(this.#idle);
      this.#idle = setTimeout(() => void this.stop(), IDLE_MS).unref();
    }
    return waiting;
  }

  #fail(cause: unknown): void {
    this.stopped = true;
    for (const call of [...this.#waiting.keys()]) {
      this.#take(call)?.reject(
        new ModelLoaderError(
          'ERR_TOKENIZER_FAILED',
          `the tokenizer thread ended${cause instanceof Error ? `: ${cause.message}` : ''}`,
          {},
          cause,
        ),
      );
    }
  }
}

/** A token in tokenizer_config.json is its text or an object that holds it. */
function tokenText(value: unknown): string | undefined {
  if (typeof value === 'string') return value;
  const content = (value as { content?: unknown } | null | undefined)?.content;
  return typeof content === 'string' ? content : undefined;
}

/** `chat_template` is one template or a list of named ones. */
function templateOf(value: unknown): string | undefined {
  if (typeof value === 'string') return value;
  if (!Array.isArray(value)) return undefined;
  const entry = value.find((item: { name?: unknown } | null) => item?.name === 'default') as
    | { template?: unknown }
    | undefined;
  return typeof entry?.template === 'string' ? entry.template : undefined;
}

/** `eos_token_id` is one id or a list of ids. */
function idList(value: unknown): number[] | undefined {
  const list = (Array.isArray(value) ? value : [value]).filter((id): id is number =>
    Number.isSafeInteger(id),
  );
  return list.length > 0 ? list : undefined;
}
