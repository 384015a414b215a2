import type { Algorithm } from '@iceformer/knn-index';
import { AttentionError } from './attention-error.ts';

/** Every key is read. */
export interface ExactStrategy {
  strategy: 'exact';
}

/**
 * Keys are selected by estimated mass. The tokens are, in order: sinks (always read), settled (in the index,
 * selected tile by tile) and recent (always read).
 */
export interface SelectedStrategy {
  strategy: 'selected';
  /** Share of the softmax's mass to keep, above 0, at most 1. */
  massTarget: number;
  /** First tokens, always read; a multiple of 16. */
  sinks: number;
  /** Latest tokens that never settle, at least. */
  recent: number;
  /** Tokens that settle together: they are clustered as one set. A multiple of 16. */
  batch: number;
  /**
   * Tokens below which every key is read and nothing settles, since selection does not pay for short inputs. A call with
   * a single token (a step of decoding) reads every key below six times as many, the end of a prompt of which fewer than
   * 128 queries would select below twice as many. Default: 0.
   */
  exactUntil?: number;
  /**
   * Above 0, at most 1: goes before the mass target. A block of queries reads the settled tiles (of 16 tokens) that hold at
   * least this share of its mass, a step of decoding those that do for any query head. That loses less for the same time
   * than a mass target does, and promises less: how much is kept depends on the text, and a report says it. Default: 0, the
   * mass target decides.
   */
  minTileMass?: number;
  /** Settled tiles that a block of queries reads at least. Default: 0. */
  minTiles?: number;
  /** Settled tiles that a block of queries reads at most; goes before the mass target. Default: no limit. */
  maxTiles?: number;
  /**
   * Calls with a single token (steps of decoding) that read the same settled tiles, the first of which selects them.
   * Tiles that have come since are read; when more tokens settle, calls select. Where heads of a layer
   * differ, the smallest number above 1 counts for all that have one. Default: 1.
   */
  reuseSteps?: number;
}

/** Only the first tokens and the latest ones are read; what lies between counts for nothing. */
export interface WindowStrategy {
  strategy: 'window';
  /** First tokens, always read. */
  sinks: number;
  /** Latest tokens, the query's own included; at least 1. */
  recent: number;
}

/** The attention sublayer is left out: its output is zero, its log-sum-exp minus infinity. */
export interface SkipStrategy {
  strategy: 'skip';
}

/**
 * Each query attends to its k nearest keys alone, sought in an index: IceFormer's own method with `dci`. The softmax is
 * over these k; nothing stands in for the rest. There for comparison: it is slower than `exact`.
 */
export interface TopKStrategy {
  strategy: 'top-k';
  /** Keys per query, 1 to 16,777,216. */
  k: number;
  /** How they are found. Default: `auto`. */
  algorithm?: Algorithm;
  /** Share of the k nearest that are found on average, above 0, at most 1. Default: 0.95; 1 is exact. */
  recall?: number;
  /** Share of what the algorithm could read, above 0, at most 1. Goes before `recall`. */
  effort?: number;
}

/**
 * The tiles that an earlier layer selected for the same tokens are read again. Keys settle in that layer's order, so that
 * a tile holds the same tokens in both. The same head of that layer must be `selected`.
 */
export interface ReuseStrategy {
  strategy: 'reuse';
  /** Number of the earlier layer; all heads of a layer that reuse name the same. */
  layer: number;
}

/** What is done for the queries of one key/value head. */
export type HeadPlan =
  | ExactStrategy
  | SelectedStrategy
  | WindowStrategy
  | SkipStrategy
  | TopKStrategy
  | ReuseStrategy;

const MULTIPLE = 16;

/** Known strategies, as in messages. */
const KNOWN = '"exact", "selected", "window", "skip", "top-k" and "reuse"';

const ALGORITHMS: readonly unknown[] = ['auto', 'exact', 'cluster', 'graph', 'dci'];

/** Largest k of an index. */
const MAX_K = 16_777_216;

/**
 * Checks a strategy that came as JSON and keeps its known fields.
 * @param where - such as `layer 3` or `head 1 of layer 3`
 * @param place - the same as numbers, for the error's details
 * @throws {@link AttentionError} `ERR_PLAN`, `ERR_PLAN_STRATEGY`
 */
export function checkedStrategy(
  value: unknown,
  where: string,
  place: Record<string, number>,
): HeadPlan {
  const fields: Record<string, unknown> =
    typeof value === 'object' && value !== null ? { ...value } : { strategy: value };
  const refused = (name: string, allowed: string): AttentionError => {
    const text = JSON.stringify(fields[name]) ?? 'missing';
    const message = `${where} of the plan has ${name} ${text}, it must be ${allowed}`;
    return new AttentionError('ERR_PLAN', message, { ...place, name, value: fields[name] });
  };
  const whole = (name: string, least: number, multiple = 1): number => {
    const n = fields[name];
    if (typeof n === 'number' && Number.isSafeInteger(n) && n >= least && n % multiple === 0) {
      return n;
    }
    const kind = multiple === 1 ? 'an integer of' : `a multiple of ${multiple},`;
    throw refused(name, `${kind} at least ${least}`);
  };
  const share = (name: string): number => {
    const n = fields[name];
    if (typeof n === 'number' && n > 0 && n <= 1) {
      return n;
    }
    throw refused(name, 'above 0 and at most 1');
  };
  const { strategy } = fields;
  switch (strategy) {
    case 'exact':
    case 'skip':
      return { strategy };
    case 'window':
      return { strategy, sinks: whole('sinks', 0), recent: whole('recent', 1) };
    case 'selected': {
      const checked: SelectedStrategy = {
        strategy,
        massTarget: share('massTarget'),
        sinks: whole('sinks', 0, MULTIPLE),
        recent: whole('recent', 0),
        batch: whole('batch', MULTIPLE, MULTIPLE),
      };
      if (fields['exactUntil'] !== undefined) checked.exactUntil = whole('exactUntil', 0);
      if (fields['minTileMass'] !== undefined) {
        const mass = fields['minTileMass'];
        if (typeof mass !== 'number' || !(mass >= 0 && mass <= 1)) {
          throw refused('minTileMass', 'from 0 to 1');
        }
        checked.minTileMass = mass;
      }
      if (fields['minTiles'] !== undefined) checked.minTiles = whole('minTiles', 0);
      if (fields['maxTiles'] !== undefined) {
        checked.maxTiles = whole('maxTiles', checked.minTiles ?? 0);
      }
      if (fields['reuseSteps'] !== undefined) checked.reuseSteps = whole('reuseSteps', 1);
      return checked;
    }
    case 'reuse':
      return { strategy, layer: whole('layer', 0) };
    case 'top-k': {
      const checked: TopKStrategy = { strategy, k: whole('k', 1) };
      if (checked.k > MAX_K) throw refused('k', `at most ${MAX_K}`);
      if (fields['algorithm'] !== undefined) {
        if (!ALGORITHMS.includes(fields['algorithm'])) {
          throw refused('algorithm', `one of ${ALGORITHMS.join(', ')}`);
        }
        checked.algorithm = fields['algorithm'] as Algorithm;
      }
      if (fields['recall'] !== undefined) checked.recall = share('recall');
      if (fields['effort'] !== undefined) checked.effort = share('effort');
      return checked;
    }
    default: {
      const message = `${where} of the plan has the strategy ${JSON.stringify(strategy)}, known are ${KNOWN}`;
      throw new AttentionError('ERR_PLAN_STRATEGY', message, { ...place, strategy });
    }
  }
}
