import type { MessagePort, Worker } from 'node:worker_threads';
import { KnnIndexError } from '@iceformer/knn-index';
import { ModelLoaderError, type TokenTexts } from '@iceformer/model-loader';
import { AttentionError } from '@iceformer/sparse-attention';
import { CallCancelled } from './call-cancelled.ts';
import type { ComparisonParams, ComparisonProgress, ComparisonResult } from './comparison.ts';
import { TransformerError } from './errors.ts';
import type { PrefillProgress, TokenChunk } from './generation.ts';
import type { GenerateParams, GenerationSummary } from './generation-loop.ts';
import type { PerplexityParams, PerplexityProgress, PerplexityResult } from './perplexity.ts';
import type { AttentionChoice, LoadParams, LoadProgress, ModelInfo } from './runtime-options.ts';

/*
 * What the main thread and the thread that runs a model say to each other.
 *
 * The main thread sends requests; the worker handles them one after another, in order, and answers
 * each with any number of events and then one outcome. A request carries a shared 32-bit cell: the
 * main thread sets it to 1 to cancel, and the worker looks at it between layers, because a busy
 * worker receives no messages.
 */

/** The calls of the runtime: what goes in, what is reported on the way, what comes out. */
export interface RuntimeCalls {
  load: { params: LoadParams; event: LoadProgress; result: ModelInfo };
  /** How tokens become text: once, before the first `generate`. */
  setTexts: { params: TokenTexts; event: never; result: null };
  generate: { params: GenerateParams; event: GenerateEvent; result: GenerationSummary };
  /** `rows` are positions in `tokens`; the result is `[rows, vocabSize]`. */
  logits: {
    params: { tokens: Uint32Array; rows: Uint32Array };
    event: never;
    result: Float32Array;
  };
  perplexity: { params: PerplexityParams; event: PerplexityProgress; result: PerplexityResult };
  compare: { params: ComparisonParams; event: ComparisonProgress; result: ComparisonResult };
  setAttention: { params: AttentionChoice; event: never; result: ModelInfo };
  close: { params: null; event: never; result: null };
}

/** Reported while generating. */
export type GenerateEvent =
  | { kind: 'prefill'; progress: PrefillProgress }
  | { kind: 'token'; chunk: TokenChunk };

/** Shape of a set of calls, see {@link RuntimeCalls}. */
export type Calls<Names extends string = string> = Record<
  Names,
  { params: unknown; event: unknown; result: unknown }
>;

interface Request {
  id: number;
  name: string;
  params: unknown;
  /** One Int32: 1 means cancel. */
  cancel: SharedArrayBuffer;
}

type Reply = { id: number } & (
  | { kind: 'event'; event: unknown }
  | { kind: 'result'; result: unknown }
  | { kind: 'error'; error: WireError }
  | { kind: 'cancelled' }
);

/** An error as it crosses between threads: structured clone drops class, code and details. */
interface WireError {
  name: string;
  message: string;
  code: string | undefined;
  details: Record<string, unknown>;
  stack: string | undefined;
  cause: WireError | undefined;
}

/** What a handler in the worker gets besides its parameters. */
export interface CallContext<Event> {
  /** Whether the main thread wants the call to end. Cheap: ask between layers. */
  cancelled(): boolean;
  /** Sends an event to the main thread. */
  emit(event: Event): void;
}

/** One handler for each call. */
export type Handlers<C> = {
  [Name in keyof C]: C[Name] extends {
    params: infer Params;
    event: infer Event;
    result: infer Result;
  }
    ? (params: Params, context: CallContext<Event>) => Result | Promise<Result>
    : never;
};

/** Answers requests from `port`, one after another, in order of arrival. */
export function serve<C extends object>(port: MessagePort, handlers: Handlers<C>): void {
  const answer = async ({ id, name, params, cancel }: Request): Promise<void> => {
    const cell = new Int32Array(cancel);
    const context: CallContext<unknown> = {
      cancelled: () => Atomics.load(cell, 0) === 1,
      emit: (event) => send({ id, kind: 'event', event }),
    };
    try {
      const handler = handlers[name as keyof C] as (
        params: unknown,
        context: CallContext<unknown>,
      ) => unknown;
      const result = await handler(params, context);
      send(
        { id, kind: 'result', result },
        ArrayBuffer.isView(result) ? [result.buffer as ArrayBuffer] : [],
      );
    } catch (error) {
      if (error instanceof CallCancelled) send({ id, kind: 'cancelled' });
      else send({ id, kind: 'error', error: toWire(error) });
    }
  };
  const send = (reply: Reply, transfer: ArrayBuffer[] = []): void =>
    port.postMessage(reply, transfer);
  let last: Promise<void> = Promise.resolve();
  port.on('message', (request: Request) => {
    last = last.then(() => answer(request));
  });
}

/** A call under way. */
export interface PendingCall<Result> {
  /** Rejects with the worker's error, with the signal's reason if it was aborted, or with ERR_WORKER_CRASHED. */
  result: Promise<Result>;
  /** Asks the worker to end the call early. */
  cancel(): void;
}

interface Waiting {
  cell: Int32Array;
  onEvent: ((event: unknown) => void) | undefined;
  /** What an event callback threw; wins over the outcome. */
  thrown: { error: unknown } | undefined;
  settle(outcome: { result: unknown } | { error: unknown } | 'cancelled'): void;
}

/** The main thread's end: makes calls to a worker that runs {@link serve}. */
export class WorkerClient<C extends { [Name in keyof C]: Calls[string] }> {
  readonly #worker: Worker;
  readonly #waiting = new Map<number, Waiting>();
  #nextId = 0;
  /** Set once the worker is gone: no call can succeed any more. */
  #gone: TransformerError | undefined;

  constructor(worker: Worker) {
    this.#worker = worker;
    // An idle model must not keep the process alive; a call under way must.
    worker.unref();
    worker.on('message', (reply: Reply) => this.#receive(reply));
    worker.on('messageerror', (error) =>
      this.#fail(`sent something unreadable: ${error.message}`, { cause: error }),
    );
    worker.on('error', (error) => this.#fail(`failed: ${firstLine(error)}`, { cause: error }));
    worker.on('exit', (exitCode) => this.#fail(`exited with code ${exitCode}`, {}, { exitCode }));
  }

  /** Sends a request. `onEvent` is called for each event, in order, before `result` settles. */
  call<Name extends keyof C & string>(
    name: Name,
    params: C[Name]['params'],
    options: { signal?: AbortSignal | undefined; onEvent?: (event: C[Name]['event']) => void } = {},
  ): PendingCall<C[Name]['result']> {
    const { signal, onEvent } = options;
    const id = this.#nextId++;
    const cancel = new SharedArrayBuffer(Int32Array.BYTES_PER_ELEMENT);
    const cell = new Int32Array(cancel);
    const raise = (): void => void Atomics.store(cell, 0, 1);
    const result = new Promise<C[Name]['result']>((resolve, reject) => {
      if (this.#gone) return reject(this.#gone);
      if (signal?.aborted) raise();
      signal?.addEventListener('abort', raise, { once: true });
      this.#waiting.set(id, {
        cell,
        onEvent: onEvent as ((event: unknown) => void) | undefined,
        thrown: undefined,
        settle: (outcome) => {
          signal?.removeEventListener('abort', raise);
          if (outcome === 'cancelled') reject(signal?.aborted ? signal.reason : closed());
          else if ('error' in outcome) reject(outcome.error);
          else resolve(outcome.result as C[Name]['result']);
        },
      });
      this.#worker.ref();
      this.#worker.postMessage({ id, name, params, cancel } satisfies Request);
    });
    return { result, cancel: raise };
  }

  /** Asks the worker to end every call under way. */
  cancelAll(): void {
    for (const { cell } of this.#waiting.values()) Atomics.store(cell, 0, 1);
  }

  /** Ends the thread. Calls still waiting are rejected with ERR_MODEL_CLOSED. */
  async terminate(): Promise<void> {
    this.#gone ??= closed();
    await this.#worker.terminate();
    this.#rejectAll(this.#gone);
  }

  #receive(reply: Reply): void {
    const waiting = this.#waiting.get(reply.id);
    if (waiting === undefined) return;
    if (reply.kind === 'event') {
      try {
        if (waiting.thrown === undefined) waiting.onEvent?.(reply.event);
      } catch (error) {
        // The caller's callback failed: end the call and hand the failure to whoever waits for it.
        waiting.thrown = { error };
        Atomics.store(waiting.cell, 0, 1);
      }
      return;
    }
    this.#waiting.delete(reply.id);
    if (this.#waiting.size === 0) this.#worker.unref();
    if (waiting.thrown) waiting.settle(waiting.thrown);
    else if (reply.kind === 'result') waiting.settle({ result: reply.result });
    else if (reply.kind === 'error') waiting.settle({ error: fromWire(reply.error) });
    else waiting.settle('cancelled');
  }

  #fail(reason: string, options: ErrorOptions, details: Record<string, unknown> = {}): void {
    this.#gone ??= new TransformerError(
      'ERR_WORKER_CRASHED',
      `the thread that runs the model ${reason}`,
      details,
      options,
    );
    this.#rejectAll(this.#gone);
  }

  #rejectAll(error: TransformerError): void {
    const waiting = [...this.#waiting.values()];
    this.#waiting.clear();
    for (const { settle } of waiting) settle({ error });
  }
}

function closed(): TransformerError {
  return new TransformerError('ERR_MODEL_CLOSED', 'the model is closed');
}

/** Errors that keep their class on the other side; all are made from (code, message, details). */
const errorClasses = {
  TransformerError,
  ModelLoaderError,
  AttentionError,
  KnnIndexError,
} as Record<string, new (code: string, message: string, details: Record<string, unknown>) => Error>;

function toWire(error: unknown): WireError {
  if (!(error instanceof Error)) {
    return {
      name: 'Error',
      message: String(error),
      code: undefined,
      details: {},
      stack: undefined,
      cause: undefined,
    };
  }
  const { code, details } = error as { code?: unknown; details?: Record<string, unknown> };
  return {
    name: error.name,
    message: error.message,
    code: typeof code === 'string' ? code : undefined,
    details: cloneable(details ?? {}),
    stack: error.stack,
    cause: error.cause === undefined ? undefined : toWire(error.cause),
  };
}

function fromWire(wire: WireError): Error {
  const { name, message, code, details, stack, cause } = wire;
  // Native code throws plain errors with a code of ours: they become this package's errors.
  const known = errorClasses[name] ?? (code?.startsWith('ERR_') ? TransformerError : undefined);
  const error =
    known && code !== undefined ? new known(code, message, details) : new Error(message);
  if (!known) Object.assign(error, { name }, code !== undefined && { code });
  if (stack !== undefined) error.stack = stack;
  if (cause !== undefined) error.cause = fromWire(cause);
  return error;
}

/** `details` without values that cannot cross to another thread (functions, class instances with hidden state). */
function cloneable(details: Record<string, unknown>): Record<string, unknown> {
  const entries = Object.entries(details).map(([key, value]) => {
    try {
      return [key, structuredClone(value)];
    } catch {
      return [key, String(value)];
    }
  });
  return Object.fromEntries(entries);
}

function firstLine(error: unknown): string {
  return (error instanceof Error ? error.message : String(error)).split('\n', 1)[0] ?? '';
}
