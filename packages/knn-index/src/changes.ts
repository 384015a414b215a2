import { cancellable, orAborted, settled } from './cancellation.ts';
import { floats, record, rows } from './checks.ts';
import { type IdKind, idList } from './id.ts';
import { rethrow } from './knn-index-error.ts';
import type { AddBatchOptions, UpsertBatchOptions } from './knn-index-options.ts';
import type { NativeCancel, NativeChange, NativeKnnIndex, NativeRequest } from './native.ts';
import { copyIdsInTurns, copyInTurns } from './turns.ts';

/** The arrays of a change, checked. */
export interface Batch {
  vectors?: Float32Array;
  ids?: ArrayLike<unknown>;
  values?: Float32Array;
}

/** The arrays of a change that brings vectors. */
export interface VectorBatch extends Batch {
  vectors: Float32Array;
}

/** The arrays of vectors that are added, checked. */
export function vectorBatch<Kind extends IdKind>(
  vectors: unknown,
  dimensions: number,
  options: AddBatchOptions<Kind>,
): VectorBatch {
  const { ids, values } = record(options, 'nothing');
  const batch: VectorBatch = { vectors: rows('vectors', vectors, dimensions) };
  if (ids !== undefined) {
    batch.ids = idList('ids', ids);
  }
  if (values !== undefined) {
    batch.values = floats('values', values);
  }
  return batch;
}

/** Checks that there are ids. */
export function withIds<Kind extends IdKind>(
  options: UpsertBatchOptions<Kind>,
): UpsertBatchOptions<Kind> {
  idList('ids', record(options, 'ids').ids);
  return options;
}

/** The asynchronous changes of an index: each is made when those called before are done. */
export class Changes {
  readonly #native: NativeKnnIndex;
  readonly #idKind: IdKind;
  /** Settles when the changes called so far are done. */
  #last: Promise<unknown> = Promise.resolve();

  constructor(native: NativeKnnIndex, idKind: IdKind) {
    this.#native = native;
    this.#idKind = idKind;
  }

  /** Copies a change in turns and makes it after those called before. */
  async make<T>(
    signal: AbortSignal | undefined,
    batch: Batch,
    run: (change: NativeChange, cancel: NativeCancel) => Promise<T>,
  ): Promise<T> {
    return await cancellable(signal, (cancel) => {
      const { vectors, ids, values } = batch;
      const change = rethrow(() =>
        this.#native.change(vectors?.length ?? 0, ids?.length, values?.length),
      );
      const copied = copyBatch(batch, this.#idKind, change, signal);
      // It is awaited below, when its turn comes; a failure until then is not an unhandled one.
      copied.catch(() => undefined);
      return this.#inOrder(async () => {
        await copied;
        try {
          return await settled(() => run(change, cancel));
        } finally {
          // Tells V8 what the index holds now.
          this.#native.settleMemory();
        }
      }, signal);
    });
  }

  /** The index as the changes called so far leave it. */
  async latest(): Promise<NativeRequest> {
    return await this.#inOrder(async () => rethrow(() => this.#native.request(0)));
  }

  /** Runs `work` when the asynchronous changes called before are done, whether they succeeded or not. */
  async #inOrder<T>(work: () => Promise<T>, signal?: AbortSignal): Promise<T> {
    const before = this.#last;
    const done = orAborted(before, signal).then(work);
    // Whoever comes next waits for those before this one, too, even if this one is aborted.
    this.#last = Promise.allSettled([before, done]);
    return await done;
  }
}

async function copyBatch(
  batch: Batch,
  idKind: IdKind,
  change: NativeChange,
  signal?: AbortSignal,
): Promise<void> {
  const { vectors, ids, values } = batch;
  if (vectors !== undefined) {
    await copyInTurns('vectors', vectors, (part) => change.pushVectors(part), signal);
  }
  if (ids !== undefined) {
    await copyIdsInTurns('ids', idKind, ids, (part) => change.pushIds(part), signal);
  }
  if (values !== undefined) {
    await copyInTurns('values', values, (part) => change.pushValues(part), signal);
  }
}
