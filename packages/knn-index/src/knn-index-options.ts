import type { Id, IdKind } from './id.ts';

/** How a query and a vector are compared. See {@link KnnIndexOptions.metric}. */
export type Metric = 'inner-product' | 'cosine' | 'l2';

/** How the numbers of vectors are stored. See {@link KnnIndexOptions.storage}. */
export type Storage = 'f32' | 'f16' | 'bf16' | 'i8';

/** How neighbours are found. See {@link KnnIndexOptions.algorithm}. */
export type Algorithm = 'auto' | 'exact' | 'cluster' | 'graph' | 'dci';

export const METRICS: readonly Metric[] = ['inner-product', 'cosine', 'l2'];
export const STORAGES: readonly Storage[] = ['f32', 'f16', 'bf16', 'i8'];
export const ALGORITHMS: readonly Algorithm[] = ['auto', 'exact', 'cluster', 'graph', 'dci'];
export const ID_KINDS: readonly IdKind[] = ['number', 'bigint'];

/** What an index is made of. */
export interface KnnIndexOptions<Kind extends IdKind = 'number'> extends OpenOptions<Kind> {
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
   * How vectors are kept. Scores are those of the kept vector and the unrounded query, computed in full precision.
   * - `f32` (default): four bytes per number, as given;
   * - `f16`: two bytes per number, 11 significant bits, up to 65,504;
   * - `bf16`: two bytes per number, 8 significant bits, the range of f32;
   * - `i8`: one byte per number and four per vector: whole steps of 1/127 of the vector's largest number.
   */
  storage?: Storage;
  /**
   * - `exact`: every search reads every vector;
   * - `cluster`: similar vectors lie together in clusters, and a search reads the most promising;
   * - `graph`: every vector knows near ones, and a search walks from one to the next;
   * - `dci`: Prioritized Dynamic Continuous Indexing (Li and Malik 2017): vectors in the order of their projections
   *   on random directions;
   * - `auto` (default): `exact` for small indexes, then what suits the size; {@link KnnIndexStats.algorithm} tells.
   */
  algorithm?: Algorithm;
  /** Non-negative safe integer. Equal seeds and equal changes make equal indexes (at one SIMD level). Default: 0. */
  seed?: number;
  /** Numbers in a value kept with each vector, 1 to 65,536. Default: no values. */
  valueDimensions?: number;
}

/** What a file does not say about an index. */
export interface OpenOptions<Kind extends IdKind = 'number'> {
  /**
   * What ids are, in arguments and results:
   * - `number` (default): non-negative safe integers, in `Float64Array`s;
   * - `bigint`: bigints from 0n to 2⁶⁴ − 2, in `BigUint64Array`s.
   */
  ids?: Kind;
  /** Threads that work on one call, the calling one included, 1 to 1024. Default: all that the process may use. */
  threads?: number;
}

/** How to open a file. */
export interface OpenFileOptions<Kind extends IdKind = 'number'> extends OpenOptions<Kind> {
  /**
   * Leaves the vectors in the file and lets the system load them as they are used, instead of copying them into memory;
   * all processes that map a file share them. Changes are kept in memory, the file stays as it is. Nobody may change
   * the file in place meanwhile; saving over it never does. Default: false.
   */
  mapped?: boolean;
  /**
   * Compares every section with its checksum and checks every number, which reads the whole file once. Without it only
   * what keeps the index safe to use is checked. Default: true.
   */
  verify?: boolean;
}

/** What is added with a vector. */
export interface AddOptions<Kind extends IdKind = 'number'> {
  /** The vector's id, not in the index yet. Default: the number after the largest id, or 0. */
  id?: Id<Kind>;
  /** `[valueDimensions]`, required exactly if the index keeps values. */
  value?: Float32Array;
}

/** What is added with vectors. */
export interface AddBatchOptions<Kind extends IdKind = 'number'> {
  /**
   * One id per vector, none of them in the index yet and none twice. Default: the numbers after the largest id,
   * beginning with 0.
   */
  ids?: ArrayLike<Id<Kind>>;
  /** `[n, valueDimensions]`, required exactly if the index keeps values. */
  values?: Float32Array;
}

/** What is put into the index with a vector. */
export interface UpsertOptions<Kind extends IdKind = 'number'> {
  /** The id; its vector is replaced if there is one. */
  id: Id<Kind>;
  /** `[valueDimensions]`, required exactly if the index keeps values. */
  value?: Float32Array;
}

/** What is put into the index with vectors. */
export interface UpsertBatchOptions<Kind extends IdKind = 'number'> {
  /** One id per vector, none twice; vectors that have one of them are replaced. */
  ids: ArrayLike<Id<Kind>>;
  /** `[n, valueDimensions]`, required exactly if the index keeps values. */
  values?: Float32Array;
}

/** How to stop asynchronous work. */
export interface Abortable {
  /** Stops the work; the promise rejects with the signal's reason. */
  signal?: AbortSignal;
}

/** What an index holds. */
export interface KnnIndexStats {
  /** Number of vectors. */
  size: number;
  /** Bytes that the vectors, ids and values need. */
  liveBytes: number;
  /** Bytes of native memory held, room to grow and freed places included. `compact()` brings it close to `liveBytes`. */
  reservedBytes: number;
  /** Clusters that a search chooses from; 0 if the algorithm in use has none. */
  clusters: number;
  /** The algorithm in use, never `auto`. */
  algorithm: Exclude<Algorithm, 'auto'>;
  /** The SIMD level in use, see {@link simdLevel}. */
  simd: string;
}
