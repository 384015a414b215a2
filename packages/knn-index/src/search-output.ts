import { types } from 'node:util';
import { isShared, wrongArray } from './checks.ts';
import type { IdArray, IdKind, RawIds } from './id.ts';
import { KnnIndexError } from './knn-index-error.ts';

/** Arrays of the caller that take the neighbours of n queries. */
export interface SearchOutput<Kind extends IdKind = 'number'> {
  /** `[n, k]`: a `Float64Array`, or a `BigUint64Array` for bigint ids. */
  ids: IdArray<Kind>;
  /** `[n, k]` */
  scores: Float32Array;
  /** `[n]` */
  counts: Uint32Array;
}

/** {@link SearchOutput} of either kind. */
export interface RawOutput {
  ids: RawIds;
  scores: Float32Array;
  counts: Uint32Array;
}

/**
 * New arrays for the neighbours of n queries.
 * @throws {@link KnnIndexError} `ERR_OUT_OF_MEMORY`
 */
export function newOutput(kind: IdKind, queries: number, k: number): RawOutput {
  try {
    return {
      ids: kind === 'bigint' ? new BigUint64Array(queries * k) : new Float64Array(queries * k),
      scores: new Float32Array(queries * k),
      counts: new Uint32Array(queries),
    };
  } catch {
    const needed = queries * (12 * k + 4);
    throw new KnnIndexError(
      'ERR_OUT_OF_MEMORY',
      `${needed} bytes of memory could not be allocated`,
      { bytes: needed },
    );
  }
}

/**
 * Checks the caller's arrays: their types, their lengths, and that no two of them or of `inputs` share memory.
 * @throws {@link KnnIndexError} `ERR_ARRAY_TYPE`, `ERR_OUTPUT`
 */
export function checkedOutput(
  kind: IdKind,
  out: unknown,
  queries: number,
  k: number,
  inputs: readonly ArrayBufferView[],
): RawOutput {
  const { ids, scores, counts } = (out ?? {}) as Partial<RawOutput>;
  if (!(kind === 'bigint' ? types.isBigUint64Array(ids) : types.isFloat64Array(ids))) {
    throw wrongArray('out.ids', kind === 'bigint' ? 'a BigUint64Array' : 'a Float64Array', ids);
  }
  if (!types.isFloat32Array(scores)) {
    throw wrongArray('out.scores', 'a Float32Array', scores);
  }
  if (!types.isUint32Array(counts)) {
    throw wrongArray('out.counts', 'a Uint32Array', counts);
  }
  const checked = { ids: ids as RawIds, scores, counts };
  const seen = [...inputs];
  for (const [name, expected] of [
    ['ids', queries * k],
    ['scores', queries * k],
    ['counts', queries],
  ] as const) {
    const array = checked[name];
    if (array.length !== expected) {
      throw new KnnIndexError(
        'ERR_OUTPUT',
        `out.${name} has ${array.length} elements, ${expected} are needed for ${queries} queries and k = ${k}`,
        { what: `out.${name}`, actual: array.length, expected },
      );
    }
    checkOwnMemory(`out.${name}`, array, seen);
    seen.push(array);
  }
  return checked;
}

/**
 * Checks that an array that results are written to shares its memory neither with another thread nor with `others`.
 * @throws {@link KnnIndexError} `ERR_OUTPUT`
 */
export function checkOwnMemory(
  what: string,
  array: ArrayBufferView,
  others: readonly ArrayBufferView[],
): void {
  if (isShared(array) || others.some((other) => overlap(array, other))) {
    const message = `${what} shares its memory with another thread or another argument`;
    throw new KnnIndexError('ERR_OUTPUT', message, { what });
  }
}

function overlap(a: ArrayBufferView, b: ArrayBufferView): boolean {
  return (
    a.buffer === b.buffer &&
    a.byteOffset < b.byteOffset + b.byteLength &&
    b.byteOffset < a.byteOffset + a.byteLength
  );
}
