export type { ChatMessage, Tokenizer } from '@iceformer/model-loader';
export type { AttentionPlan } from '@iceformer/sparse-attention';
export type {
  ComparedHead,
  ComparedLayer,
  ComparedPass,
  ComparisonProgress,
  ComparisonResult,
} from './comparison.ts';
export type { DecoderConfig, FamilyName, LayerTensorNames } from './decoder-config.ts';
export { TransformerError, type TransformerErrorCode } from './errors.ts';
export { readDecoderConfig, supportedArchitectures } from './families.ts';
export type { GenerateOptions, Generation, PrefillProgress, TokenChunk } from './generation.ts';
export type { GenerationSummary, StopReason } from './generation-loop.ts';
export { availableMemory, type MemoryEstimate } from './memory.ts';
export { estimateMemory } from './memory-estimate.ts';
export {
  type CompareOptions,
  type LoadModelOptions,
  type LogitsOptions,
  loadModel,
  type Model,
  type PerplexityOptions,
} from './model.ts';
export { simdLevel, WEIGHT_DTYPES, type WeightDtype } from './native.ts';
export type { PerplexityProgress, PerplexityResult } from './perplexity.ts';
export {
  type GenerationProfile,
  type PhaseProfile,
  PROFILE_PARTS,
  type ProfilePart,
} from './profile.ts';
export type {
  DefaultRope,
  DynamicRope,
  LinearRope,
  Llama3Rope,
  RopeScaling,
  RotaryConfig,
  YarnRope,
} from './rotary.ts';
export {
  ATTENTION_NAMES,
  type AttentionChoice,
  type AttentionName,
  KV_DTYPES,
  type KvDtype,
  type LoadProgress,
  type ModelInfo,
  type RuntimeOptions,
} from './runtime-options.ts';
export type { SamplingOptions } from './sampler.ts';
