import { flag, integer, number, record, shown } from './checks.ts';
import type { SearchFilter } from './filter.ts';
import type { IdArray, IdKind } from './id.ts';
import { KnnIndexError } from './knn-index-error.ts';
import type { SearchOutput } from './search-output.ts';

/** How to search. */
export interface SearchOptions<Kind extends IdKind = 'number'> {
  /** Neighbours per query, 1 to 16,777,216. If the index holds fewer, all of them are found. */
  k: number;
  /** Misses no neighbour. Default: false. Overrides `effort` and `recall`. */
  exact?: boolean;
  /**
   * Share of what the algorithm could read for each query, above 0, at most 1: of the clusters (`cluster`), or of the
   * vectors (`graph`, `dci`); `exact` reads all, but below 1 it may miss one neighbour in some thousands. More finds more
   * and takes longer. Overrides `recall`.
   */
  effort?: number;
  /**
   * Share of the true neighbours to find on average, above 0, at most 1. Default: 0.95. The index finds the effort that
   * reaches it by searching a sample of queries exactly, and measures again after it has changed by a fifth.
   */
  recall?: number;
  /** Which vectors may be found. Default: all. */
  filter?: SearchFilter<Kind>;
}

/** How to search for several queries. */
export interface BatchSearchOptions<Kind extends IdKind = 'number'> extends SearchOptions<Kind> {
  /** Takes the neighbours instead of new arrays; the result consists of these very arrays. */
  out?: SearchOutput<Kind>;
}

/** How to search without blocking the event loop. */
export interface AsyncSearchOptions<Kind extends IdKind = 'number'>
  extends BatchSearchOptions<Kind> {
  /** Stops queued and running work; the promise rejects with the signal's reason. */
  signal?: AbortSignal;
}

/** The neighbours of one query, nearest first. */
export interface Neighbours<Kind extends IdKind = 'number'> {
  /** Ids, as many as were found: `k`, or all that there are (that pass the filter) if they are fewer. */
  ids: IdArray<Kind>;
  /** The score of each, see {@link KnnIndexOptions.metric}. */
  scores: Float32Array;
}

/** The neighbours of several queries, nearest first. */
export interface BatchNeighbours<Kind extends IdKind = 'number'> {
  /** Ids, `[n, k]`. Places past a query's count hold −1, or 2⁶⁴ − 1 if ids are bigints. */
  ids: IdArray<Kind>;
  /** Scores, `[n, k]`, see {@link KnnIndexOptions.metric}. Places past a query's count hold NaN. */
  scores: Float32Array;
  /** Neighbours found for each query, `[n]`: `k`, or all that there are (that pass the filter) if they are fewer. */
  counts: Uint32Array;
}

/** What to find within a radius. */
export interface RadiusSearchOptions<Kind extends IdKind = 'number'> {
  /**
   * The score to reach: found are vectors with at least this inner product or cosine, or for `l2` with at most this
   * **squared** distance.
   */
  radius: number;
  /** Finds only that many of the nearest per query, 1 to 16,777,216. Default: all. */
  limit?: number;
  /** Which vectors may be found. Default: all. */
  filter?: SearchFilter<Kind>;
}

/** What to find within a radius without blocking the event loop. */
export interface AsyncRadiusSearchOptions<Kind extends IdKind = 'number'>
  extends RadiusSearchOptions<Kind> {
  /** Stops queued and running work; the promise rejects with the signal's reason. */
  signal?: AbortSignal;
}

/** The vectors within a radius of several queries. */
export interface BatchRanges<Kind extends IdKind = 'number'> {
  /** Ids, those of each query nearest first, one query after another. */
  ids: IdArray<Kind>;
  /** The score of each, see {@link KnnIndexOptions.metric}. */
  scores: Float32Array;
  /** `[n + 1]`: what was found for query i lies at `offsets[i]` to `offsets[i + 1]`. */
  offsets: Float64Array;
}

/** What a soft search weighs and reads. */
export interface SoftSearchOptions {
  /** Factor of every score before the softmax, above 0. Default: 1. */
  scale?: number;
  /**
   * Share of the softmax's mass to compute exactly, above 0, at most 1 (default), by estimate. Below 1 a clustered
   * index reads clusters until the others are estimated to hold less than the rest; those stand in by their mean
   * vectors and mean values. `l2` always reads everything.
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

/** What to measure. */
export interface MeasureRecallOptions {
  /** Neighbours per query, 1 to 16,777,216. */
  k: number;
  /** Queries to measure with, 1 to 65,536: the latest that were asked, or stored vectors if there are not enough. Default: 64. */
  sample?: number;
  /** As in {@link SearchOptions.effort}. */
  effort?: number;
  /** As in {@link SearchOptions.recall}. */
  recall?: number;
}

/** How to measure without blocking the event loop. */
export interface AsyncMeasureRecallOptions extends MeasureRecallOptions {
  /** Stops the work; the promise rejects with the signal's reason. */
  signal?: AbortSignal;
}

/** {@link SearchOptions} as the native side takes them. */
export interface RawSearchOptions {
  k: number;
  exact: boolean;
  effort: number | undefined;
  recall: number | undefined;
}

const MAX_K = 16_777_216;

/** @throws {@link KnnIndexError} `ERR_OPTION`, `ERR_K`, `ERR_EFFORT`, `ERR_RECALL` */
export function rawSearchOptions(options: Omit<SearchOptions, 'filter'>): RawSearchOptions {
  const { k, exact = false, effort, recall } = record(options, 'k');
  const share = (name: string, value: unknown, code: string) =>
    value === undefined ? undefined : number(name, value, code, 'above 0 and at most 1');
  return {
    k: neighbours('k', k),
    exact: flag('exact', exact),
    effort: share('effort', effort, 'ERR_EFFORT'),
    recall: share('recall', recall, 'ERR_RECALL'),
  };
}

/** @throws {@link KnnIndexError} `ERR_OPTION`, `ERR_RADIUS`, `ERR_K` */
export function rawRadiusOptions(options: Omit<RadiusSearchOptions, 'filter'>): {
  radius: number;
  limit: number | undefined;
} {
  const { radius, limit } = record(options, 'radius');
  return {
    radius: number('radius', radius, 'ERR_RADIUS'),
    limit: limit === undefined ? undefined : neighbours('limit', limit),
  };
}

/** @throws {@link KnnIndexError} `ERR_OPTION`, `ERR_SOFT_SEARCH` */
export function rawSoftSearchOptions(options: SoftSearchOptions): {
  scale: number;
  massTarget: number;
} {
  const { scale = 1, massTarget = 1 } = record(options, 'scale');
  return {
    scale: number('scale', scale, 'ERR_SOFT_SEARCH'),
    massTarget: number('massTarget', massTarget, 'ERR_SOFT_SEARCH'),
  };
}

/** @throws {@link KnnIndexError} `ERR_OPTION`, `ERR_K`, `ERR_EFFORT`, `ERR_RECALL` */
export function rawMeasureOptions(
  options: MeasureRecallOptions,
): RawSearchOptions & { sample: number } {
  const raw = rawSearchOptions(options);
  return { ...raw, sample: integer('sample', options.sample ?? 64, 1, 65_536) };
}

function neighbours(name: string, value: unknown): number {
  if (!Number.isInteger(value) || (value as number) < 1 || (value as number) > MAX_K) {
    throw new KnnIndexError(
      'ERR_K',
      `${name} is ${shown(value)}, it must be a whole number between 1 and ${MAX_K}`,
      { [name]: value, max: MAX_K },
    );
  }
  return value as number;
}
