import type { Candidate } from './candidates.ts';
import { type CurvePoint, costAt } from './curve.ts';
import type { Setting } from './engine-job.ts';
import type { Sample } from './rounds.ts';

/** Medians of one candidate with one number of threads. */
export interface Curve {
  data: string;
  family: string;
  index: Candidate['index'];
  threads: number;
  /** What the engine says of itself. */
  engine: string;
  rounds: number;
  /** Seconds per set; absent if the index was built with another number of threads. */
  buildSeconds?: number;
  /** Bytes of the index over bytes of the raw vectors: as the engine counts them, and as the process grew. */
  bytesRatio: number;
  grownRatio: number;
  points: {
    setting: Setting;
    recall: number;
    /** Seconds per set for all of its queries. */
    batchSeconds: number;
    queriesPerSecond: number;
    single?: { median: number; p95: number };
  }[];
}

/** Medians over the rounds; sums over sets become means, and samples of queries are scaled to all of them. */
export function curvesOf(
  data: string,
  candidates: readonly Candidate[],
  samples: readonly Sample[],
  queriesPerSet: number,
): Curve[] {
  return candidates.flatMap((candidate, number) => {
    const mine = samples.filter((s) => s.data === data && s.candidate === number);
    const [one] = mine;
    if (one === undefined) return [];
    const { sets, queries, rawBytes } = one.result;
    return one.result.runs.map(({ threads, points }, run): Curve => {
      const runs = mine.map(({ result }) => result.runs[run]);
      const builds = runs.flatMap((r) => r?.buildSeconds ?? []);
      return {
        data,
        family: candidate.family,
        index: candidate.index,
        threads,
        engine: one.result.engine,
        rounds: mine.length,
        ...(builds.length > 0 ? { buildSeconds: median(builds) / sets } : {}),
        bytesRatio: one.result.indexBytes / rawBytes,
        grownRatio: median(mine.map(({ result }) => result.grownBytes / rawBytes)),
        points: points.map((point, at) => {
          const same = runs.flatMap((r) => r?.points[at] ?? []);
          const perQuery = median(same.map(({ seconds }) => seconds)) / sets / queries;
          const single = same.flatMap((p) => p.single ?? []);
          return {
            setting: point.setting,
            recall: median(same.map(({ recall }) => recall)),
            batchSeconds: perQuery * queriesPerSet,
            queriesPerSecond: 1 / perQuery,
            ...(single.length > 0
              ? {
                  single: {
                    median: median(single.map((s) => s.median)),
                    p95: median(single.map((s) => s.p95)),
                  },
                }
              : {}),
          };
        }),
      };
    });
  });
}

/** What is read off a curve at a recall. */
export type Cost = 'build+batch' | 'batch' | 'single' | 'single95';

/** The least cost at a recall over the candidates of a family, and whose it is. */
export function bestAt(
  curves: readonly Curve[],
  cost: Cost,
  recall: number,
): { seconds: number; curve: Curve } | undefined {
  let best: { seconds: number; curve: Curve } | undefined;
  for (const curve of curves) {
    const seconds = costAt(pointsOf(curve, cost), recall);
    if (seconds !== undefined && seconds < (best?.seconds ?? Number.POSITIVE_INFINITY)) {
      best = { seconds, curve };
    }
  }
  return best;
}

function pointsOf(curve: Curve, cost: Cost): CurvePoint[] {
  return curve.points.flatMap(({ recall, batchSeconds, single }) => {
    if (cost === 'batch') return { recall, cost: batchSeconds };
    if (cost === 'build+batch') {
      return curve.buildSeconds === undefined
        ? []
        : { recall, cost: batchSeconds + curve.buildSeconds };
    }
    return single ? { recall, cost: cost === 'single' ? single.median : single.p95 } : [];
  });
}

function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  const upper = sorted[middle] as number;
  return sorted.length % 2 === 1 ? upper : ((sorted[middle - 1] as number) + upper) / 2;
}
