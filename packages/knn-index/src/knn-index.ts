import { cancellable, settled } from './cancellation.ts';
import { Changes, vectorBatch, withIds } from './changes.ts';
import { bytes, integer, oneOf, record, row, rows, unshared } from './checks.ts';
import { checkedId, type Id, type IdArray, type IdKind, idList, isId, rawIds } from './id.ts';
import { type KnnIndexError, rethrow } from './knn-index-error.ts';
import {
  type Abortable,
  type AddBatchOptions,
  type AddOptions,
  ALGORITHMS,
  type Algorithm,
  type KnnIndexOptions,
  type KnnIndexStats,
  METRICS,
  type Metric,
  type OpenFileOptions,
  type OpenOptions,
  STORAGES,
  type Storage,
  type UpsertBatchOptions,
  type UpsertOptions,
} from './knn-index-options.ts';
import { NativeBytes, NativeKnnIndex } from './native.ts';
import { fileOptions, openOptions, pathOf } from './open-options.ts';
import {
  type AsyncMeasureRecallOptions,
  type AsyncRadiusSearchOptions,
  type AsyncSearchOptions,
  type AsyncSoftSearchOptions,
  type BatchNeighbours,
  type BatchRanges,
  type BatchSearchOptions,
  type MeasureRecallOptions,
  type Neighbours,
  type RadiusSearchOptions,
  rawMeasureOptions,
  rawRadiusOptions,
  rawSearchOptions,
  rawSoftSearchOptions,
  type SearchOptions,
  type SoftNeighbours,
  type SoftSearchOptions,
} from './search-options.ts';
import { checkedOutput, newOutput } from './search-output.ts';
import { Searches } from './searches.ts';
import { copyInTurns, moveInTurns } from './turns.ts';

/**
 * A dynamic index of vectors that finds the nearest ones.
 *
 * Vectors come as flat `Float32Array`s, `[n, dimensions]`. Synchronous calls work on all threads of the index and return
 * when done. The `Async` ones work beside the event loop, on copies that are made in parts of 4 MB, one per turn of the
 * event loop: leave longer arrays alone until the promise settles.
 *
 * One change at a time, any number of searches meanwhile: a search sees the index as it was when it was called, whole
 * batches or nothing of them. Asynchronous changes are made in the order of the calls. A synchronous change, and
 * `stats`, wait for one that runs.
 *
 * @typeParam Kind - `'number'` (default) or `'bigint'`, see {@link KnnIndexOptions.ids}
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
export class KnnIndex<Kind extends IdKind = 'number'> {
  readonly dimensions: number;
  readonly metric: Metric;
  readonly storage: Storage;
  /** As asked for; {@link KnnIndex.stats} tells the one in use. */
  readonly algorithm: Algorithm;
  /** Numbers per value, 0 if the index keeps none. */
  readonly valueDimensions: number;
  /** What ids are. */
  readonly idKind: Kind;
  readonly #native: NativeKnnIndex;
  readonly #searches: Searches<Kind>;
  readonly #changes: Changes;

  /** @throws {@link KnnIndexError} `ERR_OPTION`, `ERR_DIMENSIONS` */
  constructor(options: KnnIndexOptions<Kind>);
  constructor(made: KnnIndexOptions<Kind> | Restored<Kind>) {
    if (made instanceof Restored) {
      this.#native = made.native;
      this.idKind = made.kind;
    } else {
      const { dimensions, metric, storage, algorithm, valueDimensions } = record(
        made,
        'dimensions',
      );
      const { kind, threads } = openOptions(made);
      const native = {
        dimensions: integer('dimensions', dimensions, 1, 65_536),
        metric: oneOf('metric', metric ?? 'inner-product', METRICS),
        storage: oneOf('storage', storage ?? 'f32', STORAGES),
        algorithm: oneOf('algorithm', algorithm ?? 'auto', ALGORITHMS),
        seed: integer('seed', made.seed ?? 0, 0, Number.MAX_SAFE_INTEGER),
        valueDimensions:
          valueDimensions === undefined
            ? 0
            : integer('valueDimensions', valueDimensions, 1, 65_536),
      };
      this.#native = rethrow(() => new NativeKnnIndex(native, kind === 'bigint', threads));
      this.idKind = kind;
    }
    this.#searches = new Searches(this.#native, this.idKind);
    this.#changes = new Changes(this.#native, this.idKind);
    const { dimensions, metric, storage, algorithm, valueDimensions } = this.#native.options;
    this.dimensions = dimensions;
    this.metric = metric;
    this.storage = storage;
    this.algorithm = algorithm;
    this.valueDimensions = valueDimensions;
  }

  /** Number of vectors. */
  get size(): number {
    return rethrow(() => this.#native.size);
  }

  /** Size, memory, and what the index chose. */
  stats(): KnnIndexStats {
    return rethrow(() => this.#native.stats());
  }

  /**
   * Adds one vector.
   *
   * @param vector - `[dimensions]`
   * @returns its id
   * @throws {@link KnnIndexError} as {@link KnnIndex.addBatch}
   */
  add(vector: Float32Array, options: AddOptions<Kind> = {}): Id<Kind> {
    const { id, value } = record(options, 'nothing');
    row('vector', vector, this.dimensions);
    const batch: AddBatchOptions<Kind> = {};
    if (id !== undefined) {
      batch.ids = [id];
    }
    if (value !== undefined) {
      batch.values = value;
    }
    return this.addBatch(vector, batch)[0] as Id<Kind>;
  }

  /**
   * Adds vectors.
   *
   * @param vectors - `[n, dimensions]`
   * @returns their ids
   * @throws {@link KnnIndexError} `ERR_ARRAY_TYPE`, `ERR_DIMENSION_MISMATCH`, `ERR_COUNT_MISMATCH`,
   * `ERR_NOT_FINITE`, `ERR_TOO_LARGE`, `ERR_ZERO_VECTOR`, `ERR_ID`, `ERR_DUPLICATE_ID`, `ERR_IDS_EXHAUSTED`,
   * `ERR_VALUES_MISSING`, `ERR_NO_VALUES`, `ERR_FULL`, `ERR_OUT_OF_MEMORY`, `ERR_CLOSED`. Nothing is added then.
   */
  addBatch(vectors: Float32Array, options: AddBatchOptions<Kind> = {}): IdArray<Kind> {
    const batch = vectorBatch(vectors, this.dimensions, options);
    const ids = batch.ids && rawIds(this.idKind, batch.ids);
    const values = batch.values && unshared(batch.values);
    const source = unshared(batch.vectors);
    return rethrow(() => this.#native.addBatch(source, ids, values)) as IdArray<Kind>;
  }

  /** {@link KnnIndex.addBatch} beside the event loop. Searches see all of the batch or nothing of it. */
  async addBatchAsync(
    vectors: Float32Array,
    options: AddBatchOptions<Kind> & Abortable = {},
  ): Promise<IdArray<Kind>> {
    const batch = vectorBatch(vectors, this.dimensions, options);
    const added = await this.#changes.make(options.signal, batch, (change, cancel) =>
      change.add(cancel),
    );
    return added as IdArray<Kind>;
  }

  /**
   * Adds a vector, or replaces the one that has its id.
   *
   * @param vector - `[dimensions]`
   * @returns true if a vector was replaced
   * @throws {@link KnnIndexError} as {@link KnnIndex.addBatch}
   */
  upsert(vector: Float32Array, options: UpsertOptions<Kind>): boolean {
    const { id, value } = record(options, 'id');
    row('vector', vector, this.dimensions);
    const batch: UpsertBatchOptions<Kind> = { ids: [id] };
    if (value !== undefined) {
      batch.values = value;
    }
    return this.upsertBatch(vector, batch) === 1;
  }

  /**
   * Adds vectors, and replaces those that have one of the ids.
   *
   * @param vectors - `[n, dimensions]`
   * @returns how many vectors were replaced
   * @throws {@link KnnIndexError} as {@link KnnIndex.addBatch}; `ERR_DUPLICATE_ID` for an id twice in the batch.
   * Nothing has changed then.
   */
  upsertBatch(vectors: Float32Array, options: UpsertBatchOptions<Kind>): number {
    const batch = vectorBatch(vectors, this.dimensions, withIds(options));
    const ids = rawIds(this.idKind, batch.ids ?? []);
    const values = batch.values && unshared(batch.values);
    return rethrow(() => this.#native.upsertBatch(unshared(batch.vectors), ids, values));
  }

  /** {@link KnnIndex.upsertBatch} beside the event loop. Searches see all of the batch or nothing of it. */
  async upsertBatchAsync(
    vectors: Float32Array,
    options: UpsertBatchOptions<Kind> & Abortable,
  ): Promise<number> {
    const batch = vectorBatch(vectors, this.dimensions, withIds(options));
    return await this.#changes.make(options.signal, batch, (change, cancel) =>
      change.upsert(cancel),
    );
  }

  /**
   * Removes a vector. Its memory is used again by the next additions, and given back by {@link KnnIndex.compact}.
   *
   * @returns false if no vector has this id
   * @throws {@link KnnIndexError} `ERR_ID`, `ERR_CLOSED`
   */
  remove(id: Id<Kind>): boolean {
    return this.removeBatch([id]) === 1;
  }

  /**
   * Removes vectors. Ids that are not in the index are passed over.
   *
   * @returns how many vectors were removed
   * @throws {@link KnnIndexError} `ERR_ID`, `ERR_ARRAY_TYPE`, `ERR_OUT_OF_MEMORY`, `ERR_CLOSED`
   */
  removeBatch(ids: ArrayLike<Id<Kind>>): number {
    const raw = rawIds(this.idKind, idList('ids', ids));
    return rethrow(() => this.#native.removeBatch(raw));
  }

  /** {@link KnnIndex.removeBatch} beside the event loop. Searches see all of the removals or none. */
  async removeBatchAsync(ids: ArrayLike<Id<Kind>>, options: Abortable = {}): Promise<number> {
    const batch = { ids: idList('ids', ids) };
    return await this.#changes.make(options.signal, batch, (change, cancel) =>
      change.remove(cancel),
    );
  }

  /** Removes everything. Ids count from 0 again. */
  clear(): void {
    rethrow(() => this.#native.clear());
  }

  /**
   * Gives memory back that removed vectors and room to grow take.
   * @throws {@link KnnIndexError} `ERR_OUT_OF_MEMORY`, `ERR_CLOSED`
   */
  compact(): void {
    rethrow(() => this.#native.compact());
  }

  /** {@link KnnIndex.compact} beside the event loop. */
  async compactAsync(options: Abortable = {}): Promise<void> {
    await this.#changes.make(options.signal, {}, (change, cancel) => change.compact(cancel));
  }

  /**
   * The nearest vectors of one query.
   *
   * @param query - `[dimensions]`
   * @throws {@link KnnIndexError} as {@link KnnIndex.searchBatch}
   */
  search(query: Float32Array, options: SearchOptions<Kind>): Neighbours<Kind> {
    row('query', query, this.dimensions);
    const raw = rawSearchOptions(options);
    // No room for more than there is; the shape of a batch's result is always [n, k].
    raw.k = Math.min(raw.k, Math.max(1, this.size));
    const found = newOutput(this.idKind, 1, raw.k);
    this.#searches.into(query, raw, options.filter, found);
    const count = found.counts[0] as number;
    const ids = count < raw.k ? found.ids.slice(0, count) : found.ids;
    const scores = count < raw.k ? found.scores.slice(0, count) : found.scores;
    return { ids: ids as IdArray<Kind>, scores };
  }

  /**
   * The nearest vectors of each query.
   *
   * @param queries - `[n, dimensions]`
   * @throws {@link KnnIndexError} `ERR_ARRAY_TYPE`, `ERR_DIMENSION_MISMATCH`, `ERR_NOT_FINITE`, `ERR_TOO_LARGE`,
   * `ERR_ZERO_VECTOR`, `ERR_K`, `ERR_EFFORT`, `ERR_RECALL`, `ERR_FILTER`, `ERR_ID`, `ERR_OUTPUT`, `ERR_OUT_OF_MEMORY`,
   * `ERR_CLOSED`
   */
  searchBatch(queries: Float32Array, options: BatchSearchOptions<Kind>): BatchNeighbours<Kind> {
    const count = rows('queries', queries, this.dimensions).length / this.dimensions;
    const raw = rawSearchOptions(options);
    const found =
      options.out === undefined
        ? newOutput(this.idKind, count, raw.k)
        : checkedOutput(this.idKind, options.out, count, raw.k, [queries]);
    this.#searches.into(queries, raw, options.filter, found);
    return found as BatchNeighbours<Kind>;
  }

  /**
   * {@link KnnIndex.searchBatch} beside the event loop, on the index as it is at the call. For a few queries on a small
   * index the synchronous call is quicker. Arrays in `out` are written when the promise settles.
   */
  async searchBatchAsync(
    queries: Float32Array,
    options: AsyncSearchOptions<Kind>,
  ): Promise<BatchNeighbours<Kind>> {
    const count = rows('queries', queries, this.dimensions).length / this.dimensions;
    const { k, exact, effort, recall } = rawSearchOptions(options);
    const { filter, out, signal } = options;
    const into = out && checkedOutput(this.idKind, out, count, k, [queries]);
    const found = await this.#searches.request(signal, queries, filter, (request, cancel) =>
      request.search(k, exact, effort, recall, cancel),
    );
    if (into === undefined) {
      return found as BatchNeighbours<Kind>;
    }
    for (const name of ['ids', 'scores', 'counts'] as const) {
      await moveInTurns(`out.${name}`, found[name], into[name], signal);
    }
    return into as BatchNeighbours<Kind>;
  }

  /**
   * All vectors within a radius of one query, nearest first. Misses none.
   *
   * @param query - `[dimensions]`
   * @throws {@link KnnIndexError} as {@link KnnIndex.searchRadiusBatch}
   */
  searchRadius(query: Float32Array, options: RadiusSearchOptions<Kind>): Neighbours<Kind> {
    row('query', query, this.dimensions);
    const { ids, scores } = this.searchRadiusBatch(query, options);
    return { ids, scores };
  }

  /**
   * All vectors within a radius of each query, nearest first. Misses none.
   *
   * @param queries - `[n, dimensions]`
   * @throws {@link KnnIndexError} `ERR_RADIUS`, and as {@link KnnIndex.searchBatch}
   */
  searchRadiusBatch(queries: Float32Array, options: RadiusSearchOptions<Kind>): BatchRanges<Kind> {
    rows('queries', queries, this.dimensions);
    const { radius, limit } = rawRadiusOptions(options);
    const filter = this.#searches.filter(options.filter);
    const found = rethrow(() =>
      this.#native.searchRadius(
        unshared(queries),
        radius,
        limit,
        filter?.ids,
        filter?.bitset,
        filter?.exclude ?? false,
      ),
    );
    return found as BatchRanges<Kind>;
  }

  /** {@link KnnIndex.searchRadiusBatch} beside the event loop, on the index as it is at the call. */
  async searchRadiusBatchAsync(
    queries: Float32Array,
    options: AsyncRadiusSearchOptions<Kind>,
  ): Promise<BatchRanges<Kind>> {
    rows('queries', queries, this.dimensions);
    const { radius, limit } = rawRadiusOptions(options);
    const { filter, signal } = options;
    const found = await this.#searches.request(signal, queries, filter, (request, cancel) =>
      request.searchRadius(radius, limit, cancel),
    );
    return found as BatchRanges<Kind>;
  }

  /**
   * Soft search: for each query the average of **all** stored values, weighted by the softmax of `scale` times
   * the scores (for `l2`, times the negated squared distances: kernel regression with a Gaussian kernel).
   *
   * @param queries - `[n, dimensions]`
   * @throws {@link KnnIndexError} `ERR_NO_VALUES`, `ERR_SOFT_SEARCH`, and as {@link KnnIndex.searchBatch}
   */
  softSearch(queries: Float32Array, options: SoftSearchOptions = {}): SoftNeighbours {
    rows('queries', queries, this.dimensions);
    const { scale, massTarget } = rawSoftSearchOptions(options);
    return rethrow(() => this.#native.softSearch(unshared(queries), scale, massTarget));
  }

  /** {@link KnnIndex.softSearch} beside the event loop, on the index as it is at the call. */
  async softSearchAsync(
    queries: Float32Array,
    options: AsyncSoftSearchOptions = {},
  ): Promise<SoftNeighbours> {
    rows('queries', queries, this.dimensions);
    const { scale, massTarget } = rawSoftSearchOptions(options);
    return await this.#searches.request(options.signal, queries, undefined, (request, cancel) =>
      request.softSearch(scale, massTarget, cancel),
    );
  }

  /**
   * Measures which share of the true neighbours searches with these options find, against exact searches.
   *
   * @returns 0 to 1; 1 for an empty index
   * @throws {@link KnnIndexError} `ERR_K`, `ERR_EFFORT`, `ERR_RECALL`, `ERR_OPTION`, `ERR_CLOSED`
   */
  measureRecall(options: MeasureRecallOptions): number {
    const { k, effort, recall, sample } = rawMeasureOptions(options);
    return rethrow(() => this.#native.measureRecall(sample, k, effort, recall));
  }

  /** {@link KnnIndex.measureRecall} beside the event loop. */
  async measureRecallAsync(options: AsyncMeasureRecallOptions): Promise<number> {
    const { k, effort, recall, sample } = rawMeasureOptions(options);
    const none = new Float32Array(0);
    return await this.#searches.request(options.signal, none, undefined, (request, cancel) =>
      request.measureRecall(sample, k, effort, recall, cancel),
    );
  }

  /** True when a vector has this id. */
  has(id: Id<Kind>): boolean {
    return isId(this.idKind, id) && rethrow(() => this.#native.has(id));
  }

  /**
   * The vector with this id, as stored: with length 1 under `cosine`, rounded as `storage` says.
   * @throws {@link KnnIndexError} `ERR_ID`, `ERR_UNKNOWN_ID`, `ERR_CLOSED`
   */
  get(id: Id<Kind>): Float32Array {
    return rethrow(() => this.#native.get(checkedId(this.idKind, id)));
  }

  /**
   * The value kept with this id.
   * @throws {@link KnnIndexError} `ERR_ID`, `ERR_UNKNOWN_ID`, `ERR_NO_VALUES`, `ERR_CLOSED`
   */
  value(id: Id<Kind>): Float32Array {
    return rethrow(() => this.#native.value(checkedId(this.idKind, id)));
  }

  /** All ids, ascending. */
  ids(): IdArray<Kind> {
    return rethrow(() => this.#native.ids()) as IdArray<Kind>;
  }

  /**
   * Writes the index to a file that {@link KnnIndex.open} reads, on any machine. It is written under a temporary name
   * in the same folder, synced and renamed: at any moment the name holds the old file or the new one, whole.
   *
   * Saved is what the changes called before leave; changes called later do not wait.
   *
   * @param path - a path or `file:` URL
   * @throws {@link KnnIndexError} `ERR_IO`, `ERR_OUT_OF_MEMORY`, `ERR_CLOSED`
   */
  async save(path: string | URL): Promise<void> {
    const file = pathOf(path);
    const request = await this.#changes.latest();
    await settled(() => request.save(file));
  }

  /** {@link KnnIndex.save} that returns when it is done. */
  saveSync(path: string | URL): void {
    rethrow(() => this.#native.saveSync(pathOf(path)));
  }

  /** What {@link KnnIndex.save} writes, for {@link KnnIndex.fromBuffer}. */
  toBuffer(): Buffer {
    return rethrow(() => this.#native.toBuffer());
  }

  /** {@link KnnIndex.toBuffer} beside the event loop. */
  async toBufferAsync(): Promise<Buffer> {
    const request = await this.#changes.latest();
    return await settled(() => request.toBuffer());
  }

  /**
   * Opens a saved index.
   *
   * @param path - a path or `file:` URL
   * @throws {@link KnnIndexError} `ERR_IO` if it cannot be read, `ERR_NOT_AN_INDEX`, `ERR_FILE_VERSION` if another
   * version wrote it, `ERR_FILE_CORRUPT` if it is damaged, `ERR_ID` if it holds ids that need `ids: 'bigint'`,
   * `ERR_OPTION`, `ERR_OUT_OF_MEMORY`
   */
  static async open<Kind extends IdKind = 'number'>(
    path: string | URL,
    options: OpenFileOptions<Kind> & Abortable = {},
  ): Promise<KnnIndex<Kind>> {
    const { kind, threads } = openOptions(options);
    const { mapped, verify } = fileOptions(options);
    const file = pathOf(path);
    const native = await cancellable(options.signal, (cancel) =>
      settled(() => NativeKnnIndex.open(file, mapped, verify, kind === 'bigint', threads, cancel)),
    );
    return restored(native, kind);
  }

  /** {@link KnnIndex.open} that returns when it is done. */
  static openSync<Kind extends IdKind = 'number'>(
    path: string | URL,
    options: OpenFileOptions<Kind> = {},
  ): KnnIndex<Kind> {
    const { kind, threads } = openOptions(options);
    const { mapped, verify } = fileOptions(options);
    const file = pathOf(path);
    const native = rethrow(() =>
      NativeKnnIndex.openSync(file, mapped, verify, kind === 'bigint', threads),
    );
    return restored(native, kind);
  }

  /**
   * An index from what {@link KnnIndex.toBuffer} gave. The bytes are copied.
   * @throws {@link KnnIndexError} `ERR_ARRAY_TYPE`, and as {@link KnnIndex.open}
   */
  static fromBuffer<Kind extends IdKind = 'number'>(
    buffer: Uint8Array,
    options: OpenOptions<Kind> = {},
  ): KnnIndex<Kind> {
    const { kind, threads } = openOptions(options);
    const source = unshared(bytes('buffer', buffer));
    const native = rethrow(() => NativeKnnIndex.fromBuffer(source, kind === 'bigint', threads));
    return restored(native, kind);
  }

  /** {@link KnnIndex.fromBuffer} beside the event loop. */
  static async fromBufferAsync<Kind extends IdKind = 'number'>(
    buffer: Uint8Array,
    options: OpenOptions<Kind> & Abortable = {},
  ): Promise<KnnIndex<Kind>> {
    const { kind, threads } = openOptions(options);
    const { signal } = options;
    bytes('buffer', buffer);
    const native = await cancellable(signal, async (cancel) => {
      const copy = new NativeBytes(buffer.length);
      await copyInTurns('buffer', buffer, (part) => copy.push(part), signal);
      return await settled(() =>
        NativeKnnIndex.fromBufferAsync(copy, kind === 'bigint', threads, cancel),
      );
    });
    return restored(native, kind);
  }

  /**
   * Frees the native memory at once, or when the work that runs is done. Later calls throw `ERR_CLOSED`;
   * closing again does nothing.
   */
  close(): void {
    rethrow(() => this.#native.close());
  }

  /** Does what {@link close} does, for `using`. */
  [Symbol.dispose](): void {
    this.close();
  }
}

/** An index that was read: what the constructor takes beside options. */
class Restored<Kind extends IdKind> {
  readonly native: NativeKnnIndex;
  readonly kind: Kind;

  constructor(native: NativeKnnIndex, kind: Kind) {
    this.native = native;
    this.kind = kind;
  }
}

function restored<Kind extends IdKind>(native: NativeKnnIndex, kind: Kind): KnnIndex<Kind> {
  return new KnnIndex<Kind>(new Restored(native, kind) as never);
}
