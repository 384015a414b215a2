/**
 * Attention as soft nearest-neighbour search: a key/value cache whose past lives in a dynamic index.
 * @packageDocumentation
 */
export {
  AttentionCache,
  type AttentionCacheOptions,
  type AttentionReport,
  estimateCacheBytes,
  type LayerReport,
} from './attention-cache.ts';
export { AttentionError } from './attention-error.ts';
export {
  type AttentionPlan,
  type ExactLayer,
  exactPlan,
  type LayerPlan,
  readPlan,
  type SelectedLayer,
  type SelectedPlanOptions,
  selectedPlan,
} from './plan.ts';
export { checkPlanModel, type PlanCalibration } from './plan-calibration.ts';
export { PRESETS, type PresetName, presetPlan } from './presets.ts';
