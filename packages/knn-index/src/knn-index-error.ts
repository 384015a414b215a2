/**
 * What went wrong in an index, with a stable `code` and the offending values in `details`.
 *
 * | code | when |
 * |---|---|
 * | `ERR_OPTION` | an option has a value that is not allowed |
 * | `ERR_ARRAY_TYPE` | an argument is not the array it should be, or changed while it was copied |
 * | `ERR_DIMENSIONS` | an index of 0 or too many dimensions |
 * | `ERR_DIMENSION_MISMATCH` | a vector, query or value has another length than the index's |
 * | `ERR_COUNT_MISMATCH` | not as many ids or values as vectors |
 * | `ERR_NOT_FINITE` | NaN or infinity, with the position |
 * | `ERR_TOO_LARGE` | a vector too long for its products to be computed |
 * | `ERR_ZERO_VECTOR` | the zero vector under `cosine` |
 * | `ERR_ID` | an id that is not a non-negative safe integer, or not a bigint where ids are bigints |
 * | `ERR_DUPLICATE_ID` | an id that is taken, or twice in a batch |
 * | `ERR_UNKNOWN_ID` | an id that no vector has |
 * | `ERR_IDS_EXHAUSTED` | no default id is left after the largest one |
 * | `ERR_K` | `k` or `limit` out of range |
 * | `ERR_EFFORT`, `ERR_RECALL`, `ERR_RADIUS` | `effort`, `recall` or `radius` out of range |
 * | `ERR_FILTER` | a filter that is none, or a predicate that returned neither true nor false |
 * | `ERR_OUTPUT` | an array in `out` of the wrong length, or one that shares memory with another argument |
 * | `ERR_SOFT_SEARCH` | `scale` or `massTarget` out of range |
 * | `ERR_VALUES_MISSING`, `ERR_NO_VALUES` | values left out, or given to an index that keeps none |
 * | `ERR_FULL` | more vectors than an index can hold |
 * | `ERR_OUT_OF_MEMORY` | the memory could not be had |
 * | `ERR_IO` | the system could not read or write a file |
 * | `ERR_NOT_AN_INDEX` | a file or buffer that does not hold an index |
 * | `ERR_FILE_VERSION` | an index in a format that this version does not read |
 * | `ERR_FILE_CORRUPT` | a damaged file or buffer, with section and offset |
 * | `ERR_GROUP_SHAPE`, `ERR_LANE`, `ERR_KEYS_NOT_INDEXED`, `ERR_VISIBLE`, `ERR_SETTLE_RANGE`, `ERR_SETTLED_IN_PART` | see `KnnIndexGroup` |
 * | `ERR_CLOSED` | use after `close()` |
 * | `ERR_INTERNAL` | a bug of ours |
 *
 * An index is as it was before the call that threw.
 */
export class KnnIndexError extends Error {
  override readonly name = 'KnnIndexError';
  readonly code: string;
  /** The offending values by name. */
  readonly details: Record<string, unknown>;

  constructor(code: string, message: string, details: Record<string, unknown> = {}) {
    super(message);
    this.code = code;
    this.details = details;
  }
}

/** Turns what the native side threw into a {@link KnnIndexError}. */
export function asKnnIndexError(error: unknown): KnnIndexError {
  if (error instanceof KnnIndexError) {
    return error;
  }
  const { message, code, cause } = error as {
    message?: unknown;
    code?: unknown;
    cause?: { message?: unknown };
  };
  const text = typeof message === 'string' ? message : String(error);
  // The native side describes its errors in the message of their cause.
  if (typeof cause?.message === 'string' && cause.message.startsWith('{"code"')) {
    const described = JSON.parse(cause.message) as {
      code: string;
      details: Record<string, unknown>;
    };
    return new KnnIndexError(described.code, text, withBigints(described.details));
  }
  return new KnnIndexError(
    typeof code === 'string' && code.startsWith('ERR_') ? code : 'ERR_INTERNAL',
    text,
  );
}

/** Ids that numbers cannot hold come as digits. */
function withBigints(details: Record<string, unknown>): Record<string, unknown> {
  for (const name of ['id', 'last']) {
    const value = details[name];
    if (typeof value === 'string' && /^\d+$/.test(value)) {
      details[name] = BigInt(value);
    }
  }
  return details;
}

/** Runs a native call; its errors come out as {@link KnnIndexError}. */
export function rethrow<T>(call: () => T): T {
  try {
    return call();
  } catch (error) {
    throw asKnnIndexError(error);
  }
}
