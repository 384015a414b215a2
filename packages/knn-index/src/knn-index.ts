import { asKnnIndexError, KnnIndexError, rethrow } from './knn-index-error.ts';
import { NativeCancel, NativeKnnIndex } from './native.ts';

/** How a query and a vector are compared. See {@link KnnIndexOptions.metric}. */
export type Metric = 'inner-product' | 'cosine' | 'l2';

/** How the numbers of vectors are stored. See {@link KnnIndexOptions.storage}. */
export type Storage = 'f32' | 'bf16';

/** How neighbours are found. See {@link KnnIndexOptions.algorithm}. */
export type Algorithm = 'auto' | 'exact' | 'cluster';

/** What an index is made of. */
export interface KnnIndexOptions {
  /** Numbers per vector, 1 to 65,536. */
  dimensions: number;
  /**
   * How vectors are compared, and what `scores` are:
   * - `inner-product` (default): the inner product, largest first;
   * - `cosine`: the cosine of the angle, 1 to −1, largest first. Vectors are stored with length 1; the zero
   *   vector is an error;
   * - `l2`: the **squared** Euclidean distance, smallest first.
   */
  metric?: Metric;
  /**
   * - `f32` (default): four bytes per number;
   * - `bf16`: two bytes per number, vectors rounded to 8 significant bits. Scores are those of the rounded
   *   vector and the unrounded query, computed in full precision.
   */
  storage?: Storage;
  /**
   * - `exact`: every search reads every vector;
   * - `cluster`: similar vectors lie together in clusters, and a search reads the most promising
   *   ({@link SearchOptions.effort}); newly added vectors are read exactly until there are enough to cluster;
   * - `auto` (default): `exact` up to 16,384 vectors, then `cluster`.
   */
  algorithm?: Algorithm;
  /** Non-negative safe integer. Equal seeds and equal additions give equal results. Default: 0. */
  seed?: number;
  /** Threads that work on one call, the calling one included, 1 to 1024. Default: all that the process may use. */
  threads?: number;
  /** Numbers in a value kept with each vector, 1 to 65,536. Default: no values. */
  valueDimensions?: number;
}

/** What is added with vectors. */
export interface AddOptions {
  /**
   * One id per vector: non-negative safe integers, none twice. Default: the numbers after the largest id so
   * far, beginning with 0.
   */
  ids?: ArrayLike<number>;
  /** `[n, valueDimensions]`, required exactly if the index keeps values. */
  values?: Float32Array;
}

/** How to search. */
export interface SearchOptions {
  /** Neighbours per query, 1 to 16,777,216. */
  k: number;
  /** Reads every vector, so that no neighbour is missed. Default: false. */
  exact?: boolean;
  /**
   * Share of the clusters to read for each query, above 0, at most 1 (which finds what `exact` finds). More
   * finds more and takes longer. Default: chosen by size. At least the clusters that hold `k` vectors are read.
   */
  effort?: number;
}

/** How to search without blocking the event loop. */
export interface AsyncSearchOptions extends SearchOptions {
  /** Stops queued and running work; the promise rejects with the signal's reason. */
  signal?: AbortSignal;
}

/** The neighbours of one query, nearest first. */
export interface Neighbours {
  /** Ids, as many as were found: `k`, or the size of the index if that is smaller. */
  ids: Float64Array;
  /** The score of each, see {@link KnnIndexOptions.metric}. */
  scores: Float32Array;
}

/** The neighbours of several queries, nearest first. */
export interface BatchNeighbours {
  /**
   * Ids, `[n, k]`. A `Float64Array` because it holds every safe integer exactly and its elements are plain
   * numbers, which index arrays and compare with `===`. Places past a query's count hold −1.
   */
  ids: Float64Array;
  /** Scores, `[n, k]`, see {@link KnnIndexOptions.metric}. Places past a query's count hold NaN. */
  scores: Float32Array;
  /** Neighbours found for each query, `[n]`: `k`, or the size of the index if that is smaller. */
  counts: Uint32Array;
}

/** What a soft search weighs and reads. */
export interface SoftSearchOptions {
  /** Factor of every score before the softmax, above 0. Default: 1. */
  scale?: number;
  /**
   * Share of the softmax's mass to compute exactly, above 0, at most 1 (default), by estimate. Below 1 a
   * clustered index reads clusters until the others are estimated to hold less than the rest; those stand in
   * by their mean vectors and mean values. `l2` always reads everything.
   */
  massTarget?: number;
}

/** How to search softly without blocking the event loop. */
export interface AsyncSoftSearchOptions extends SoftSearchOptions {
  /** Stops queued and running work; the promise rejects with the signal's reason. */
  signal?: AbortSignal;
}

/** Weighted averages of values. */
export interface SoftNeighbours {
  /** The average for each query, `[n, valueDimensions]`; zeros if the index is empty. */
  values: Float32Array;
  /** Natural logarithm of the sum of the exponentials of the scaled scores, `[n]`; −∞ if the index is empty. */
  logSumExp: Float32Array;
  /** Share of the mass that was computed exactly, `[n]`, where the mass of what was not read is an estimate. */
  retainedMass: Float32Array;
}

/** What an index holds. */
export interface KnnIndexStats {
  /** Number of vectors. */
  size: number;
  /** Bytes of native memory. */
  bytes: number;
  /** Vectors that are in clusters; searches read the others whole. */
  clustered: number;
}

const METRICS: readonly Metric[] = ['inner-product', 'cosine', 'l2'];
const STORAGES: readonly Storage[] = ['f32', 'bf16'];
const ALGORITHMS: readonly Algorithm[] = ['auto', 'exact', 'cluster'];

/**
 * A dynamic index of vectors that finds the nearest ones.
 *
 * Vectors come as flat `Float32Array`s, `[n, dimensions]`. Synchronous calls work on all threads of the index
 * and return when done; the `Async` ones work on copies, beside the event loop. An asynchronous search sees
 * the index as it was when it was called, whatever is added meanwhile.
 *
 * @example
 * ```ts
 * import { KnnIndex } from '@iceformer/knn-index';
 *
 * const index = new KnnIndex({ dimensions: 2, metric: 'l2' });
 * index.addBatch(new Float32Array([0, 0, 3, 4, 6, 8]));
 * const { ids, scores } = index.search(new Float32Array([3, 3]), { k: 2 });
 * console.log([...ids], [...scores]); // [ 1, 0 ] [ 1, 18 ]
 * index.close();
 * ```
 */
export class KnnIndex {
  readonly dimensions: number;
  readonly metric: Metric;
  readonly storage: Storage;
  readonly algorithm: Algorithm;
  /** Numbers per value, 0 if the index keeps none. */
  readonly valueDimensions: number;
  readonly #native: NativeKnnIndex;

  /** @throws {@link KnnIndexError} `ERR_OPTION`, `ERR_DIMENSIONS` */
  constructor(options: KnnIndexOptions) {
    if (typeof options !== 'object' || options === null) {
      throw new KnnIndexError('ERR_OPTION', 'options must be an object with at least dimensions', {
        options,
      });
    }
    this.dimensions = integer('dimensions', options.dimensions, 1, 65_536);
    this.metric = oneOf('metric', options.metric ?? 'inner-product', METRICS);
    this.storage = oneOf('storage', options.storage ?? 'f32', STORAGES);
    this.algorithm = oneOf('algorithm', options.algorithm ?? 'auto', ALGORITHMS);
    this.valueDimensions =
      options.valueDimensions === undefined
        ? 0
        : integer('valueDimensions', options.valueDimensions, 1, 65_536);
    const seed = integer('seed', options.seed ?? 0, 0, Number.MAX_SAFE_INTEGER);
    const threads =
      options.threads === undefined ? 0 : integer('threads', options.threads, 1, 1024);
    const { dimensions, metric, storage, algorithm, valueDimensions } = this;
    this.#native = rethrow(
      () =>
        new NativeKnnIndex({
          dimensions,
          metric,
          storage,
          algorithm,
          seed,
          threads,
          valueDimensions,
        }),
    );
  }

  /** Number of vectors. */
  get size(): number {
    return rethrow(() => this.#native.size);
  }

  /** Size and memory. */
  get stats(): KnnIndexStats {
    return rethrow(() => this.#native.stats);
  }

  /**
   * Adds one vector and returns its id.
   *
   * @param vector - `[dimensions]`
   * @throws {@link KnnIndexError} as {@link KnnIndex.addBatch}
   */
  add(vector: Float32Array, options: { id?: number; value?: Float32Array } = {}): number {
    const { id, value } = options;
    if (floats('vector', vector).length !== this.dimensions) {
      throw mismatch('vector', vector.length, this.dimensions);
    }
    const batch: AddOptions = {};
    if (id !== undefined) {
      batch.ids = [id];
    }
    if (value !== undefined) {
      batch.values = value;
    }
    return this.addBatch(vector, batch)[0] as number;
  }

  /**
   * Adds vectors and returns their ids.
   *
   * @param vectors - `[n, dimensions]`
   * @throws {@link KnnIndexError} `ERR_ARRAY_TYPE`, `ERR_DIMENSION_MISMATCH`, `ERR_COUNT_MISMATCH`,
   * `ERR_NOT_FINITE`, `ERR_TOO_LARGE`, `ERR_ZERO_VECTOR`, `ERR_ID`, `ERR_DUPLICATE_ID`, `ERR_IDS_EXHAUSTED`,
   * `ERR_VALUES_MISSING`, `ERR_NO_VALUES`, `ERR_FULL`, `ERR_OUT_OF_MEMORY`, `ERR_CLOSED`. Nothing is added then.
   */
  addBatch(vectors: Float32Array, options: AddOptions = {}): Float64Array {
    const [rows, ids, values] = this.#addArguments(vectors, options);
    return rethrow(() => this.#native.addBatch(rows, ids, values));
  }

  /**
   * {@link KnnIndex.addBatch} beside the event loop, on copies of the arrays. Searches see all of the batch or
   * nothing of it. Synchronous additions, `get`, `has`, `value` and `stats` meanwhile wait for it.
   */
  async addBatchAsync(vectors: Float32Array, options: AddOptions = {}): Promise<Float64Array> {
    const [rows, ids, values] = this.#addArguments(vectors, options);
    try {
      return await this.#native.addBatchAsync(rows, ids, values);
    } catch (error) {
      throw asKnnIndexError(error);
    } finally {
      this.#native.settleMemory();
    }
  }

  /**
   * The nearest vectors of one query.
   *
   * @param query - `[dimensions]`
   * @throws {@link KnnIndexError} as {@link KnnIndex.searchBatch}
   */
  search(query: Float32Array, options: SearchOptions): Neighbours {
    if (floats('query', query).length !== this.dimensions) {
      throw mismatch('query', query.length, this.dimensions);
    }
    const { ids, scores, counts } = this.searchBatch(query, options);
    const count = counts[0] as number;
    return count === ids.length
      ? { ids, scores }
      : { ids: ids.slice(0, count), scores: scores.slice(0, count) };
  }

  /**
   * The nearest vectors of each query.
   *
   * @param queries - `[n, dimensions]`
   * @throws {@link KnnIndexError} `ERR_ARRAY_TYPE`, `ERR_DIMENSION_MISMATCH`, `ERR_NOT_FINITE`, `ERR_TOO_LARGE`,
   * `ERR_ZERO_VECTOR`, `ERR_K`, `ERR_EFFORT`, `ERR_OUT_OF_MEMORY`, `ERR_CLOSED`
   */
  searchBatch(queries: Float32Array, options: SearchOptions): BatchNeighbours {
    const rows = this.#rows('queries', queries, this.dimensions);
    const native = searchOptions(options);
    return rethrow(() => this.#native.searchBatch(rows, native));
  }

  /**
   * {@link KnnIndex.searchBatch} beside the event loop, on a copy of the queries. For a few queries the
   * synchronous call is quicker.
   */
  async searchBatchAsync(
    queries: Float32Array,
    options: AsyncSearchOptions,
  ): Promise<BatchNeighbours> {
    const rows = this.#rows('queries', queries, this.dimensions);
    const native = searchOptions(options);
    return await cancellable(options.signal, (cancel) =>
      this.#native.searchBatchAsync(rows, native, cancel),
    );
  }

  /**
   * Soft search: for each query the average of **all** stored values, weighted by the softmax of `scale` times
   * the scores (for `l2`, times the negated squared distances: kernel regression with a Gaussian kernel).
   *
   * @param queries - `[n, dimensions]`
   * @throws {@link KnnIndexError} as {@link KnnIndex.searchBatch}, and `ERR_NO_VALUES`, `ERR_SOFT_SEARCH`
   */
  softSearch(queries: Float32Array, options: SoftSearchOptions = {}): SoftNeighbours {
    const rows = this.#rows('queries', queries, this.dimensions);
    const native = softSearchOptions(options);
    return rethrow(() => this.#native.softSearch(rows, native));
  }

  /** {@link KnnIndex.softSearch} beside the event loop, on a copy of the queries. */
  async softSearchAsync(
    queries: Float32Array,
    options: AsyncSoftSearchOptions = {},
  ): Promise<SoftNeighbours> {
    const rows = this.#rows('queries', queries, this.dimensions);
    const native = softSearchOptions(options);
    return await cancellable(options.signal, (cancel) =>
      this.#native.softSearchAsync(rows, native, cancel),
    );
  }

  /** True when a vector has this id. */
  has(id: number): boolean {
    return isId(id) && rethrow(() => this.#native.has(id));
  }

  /**
   * The vector with this id, as stored: with length 1 under `cosine`, rounded in `bf16`.
   * @throws {@link KnnIndexError} `ERR_ID`, `ERR_UNKNOWN_ID`, `ERR_CLOSED`
   */
  get(id: number): Float32Array {
    return rethrow(() => this.#native.get(checkedId(id, 0)));
  }

  /**
   * The value kept with this id.
   * @throws {@link KnnIndexError} `ERR_ID`, `ERR_UNKNOWN_ID`, `ERR_NO_VALUES`, `ERR_CLOSED`
   */
  value(id: number): Float32Array {
    return rethrow(() => this.#native.value(checkedId(id, 0)));
  }

  /**
   * Frees the native memory at once, or when the searches that run are done. Later calls throw `ERR_CLOSED`;
   * closing again does nothing.
   */
  close(): void {
    rethrow(() => this.#native.close());
  }

  /** Does what {@link close} does, for `using`. */
  [Symbol.dispose](): void {
    this.close();
  }

  #addArguments(
    vectors: Float32Array,
    options: AddOptions,
  ): [Float32Array, Float64Array | undefined, Float32Array | undefined] {
    const { ids, values } = options;
    return [
      this.#rows('vectors', vectors, this.dimensions),
      ids === undefined ? undefined : Float64Array.from(ids, checkedId),
      values === undefined ? undefined : unshared(floats('values', values)),
    ];
  }

  #rows(name: string, array: Float32Array, dimensions: number): Float32Array {
    if (floats(name, array).length % dimensions !== 0) {
      throw new KnnIndexError(
        'ERR_DIMENSION_MISMATCH',
        `${name} holds ${array.length} numbers, which is not a multiple of the ${dimensions} dimensions of the index`,
        { what: name, length: array.length, dimensions },
      );
    }
    return unshared(array);
  }
}

/** Runs native work that a signal can stop. */
async function cancellable<T>(
  signal: AbortSignal | undefined,
  work: (cancel: NativeCancel) => Promise<T>,
): Promise<T> {
  signal?.throwIfAborted();
  const cancel = new NativeCancel();
  const stop = () => cancel.cancel();
  signal?.addEventListener('abort', stop, { once: true });
  try {
    return await work(cancel);
  } catch (error) {
    const ours = asKnnIndexError(error);
    throw ours.code === 'ERR_CANCELLED' && signal?.aborted ? signal.reason : ours;
  } finally {
    signal?.removeEventListener('abort', stop);
  }
}

function softSearchOptions(options: SoftSearchOptions): { scale: number; massTarget: number } {
  const { scale = 1, massTarget = 1 } = options;
  for (const [name, value] of Object.entries({ scale, massTarget })) {
    if (typeof value !== 'number') {
      throw new KnnIndexError(
        'ERR_SOFT_SEARCH',
        `${name} is ${shown(value)}, it must be a number`,
        { [name]: value },
      );
    }
  }
  return { scale, massTarget };
}

function searchOptions(options: SearchOptions): { k: number; exact: boolean; effort?: number } {
  if (typeof options !== 'object' || options === null) {
    throw new KnnIndexError('ERR_OPTION', 'options must be an object with at least k', { options });
  }
  const { k, exact = false, effort } = options;
  if (!Number.isInteger(k) || k < 1 || k > 0xffff_ffff) {
    throw new KnnIndexError(
      'ERR_K',
      `k is ${shown(k)}, it must be a whole number between 1 and 16777216`,
      { k },
    );
  }
  if (typeof exact !== 'boolean') {
    throw new KnnIndexError('ERR_OPTION', `exact is ${shown(exact)}, it must be true or false`, {
      exact,
    });
  }
  if (effort === undefined) {
    return { k, exact };
  }
  if (typeof effort !== 'number') {
    throw new KnnIndexError(
      'ERR_EFFORT',
      `effort is ${shown(effort)}, it must be above 0 and at most 1`,
      { effort },
    );
  }
  return { k, exact, effort };
}

function floats(name: string, array: unknown): Float32Array {
  if (!(array instanceof Float32Array)) {
    throw new KnnIndexError(
      'ERR_ARRAY_TYPE',
      `${name} must be a Float32Array, not ${kind(array)}`,
      { what: name },
    );
  }
  return array;
}

/** Memory that another thread may write meanwhile is copied first. */
function unshared(array: Float32Array): Float32Array {
  return array.buffer instanceof SharedArrayBuffer ? new Float32Array(array) : array;
}

function isId(id: unknown): id is number {
  return Number.isSafeInteger(id) && (id as number) >= 0;
}

function checkedId(id: unknown, position: number): number {
  if (!isId(id)) {
    const message = `${shown(id)} is not an id: ids are whole numbers from 0 to ${Number.MAX_SAFE_INTEGER}`;
    throw new KnnIndexError('ERR_ID', message, { id, position });
  }
  return id;
}

function integer(name: string, value: unknown, min: number, max: number): number {
  if (!Number.isInteger(value) || (value as number) < min || (value as number) > max) {
    const code = name.toLowerCase().endsWith('dimensions') ? 'ERR_DIMENSIONS' : 'ERR_OPTION';
    const message = `${name} is ${shown(value)}, it must be a whole number between ${min} and ${max}`;
    throw new KnnIndexError(code, message, { [name]: value, min, max });
  }
  return value as number;
}

function oneOf<T extends string>(name: string, value: unknown, allowed: readonly T[]): T {
  if (!allowed.includes(value as T)) {
    throw new KnnIndexError(
      'ERR_OPTION',
      `${name} is ${shown(value)}, it must be one of ${allowed.join(', ')}`,
      {
        [name]: value,
        allowed,
      },
    );
  }
  return value as T;
}

function mismatch(what: string, actual: number, expected: number): KnnIndexError {
  return new KnnIndexError(
    'ERR_DIMENSION_MISMATCH',
    `${what} has ${actual} dimensions, the index has ${expected}`,
    { what, actual, expected },
  );
}

function shown(value: unknown): string {
  return typeof value === 'string'
    ? `"${value}"`
    : typeof value === 'object' && value !== null
      ? kind(value)
      : String(value);
}

function kind(value: unknown): string {
  if (value === undefined || value === null) {
    return String(value);
  }
  return Array.isArray(value) ? 'an array' : (Object(value).constructor?.name ?? typeof value);
}
