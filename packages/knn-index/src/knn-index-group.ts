import { integer } from './checks.ts';
import { asKnnIndexError, KnnIndexError, rethrow } from './knn-index-error.ts';
import { ALGORITHMS, type Algorithm } from './knn-index-options.ts';
import { NativeKnnIndexGroup, estimateGroupBytes as nativeEstimate } from './native.ts';
import { checkOwnMemory } from './search-output.ts';

/**
 * How the numbers of keys and values are stored: four bytes each, two (8 significant bits), or one (`i8`: steps of
 * 1/127 of the vector's largest number, and four bytes a vector for the length of the step).
 */
export type GroupStorage = 'f32' | 'bf16' | 'i8';

/** The shape of a {@link KnnIndexGroup}. */
export interface KnnIndexGroupOptions {
  /** Number of independent indexes (lanes), for example one per attention head. */
  count: number;
  /** Numbers per key, 1 to 1024. */
  dimensions: number;
  /** Numbers per value, 1 to 1024. Default: `dimensions`. */
  valueDimensions?: number;
  /** Default: `f32`. */
  storage?: GroupStorage;
  /** Threads that work on one call, the calling one included. Default: all that the process may use. */
  threads?: number;
}

/** How one lane of a group is searched. */
export type LaneStrategy =
  | {
      /** Every visible vector. */
      kind: 'exact';
    }
  | {
      /** Settled tiles of 16 vectors by estimated mass. */
      kind: 'selected';
      /** Share of the softmax's mass to keep, above 0, at most 1. */
      massTarget: number;
      /**
       * Above 0, at most 1: goes before the target. A block of queries reads the tiles that hold at least this share of its
       * mass, few queries (a step of decoding) those that do for any of them. Default: 0, the target decides.
       */
      leastMass?: number;
      /** Settled tiles that a block of queries reads at least. Default: 0. */
      leastTiles?: number;
      /** Settled tiles that a block of queries reads at most; goes before the mass target. Default: no limit. */
      mostTiles?: number;
    }
  | {
      /** The first and the latest visible vectors; the lane must not have settled. */
      kind: 'window';
      /** First vectors. */
      sinks: number;
      /** Latest vectors, at least 1. */
      recent: number;
    }
  | {
      /** Nothing: the output is zero, `lse` minus infinity. */
      kind: 'skip';
    }
  | {
      /**
       * The k visible vectors of largest score of each query, sought in an index of the lane's keys that is kept
       * beside them from the first such search on; the lane must not have settled.
       */
      kind: 'top-k';
      /** Vectors per query, at least 1. */
      k: number;
      /** How they are found, see `KnnIndexOptions.algorithm`. */
      algorithm: Algorithm;
      /** Share of the k largest that are found on average, above 0, at most 1. Default: 0.95; 1 is exact. */
      recall?: number;
      /** Share of what the algorithm could read, above 0, at most 1. Overrides `recall`. */
      effort?: number;
    };

/** What a soft search asks for. */
export interface SoftSearchQuery {
  /** Number of queries n. */
  queries: number;
  /** Vectors visible to the first query, by order of insertion. */
  visible: number;
  /** Factor of every score before the softmax. Default: 1 / sqrt(dimensions), as in attention. */
  scale?: number;
  /** If true, query i sees i vectors more than the first one. Default: false. */
  causal?: boolean;
  /** A query sees only this many of the latest vectors visible to it. Default: all. */
  window?: number;
  /** Share of the softmax's mass to keep, above 0, at most 1, when settled vectors are selected. Default: every vector is read. */
  massTarget?: number;
  /** `[count]`: how each lane is searched, instead of `massTarget`. An array that is passed again must not have changed. */
  strategies?: readonly LaneStrategy[];
  /**
   * `[n, 2]`: first and after-last vector that each query sees, instead of what `visible`, `causal` and `window` say.
   * Neither may fall from one query to the next; where they are equal the query sees nothing: its output is zero, its
   * `lse` minus infinity.
   */
  sights?: Uint32Array;
  /** True: what this search selects is remembered until the next one that is, for {@link reuse}. Default: false. */
  remember?: boolean;
  /**
   * Reads what a search selected before, in this group or in one that settled in the same order (see
   * {@link KnnIndexGroup.settleLike}), and the tiles that have come since, instead of selecting. Lanes in which more has settled since, and
   * queries that it did not have, select for themselves.
   */
  reuse?: {
    /** The group that remembers. */
    from: KnnIndexGroup;
    /** Numbers of the lanes that reuse. */
    lanes: readonly number[];
  };
  /** Takes the natural logarithm of the sum of exponentials, `[n, count * group]`. */
  lse?: Float32Array;
  /** Takes a report for each lane, `[count, 4]`: `rows`, `retainedMass` (NaN where not known), `tilesRead`, `tilesVisible`. */
  laneReports?: Float64Array;
}

/** How {@link KnnIndexGroup.appendAndSearch} searches. */
export interface CausalSearch extends Pick<SoftSearchQuery, 'scale' | 'window'> {
  /** `[count]`: how each lane is searched. An array that is passed again must not have changed. */
  strategies: readonly LaneStrategy[];
  /** Takes a report for each lane, `[count, 4]`, see {@link SoftSearchQuery.laneReports}. */
  laneReports: Float64Array;
}

/** What a soft search read and kept, summed over query rows. */
export interface SoftSearchReport {
  /** Query rows searched: n times count times group. */
  rows: number;
  /**
   * Sum over rows of the share of mass that was computed exactly; the rest was estimated. NaN where it is not known:
   * after `window` or `top-k` left something out, and `skip`.
   */
  retainedMass: number;
  /** Sum over rows of tiles (16 vectors) computed exactly. */
  tilesRead: number;
  /** Sum over rows of tiles that could be seen. */
  tilesVisible: number;
}

/**
 * Independent indexes of one shape that grow and are searched together in one call.
 *
 * Soft search gives, per query, the average of all stored values weighted by the softmax of the scores of their
 * keys: attention is this search. Vectors are numbered by insertion and searches see them as of a number.
 *
 * All calls are synchronous and use the native thread pool inside: meant for worker threads.
 *
 * @example
 * ```ts
 * import { KnnIndexGroup } from '@iceformer/knn-index';
 *
 * const group = new KnnIndexGroup({ count: 1, dimensions: 2 });
 * group.append(new Float32Array([10, 0, 0, 10]), new Float32Array([1, 2, 3, 4]));
 * const output = new Float32Array(2);
 * group.softSearch(new Float32Array([100, 0]), output, { queries: 1, visible: 2 });
 * console.log(output); // the value of the first key
 * group.close();
 * ```
 */
export class KnnIndexGroup {
  readonly count: number;
  readonly dimensions: number;
  readonly valueDimensions: number;
  readonly #native: NativeKnnIndexGroup;
  /** What the native side was last told about its lanes. */
  #strategies: readonly LaneStrategy[] | undefined;
  /** What {@link entry} gave last. */
  #entry: { search: object; address: bigint } | undefined;

  /** @throws {@link KnnIndexError} `ERR_GROUP_SHAPE` if a number is out of range. */
  constructor(options: KnnIndexGroupOptions) {
    const full = complete(options);
    this.count = full.count;
    this.dimensions = full.dimensions;
    this.valueDimensions = full.valueDimensions;
    this.#native = rethrow(() => new NativeKnnIndexGroup(full));
  }

  /** Vectors per lane. */
  get length(): number {
    return rethrow(() => this.#native.length);
  }

  /** Vectors of the first lane before this number have settled (except the first `sinks`); 0 if none have. */
  get settled(): number {
    return rethrow(() => this.#native.settled);
  }

  /** Native bytes allocated. */
  get bytes(): number {
    return rethrow(() => this.#native.bytes);
  }

  /**
   * Makes room for `vectors` vectors per lane in all.
   * @throws {@link KnnIndexError} `ERR_OUT_OF_MEMORY`, nothing is lost then; `ERR_OPTION` for what is no count
   */
  reserve(vectors: number): void {
    count('vectors', vectors);
    rethrow(() => this.#native.reserve(vectors));
  }

  /**
   * Appends n vectors to every lane.
   * @param keys - `[n, count, dimensions]`
   * @param values - `[n, count, valueDimensions]`
   * @throws {@link KnnIndexError} `ERR_DIMENSION_MISMATCH`, `ERR_COUNT_MISMATCH`, `ERR_NOT_FINITE`, `ERR_TOO_LARGE`, `ERR_OUT_OF_MEMORY`; nothing is appended then.
   */
  append(keys: Float32Array, values: Float32Array): void {
    checkArray('keys', keys);
    checkArray('values', values);
    rethrow(() => this.#native.append(keys, values));
  }

  /**
   * Rearranges vectors before number `end` so that near keys share tiles, from which a search with a
   * `massTarget` selects. The first `sinks` vectors always stay as they are. Both are multiples of 16.
   * @param lanes - numbers of the lanes that settle. Default: all.
   * @throws {@link KnnIndexError} `ERR_SETTLE_RANGE`, `ERR_LANE`, `ERR_OUT_OF_MEMORY`, `ERR_OPTION`
   */
  settle(sinks: number, end: number, lanes?: readonly number[]): void {
    count('sinks', sinks);
    count('end', end);
    const chosen = lanes ?? Array.from({ length: this.count }, (_, lane) => lane);
    rethrow(() => this.#native.settle([...chosen], sinks, end));
  }

  /**
   * Settles vectors as those of the same lanes of another group have settled, in the same order, whatever their keys:
   * tiles then hold vectors of the same numbers, and what is selected in one group can be read in the other
   * ({@link SoftSearchQuery.reuse}). These lanes must settle in no other way.
   * @throws {@link KnnIndexError} `ERR_SETTLE_RANGE`, `ERR_LANE`, `ERR_OUT_OF_MEMORY`
   */
  settleLike(source: KnnIndexGroup, lanes: readonly number[]): void {
    // One object cannot be read and changed at once.
    if (source !== this) {
      rethrow(() => this.#native.settleLike(source.#native, [...lanes]));
    }
  }

  /** Vectors of a lane before this number have settled (except the first `sinks`); 0 if none have. */
  settledLane(lane: number): number {
    return rethrow(() => this.#native.settledLane(lane));
  }

  /**
   * Numbers of the vectors of a lane that have settled, in the order in which they stand: each sixteen share a tile, and
   * are read together or stand in together by their mean. What lies before and behind them stands in order of insertion.
   */
  settledOrder(lane: number): Uint32Array {
    return rethrow(() => this.#native.settledOrder(lane));
  }

  /**
   * Forgets vectors from number `length` on.
   * @throws {@link KnnIndexError} `ERR_OPTION` for what is no count
   */
  truncate(length: number): void {
    count('length', length);
    rethrow(() => this.#native.truncate(length));
  }

  /**
   * Soft search of all lanes.
   * @param queries - `[n, count * group, dimensions]`: rows `lane * group` to `lane * group + group - 1` of a query search `lane`.
   * @param output - takes `[n, count * group, valueDimensions]`
   * @throws {@link KnnIndexError} `ERR_DIMENSION_MISMATCH`, `ERR_COUNT_MISMATCH`, `ERR_NOT_FINITE`, `ERR_VISIBLE`, `ERR_SETTLED_IN_PART`, `ERR_SOFT_SEARCH`, `ERR_TOO_LARGE`,
   *   `ERR_OUTPUT` where results would be written to memory that another argument or thread uses
   */
  softSearch(
    queries: Float32Array,
    output: Float32Array,
    query: SoftSearchQuery,
  ): SoftSearchReport {
    checkArray('queries', queries);
    checkArray('output', output);
    if (query.lse !== undefined) {
      checkArray('lse', query.lse);
    }
    const { strategies, sights, laneReports } = query;
    if (sights !== undefined && !(sights instanceof Uint32Array)) {
      throw new KnnIndexError('ERR_ARRAY_TYPE', 'sights must be a Uint32Array', { name: 'sights' });
    }
    if (laneReports !== undefined) checkReports(laneReports);
    const seen: ArrayBufferView[] = sights === undefined ? [queries] : [queries, sights];
    for (const [what, array] of Object.entries({ output, lse: query.lse, laneReports })) {
      if (array !== undefined) {
        checkOwnMemory(what, array, seen);
        seen.push(array);
      }
    }
    if (strategies !== undefined) this.#setStrategies(strategies);
    const native = {
      queries: query.queries,
      visible: query.visible,
      scale: query.scale ?? 1 / Math.sqrt(this.dimensions),
      causal: query.causal ?? false,
      ...(query.window === undefined ? {} : { window: query.window }),
      ...(query.massTarget === undefined ? {} : { massTarget: query.massTarget }),
      byLane: strategies !== undefined,
      remember: query.remember ?? false,
      reusing: query.reuse === undefined ? [] : [...query.reuse.lanes],
    };
    const reused = query.reuse === undefined ? undefined : query.reuse.from.#native;
    return rethrow(() =>
      this.#native.softSearch(queries, output, native, query.lse, sights, laneReports, reused),
    );
  }

  /**
   * {@link append} and a causal {@link softSearch} in one call: n vectors are appended, and each of n queries sees the
   * vectors before those and, of those, the ones up to its own. For callers that add little at a time, to whom the
   * calls themselves are dear.
   * @param keys - `[n, count, dimensions]`
   * @param values - `[n, count, valueDimensions]`
   * @param queries - `[n, count * group, dimensions]`
   * @param output - takes `[n, count * group, valueDimensions]`
   * @throws {@link KnnIndexError} as {@link append} and {@link softSearch}; nothing is appended then
   */
  appendAndSearch(
    keys: Float32Array,
    values: Float32Array,
    queries: Float32Array,
    output: Float32Array,
    search: CausalSearch,
  ): void {
    checkArray('keys', keys);
    checkArray('values', values);
    checkArray('queries', queries);
    checkArray('output', output);
    const { strategies, laneReports, scale = 1 / Math.sqrt(this.dimensions), window } = search;
    checkReports(laneReports);
    checkOwnMemory('output', output, [keys, values, queries]);
    checkOwnMemory('laneReports', laneReports, [keys, values, queries, output]);
    this.#setStrategies(strategies);
    try {
      this.#native.appendAndSearch(keys, values, queries, output, laneReports, scale, window);
    } catch (error) {
      throw asKnnIndexError(error);
    }
  }

  /**
   * The address of an entry through which another native addon of this process does what {@link appendAndSearch} does:
   * a decoder that takes a token through all layers in one call. It is valid until the group is asked for another
   * one, searched in another way or closed.
   * @throws {@link KnnIndexError} as {@link appendAndSearch} for what `search` says
   */
  entry(search: Omit<CausalSearch, 'laneReports'>): bigint {
    this.#setStrategies(search.strategies);
    if (this.#entry?.search !== search) {
      const { scale = 1 / Math.sqrt(this.dimensions), window } = search;
      this.#entry = { search, address: rethrow(() => this.#native.entry(scale, window)) };
    }
    return this.#entry.address;
  }

  /** Says how the lanes are searched, unless that was the last thing said. */
  #setStrategies(strategies: readonly LaneStrategy[]): void {
    if (strategies !== this.#strategies) {
      rethrow(() => this.#native.setStrategies(strategies.map(nativeStrategy)));
      this.#strategies = strategies;
    }
  }

  /** Frees the native memory at once. Later calls throw `ERR_CLOSED`; closing again does nothing. */
  close(): void {
    this.#entry = undefined;
    this.#native.close();
  }

  /** Does what {@link close} does, for `using`. */
  [Symbol.dispose](): void {
    this.close();
  }
}

/** Native bytes that a group needs for `vectors` vectors per lane. */
export function estimateGroupBytes(options: KnnIndexGroupOptions, vectors: number): number {
  return nativeEstimate(complete(options), vectors);
}

const KINDS: readonly LaneStrategy['kind'][] = ['exact', 'selected', 'window', 'skip', 'top-k'];

/** A strategy with every number that the native side takes. */
function nativeStrategy(strategy: LaneStrategy) {
  const { kind } = strategy;
  if (!KINDS.includes(kind) || (kind === 'top-k' && !ALGORITHMS.includes(strategy.algorithm))) {
    const message = `there is no way to search a lane like ${JSON.stringify(strategy)}`;
    throw new KnnIndexError('ERR_OPTION', message, { strategy });
  }
  const selected = { massTarget: 1, leastMass: 0, leastTiles: 0, mostTiles: 2 ** 32 - 1 };
  const topK = { k: 1, algorithm: 'auto' as Algorithm, recall: 0.95 };
  return { ...selected, sinks: 0, recent: 1, ...topK, ...strategy };
}

function complete(options: KnnIndexGroupOptions): Required<KnnIndexGroupOptions> {
  return {
    count: options.count,
    dimensions: options.dimensions,
    valueDimensions: options.valueDimensions ?? options.dimensions,
    storage: options.storage ?? 'f32',
    threads: options.threads ?? 0,
  };
}

function checkReports(array: unknown): void {
  if (!(array instanceof Float64Array)) {
    const details = { name: 'laneReports' };
    throw new KnnIndexError('ERR_ARRAY_TYPE', 'laneReports must be a Float64Array', details);
  }
}

function checkArray(name: string, array: unknown): void {
  if (!(array instanceof Float32Array)) {
    throw new KnnIndexError('ERR_ARRAY_TYPE', `${name} must be a Float32Array`, { name });
  }
}

/** Other numbers would reach the native side as some 32-bit number. */
function count(name: string, value: number): void {
  integer(name, value, 0, 2 ** 32 - 1);
}
