/**
 * Attention as soft nearest-neighbour search: a key/value cache whose past lives in a dynamic index.
 * @packageDocumentation
 */
export type { GroupStorage } from '@iceformer/knn-index';
export { type AttentionInput, type AttentionOutput, attention } from './attention.ts';
export {
  type AttendOptions,
  AttentionCache,
  type AttentionCacheOptions,
  estimateCacheBytes,
} from './attention-cache.ts';
export { AttentionError } from './attention-error.ts';
export type { AttentionReport, HeadReport, LayerReport } from './attention-report.ts';
export {
  type AttentionPlan,
  exactPlan,
  headPlans,
  type LayerPlan,
  readPlan,
  type SelectedPlanOptions,
  selectedPlan,
} from './plan.ts';
export { checkPlanModel, type PlanCalibration } from './plan-calibration.ts';
export { PRESETS, type PresetName, presetPlan } from './presets.ts';
export type {
  ExactStrategy,
  HeadPlan,
  ReuseStrategy,
  SelectedStrategy,
  SkipStrategy,
  TopKStrategy,
  WindowStrategy,
} from './strategy.ts';
