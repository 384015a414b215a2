import type { ChatMessage } from '@iceformer/model-loader';
import type { GenerationSummary } from './generation-loop.ts';
import type { SamplingOptions } from './sampler.ts';

/** What to generate from and how. Exactly one of `text`, `messages` and `tokens` is the prompt. */
export interface GenerateOptions extends SamplingOptions {
  /** Text as it is; special tokens the tokenizer always adds (for example BOS) are added. */
  text?: string;
  /** A conversation, put into the model's chat template. */
  messages?: readonly ChatMessage[];
  /** Token ids as they are. */
  tokens?: Uint32Array;
  /** Most tokens to generate; less if the context is full. Default 256. */
  maxTokens?: number;
  /** Generation ends before the first of these; none of them is ever part of the text. */
  stop?: readonly string[];
  /** Go on after an end-of-text token, for measurements. Default false. */
  ignoreEos?: boolean;
  /** Measure where the time goes: `summary.profile`. Default false. */
  profile?: boolean;
  /**
   * Ends generation early, also in the middle of the prompt. Nothing is thrown: the iterator ends
   * and `summary.stopReason` is `'aborted'`.
   */
  signal?: AbortSignal;
  /** Called after each chunk of the prompt. */
  onPrefill?: (progress: PrefillProgress) => void;
}

/** How far the prompt has been processed. */
export interface PrefillProgress {
  /** Tokens in the prompt. */
  total: number;
  /** Of these, tokens still in the cache from the call before. */
  cached: number;
  /** Tokens done, cached ones included. */
  processed: number;
  /** Since the model began with this prompt. */
  timeMs: number;
}

/** One generated token. */
export interface TokenChunk {
  /** Whole characters that became certain with this token; often empty, sometimes several. */
  text: string;
  /** Its id. */
  token: number;
}

/**
 * A generation under way: iterate over it for the text as it comes, await `summary` for the
 * outcome, or both. It runs whether or not anyone iterates; a slow reader finds the chunks waiting
 * (at most `maxTokens` of them). Leaving the loop early cancels it.
 */
export interface Generation extends AsyncIterable<TokenChunk> {
  /** Rejects with the same error that the iterator throws. */
  readonly summary: Promise<GenerationSummary>;
}

/** The main thread's end of a generation: a queue between the worker's events and one reader. */
export class TokenStream implements Generation {
  readonly summary: Promise<GenerationSummary>;
  readonly #cancel: () => void;
  readonly #chunks: TokenChunk[] = [];
  /** Readers that wait for a chunk. */
  readonly #readers: {
    resolve(result: IteratorResult<TokenChunk, undefined>): void;
    reject(error: unknown): void;
  }[] = [];
  #end: { error?: unknown } | undefined;

  /** @param cancel - asks the producer to stop; it still settles `summary`. */
  constructor(
    start: (push: (chunk: TokenChunk) => void) => Promise<GenerationSummary>,
    cancel: () => void,
  ) {
    this.#cancel = cancel;
    this.summary = start((chunk) => this.#push(chunk));
    this.summary.then(
      () => this.#finish({}),
      // Handled here, so that who only iterates gets no unhandled rejection.
      (error: unknown) => this.#finish({ error }),
    );
  }

  [Symbol.asyncIterator](): AsyncIterator<TokenChunk, undefined> {
    return {
      next: () => this.#next(),
      return: () => {
        this.#cancel();
        this.#chunks.length = 0;
        this.#finish({});
        return Promise.resolve({ done: true, value: undefined });
      },
    };
  }

  #push(chunk: TokenChunk): void {
    if (this.#end) return;
    const reader = this.#readers.shift();
    if (reader) reader.resolve({ done: false, value: chunk });
    else this.#chunks.push(chunk);
  }

  #finish(end: { error?: unknown }): void {
    if (this.#end) return;
    this.#end = end;
    for (const reader of this.#readers.splice(0)) {
      if ('error' in end) reader.reject(end.error);
      else reader.resolve({ done: true, value: undefined });
    }
  }

  #next(): Promise<IteratorResult<TokenChunk, undefined>> {
    const chunk = this.#chunks.shift();
    if (chunk) return Promise.resolve({ done: false, value: chunk });
    if (this.#end && 'error' in this.#end) return Promise.reject(this.#end.error);
    if (this.#end) return Promise.resolve({ done: true, value: undefined });
    return new Promise((resolve, reject) => this.#readers.push({ resolve, reject }));
  }
}
