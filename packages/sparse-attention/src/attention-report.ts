import type { HeadPlan } from './strategy.ts';

/** What one key/value head kept and read since the last {@link AttentionCache.resetReport}. */
export interface HeadReport {
  strategy: HeadPlan['strategy'];
  /**
   * Mean over query rows of the share of the softmax's mass that was computed exactly, 0 to 1; 1 before anything was
   * attended, `null` where it is not known: `window`, `top-k` and `skip` do not look at what they leave out.
   */
  retainedMass: number | null;
  /** Share of the visible key tiles that were read, 0 to 1; 1 before anything was attended. */
  tilesRead: number;
}

/** What one layer kept and read since the last {@link AttentionCache.resetReport}. */
export interface LayerReport extends HeadReport {
  /** The layer's strategy; single heads may have others. */
  strategy: HeadPlan['strategy'];
  /** Mean over the heads where it is known; `null` if it is for none. */
  retainedMass: number | null;
  /** Mean over heads. */
  tilesRead: number;
  /** `[kvHeads]` */
  heads: HeadReport[];
}

/** What all layers kept and read since the last {@link AttentionCache.resetReport}. */
export interface AttentionReport {
  /**
   * Mean over query rows of all layers and heads where it is known, 0 to 1; 1 before anything was attended, and where
   * it is known nowhere.
   */
  retainedMass: number;
  /** Share of the visible key tiles of all layers that were read, 0 to 1; 1 before anything was attended. */
  tilesRead: number;
  /** Native bytes of keys, values and summaries. */
  bytes: number;
  layers: LayerReport[];
}

/** Sums of one head's search reports. */
export class HeadTally {
  rows = 0;
  retainedMass = 0;
  tilesRead = 0;
  tilesVisible = 0;

  /** Adds the numbers of one search. */
  add(rows: number, retainedMass: number, tilesRead: number, tilesVisible: number): void {
    this.rows += rows;
    this.retainedMass += retainedMass;
    this.tilesRead += tilesRead;
    this.tilesVisible += tilesVisible;
  }

  copy(): HeadTally {
    return Object.assign(new HeadTally(), this);
  }

  reset(): void {
    this.rows = 0;
    this.retainedMass = 0;
    this.tilesRead = 0;
    this.tilesVisible = 0;
  }
}

/** Mean of retained mass over the heads that know it, `null` if none does. */
export function retainedMassOf(tallies: readonly HeadTally[]): number | null {
  const known = tallies.filter((tally) => !Number.isNaN(tally.retainedMass));
  if (known.length === 0) {
    return null;
  }
  const sum = (of: (tally: HeadTally) => number) => known.reduce((total, t) => total + of(t), 0);
  return share(
    sum((t) => t.retainedMass),
    sum((t) => t.rows),
  );
}

/** Share of the visible tiles that were read. */
export function tilesReadOf(tallies: readonly HeadTally[]): number {
  const sum = (of: (tally: HeadTally) => number) => tallies.reduce((total, t) => total + of(t), 0);
  return share(
    sum((t) => t.tilesRead),
    sum((t) => t.tilesVisible),
  );
}

function share(part: number, whole: number): number {
  return whole === 0 ? 1 : part / whole;
}
