import {
  type CausalSearch,
  KnnIndexError,
  KnnIndexGroup,
  type KnnIndexGroupOptions,
  type LaneStrategy,
  type SoftSearchQuery,
} from '@iceformer/knn-index';
import { HeadTally, type LayerReport, retainedMassOf, tilesReadOf } from './attention-report.ts';
import { KeptKeys } from './kept-keys.ts';
import { headPlans, type LayerPlan, skipsAll } from './plan.ts';
import type { HeadPlan, SelectedStrategy } from './strategy.ts';

/** Queries against one layer, and what they see. */
export interface LayerQuery {
  /** `[n, heads, headDim]` */
  q: Float32Array;
  /** Takes `[n, heads, valueDim]`. */
  out: Float32Array;
  /** Takes `[n, heads]`, if asked for. */
  lse: Float32Array | undefined;
  n: number;
  /** Position of the first query; the others follow it. `null`: queries have no positions, each sees every key. */
  position: number | null;
  /** True if a query sees no later position than its own. */
  causal: boolean;
  /** So many of the last queries read every key where heads select. */
  exactQueries: number;
}

/** Heads that settle their keys alike. */
interface SettlingHeads {
  readonly plan: SelectedStrategy;
  readonly heads: number[];
  /** End of what has settled, if that was looked up since it changed. */
  settled?: number | undefined;
}

/** A step of decoding selects from so many times the tokens on that a prompt does. */
const STEP_FACTOR = 6;

/** The end of a prompt, of which fewer queries than this select, does so from so many times the tokens on. */
const FEW_SELECTING = 128;
const FEW_FACTOR = 2;

/** Queries of one call that attend before what has become older settles for those that follow. */
const SETTLING_QUERIES = 512;

/** Numbers per head in a group's reports. */
export const REPORT = 4;

/** The keys and values of one layer's tokens, and how its heads attend to them. */
export class AttentionLayer {
  readonly #plan: LayerPlan;
  readonly #heads: HeadPlan[];
  readonly #scale: number;
  /** Positions that a query sees at most, its own included; `null` for all. */
  readonly #window: number | null;
  readonly #index: KnnIndexGroup;
  /** `[kvHeads]`: as planned, and where no head selects. */
  readonly #planned: LaneStrategy[];
  readonly #exact: LaneStrategy[];
  readonly #settling: SettlingHeads[];
  /** The layer whose selection some heads read again, and the heads. */
  readonly #source: AttentionLayer | undefined;
  readonly #reusing: number[];
  /** Heads that read the same tiles for some steps, and for how many at most. */
  readonly #repeating: number[];
  readonly #reuseSteps: number;
  /** Steps that may still read what was selected. */
  #stepsLeft = 0;
  /** True if a later layer reads what this one selects. */
  #isSource = false;
  /** True if no head attends: then nothing is stored. */
  readonly skipped: boolean;
  /** True if the index knows the sinks of all heads that settle. */
  #rooted = false;
  readonly #kept = new KeptKeys();
  readonly #tallies: HeadTally[];
  /** `[kvHeads, 4]`: what one search reports. */
  readonly #reports: Float64Array;
  /** How tokens are searched that are appended and attend in one call. */
  readonly #plannedSearch: CausalSearch;
  readonly #exactSearch: CausalSearch;

  constructor(
    plan: LayerPlan,
    window: number | null,
    scale: number,
    group: KnnIndexGroupOptions,
    source?: AttentionLayer,
  ) {
    this.#plan = plan;
    this.#window = window;
    this.#scale = scale;
    this.#heads = headPlans(plan, group.count);
    this.#index = new KnnIndexGroup(group);
    // Within a window that the model has anyway nothing settles, so there selecting heads read all of it.
    this.#planned = this.#heads.map((head, i) =>
      // What a source has not selected, it selects as the source would.
      laneStrategy(
        head.strategy === 'reuse' ? ((source as AttentionLayer).#heads[i] ?? head) : head,
      ),
    );
    this.#exact = this.#planned.map((lane) =>
      lane.kind === 'selected' ? { kind: 'exact' } : lane,
    );
    this.#settling = window === null ? settlingHeads(this.#heads) : [];
    const headsWhere = (is: (head: HeadPlan) => boolean) =>
      window === null ? this.#heads.flatMap((head, i) => (is(head) ? [i] : [])) : [];
    this.#reusing = headsWhere((head) => head.strategy === 'reuse');
    this.#source = source;
    if (source !== undefined) source.#isSource = true;
    const steps = (head: HeadPlan) => (head.strategy === 'selected' ? (head.reuseSteps ?? 1) : 1);
    this.#reuseSteps = Math.min(...this.#heads.map(steps).filter((count) => count > 1), Infinity);
    if (this.#reuseSteps === Infinity) this.#reuseSteps = 1;
    this.#repeating = headsWhere((head) => steps(head) > 1);
    this.skipped = skipsAll(plan, group.count);
    this.#tallies = this.#heads.map(() => new HeadTally());
    this.#reports = new Float64Array(REPORT * group.count);
    const causal = (strategies: LaneStrategy[]): CausalSearch => ({
      strategies,
      laneReports: this.#reports,
      scale,
      ...(window === null ? {} : { window }),
    });
    this.#plannedSearch = causal(this.#planned);
    this.#exactSearch = causal(this.#exact);
  }

  /** Positions so far, masked ones included. */
  get length(): number {
    return this.#kept.positions;
  }

  /** Native bytes of keys, values and summaries. */
  get bytes(): number {
    return this.#index.bytes;
  }

  get tallies(): readonly HeadTally[] {
    return this.#tallies;
  }

  reserve(tokens: number): void {
    if (!this.skipped) this.#index.reserve(tokens);
  }

  /**
   * Appends the keys and values of n positions, `[n, kvHeads, headDim]` and `[n, kvHeads, valueDim]`; those whose
   * `mask`, `[n]`, is 0 are left out.
   */
  append(k: Float32Array, v: Float32Array, n: number, mask: Uint8Array | undefined): void {
    if (!this.skipped) {
      this.#index.append(keptRows(k, n, mask), keptRows(v, n, mask));
    }
    this.#kept.append(n, mask);
  }

  /**
   * Settles keys before `position` that are older than what the plan calls recent, once they fill a batch: where `n`
   * queries at once, of which the last `exactQueries` read every key, select; fewer keys than that takes are read whole.
   */
  settle(position: number, n: number, exactQueries = 0): void {
    const before = this.#kept.before(position);
    this.#rooted = true;
    for (const group of this.#settling) {
      const { plan, heads } = group;
      group.settled = undefined;
      const settledSoFar = this.#index.settledLane(heads[0] as number);
      // What reads every key needs no order: a batch would be settled for nothing.
      if (before < exactUntil(plan, n, exactQueries)) {
        if (settledSoFar === 0) this.#rooted = false;
        continue;
      }
      if (settledSoFar === 0 && this.#index.length >= plan.sinks) {
        // Says which tokens are sinks: what lies behind them is selected from even before it settles.
        this.#index.settle(plan.sinks, plan.sinks, heads);
      }
      if (this.#index.length < plan.sinks) this.#rooted = false;
      const settled = Math.max(settledSoFar, plan.sinks);
      const batches = Math.floor((before - plan.recent - settled) / plan.batch);
      for (let batch = 1; batch <= batches; batch++) {
        this.#index.settle(plan.sinks, settled + batch * plan.batch, heads);
      }
    }
    if (this.#source !== undefined) this.#index.settleLike(this.#source.#index, this.#reusing);
  }

  /**
   * True if {@link appendAndAttend} does what {@link append}, {@link settle} and {@link attend} do for n tokens without
   * padding: all heads are searched alike for all of them, and nothing is to settle or to be remembered on the way.
   */
  takesAtOnce(n: number, exactQueries: number): boolean {
    if (this.skipped) return true;
    if (this.#kept.masked || this.#source !== undefined || this.#isSource) {
      return false;
    }
    if (this.#settling.length === 0) return true;
    const alike =
      exactQueries >= n ||
      (n <= SETTLING_QUERIES &&
        (exactQueries === 0 || this.#readsAll(this.length, n, exactQueries)));
    return (
      alike && this.#repeating.length === 0 && !this.#hasToSettle(this.length, n, exactQueries)
    );
  }

  /**
   * Appends keys and values and lets as many queries attend, each up to its own, in one native call.
   * @param k - `[n, kvHeads, headDim]`
   * @param v - `[n, kvHeads, valueDim]`
   * @param exactQueries - so many of the last queries read every key, also where heads select
   */
  appendAndAttend(
    k: Float32Array,
    v: Float32Array,
    q: Float32Array,
    out: Float32Array,
    n: number,
    exactQueries: number,
  ): void {
    if (this.skipped) {
      out.fill(0);
      this.skip(n);
      return;
    }
    this.#index.appendAndSearch(k, v, q, out, this.#searchFor(n, exactQueries));
    this.#kept.append(n, undefined);
    this.#tally(this.#reports, 0);
  }

  /** The address of what a native decoder calls to do the same, 0 if nothing attends. */
  entry(exact: boolean): bigint {
    if (this.skipped) return 0n;
    return this.#index.entry(this.#searchFor(1, exact ? 1 : 0));
  }

  /** How n more tokens are searched, of which the last `exactQueries` read every key. */
  #searchFor(n: number, exactQueries: number): CausalSearch {
    return this.#readsAll(this.length, n, exactQueries) ? this.#exactSearch : this.#plannedSearch;
  }

  /** Takes note of n tokens that a native decoder appended. */
  entered(n: number): void {
    if (this.skipped) this.skip(n);
    else this.#kept.append(n, undefined);
  }

  /** Takes note of n tokens, the queries of which skip the layer. */
  skip(n: number): void {
    this.#kept.append(n, undefined);
    this.#tallySkipped(n, true);
  }

  /** Takes note of what native searches reported: `[kvHeads, 4]` of `reports` from `at` on. */
  reported(reports: Float64Array, at: number): void {
    this.#tally(reports, at);
  }

  /** True if {@link takesAtOnce} says so for any number of tokens until the layer is used otherwise. */
  get steady(): boolean {
    return this.#settling.length === 0 && this.takesAtOnce(1, 0);
  }

  /** True if {@link settle} would do something once n more positions are there. */
  #hasToSettle(position: number, n: number, exactQueries: number): boolean {
    for (const group of this.#settling) {
      const { plan, heads } = group;
      if (position < exactUntil(plan, n, exactQueries)) continue;
      group.settled ??= this.#index.settledLane(heads[0] as number);
      const settled = group.settled;
      if (settled === 0 && !this.#rooted && position + n >= plan.sinks) return true;
      if (position - plan.recent - Math.max(settled, plan.sinks) >= plan.batch) return true;
    }
    return false;
  }

  /**
   * True if heads that select read every key for each of n queries behind `length` tokens: these are asked for, or for some
   * head the tokens are too few.
   */
  #readsAll(length: number, n: number, exactQueries: number): boolean {
    if (this.#settling.length === 0) return false;
    if (exactQueries >= n) return true;
    return this.#settling.some(({ plan }) => length < exactUntil(plan, n, exactQueries));
  }

  /**
   * Lets the last n positions, whose keys and values are there, attend as the plan says. Causal queries do so in steps,
   * between which keys settle: all of them at once would find only what had settled before the first.
   */
  settleAndAttend(query: LayerQuery & { position: number }): void {
    const { n, position, causal, exactQueries } = query;
    const step = causal && this.#settlesBetween ? SETTLING_QUERIES : n;
    const tallied = this.#tallies.map((tally) => tally.copy());
    try {
      for (let from = 0; from < n; from += step) {
        const to = Math.min(n, from + step);
        const exact = Math.min(to - from, Math.max(0, exactQueries - (n - to)));
        this.settle(causal ? position + from : this.length, to - from, exact);
        this.#attendRows(query, from, to, exact);
      }
    } catch (error) {
      // What searches before the one that failed have read is not part of any result.
      this.#tallies.splice(0, tallied.length, ...tallied);
      throw error;
    }
  }

  /** True if heads settle keys and no layer reads again what another selected for a whole call. */
  get #settlesBetween(): boolean {
    return this.#settling.length > 0 && this.#source === undefined && !this.#isSource;
  }

  /** Attends as the plan says. */
  attend(query: LayerQuery): void {
    this.#attendRows(query, 0, query.n, query.exactQueries);
  }

  /** Lets queries `from` to `to` attend, of which the last `exactQueries` read every key. */
  #attendRows(query: LayerQuery, from: number, to: number, exactQueries: number): void {
    const { out, lse, position, causal } = query;
    const n = to - from;
    if (this.skipped) {
      out.fill(0);
      lse?.fill(Number.NEGATIVE_INFINITY);
      this.#tallySkipped(n, causal);
      return;
    }
    const selects = this.#settling.length > 0 || this.#reusing.length > 0;
    // More queries than settle between are judged by the last of them: most have many tokens before them.
    const judged = n > SETTLING_QUERIES ? to : from;
    const length = position === null || !causal ? this.length : position + judged;
    const exact = this.#readsAll(length, n, exactQueries) ? n : selects ? exactQueries : 0;
    const selected = Math.max(from, to - exact);
    if (selected > from) this.#search(query, from, selected, this.#planned);
    if (selected < to) this.#search(query, selected, to, this.#exact);
  }

  #search(query: LayerQuery, from: number, to: number, strategies: LaneStrategy[]): void {
    const { q, out, lse, n, position } = query;
    const rows = (array: Float32Array) =>
      from === 0 && to === n
        ? array
        : array.subarray((from * array.length) / n, (to * array.length) / n);
    const sights = this.#sights(query, from, to);
    const selects = strategies === this.#planned;
    const again = selects && to - from === 1 && this.#stepsLeft > 0;
    try {
      this.#index.softSearch(rows(q), rows(out), {
        ...(selects ? this.#reuse(again) : {}),
        queries: to - from,
        visible: position === null || !query.causal ? this.#index.length : position + from + 1,
        causal: query.causal && position !== null,
        scale: this.#scale,
        strategies,
        laneReports: this.#reports,
        ...(lse === undefined ? {} : { lse: rows(lse) }),
        ...(sights === undefined ? {} : { sights }),
        ...(this.#window === null || sights !== undefined ? {} : { window: this.#window }),
      });
    } catch (error) {
      throw behindRows(error, (from * q.length) / (n * this.#index.dimensions));
    }
    if (selects) this.#stepsLeft = again ? this.#stepsLeft - 1 : this.#reuseSteps - 1;
    this.#tally(this.#reports, 0);
  }

  /** Adds what a search reported: `[kvHeads, 4]` from `start` on. */
  #tally(found: Float64Array, start: number): void {
    for (let head = 0, at = start; head < this.#tallies.length; head++, at += REPORT) {
      const [rows, mass, read, visible] = [found[at], found[at + 1], found[at + 2], found[at + 3]];
      this.#tallies[head]?.add(rows ?? 0, mass ?? 0, read ?? 0, visible ?? 0);
    }
  }

  /** Adds what the last n tokens did not read. */
  #tallySkipped(n: number, causal: boolean): void {
    // Tiles of 16 keys that the queries would have seen, in the mean.
    const last = causal ? (this.length - n + 1 + this.length) / 2 : this.length;
    for (const tally of this.#tallies) tally.add(n, Number.NaN, 0, (n * last) / 16);
  }

  /** What a search reads again, and whether it is to be remembered. */
  #reuse(again: boolean): Pick<SoftSearchQuery, 'reuse' | 'remember'> {
    if (again && this.#repeating.length > 0) {
      return { reuse: { from: this.#index, lanes: this.#repeating } };
    }
    const remember = this.#isSource || this.#repeating.length > 0;
    if (this.#source === undefined || this.#reusing.length === 0) return { remember };
    return { remember, reuse: { from: this.#source.#index, lanes: this.#reusing } };
  }

  /** First and after-last stored key that each query sees, where `visible` and `window` cannot say it. */
  #sights(query: LayerQuery, from: number, to: number): Uint32Array | undefined {
    const { position, causal } = query;
    const window = this.#window;
    const stored = this.#index.length;
    const local = window !== null && position !== null;
    if (stored > 0 && !(this.#kept.masked && (causal || local)) && (causal || !local)) {
      return undefined;
    }
    const kept = this.#kept;
    const sights = new Uint32Array(2 * (to - from));
    for (let i = from; i < to; i++) {
      const own = (position ?? 0) + i;
      const first = local ? Math.max(0, own + 1 - window) : 0;
      const end = causal
        ? own + 1
        : local
          ? Math.min(kept.positions, own + window)
          : kept.positions;
      sights[2 * (i - from)] = kept.before(first);
      sights[2 * (i - from) + 1] = kept.before(end);
    }
    return sights;
  }

  report(): LayerReport {
    const one = (tallies: readonly HeadTally[]) => ({
      retainedMass: retainedMassOf(tallies),
      tilesRead: tilesReadOf(tallies),
    });
    return {
      strategy: this.#plan.strategy,
      ...one(this.#tallies),
      heads: this.#heads.map((head, i) => ({
        strategy: head.strategy,
        ...one(this.#tallies.slice(i, i + 1)),
      })),
    };
  }

  resetReport(): void {
    for (const tally of this.#tallies) tally.reset();
  }

  /** Forgets positions from number `positions` on. */
  truncate(positions: number): void {
    this.#stepsLeft = 0;
    this.#rooted = false;
    for (const group of this.#settling) group.settled = undefined;
    this.#index.truncate(this.#kept.before(Math.min(positions, this.#kept.positions)));
    this.#kept.truncate(positions);
  }

  close(): void {
    this.#index.close();
  }
}

/** The error of a search for rows that lie behind `before` others of the call: it names the row of the call. */
function behindRows(error: unknown, before: number): unknown {
  if (!(error instanceof KnnIndexError) || error.details['what'] !== 'query') return error;
  const row = Number(error.details['row']) + before;
  const message = error.message.replace(/^query \d+/, `query ${row}`);
  return new KnnIndexError(error.code, message, { ...error.details, row });
}

/** What the index does for a head. */
function laneStrategy(plan: HeadPlan): LaneStrategy {
  switch (plan.strategy) {
    case 'exact':
    case 'skip':
      return { kind: plan.strategy };
    case 'window':
      return { kind: 'window', sinks: plan.sinks, recent: plan.recent };
    case 'reuse':
      // Heads that reuse are given their source's plan, which is "selected".
      return { kind: 'exact' };
    case 'top-k': {
      const { k, algorithm = 'auto', recall, effort } = plan;
      return {
        kind: 'top-k',
        k,
        algorithm,
        ...(recall === undefined ? {} : { recall }),
        ...(effort === undefined ? {} : { effort }),
      };
    }
    case 'selected':
      return {
        kind: 'selected',
        massTarget: plan.massTarget,
        ...(plan.minTileMass === undefined ? {} : { leastMass: plan.minTileMass }),
        ...(plan.minTiles === undefined ? {} : { leastTiles: plan.minTiles }),
        ...(plan.maxTiles === undefined ? {} : { mostTiles: plan.maxTiles }),
      };
  }
}

/**
 * Tokens below which n queries, the last `exactQueries` anyway, read every key: a single one, or few that would select, read
 * so little that selecting, and settling for it, pays later.
 */
function exactUntil(plan: SelectedStrategy, n: number, exactQueries = 0): number {
  const alone = n === 1 || exactQueries >= n;
  const few = exactQueries > 0 && n - exactQueries < FEW_SELECTING;
  return (plan.exactUntil ?? 0) * (alone ? STEP_FACTOR : few ? FEW_FACTOR : 1);
}

/** Heads that select, together where they settle alike. */
function settlingHeads(heads: readonly HeadPlan[]): SettlingHeads[] {
  const groups: SettlingHeads[] = [];
  heads.forEach((plan, head) => {
    if (plan.strategy !== 'selected') return;
    const alike = groups.find(
      ({ plan: other }) =>
        other.sinks === plan.sinks &&
        other.recent === plan.recent &&
        other.batch === plan.batch &&
        other.exactUntil === plan.exactUntil,
    );
    if (alike === undefined) groups.push({ plan, heads: [head] });
    else alike.heads.push(head);
  });
  return groups;
}

/** The rows of `[n, …]` whose mask is not 0. */
function keptRows(array: Float32Array, n: number, mask: Uint8Array | undefined): Float32Array {
  if (mask === undefined || mask.every((m) => m !== 0)) {
    return array;
  }
  const row = array.length / n;
  const kept = new Float32Array(row * mask.reduce((count, m) => count + (m === 0 ? 0 : 1), 0));
  let at = 0;
  for (let i = 0; i < n; i++) {
    if (mask[i] === 0) continue;
    kept.set(array.subarray(i * row, (i + 1) * row), at);
    at += row;
  }
  return kept;
}
