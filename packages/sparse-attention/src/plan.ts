import { AttentionError } from './attention-error.ts';
import { type PlanCalibration, readCalibration } from './plan-calibration.ts';
import { checkedStrategy, type HeadPlan } from './strategy.ts';

/** What is done in one layer: one strategy, from which single heads may differ. */
export type LayerPlan = HeadPlan & {
  /** One entry per key/value head; `null` where the head does what the layer does. Default: all do. */
  heads?: (HeadPlan | null)[];
};

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
  /** Least mass of a tile that is read, see {@link SelectedStrategy}. Default: 0, `massTarget` decides. */
  minTileMass?: number;
  /** Settled tiles that a block of queries reads at least. Default: 0. */
  minTiles?: number;
  /**
   * Settled tiles that a block of queries reads at most: the time is bounded then, and not what is lost. Default: no limit.
   */
  maxTiles?: number;
  /** Default: 16. */
  sinks?: number;
  /** Default: 256. */
  recent?: number;
  /** Default: 512. */
  batch?: number;
  /** Tokens below which every key is read. Default: 0. */
  exactUntil?: number;
  /** First layers that stay exact. Default: 0. */
  exactLayers?: number;
}

/** A plan that reads every key in every layer. */
export function exactPlan(layers: number): AttentionPlan {
  return checked(
    { version: 1, layers: Array.from({ length: layers }, () => ({ strategy: 'exact' })) },
    layers,
  );
}

/** A plan that selects keys, in all layers unless the first ones are to stay exact. */
export function selectedPlan(layers: number, options: SelectedPlanOptions = {}): AttentionPlan {
  const { massTarget = 0.95, sinks = 16, recent = 256, batch = 512, exactLayers = 0 } = options;
  const { exactUntil, minTileMass, minTiles, maxTiles } = options;
  const optional = {
    ...(minTileMass === undefined ? {} : { minTileMass }),
    ...(minTiles === undefined ? {} : { minTiles }),
    ...(maxTiles === undefined ? {} : { maxTiles }),
    ...(exactUntil === undefined ? {} : { exactUntil }),
  };
  const layer = (index: number): LayerPlan =>
    index < exactLayers
      ? { strategy: 'exact' }
      : { strategy: 'selected', massTarget, sinks, recent, batch, ...optional };
  return checked(
    { version: 1, layers: Array.from({ length: layers }, (_, index) => layer(index)) },
    layers,
  );
}

/**
 * Reads a plan from JSON data.
 * @param layers - layers of the model it is for
 * @param kvHeads - key/value heads of the model it is for; not compared if left out
 * @throws {@link AttentionError} `ERR_PLAN` (form or value), `ERR_PLAN_LAYERS` (made for another number of layers),
 *   `ERR_PLAN_HEADS` (of heads), `ERR_PLAN_STRATEGY`
 */
export function readPlan(json: unknown, layers: number, kvHeads?: number): AttentionPlan {
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
  const read = checked({ version: 1, layers: plan['layers'] as LayerPlan[] }, layers, kvHeads);
  if (plan['calibration'] === undefined) return read;
  return { ...read, calibration: readCalibration(plan['calibration']) };
}

/** What the plan's layer does for each key/value head, `[kvHeads]`. */
export function headPlans(layer: LayerPlan, kvHeads: number): HeadPlan[] {
  return Array.from({ length: kvHeads }, (_, head) => layer.heads?.[head] ?? layer);
}

/** True if no head of the layer attends. */
export function skipsAll(layer: LayerPlan, kvHeads: number): boolean {
  return headPlans(layer, kvHeads).every(({ strategy }) => strategy === 'skip');
}

function checked(plan: AttentionPlan, layers: number, kvHeads?: number): AttentionPlan {
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
  const checkedLayers = plan.layers.map((layer, index) => checkedLayer(layer, index, kvHeads));
  checkedLayers.forEach((_, layer) => {
    checkReuse(checkedLayers, layer);
  });
  return { version: 1, layers: checkedLayers };
}

/** The earlier layer whose selection heads of a layer read again, if any do. */
export function reusedLayer(layer: LayerPlan): number | undefined {
  for (const plan of [...(layer.heads ?? []), layer]) {
    if (plan?.strategy === 'reuse') return plan.layer;
  }
  return undefined;
}

/** Checks that what a layer reuses is there to be reused. */
function checkReuse(layers: readonly LayerPlan[], layer: number): void {
  const plan = layers[layer] as LayerPlan;
  const from = reusedLayer(plan);
  if (from === undefined) return;
  const source = layers[from];
  // Whoever gives no list has the same plan in all heads, of which one stands for all.
  const heads = Math.max(plan.heads?.length ?? 1, source?.heads?.length ?? 1);
  const sources = source === undefined ? [] : headPlans(source, heads);
  headPlans(plan, heads).forEach((head, index) => {
    if (head.strategy !== 'reuse') return;
    const found = sources[index]?.strategy ?? 'none';
    if (head.layer === from && from < layer && found === 'selected') return;
    const message =
      head.layer === from
        ? `layer ${layer} of the plan reuses layer ${from}, which must be an earlier one that is "selected" in the same heads, and is ${JSON.stringify(found)} in head ${index}`
        : `layer ${layer} of the plan reuses the layers ${from} and ${head.layer}, it can reuse one`;
    throw new AttentionError('ERR_PLAN', message, {
      layer,
      name: 'layer',
      value: head.layer,
      head: index,
    });
  });
}

function checkedLayer(value: unknown, layer: number, kvHeads: number | undefined): LayerPlan {
  const strategy = checkedStrategy(value, `layer ${layer}`, { layer });
  const heads = (value as { heads?: unknown } | null)?.heads;
  if (heads === undefined) {
    return strategy;
  }
  if (!Array.isArray(heads) || heads.length === 0) {
    const message = `layer ${layer} of the plan has heads ${JSON.stringify(heads)}, it must be a list with an entry for each key/value head`;
    throw new AttentionError('ERR_PLAN', message, { layer, name: 'heads', value: heads });
  }
  if (kvHeads !== undefined && heads.length !== kvHeads) {
    const message = `layer ${layer} of the plan is for ${heads.length} key/value heads, the model has ${kvHeads}`;
    throw new AttentionError('ERR_PLAN_HEADS', message, {
      layer,
      plan: heads.length,
      model: kvHeads,
    });
  }
  const one = (entry: unknown, head: number) =>
    entry === null
      ? null
      : checkedStrategy(entry, `head ${head} of layer ${layer}`, { layer, head });
  return { ...strategy, heads: heads.map(one) };
}
