import {
  type AttentionPlan,
  exactPlan,
  type HeadPlan,
  type PlanCalibration,
  PRESETS,
  selectedPlan,
} from '@iceformer/sparse-attention';
import type { ComparedPass, ComparisonResult, Model, ModelInfo } from '@iceformer/transformer';
import { type Option, spendLoss } from './budget.ts';
import type { Estimate } from './confidence.ts';
import { textHash } from './evaluate.ts';
import { EvaluationError } from './evaluation-error.ts';
import { perplexityRatio } from './prediction.ts';

/**
 * What is tried in each layer beside reading every key. Times and losses are measured, so a strategy that does not pay
 * in a layer is not chosen there. {@link calibrate} gives those that select the `exactUntil` of the presets, or half a
 * window if that is less: selecting from short inputs takes longer than reading them.
 */
export const CALIBRATION_CANDIDATES: readonly HeadPlan[] = [
  ...[0.0008, 0.0015, 0.003, 0.006, 0.015].map(
    (minTileMass) => selectedPlan(1, { minTileMass, exactLayers: 0 }).layers[0] as HeadPlan,
  ),
  { strategy: 'window', sinks: 16, recent: 512 },
  { strategy: 'skip' },
];

/** What {@link calibrate} is asked for. */
export interface CalibrateOptions {
  /** The user's text; at least two windows long. */
  text: string;
  /** Least perplexity of dense attention over that of the plan, above 0, at most 1: 0.99 allows 1 % more perplexity. */
  accuracy: number;
  /** Tokens of a window. Default: 4,096, or what the model holds if that is less. */
  context?: number;
  /** What is tried in each layer or head. Default: {@link CALIBRATION_CANDIDATES}. */
  candidates?: readonly HeadPlan[];
  /**
   * Measure and choose for every key/value head by itself, not only for whole layers: finer, and as many times longer
   * as a layer has heads. Default: false.
   */
  perHead?: boolean;
  /** Windows that strategies are chosen on. Default: 1. */
  choosing?: number;
  /** Windows that the plan is verified on, at most; none of the others. Default: 4. */
  verifying?: number;
  /** Seed of the bootstrap. Default: 1. */
  seed?: number;
  signal?: AbortSignal;
  /** Called after each pass over a window. */
  onProgress?: (progress: CalibrationProgress) => void;
}

/** How far {@link calibrate} is. */
export interface CalibrationProgress {
  /** First each layer is measured, then whole plans are verified. */
  phase: 'measuring' | 'verifying';
  /** Passes over a window done. */
  done: number;
  /** Of so many. */
  total: number;
}

/** What one candidate did in one layer, or one head of it, all others being exact. */
export interface CandidateMeasurement {
  layer: number;
  /** Key/value head; absent where the whole layer was measured. */
  head?: number;
  candidate: HeadPlan;
  /** Mean Kullback-Leibler divergence from dense attention's next-token distribution, in nats. */
  loss: number;
  /** Attention time of the layer for one window, dense, in milliseconds. */
  denseMs: number;
  /** The same with the candidate. */
  candidateMs: number;
  retainedMass: number | null;
  tilesRead: number;
}

/** A whole plan that was tried. */
export interface VerifiedPlan {
  plan: AttentionPlan;
  /** Perplexity of dense attention over that of the plan. */
  accuracy: Estimate;
  /** Whether all of its interval is at least the accuracy asked for. */
  holds: boolean;
  /** Time in attention for one window, in milliseconds. */
  attentionMs: number;
  /** Time to read one window, without logits, in milliseconds. */
  prefillMs: number;
  /** Share of key tiles read, 0 to 1. */
  tilesRead: number;
}

/** A plan that keeps the accuracy asked for, and how it was found. */
export interface CalibrationResult {
  /** The plan, with its calibration. */
  plan: AttentionPlan & { calibration: PlanCalibration };
  measurements: CandidateMeasurement[];
  /** All plans that were tried, the most careful first. */
  verified: VerifiedPlan[];
}

/** Shares of the allowed loss that plans are made for: losses of single layers do not quite add up. */
const LADDER = [0.125, 0.25, 0.5, 0.75, 1, 1.5, 2.5];

/** Positions of a window whose next-token distributions are compared while layers are measured. */
const COMPARED = 256;

/**
 * Finds a plan for this model, text and machine that is as fast as can be at a stated accuracy.
 *
 * 1. *Measure*: on some windows of the text every candidate runs in every layer, all other layers being exact. Its loss
 *    is the divergence of the next-token distributions from dense attention's; its time is that of the layer.
 * 2. *Choose*: the allowed loss, −log(accuracy) nats a token, is spent where it buys most time; and so are several
 *    smaller and larger ones, because losses of single layers do not quite add up.
 * 3. *Verify*: the plans run on other windows of the text. The fastest is taken of those whose accuracy is at least what
 *    was asked for with the whole of its 95 % interval; if there is none that is faster than dense, every key is read.
 *
 * @throws {@link EvaluationError} `ERR_INVALID_ARGUMENT`, `ERR_TEXT_TOO_SHORT`; what the model throws; the signal's reason
 */
export async function calibrate(
  model: Pick<Model, 'compare' | 'info' | 'tokenizer'>,
  options: CalibrateOptions,
): Promise<CalibrationResult> {
  const { text, accuracy, signal, onProgress, seed = 1 } = options;
  const { info } = model;
  const context = options.context ?? Math.min(4096, info.contextLength);
  checkOptions(options, context);
  const tokens = await model.tokenizer.encodeAsync(text, { ...(signal && { signal }) });
  const { choosing, verifying } = splitWindows(tokens, context, options);
  const candidates = options.candidates ?? defaultCandidates(context);

  const places = placesOf(info, options.perHead ?? false);
  const tried = places.flatMap((place) => candidates.map((candidate) => ({ ...place, candidate })));
  const comparison = await model.compare(choosing, {
    context,
    attention: tried.map((one) => planOf(info, [one])),
    scored: COMPARED,
    divergences: COMPARED,
    ...(signal && { signal }),
    onProgress: ({ done, total }) => onProgress?.({ phase: 'measuring', done, total }),
  });
  const measurements = measure(tried, comparison);

  const budget = -Math.log(accuracy);
  const plans = makePlans(info, places, candidates, measurements, budget);
  const verification = await model.compare(verifying, {
    context,
    attention: plans,
    divergences: 1,
    ...(signal && { signal }),
    onProgress: ({ done, total }) => onProgress?.({ phase: 'verifying', done, total }),
  });
  const { dense, windows } = verification;
  const verified = [dense, ...verification.passes].map((pass, index): VerifiedPlan => {
    const ratio = perplexityRatio(dense.losses, pass.losses, seed);
    return {
      plan: plans[index - 1] ?? exactPlan(info.layers),
      accuracy: ratio,
      holds: ratio.low >= accuracy,
      attentionMs: pass.attentionMs / windows,
      prefillMs: pass.prefillMs / windows,
      tilesRead: pass.tilesRead,
    };
  });
  const holding = verified.filter(({ holds }) => holds);
  const best = holding.reduce((a, b) => (b.attentionMs < a.attentionMs ? b : a));
  const exact = verified[0] as VerifiedPlan;
  const { fingerprint, layers, heads, kvHeads, headDim } = info;
  return {
    plan: {
      ...best.plan,
      calibration: {
        model: { fingerprint, layers, heads, kvHeads, headDim },
        text: { sha256: textHash(text), tokens: tokens.length },
        context,
        accuracy: {
          wanted: accuracy,
          reached: best.accuracy.value,
          interval: [best.accuracy.low, best.accuracy.high],
          tokens: verification.tokens,
        },
        time: {
          densePrefillMs: exact.prefillMs,
          planPrefillMs: best.prefillMs,
          denseAttentionMs: exact.attentionMs,
          planAttentionMs: best.attentionMs,
        },
        machine: {
          simd: info.simd,
          threads: info.threads,
          dtype: info.dtype,
          kvDtype: info.kvDtype,
        },
      },
    },
    measurements,
    verified,
  };
}

/** The default candidates, which read short inputs whole; in windows of `context` tokens at most the half. */
function defaultCandidates(context: number): HeadPlan[] {
  const exactUntil = Math.min(PRESETS.balanced?.exactUntil ?? 0, Math.floor(context / 2));
  return CALIBRATION_CANDIDATES.map((candidate) =>
    candidate.strategy === 'selected' ? { ...candidate, exactUntil } : candidate,
  );
}

/** Where a strategy is chosen: a layer, or one key/value head of it. */
interface Place {
  layer: number;
  head?: number;
}

/** The parts of a model's shape that a plan depends on. */
type Shape = Pick<ModelInfo, 'layers' | 'kvHeads'>;

/** All places of a model, layer by layer. */
function placesOf({ layers, kvHeads }: Shape, perHead: boolean): Place[] {
  return Array.from({ length: layers }, (_, layer): Place[] =>
    perHead ? Array.from({ length: kvHeads }, (_, head) => ({ layer, head })) : [{ layer }],
  ).flat();
}

/** A plan that does this at some places and reads every key at all others. */
function planOf(
  { layers, kvHeads }: Shape,
  choices: readonly (Place & { candidate: HeadPlan })[],
): AttentionPlan {
  const plan = exactPlan(layers);
  for (const { layer, head, candidate } of choices) {
    if (head === undefined) {
      plan.layers[layer] = candidate;
      continue;
    }
    const heads = plan.layers[layer]?.heads ?? Array.from({ length: kvHeads }, () => null);
    plan.layers[layer] = { strategy: 'exact', heads: heads.with(head, candidate) };
  }
  return plan;
}

/**
 * Losses and times of single candidates. All layers but one are exact in every pass, which makes them a clock: what
 * they take beyond their median is the machine's slowness at that moment, and is taken out of the candidate's time.
 */
function measure(
  tried: readonly (Place & { candidate: HeadPlan })[],
  { dense, passes, windows }: ComparisonResult,
): CandidateMeasurement[] {
  const time = (pass: ComparedPass, layer: number): number =>
    (pass.layers[layer]?.attentionMs ?? 0) / windows;
  const denseMs = dense.layers.map((_, layer) =>
    median(
      [dense, ...passes.filter((_, index) => tried[index]?.layer !== layer)].map((pass) =>
        time(pass, layer),
      ),
    ),
  );
  return tried.map(({ layer, head, candidate }, index) => {
    const pass = passes[index] as ComparedPass;
    const others = (of: (other: number) => number): number =>
      denseMs.reduce((sum, _, other) => (other === layer ? sum : sum + of(other)), 0);
    const usual = others((other) => denseMs[other] as number);
    const slowness = usual > 0 ? others((other) => time(pass, other)) / usual : 1;
    const layerReport = pass.layers[layer];
    const report = head === undefined ? layerReport : (layerReport?.heads?.[head] ?? layerReport);
    return {
      layer,
      ...(head === undefined ? {} : { head }),
      candidate,
      loss: pass.divergences.reduce((sum, value) => sum + value, 0) / pass.divergences.length,
      denseMs: denseMs[layer] as number,
      candidateMs: time(pass, layer) / slowness,
      retainedMass: report?.retainedMass ?? null,
      tilesRead: report?.tilesRead ?? 1,
    };
  });
}

/** The plans of several budgets around the one allowed, each once, the most careful first, and none that is exact. */
function makePlans(
  shape: Shape,
  places: readonly Place[],
  candidates: readonly HeadPlan[],
  measurements: readonly CandidateMeasurement[],
  budget: number,
): AttentionPlan[] {
  const options = places.map(({ layer, head }): Option[] =>
    measurements
      .filter((measurement) => measurement.layer === layer && measurement.head === head)
      .map(({ loss, denseMs, candidateMs }) => ({ loss, gain: denseMs - candidateMs })),
  );
  const plans = new Map<string, AttentionPlan>();
  for (const share of budget > 0 ? LADDER : []) {
    const taken = spendLoss(options, share * budget);
    const choices = places.flatMap((place, index) => {
      const candidate = candidates[taken[index] as number];
      return candidate === undefined ? [] : [{ ...place, candidate }];
    });
    if (choices.length > 0) plans.set(taken.join(), planOf(shape, choices));
  }
  return [...plans.values()];
}

/** The windows to choose on, from the middle of the text, and those to verify on, evenly spread over the rest. */
function splitWindows(
  tokens: Uint32Array,
  context: number,
  { choosing = 1, verifying = 4 }: CalibrateOptions,
): { choosing: Uint32Array; verifying: Uint32Array } {
  const windows = Math.floor(tokens.length / context);
  if (windows < choosing + 1) {
    throw new EvaluationError(
      'ERR_TEXT_TOO_SHORT',
      `the text has ${tokens.length} tokens; choosing on ${choosing} and verifying on one more of ${context} needs ${(choosing + 1) * context}`,
      { tokens: tokens.length, needed: (choosing + 1) * context, context },
    );
  }
  const first = Math.floor((windows - choosing) / 2);
  const chosen = tokens.slice(first * context, (first + choosing) * context);
  const rest = Array.from({ length: windows }, (_, window) => window).filter(
    (window) => window < first || window >= first + choosing,
  );
  const held = Math.min(verifying, rest.length);
  const verification = new Uint32Array(held * context);
  for (let index = 0; index < held; index++) {
    const window = rest[Math.floor(((index + 0.5) * rest.length) / held)] as number;
    verification.set(tokens.subarray(window * context, (window + 1) * context), index * context);
  }
  return { choosing: chosen, verifying: verification };
}

function checkOptions(
  { accuracy, choosing = 1, verifying = 4, candidates = CALIBRATION_CANDIDATES }: CalibrateOptions,
  context: number,
): void {
  const invalid = (name: string, value: unknown, expected: string): EvaluationError =>
    new EvaluationError(
      'ERR_INVALID_ARGUMENT',
      `${name} must be ${expected}, got ${String(value)}`,
      {
        name,
        value,
        expected,
      },
    );
  if (!(typeof accuracy === 'number' && accuracy > 0 && accuracy <= 1)) {
    throw invalid('accuracy', accuracy, 'above 0 and at most 1');
  }
  for (const [name, value] of Object.entries({ context, choosing, verifying })) {
    if (!Number.isSafeInteger(value) || value < 1) {
      throw invalid(name, value, 'a whole number of at least 1');
    }
  }
  if (candidates.length === 0) throw invalid('candidates', '[]', 'at least one');
}

function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = Math.floor(sorted.length / 2);
  return sorted.length % 2 === 1
    ? (sorted[middle] as number)
    : ((sorted[middle - 1] as number) + (sorted[middle] as number)) / 2;
}
