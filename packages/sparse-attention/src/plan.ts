import { AttentionError } from './attention-error.ts';
import { type PlanCalibration, readCalibration } from './plan-calibration.ts';

/** Every key of the layer is read. */
export interface ExactLayer {
  strategy: 'exact';
}

/**
 * Keys are selected by estimated mass. A layer's tokens are, in order: sinks (always read), settled (in the
 * index, selected tile by tile) and recent (always read).
 */
export interface SelectedLayer {
  strategy: 'selected';
  /** Share of the softmax's mass to keep, above 0, at most 1. */
  massTarget: number;
  /** First tokens, always read; a multiple of 16. */
  sinks: number;
  /** Latest tokens that never settle, at least. */
  recent: number;
  /** Tokens that settle together: they are clustered as one set. A multiple of 16. */
  batch: number;
}

/** What is done in one layer. */
export type LayerPlan = ExactLayer | SelectedLayer;

/** What is done in each layer of a model: the dial between speed and accuracy. */
export interface AttentionPlan {
  /** Version of the form, 1. */
  version: 1;
  /** One entry per layer, the first layer first. */
  layers: LayerPlan[];
  /** Absent from a plan that nobody measured. */
  calibration?: PlanCalibration;
}

/** Settings of {@link selectedPlan}; the defaults were measured, see `docs/attention.md`. */
export interface SelectedPlanOptions {
  /** Default: 0.95. */
  massTarget?: number;
  /** Default: 16. */
  sinks?: number;
  /** Default: 256. */
  recent?: number;
  /** Default: 512. */
  batch?: number;
  /** First layers that stay exact: their attention is spread too widely to select from. Default: 1. */
  exactLayers?: number;
}

const MULTIPLE = 16;

/** A plan that reads every key in every layer. */
export function exactPlan(layers: number): AttentionPlan {
  return checked(
    { version: 1, layers: Array.from({ length: layers }, () => ({ strategy: 'exact' })) },
    layers,
  );
}

/** A plan that selects keys in all layers but the first. */
export function selectedPlan(layers: number, options: SelectedPlanOptions = {}): AttentionPlan {
  const { massTarget = 0.95, sinks = 16, recent = 256, batch = 512, exactLayers = 1 } = options;
  const layer = (index: number): LayerPlan =>
    index < exactLayers
      ? { strategy: 'exact' }
      : { strategy: 'selected', massTarget, sinks, recent, batch };
  return checked(
    { version: 1, layers: Array.from({ length: layers }, (_, index) => layer(index)) },
    layers,
  );
}

/**
 * Reads a plan from JSON data.
 * @param layers - layers of the model it is for
 * @throws {@link AttentionError} `ERR_PLAN` (form or value), `ERR_PLAN_LAYERS` (made for another number of layers), `ERR_PLAN_STRATEGY`
 */
export function readPlan(json: unknown, layers: number): AttentionPlan {
  if (typeof json !== 'object' || json === null || Array.isArray(json)) {
    throw new AttentionError(
      'ERR_PLAN',
      'a plan must be a JSON object with "version" and "layers"',
    );
  }
  const plan = json as Record<string, unknown>;
  if (plan['version'] !== 1) {
    const version = JSON.stringify(plan['version']);
    throw new AttentionError(
      'ERR_PLAN',
      `the plan's version is ${version}, this release reads version 1`,
      {
        version: plan['version'],
      },
    );
  }
  if (!Array.isArray(plan['layers'])) {
    throw new AttentionError('ERR_PLAN', 'the plan has no list "layers"');
  }
  const read = checked({ version: 1, layers: plan['layers'] as LayerPlan[] }, layers);
  if (plan['calibration'] === undefined) return read;
  return { ...read, calibration: readCalibration(plan['calibration']) };
}

function checked(plan: AttentionPlan, layers: number): AttentionPlan {
  if (!Number.isSafeInteger(layers) || layers < 1) {
    throw new AttentionError(
      'ERR_PLAN_LAYERS',
      `layers is ${layers}, it must be a positive integer`,
      { layers },
    );
  }
  if (plan.layers.length !== layers) {
    const message = `the plan is for ${plan.layers.length} layers, the model has ${layers}`;
    throw new AttentionError('ERR_PLAN_LAYERS', message, {
      plan: plan.layers.length,
      model: layers,
    });
  }
  return { version: 1, layers: plan.layers.map(checkedLayer) };
}

function checkedLayer(layer: unknown, index: number): LayerPlan {
  const strategy =
    typeof layer === 'object' && layer !== null
      ? (layer as { strategy?: unknown }).strategy
      : layer;
  if (strategy === 'exact') {
    return { strategy };
  }
  if (strategy !== 'selected') {
    const message = `layer ${index} of the plan has the strategy ${JSON.stringify(strategy)}, known are "exact" and "selected"`;
    throw new AttentionError('ERR_PLAN_STRATEGY', message, { layer: index, strategy });
  }
  const { massTarget, sinks, recent, batch } = layer as Partial<
    Record<keyof SelectedLayer, unknown>
  >;
  const number = (
    name: string,
    value: unknown,
    ok: (n: number) => boolean,
    allowed: string,
  ): number => {
    if (typeof value !== 'number' || !ok(value)) {
      const message = `layer ${index} of the plan has ${name} ${JSON.stringify(value)}, it must be ${allowed}`;
      throw new AttentionError('ERR_PLAN', message, { layer: index, name, value });
    }
    return value;
  };
  const whole = (least: number) => (n: number) =>
    Number.isSafeInteger(n) && n >= least && n % MULTIPLE === 0;
  return {
    strategy,
    massTarget: number('massTarget', massTarget, (n) => n > 0 && n <= 1, 'above 0 and at most 1'),
    sinks: number('sinks', sinks, whole(0), 'a multiple of 16, at least 0'),
    recent: number(
      'recent',
      recent,
      (n) => Number.isSafeInteger(n) && n >= 0,
      'an integer of at least 0',
    ),
    batch: number('batch', batch, whole(MULTIPLE), 'a multiple of 16, at least 16'),
  };
}
