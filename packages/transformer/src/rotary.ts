import { TransformerError } from './errors.ts';

/** The trained rotation, not stretched. */
export interface DefaultRope {
  /** Tells the kinds apart. */
  type: 'default';
}

/** Positions divided by a factor. */
export interface LinearRope {
  /** Tells the kinds apart. */
  type: 'linear';
  /** How many times the trained length is to be read; at least 1. */
  factor: number;
}

/**
 * NTK-aware: beyond the trained length the base grows with the length of the sequence. A call of
 * `generate` fixes that length at prompt + `maxTokens` when it starts, so that all keys of one
 * sequence are rotated alike.
 */
export interface DynamicRope {
  /** Tells the kinds apart. */
  type: 'dynamic';
  /** How strongly the base grows; at least 1. */
  factor: number;
}

/** Llama 3.1: low frequencies divided by a factor, high ones kept, a smooth step between. */
export interface Llama3Rope {
  /** Tells the kinds apart. */
  type: 'llama3';
  /** Divides low frequencies; at least 1. */
  factor: number;
  /** Wavelengths above the trained length divided by this are stretched. */
  lowFrequencyFactor: number;
  /** Wavelengths below the trained length divided by this are kept. */
  highFrequencyFactor: number;
  /** Trained length in tokens. Default: the config's `max_position_embeddings`. */
  originalContext?: number;
}

/** YaRN: interpolates by frequency and scales the attention logits. */
export interface YarnRope {
  /** Tells the kinds apart. */
  type: 'yarn';
  /** How many times the trained length is to be read; at least 1. */
  factor: number;
  /** Trained length in tokens. Default: the config's `max_position_embeddings`. */
  originalContext?: number;
  /** Multiplies cos and sin. Default: from `mscale` and `mscaleAllDim` if both are set, else `0.1 ln(factor) + 1`. */
  attentionFactor?: number;
  /** Rotations over the trained length above which a frequency is kept. Default 32. */
  betaFast?: number;
  /** Rotations over the trained length below which a frequency is divided by `factor`. Default 1. */
  betaSlow?: number;
  /** Weight of ln(factor) in the numerator of the attention factor. */
  mscale?: number;
  /** Weight of ln(factor) in its denominator. */
  mscaleAllDim?: number;
  /** Whether the ends of the ramp between the betas are rounded to whole dimensions. Default true. */
  truncate?: boolean;
}

/** How rotary position embeddings are stretched past the length a model was trained on. */
export type RopeScaling = DefaultRope | LinearRope | DynamicRope | Llama3Rope | YarnRope;

/** Everything the rotation of a model's queries and keys depends on. */
export interface RotaryConfig {
  /** Base of the frequencies (`rope_theta`). */
  theta: number;
  /** Dimensions of one attention head; even. */
  headDim: number;
  /** `max_position_embeddings` of the config, in tokens. */
  maxPositions: number;
  /** How the rotation is stretched. */
  scaling: RopeScaling;
}

/** Frequencies of one model at one sequence length. */
export interface RotaryFrequencies {
  /** Radians per position for each pair of dimensions, `[headDim / 2]`. */
  inverseFrequencies: Float64Array;
  /** Multiplies both cos and sin. 1 except for YaRN. */
  attentionFactor: number;
}

/**
 * Computes the frequencies as Hugging Face transformers does, but in double precision.
 *
 * Only dynamic scaling looks at `sequenceLength`, and only beyond `maxPositions`. There the
 * frequencies of *every* position change with the length, while a KV cache holds keys that were
 * rotated when they were computed. transformers recomputes the base at each generated token and
 * leaves the cached keys as they are, so that keys of one sequence were rotated with many bases.
 * This package picks one length for a whole call (prompt + tokens to generate) and uses it from
 * the first token on: query and key rotations always agree, and one forward over a prompt gives
 * the same logits as transformers.
 */
export function inverseFrequencies(config: RotaryConfig, sequenceLength = 0): RotaryFrequencies {
  const { scaling, headDim, maxPositions } = config;
  switch (scaling.type) {
    case 'default':
      return { inverseFrequencies: powers(config.theta, headDim), attentionFactor: 1 };
    case 'linear':
      return {
        inverseFrequencies: powers(config.theta, headDim).map(
          (frequency) => frequency / scaling.factor,
        ),
        attentionFactor: 1,
      };
    case 'dynamic': {
      const length = Math.max(sequenceLength, maxPositions);
      const stretch = (scaling.factor * length) / maxPositions - (scaling.factor - 1);
      const base = config.theta * stretch ** (headDim / (headDim - 2));
      return { inverseFrequencies: powers(base, headDim), attentionFactor: 1 };
    }
    case 'llama3':
      return { inverseFrequencies: llama3Frequencies(config, scaling), attentionFactor: 1 };
    case 'yarn':
      return {
        inverseFrequencies: yarnFrequencies(config, scaling),
        attentionFactor: yarnAttentionFactor(scaling),
      };
  }
}

/**
 * Two calls may share cached keys only if their rotations are the same: the effective length for
 * dynamic scaling, one constant for all others.
 */
export function rotationKey(config: RotaryConfig, sequenceLength: number): number {
  return config.scaling.type === 'dynamic' ? Math.max(sequenceLength, config.maxPositions) : 0;
}

/**
 * Fills the cos and sin tables of `count` positions from `start` on, attention factor included.
 * Both tables are `[count, headDim / 2]`.
 *
 * Angles are rounded to single precision, because models were trained with such angles. It tells:
 * after 4,096 tokens the logits of SmolLM2 are within 4e-5 of PyTorch's, without it within 2e-4.
 */
export function fillRotation(
  { inverseFrequencies, attentionFactor }: RotaryFrequencies,
  start: number,
  count: number,
  cos: Float32Array,
  sin: Float32Array,
): void {
  const pairs = inverseFrequencies.length;
  for (let row = 0; row < count; row++) {
    const position = start + row;
    for (let pair = 0; pair < pairs; pair++) {
      const angle = Math.fround(position * Math.fround(inverseFrequencies[pair] as number));
      cos[row * pairs + pair] = Math.cos(angle) * attentionFactor;
      sin[row * pairs + pair] = Math.sin(angle) * attentionFactor;
    }
  }
}

/**
 * Longest sequence the scaled rotation is meant for, in tokens: the trained length times the
 * factor, except for llama3, whose `max_position_embeddings` already counts the factor.
 */
export function scaledContext({ scaling, maxPositions }: RotaryConfig): number {
  switch (scaling.type) {
    case 'default':
    case 'llama3':
      return maxPositions;
    case 'linear':
    case 'dynamic':
      return Math.floor(maxPositions * scaling.factor);
    case 'yarn':
      return Math.floor((scaling.originalContext ?? maxPositions) * scaling.factor);
  }
}

/** Checks a scaling given by a caller; throws ERR_INVALID_ARGUMENT. */
export function checkRopeScaling(scaling: RopeScaling): void {
  const positive = (name: string, value: unknown, least: number): void => {
    if (typeof value !== 'number' || !Number.isFinite(value) || value < least) {
      throw new TransformerError(
        'ERR_INVALID_ARGUMENT',
        `RoPE scaling ${scaling.type}: ${name} must be a number of at least ${least}, got ${String(value)}`,
        { scaling: scaling.type, name, value },
      );
    }
  };
  switch (scaling.type) {
    case 'default':
      return;
    case 'linear':
    case 'dynamic':
      positive('factor', scaling.factor, 1);
      return;
    case 'llama3':
      positive('factor', scaling.factor, 1);
      positive('lowFrequencyFactor', scaling.lowFrequencyFactor, Number.MIN_VALUE);
      if (scaling.originalContext !== undefined)
        positive('originalContext', scaling.originalContext, 1);
      positive('highFrequencyFactor', scaling.highFrequencyFactor, scaling.lowFrequencyFactor);
      return;
    case 'yarn':
      positive('factor', scaling.factor, 1);
      if (scaling.originalContext !== undefined)
        positive('originalContext', scaling.originalContext, 1);
      if (scaling.attentionFactor !== undefined)
        positive('attentionFactor', scaling.attentionFactor, 0);
      return;
    default:
      throw new TransformerError(
        'ERR_INVALID_ARGUMENT',
        `unknown RoPE scaling ${String((scaling as { type: unknown }).type)}; known are default, linear, dynamic, llama3, yarn`,
        { scaling: (scaling as { type: unknown }).type },
      );
  }
}

/** `theta^(-2i / headDim)`, `[headDim / 2]`. */
function powers(theta: number, headDim: number): Float64Array {
  return Float64Array.from(
    { length: headDim / 2 },
    (_, pair) => 1 / theta ** ((2 * pair) / headDim),
  );
}

function llama3Frequencies(config: RotaryConfig, scaling: Llama3Rope): Float64Array {
  const { factor, lowFrequencyFactor: low, highFrequencyFactor: high } = scaling;
  const trained = scaling.originalContext ?? config.maxPositions;
  return powers(config.theta, config.headDim).map((frequency) => {
    const wavelength = (2 * Math.PI) / frequency;
    if (wavelength < trained / high) return frequency;
    if (wavelength > trained / low) return frequency / factor;
    const smooth = (trained / wavelength - low) / (high - low);
    return ((1 - smooth) * frequency) / factor + smooth * frequency;
  });
}

function yarnFrequencies(config: RotaryConfig, scaling: YarnRope): Float64Array {
  const { theta, headDim } = config;
  const trained = scaling.originalContext ?? config.maxPositions;
  // Dimension whose frequency turns `rotations` times over the trained length.
  const dimensionOf = (rotations: number): number =>
    (headDim * Math.log(trained / (rotations * 2 * Math.PI))) / (2 * Math.log(theta));
  let low = dimensionOf(scaling.betaFast || 32);
  let high = dimensionOf(scaling.betaSlow || 1);
  if (scaling.truncate ?? true) {
    low = Math.floor(low);
    high = Math.ceil(high);
  }
  low = Math.max(low, 0);
  high = Math.min(high, headDim - 1);
  if (low === high) high += 0.001; // as transformers: avoids 0 / 0
  return powers(theta, headDim).map((frequency, pair) => {
    const ramp = Math.min(1, Math.max(0, (pair - low) / (high - low)));
    return (frequency / scaling.factor) * ramp + frequency * (1 - ramp);
  });
}

function yarnAttentionFactor(scaling: YarnRope): number {
  const { factor, attentionFactor, mscale, mscaleAllDim } = scaling;
  if (attentionFactor !== undefined) return attentionFactor;
  const magnitude = (scale: number): number =>
    factor <= 1 ? 1 : 0.1 * scale * Math.log(factor) + 1;
  if (mscale && mscaleAllDim) return magnitude(mscale) / magnitude(mscaleAllDim);
  return magnitude(1);
}
