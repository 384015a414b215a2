import { types } from 'node:util';
import { shown, unshared, wrongArray } from './checks.ts';
import { KnnIndexError } from './knn-index-error.ts';

/** What the ids of an index are. See {@link KnnIndexOptions.ids}. */
export type IdKind = 'number' | 'bigint';

/** An id: a number or a bigint, as the index was told. */
export type Id<Kind extends IdKind = 'number'> = Kind extends 'bigint' ? bigint : number;

/**
 * Ids as the index gives them. A `Float64Array` because it holds every safe integer exactly and its elements are
 * plain numbers, which index arrays and compare with `===`; bigint ids come in a `BigUint64Array`.
 */
export type IdArray<Kind extends IdKind = 'number'> = Kind extends 'bigint'
  ? BigUint64Array
  : Float64Array;

/** Ids as they cross to the native side. */
export type RawIds = Float64Array | BigUint64Array;

// 2⁶⁴ − 1 itself marks places without a neighbour.
const MAX_BIGINT_ID = 2n ** 64n - 2n;

/** True for a value that can be an id. */
export function isId(kind: IdKind, id: unknown): id is number | bigint {
  return kind === 'bigint'
    ? typeof id === 'bigint' && id >= 0n && id <= MAX_BIGINT_ID
    : Number.isSafeInteger(id) && (id as number) >= 0;
}

/** @throws {@link KnnIndexError} `ERR_ID` */
export function checkedId(kind: IdKind, id: unknown, position = 0): number | bigint {
  if (!isId(kind, id)) {
    throw notAnId(kind, id, position);
  }
  return id;
}

function notAnId(kind: IdKind, id: unknown, position: number): KnnIndexError {
  const wanted =
    kind === 'bigint'
      ? `this index was made with ids: 'bigint', its ids are bigints from 0n to ${MAX_BIGINT_ID}n`
      : `ids are whole numbers from 0 to ${Number.MAX_SAFE_INTEGER}${typeof id === 'bigint' ? ", or bigints in an index made with ids: 'bigint'" : ''}`;
  return new KnnIndexError('ERR_ID', `${shown(id)} is not an id: ${wanted}`, { id, position });
}

/**
 * Ids `start` to `end` of an array as the native side takes them. The ids of a `Float64Array` are checked there.
 * @throws {@link KnnIndexError} `ERR_ID`, `ERR_ARRAY_TYPE`
 */
export function rawIds(
  kind: IdKind,
  ids: ArrayLike<unknown>,
  start = 0,
  end: number = ids.length,
): RawIds {
  if (kind === 'bigint') {
    if (types.isBigUint64Array(ids)) {
      return unshared(ids.subarray(start, end));
    }
    const raw = new BigUint64Array(end - start);
    for (let i = start; i < end; i++) {
      raw[i - start] = checkedId(kind, ids[i], i) as bigint;
    }
    return raw;
  }
  if (types.isFloat64Array(ids)) {
    return unshared(ids.subarray(start, end));
  }
  const raw = new Float64Array(end - start);
  for (let i = start; i < end; i++) {
    raw[i - start] = checkedId(kind, ids[i], i) as number;
  }
  return raw;
}

/** @throws {@link KnnIndexError} `ERR_ARRAY_TYPE` */
export function idList(name: string, ids: unknown): ArrayLike<unknown> {
  const isList =
    typeof ids === 'object' &&
    ids !== null &&
    Number.isSafeInteger((ids as ArrayLike<unknown>).length);
  if (!isList) {
    throw wrongArray(name, 'an array or typed array of ids', ids);
  }
  return ids as ArrayLike<unknown>;
}
