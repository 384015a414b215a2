import { availableParallelism } from 'node:os';
import type { ModelFolder } from '@iceformer/model-loader';
import type { AttentionPlan } from '@iceformer/sparse-attention';
import { checkPlanModel, presetPlan, readPlan } from '@iceformer/sparse-attention';
import type { DecoderConfig, FamilyName } from './decoder-config.ts';
import { TransformerError } from './errors.ts';
import { readDecoderConfig } from './families.ts';
import { WEIGHT_DTYPES, type WeightDtype } from './native.ts';
import type { RopeScaling } from './rotary.ts';
import { checkRopeScaling } from './rotary.ts';

/** Types of keys and values in the cache. */
export const KV_DTYPES = ['f32', 'bf16', 'int8'] as const;

/** Type of keys and values in the cache. */
export type KvDtype = (typeof KV_DTYPES)[number];

/** Ways to attend that have a name, beside a plan: `dense` and `exact` are one, `sparse` and `accurate` too. */
export const ATTENTION_NAMES = [
  'dense',
  'sparse',
  'exact',
  'accurate',
  'balanced',
  'fast',
] as const;

/** A way to attend that has a name. */
export type AttentionName = (typeof ATTENTION_NAMES)[number];

/** How queries attend: to every key, to those that matter as a preset or as a calibrated plan says. */
export type AttentionChoice = AttentionName | AttentionPlan;

/** What shapes a model in memory; everything but the folder has a default. */
export interface RuntimeOptions {
  /** Model folder in Hugging Face layout, or the name of a model that was pulled. */
  model: string;
  /**
   * Weights and kernels: `f32` is exact, `bf16` halves memory and time. `int8` halves them again: weights
   * and the activations they meet are whole numbers of one byte times a scale for every 128 of them;
   * norms, sums and attention stay as in `bf16`. Default `bf16`.
   */
  dtype?: WeightDtype;
  /**
   * Keys and values of past tokens: `int8` takes about half of the memory of `bf16`, one byte a number and a scale for
   * each key and each value. Default `f32` where `dtype` is, otherwise `bf16`.
   */
  kvDtype?: KvDtype;
  /** Threads that compute. Default: as many as the system offers. */
  threads?: number;
  /** Default `dense`. */
  attention?: AttentionChoice;
  /**
   * Most tokens of prompt and answer together. Default: the trained length, stretched by the RoPE
   * scaling. More is allowed, but a model reads little sense beyond its length without scaling.
   */
  context?: number;
  /** Replaces the scaling that `config.json` names. */
  ropeScaling?: RopeScaling;
  /** Tokens that run through the layers at once. Default 512. */
  maxChunk?: number;
}

/** {@link RuntimeOptions} with defaults filled in, except those that come from the model. */
export interface LoadParams {
  model: string;
  dtype: WeightDtype;
  kvDtype: KvDtype;
  threads: number;
  attention: AttentionChoice;
  context: number | null;
  ropeScaling: RopeScaling | null;
  maxChunk: number;
}

/** Sent while weights are packed, one step for the embedding and one for each layer. */
export interface LoadProgress {
  /** Steps done. */
  done: number;
  /** Steps in all. */
  total: number;
}

/** Facts about a loaded model. */
export interface ModelInfo {
  /** Which reader understood its config. */
  family: FamilyName;
  /** As in `config.json`, for example `LlamaForCausalLM`. */
  architecture: string;
  /** Transformer layers. */
  layers: number;
  /** Query heads. */
  heads: number;
  /** Key and value heads. */
  kvHeads: number;
  /** Dimensions of one head. */
  headDim: number;
  /** Width of the residual stream. */
  hiddenSize: number;
  /** Tokens the model knows. */
  vocabSize: number;
  /** Most tokens of prompt and answer together. */
  contextLength: number;
  /** Number of weights. */
  parameters: number;
  /** Type of the packed weights. */
  dtype: WeightDtype;
  /** Type of keys and values. */
  kvDtype: KvDtype;
  /** How it attends. */
  attention: AttentionName | 'plan';
  /** Tells the model from others, see `modelFingerprint` of `@iceformer/model-loader`. */
  fingerprint: string;
  /** Instruction set of the kernels, for example `avx2`. */
  simd: string;
  /** Threads that compute. */
  threads: number;
  /** Memory of the packed weights. */
  weightBytes: number;
}

/** Largest values that native code can count with. */
const LIMITS = { threads: 1024, context: 2 ** 31, maxChunk: 2 ** 16 };

/** Fills in the defaults that need no model; throws ERR_INVALID_ARGUMENT with the value that is wrong. */
export function resolveRuntimeOptions(options: RuntimeOptions): LoadParams {
  const { model, dtype, kvDtype, attention, ropeScaling } = options;
  if (typeof model !== 'string' || model === '')
    throw invalid('model', model, 'a folder or the name of a pulled model');
  if (dtype !== undefined && !WEIGHT_DTYPES.includes(dtype))
    throw invalid('dtype', dtype, WEIGHT_DTYPES.join(', '));
  if (kvDtype !== undefined && !KV_DTYPES.includes(kvDtype))
    throw invalid('kvDtype', kvDtype, KV_DTYPES.join(', '));
  if (attention !== undefined) checkAttention(attention);
  if (ropeScaling !== undefined) checkRopeScaling(ropeScaling);
  for (const [name, most] of Object.entries(LIMITS)) {
    const value = options[name as keyof typeof LIMITS];
    if (value !== undefined && !(Number.isSafeInteger(value) && value >= 1 && value <= most)) {
      throw invalid(name, value, `a whole number from 1 to ${most}`);
    }
  }
  return {
    model: options.model,
    dtype: options.dtype ?? 'bf16',
    kvDtype: options.kvDtype ?? (options.dtype === 'f32' ? 'f32' : 'bf16'),
    threads: options.threads ?? availableParallelism(),
    attention: options.attention ?? 'dense',
    context: options.context ?? null,
    ropeScaling: options.ropeScaling ?? null,
    maxChunk: options.maxChunk ?? 512,
  };
}

/** Throws ERR_INVALID_ARGUMENT for a name that no way to attend has. */
export function checkAttention(attention: AttentionChoice): void {
  if (typeof attention !== 'string' || ATTENTION_NAMES.includes(attention)) return;
  throw invalid('attention', attention, `${ATTENTION_NAMES.join(', ')} or a plan`);
}

/** The name of a way to attend. */
export function nameOfAttention(attention: AttentionChoice): AttentionName | 'plan' {
  return typeof attention === 'string' ? attention : 'plan';
}

/** The plan of a way to attend, for one model. */
export function planOf(
  attention: AttentionChoice,
  { layers, heads, kvHeads, headDim }: DecoderConfig,
  fingerprint: string,
): AttentionPlan {
  if (attention === 'dense') return presetPlan('exact', layers);
  if (attention === 'sparse') return presetPlan('accurate', layers);
  if (typeof attention === 'string') return presetPlan(attention, layers);
  const plan = readPlan(attention, layers, kvHeads);
  checkPlanModel(plan, { fingerprint, layers, heads, kvHeads, headDim });
  return plan;
}

/** Options of the attention cache for a model, besides its plan. */
export function cacheOptions(config: DecoderConfig, params: LoadParams) {
  return {
    layers: config.layers,
    heads: config.heads,
    kvHeads: config.kvHeads,
    headDim: config.headDim,
    storage: params.kvDtype === 'int8' ? ('i8' as const) : params.kvDtype,
    threads: params.threads,
    slidingWindow: config.slidingWindows,
  };
}

/** The decoder's config with the caller's RoPE scaling put in. */
export function configure(folder: ModelFolder, params: LoadParams): DecoderConfig {
  const config = readDecoderConfig(folder.config);
  if (params.ropeScaling === null) return config;
  return { ...config, rotary: { ...config.rotary, scaling: params.ropeScaling } };
}

function invalid(name: string, value: unknown, expected: string): TransformerError {
  return new TransformerError(
    'ERR_INVALID_ARGUMENT',
    `${name} must be ${expected}, got ${String(value)}`,
    {
      name,
      value,
      expected,
    },
  );
}
