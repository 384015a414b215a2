import { bytes, flag, shown, unshared } from './checks.ts';
import { type Id, type IdKind, idList, type RawIds, rawIds } from './id.ts';
import { KnnIndexError } from './knn-index-error.ts';
import { copyIdsInTurns, copyInTurns, eachInTurns } from './turns.ts';

/**
 * Which vectors a search may find:
 * - `{ ids }`: those with one of these ids. Ids that are not in the index are no error;
 * - `{ bitset }`: those whose id has its bit set: id i is bit `i % 8` (1 is the lowest) of byte `i >> 3`. Ids past the
 *   end are not in the set;
 * - with `exclude: true`: all but those;
 * - a function: those for which it returns true. It is called on the calling thread, once for every id of the index,
 *   before the search begins (by asynchronous searches in parts, so that the event loop goes on). For a large index
 *   that is searched often, ids or a bitset are quicker.
 *
 * A filtered search finds `k` vectors whenever so many pass. Where few pass, it reads just those.
 */
export type SearchFilter<Kind extends IdKind = 'number'> =
  | { ids: ArrayLike<Id<Kind>>; exclude?: boolean }
  | { bitset: Uint8Array; exclude?: boolean }
  | ((id: Id<Kind>) => boolean);

/** A filter as the native side takes it. */
export interface RawFilter {
  ids?: RawIds;
  bitset?: Uint8Array;
  exclude: boolean;
}

type Predicate = (id: number | bigint) => boolean;

/**
 * Checks a filter and evaluates a predicate at once.
 * @throws {@link KnnIndexError} `ERR_FILTER`, `ERR_ID`, `ERR_ARRAY_TYPE`, or what a predicate throws
 */
export function rawFilter<Kind extends IdKind>(
  kind: Kind,
  filter: SearchFilter<Kind>,
  allIds: () => RawIds,
): RawFilter {
  if (typeof filter === 'function') {
    const passing = new Passing(allIds(), filter as Predicate);
    for (let i = 0; i < passing.all.length; i++) {
      passing.test(i);
    }
    return { ids: passing.ids(), exclude: false };
  }
  const { ids, bitset, exclude } = described(filter);
  return ids === undefined
    ? { bitset: unshared(bitset as Uint8Array), exclude }
    : { ids: rawIds(kind, ids), exclude };
}

/** Takes a filter, its parts in order. */
export interface FilterReceiver {
  beginFilter(bitset: boolean, exclude: boolean): void;
  pushIds(ids: RawIds): void;
  pushBitset(bits: Uint8Array): void;
  /** The ids that the search could find. */
  ids(): Promise<RawIds>;
}

/** Does what {@link rawFilter} does without holding up the event loop. */
export async function sendFilter<Kind extends IdKind>(
  kind: Kind,
  filter: SearchFilter<Kind>,
  receiver: FilterReceiver,
  signal: AbortSignal | undefined,
): Promise<void> {
  if (typeof filter === 'function') {
    const passing = new Passing(await receiver.ids(), filter as Predicate);
    await eachInTurns(passing.all.length, signal, (i) => passing.test(i));
    receiver.beginFilter(false, false);
    await copyInTurns('filter', passing.ids(), (part) => receiver.pushIds(part), signal);
    return;
  }
  const { ids, bitset, exclude } = described(filter);
  receiver.beginFilter(ids === undefined, exclude);
  if (ids === undefined) {
    const bits = bitset as Uint8Array;
    await copyInTurns('filter.bitset', bits, (part) => receiver.pushBitset(part), signal);
  } else {
    await copyIdsInTurns('filter.ids', kind, ids, (part) => receiver.pushIds(part), signal);
  }
}

/** The ids that pass a predicate. */
class Passing {
  readonly all: RawIds;
  readonly #predicate: Predicate;
  readonly #kept: RawIds;
  #count = 0;

  constructor(all: RawIds, predicate: Predicate) {
    this.all = all;
    this.#predicate = predicate;
    this.#kept = all.slice();
  }

  test(i: number): void {
    const id = this.all[i] as number | bigint;
    const passes = this.#predicate(id);
    if (typeof passes !== 'boolean') {
      const message = `filter returned ${shown(passes)} for id ${id}, it must return true or false`;
      throw new KnnIndexError('ERR_FILTER', message, { id, returned: passes });
    }
    if (passes) {
      this.#kept[this.#count++] = id;
    }
  }

  ids(): RawIds {
    return this.#kept.subarray(0, this.#count);
  }
}

function described(filter: Exclude<SearchFilter<IdKind>, (id: never) => boolean>): {
  ids?: ArrayLike<unknown>;
  bitset?: Uint8Array;
  exclude: boolean;
} {
  if (typeof filter !== 'object' || filter === null || 'ids' in filter === 'bitset' in filter) {
    throw new KnnIndexError(
      'ERR_FILTER',
      `filter is ${shown(filter)}, it must be a function or an object with either ids or bitset`,
      { filter },
    );
  }
  const exclude = flag('filter.exclude', filter.exclude ?? false);
  return 'ids' in filter
    ? { ids: idList('filter.ids', filter.ids), exclude }
    : { bitset: bytes('filter.bitset', filter.bitset), exclude };
}
