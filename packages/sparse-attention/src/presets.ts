import { AttentionError } from './attention-error.ts';
import { type AttentionPlan, exactPlan, type SelectedPlanOptions, selectedPlan } from './plan.ts';

/** Names of the plans that need no calibration, the most exact first. */
export type PresetName = 'exact' | 'accurate' | 'balanced' | 'fast';

/** Tokens below which selecting takes longer than reading every key, measured on the default model. */
const EXACT_UNTIL = 1024;

/**
 * What each preset does in the layers it selects in; `null` reads every key. Meant for a perplexity within 0.5 %
 * (`accurate`), 1 % (`balanced`) and 3 % (`fast`) of dense attention; `docs/accuracy.md` says how to measure what they
 * reach on a model and a text.
 */
export const PRESETS: Readonly<Record<PresetName, Readonly<SelectedPlanOptions> | null>> = {
  exact: null,
  accurate: { minTileMass: 0.0015, exactUntil: EXACT_UNTIL },
  balanced: { minTileMass: 0.003, exactUntil: EXACT_UNTIL },
  fast: { minTileMass: 0.006, exactUntil: EXACT_UNTIL },
};

/**
 * The plan of a preset for a model of so many layers.
 *
 * @throws {@link AttentionError} `ERR_PRESET` for a name that is none, `ERR_PLAN_LAYERS`
 */
export function presetPlan(name: PresetName, layers: number): AttentionPlan {
  if (!Object.hasOwn(PRESETS, name)) {
    const known = Object.keys(PRESETS);
    const message = `there is no preset ${JSON.stringify(name)}, there are ${known.join(', ')}`;
    throw new AttentionError('ERR_PRESET', message, { name, known });
  }
  const settings = PRESETS[name];
  return settings === null ? exactPlan(layers) : selectedPlan(layers, settings);
}
