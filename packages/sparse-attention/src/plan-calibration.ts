import { AttentionError } from './attention-error.ts';

/** What a calibrated plan was measured on, and what was found. Times are in milliseconds. */
export interface PlanCalibration {
  /** The model the plan was made for. */
  model: {
    /** Tells it from others, as `modelFingerprint` of `@iceformer/model-loader` does. */
    fingerprint: string;
    layers: number;
    heads: number;
    kvHeads: number;
    headDim: number;
  };
  /** The text it was measured on. */
  text: {
    /** Of its UTF-8 bytes, in hexadecimal. */
    sha256: string;
    tokens: number;
  };
  /** Tokens of a window: each is a sequence of its own, scored on its second half. */
  context: number;
  /** Perplexity of dense attention over that of the plan on windows that were not used to choose it. */
  accuracy: {
    /** At least this was asked for. */
    wanted: number;
    /** This was measured. */
    reached: number;
    /** Where it lies with a probability of 95 %. */
    interval: [low: number, high: number];
    /** Tokens scored. */
    tokens: number;
  };
  /** Reading one window, logits left out. */
  time: {
    densePrefillMs: number;
    planPrefillMs: number;
    denseAttentionMs: number;
    planAttentionMs: number;
  };
  /** What the times were measured on. */
  machine: {
    /** SIMD level of the kernels, for example `avx512-bf16`. */
    simd: string;
    threads: number;
    /** Type of the weights. */
    dtype: string;
    /** Type of the keys and values in the cache. */
    kvDtype: string;
  };
}

/** Reads what a plan's JSON says of its calibration. @throws {@link AttentionError} `ERR_PLAN` */
export function readCalibration(json: unknown): PlanCalibration {
  const field = (path: string, kind: 'string' | 'number'): void => {
    let value: unknown = json;
    for (const key of path.split('.')) {
      value = (value as Record<string, unknown> | null | undefined)?.[key];
    }
    if (typeof value === kind) return;
    const found = JSON.stringify(value) ?? 'nothing';
    throw new AttentionError(
      'ERR_PLAN',
      `the plan's calibration has ${found} for ${path}, it must be a ${kind}`,
      { name: `calibration.${path}`, value },
    );
  };
  for (const name of ['model.fingerprint', 'text.sha256']) field(name, 'string');
  for (const name of ['simd', 'dtype', 'kvDtype']) field(`machine.${name}`, 'string');
  const numbers = [
    ...['layers', 'heads', 'kvHeads', 'headDim'].map((name) => `model.${name}`),
    ...['wanted', 'reached', 'interval.0', 'interval.1', 'tokens'].map(
      (name) => `accuracy.${name}`,
    ),
    ...['densePrefillMs', 'planPrefillMs', 'denseAttentionMs', 'planAttentionMs'].map(
      (name) => `time.${name}`,
    ),
    'text.tokens',
    'context',
    'machine.threads',
  ];
  for (const name of numbers) field(name, 'number');
  return json as PlanCalibration;
}

/**
 * Refuses a plan that was calibrated on another model. A plan without calibration fits every model of its shape.
 *
 * @param model - the model it is to be used with
 * @throws {@link AttentionError} `ERR_PLAN_MODEL` with both fingerprints and shapes
 */
export function checkPlanModel(
  plan: { calibration?: PlanCalibration },
  model: PlanCalibration['model'],
): void {
  const made = plan.calibration?.model;
  if (made === undefined) return;
  const describe = ({ fingerprint, layers, heads, kvHeads, headDim }: PlanCalibration['model']) =>
    `${fingerprint.slice(0, 12)}… (${layers} layers, ${heads} query and ${kvHeads} key heads of ${headDim})`;
  const same =
    made.fingerprint === model.fingerprint &&
    made.layers === model.layers &&
    made.heads === model.heads &&
    made.kvHeads === model.kvHeads &&
    made.headDim === model.headDim;
  if (same) return;
  throw new AttentionError(
    'ERR_PLAN_MODEL',
    `the plan was calibrated on the model ${describe(made)}, this one is ${describe(model)}`,
    { plan: made, model },
  );
}
