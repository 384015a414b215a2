import { TransformerError } from './errors.ts';
import type { RopeScaling, YarnRope } from './rotary.ts';

/**
 * Typed access to a parsed `config.json`. Every getter throws ERR_INVALID_CONFIG with the key and
 * the value found. `null` counts as absent, as in transformers.
 */
export class ConfigReader {
  readonly #json: Record<string, unknown>;
  readonly #path: string;

  /** @param path - where `json` lies inside the file, for messages; empty at the top. */
  constructor(json: Record<string, unknown>, path = '') {
    this.#json = json;
    this.#path = path;
  }

  has(key: string): boolean {
    return this.#json[key] !== undefined && this.#json[key] !== null;
  }

  /** Whether the file says `null` outright, which is not the same as leaving the key out. */
  isNull(key: string): boolean {
    return this.#json[key] === null;
  }

  /** A whole number of at least `least`. */
  count(key: string, fallback?: number, least = 1): number {
    const value = this.#json[key] ?? fallback;
    if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < least) {
      throw this.invalid(key, `a whole number of at least ${least}`);
    }
    return value;
  }

  /** A finite number of at least `least`. */
  number(key: string, fallback?: number, least = Number.MIN_VALUE): number {
    const value = this.#json[key] ?? fallback;
    if (typeof value !== 'number' || !Number.isFinite(value) || value < least) {
      throw this.invalid(key, least > 0 ? 'a positive number' : `a number of at least ${least}`);
    }
    return value;
  }

  optionalNumber(key: string, least?: number): number | undefined {
    return this.has(key) ? this.number(key, undefined, least) : undefined;
  }

  flag(key: string, fallback: boolean): boolean {
    const value = this.#json[key] ?? fallback;
    if (typeof value !== 'boolean') throw this.invalid(key, 'true or false');
    return value;
  }

  text(key: string, fallback?: string): string {
    const value = this.#json[key] ?? fallback;
    if (typeof value !== 'string') throw this.invalid(key, 'a string');
    return value;
  }

  /** A list of strings, or undefined if absent. */
  optionalTexts(key: string): string[] | undefined {
    if (!this.has(key)) return undefined;
    const value = this.#json[key];
    if (!Array.isArray(value) || !value.every((item) => typeof item === 'string')) {
      throw this.invalid(key, 'a list of strings');
    }
    return value;
  }

  /** A nested object, or undefined if absent. */
  optionalObject(key: string): ConfigReader | undefined {
    if (!this.has(key)) return undefined;
    const value = this.#json[key];
    if (typeof value !== 'object' || Array.isArray(value)) throw this.invalid(key, 'an object');
    return new ConfigReader(value as Record<string, unknown>, this.#name(key));
  }

  /** Error for the value of `key`, saying what it ought to be. */
  invalid(key: string, expected: string): TransformerError {
    const value = this.#json[key];
    const name = this.#name(key);
    return new TransformerError(
      'ERR_INVALID_CONFIG',
      `config.json: ${name} must be ${expected}, ${value === undefined ? 'it is missing' : `got ${JSON.stringify(value)}`}`,
      { key: name, value, expected },
    );
  }

  /** Error for a feature that the config asks for and this package lacks. */
  unsupported(key: string, reason: string): TransformerError {
    const value = this.#json[key];
    const name = this.#name(key);
    return new TransformerError(
      'ERR_UNSUPPORTED_FEATURE',
      `config.json: ${name} is ${JSON.stringify(value)}: ${reason}`,
      { key: name, value },
    );
  }

  #name(key: string): string {
    return this.#path === '' ? key : `${this.#path}.${key}`;
  }
}

/** Rotary base and scaling as written in a config, before the caller overrides any of it. */
export interface ConfiguredRotary {
  theta: number;
  scaling: RopeScaling;
}

/**
 * Reads the rotary settings in both spellings: `rope_theta` with `rope_scaling: {type | rope_type}`,
 * and transformers 5's `rope_parameters`, which holds `rope_theta` too.
 *
 * @param defaultTheta - base used when the config names none.
 */
export function readRotary(
  config: ConfigReader,
  maxPositions: number,
  defaultTheta = 10_000,
): ConfiguredRotary {
  // transformers lets the older key win if both are there.
  const key = config.optionalObject('rope_scaling') ? 'rope_scaling' : 'rope_parameters';
  const parameters = config.optionalObject(key);
  for (const reader of parameters === undefined ? [config] : [config, parameters]) {
    if (reader.has('partial_rotary_factor') && reader.number('partial_rotary_factor') !== 1) {
      throw reader.unsupported('partial_rotary_factor', 'only whole heads are rotated (1.0)');
    }
  }
  if (parameters === undefined) {
    return { theta: config.number('rope_theta', defaultTheta), scaling: { type: 'default' } };
  }
  for (const layerType of ['full_attention', 'sliding_attention']) {
    if (parameters.has(layerType))
      throw parameters.unsupported(layerType, 'one rotation serves all layers');
  }
  const theta = parameters.has('rope_theta')
    ? parameters.number('rope_theta')
    : config.number('rope_theta', defaultTheta);
  return { theta, scaling: readScaling(config, parameters, maxPositions) };
}

function readScaling(
  config: ConfigReader,
  parameters: ConfigReader,
  maxPositions: number,
): RopeScaling {
  const typeKey = parameters.has('rope_type') ? 'rope_type' : 'type';
  const type = parameters.text(typeKey, 'default');
  switch (type) {
    case 'default':
      return { type };
    case 'linear':
    case 'dynamic':
      return { type, factor: parameters.number('factor') };
    case 'llama3':
      return {
        type,
        factor: parameters.number('factor'),
        lowFrequencyFactor: parameters.number('low_freq_factor'),
        highFrequencyFactor: parameters.number('high_freq_factor'),
        originalContext: originalContext(config, parameters, maxPositions),
      };
    case 'yarn': {
      const original = originalContext(config, parameters, maxPositions);
      const scaling: YarnRope = {
        type,
        factor: parameters.number('factor', maxPositions / original),
        originalContext: original,
      };
      const optional = {
        attentionFactor: parameters.optionalNumber('attention_factor', 0),
        betaFast: parameters.optionalNumber('beta_fast', 0),
        betaSlow: parameters.optionalNumber('beta_slow', 0),
        mscale: parameters.optionalNumber('mscale', 0),
        mscaleAllDim: parameters.optionalNumber('mscale_all_dim', 0),
        truncate: parameters.has('truncate') ? parameters.flag('truncate', true) : undefined,
      };
      for (const [name, value] of Object.entries(optional)) {
        if (value !== undefined) Object.assign(scaling, { [name]: value });
      }
      return scaling;
    }
    default:
      throw parameters.unsupported(typeKey, 'supported are default, linear, dynamic, llama3, yarn');
  }
}

/** Trained length: a top-level key wins, as in transformers. */
function originalContext(
  config: ConfigReader,
  parameters: ConfigReader,
  maxPositions: number,
): number {
  const key = 'original_max_position_embeddings';
  return config.has(key) ? config.count(key) : parameters.count(key, maxPositions);
}
