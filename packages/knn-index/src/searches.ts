import { cancellable, settled } from './cancellation.ts';
import { unshared } from './checks.ts';
import { type RawFilter, rawFilter, type SearchFilter, sendFilter } from './filter.ts';
import type { IdKind } from './id.ts';
import { rethrow } from './knn-index-error.ts';
import type { NativeCancel, NativeKnnIndex, NativeRequest } from './native.ts';
import type { RawSearchOptions } from './search-options.ts';
import type { RawOutput } from './search-output.ts';
import { copyInTurns } from './turns.ts';

/** How the searches of an index reach its native part. */
export class Searches<Kind extends IdKind> {
  readonly #native: NativeKnnIndex;
  readonly #idKind: Kind;

  constructor(native: NativeKnnIndex, idKind: Kind) {
    this.#native = native;
    this.#idKind = idKind;
  }

  /** Searches at once; what is found goes to `into`. */
  into(
    queries: Float32Array,
    { k, exact, effort, recall }: RawSearchOptions,
    filter: SearchFilter<Kind> | undefined,
    into: RawOutput,
  ): void {
    const raw = this.filter(filter);
    rethrow(() =>
      this.#native.searchInto(
        unshared(queries),
        k,
        exact,
        effort,
        recall,
        raw?.ids,
        raw?.bitset,
        raw?.exclude ?? false,
        into.ids,
        into.scores,
        into.counts,
      ),
    );
  }

  /** A filter as the native part takes it. */
  filter(filter: SearchFilter<Kind> | undefined): RawFilter | undefined {
    return filter === undefined
      ? undefined
      : rawFilter(this.#idKind, filter, () => rethrow(() => this.#native.ids()));
  }

  /** Copies a request in turns and runs it on the index as it is now. */
  async request<T>(
    signal: AbortSignal | undefined,
    queries: Float32Array,
    filter: SearchFilter<Kind> | undefined,
    run: (request: NativeRequest, cancel: NativeCancel) => Promise<T>,
  ): Promise<T> {
    return await cancellable(signal, async (cancel) => {
      const request = rethrow(() => this.#native.request(queries.length));
      try {
        await copyInTurns('queries', queries, (part) => request.pushQueries(part), signal);
        if (filter !== undefined) {
          await sendFilter(this.#idKind, filter, request, signal);
        }
        return await settled(() => run(request, cancel));
      } finally {
        request.release();
      }
    });
  }
}
