import type { ConfigReader } from './config-reader.ts';
import { readRotary } from './config-reader.ts';
import { TransformerError } from './errors.ts';
import type { RotaryConfig } from './rotary.ts';

/** Names of the model families this package runs. */
export type FamilyName = 'llama' | 'mistral' | 'qwen2' | 'qwen3';

/** Names of one layer's tensors in the checkpoint. All matrices are `[out, in]`. */
export interface LayerTensorNames {
  /** `[hiddenSize]` */
  inputNorm: string;
  /** `[heads * headDim, hiddenSize]` */
  q: string;
  /** `[kvHeads * headDim, hiddenSize]` */
  k: string;
  /** `[kvHeads * headDim, hiddenSize]` */
  v: string;
  /** `[heads * headDim]` */
  qBias?: string;
  /** `[kvHeads * headDim]` */
  kBias?: string;
  /** `[kvHeads * headDim]` */
  vBias?: string;
  /** RMSNorm of each query head, `[headDim]` */
  qNorm?: string;
  /** RMSNorm of each key head, `[headDim]` */
  kNorm?: string;
  /** `[hiddenSize, heads * headDim]` */
  o: string;
  /** `[hiddenSize]` */
  oBias?: string;
  /** `[hiddenSize]` */
  postNorm: string;
  /** `[intermediateSize, hiddenSize]` */
  gate: string;
  /** `[intermediateSize, hiddenSize]` */
  up: string;
  /** `[hiddenSize, intermediateSize]` */
  down: string;
  /** `[intermediateSize]` */
  gateBias?: string;
  /** `[intermediateSize]` */
  upBias?: string;
  /** `[hiddenSize]` */
  downBias?: string;
}

/** One decoder-only transformer, whatever family it came from. */
export interface DecoderConfig {
  /** Which reader understood the config. */
  family: FamilyName;
  /** As in `config.json`, for example `LlamaForCausalLM`. */
  architecture: string;
  /** Width of the residual stream. */
  hiddenSize: number;
  /** Width of the MLP. */
  intermediateSize: number;
  /** Transformer layers. */
  layers: number;
  /** Query heads. */
  heads: number;
  /** Key and value heads; divides `heads`. */
  kvHeads: number;
  /** Dimensions of one head; even. */
  headDim: number;
  /** Tokens the model knows. */
  vocabSize: number;
  /** Added to the mean square in every RMSNorm. */
  normEps: number;
  /** How queries and keys are rotated. */
  rotary: RotaryConfig;
  /** Per layer: number of latest tokens a token sees, itself included; null for all. */
  slidingWindows: (number | null)[];
  /** Names of the tensors in the checkpoint. */
  tensors: {
    /** `[vocabSize, hiddenSize]` */
    embedding: string;
    /** `[vocabSize, hiddenSize]`; absent if tied to the embedding. */
    head?: string;
    /** `[hiddenSize]` */
    finalNorm: string;
    /** One entry per layer. */
    layers: LayerTensorNames[];
  };
}

/** Which optional parts a family's layers have. */
export interface LayerFeatures {
  qkvBias: boolean;
  oBias: boolean;
  mlpBias: boolean;
  qkNorm: boolean;
}

/** Defaults of a family's config class in transformers, for keys a file leaves out. */
export interface SharedDefaults {
  /** Key and value heads; null: as many as query heads. */
  kvHeads: number | null;
  /** Dimensions of a head; null: hidden size / heads. */
  headDim: number | null;
  maxPositions: number;
}

/** Reads what all families share. `slidingWindows` comes out as "all tokens". */
export function readShared(
  config: ConfigReader,
  family: FamilyName,
  architecture: string,
  defaults: SharedDefaults,
  features: LayerFeatures,
): DecoderConfig {
  if (config.has('quantization_config')) {
    throw config.unsupported('quantization_config', 'weights must be F32, F16 or BF16');
  }
  const activation = config.text('hidden_act', 'silu');
  if (activation !== 'silu' && activation !== 'swish') {
    throw config.unsupported('hidden_act', 'only silu is supported');
  }
  const hiddenSize = config.count('hidden_size');
  const layers = config.count('num_hidden_layers');
  const heads = config.count('num_attention_heads');
  const kvHeads = config.isNull('num_key_value_heads')
    ? heads
    : config.count('num_key_value_heads', defaults.kvHeads ?? heads);
  const headDim = config.count('head_dim', defaults.headDim ?? hiddenSize / heads);
  const maxPositions = config.count('max_position_embeddings', defaults.maxPositions);
  if (heads % kvHeads !== 0) {
    throw config.invalid('num_key_value_heads', `a divisor of num_attention_heads (${heads})`);
  }
  if (headDim % 2 !== 0)
    throw config.invalid('head_dim', 'even, rotary embeddings turn pairs of dimensions');
  const { theta, scaling } = readRotary(config, maxPositions);
  return {
    family,
    architecture,
    hiddenSize,
    intermediateSize: config.count('intermediate_size'),
    layers,
    heads,
    kvHeads,
    headDim,
    vocabSize: config.count('vocab_size'),
    normEps: config.number('rms_norm_eps', 1e-6),
    rotary: { theta, headDim, maxPositions, scaling },
    slidingWindows: new Array<number | null>(layers).fill(null),
    tensors: {
      embedding: 'model.embed_tokens.weight',
      ...(config.flag('tie_word_embeddings', false) ? {} : { head: 'lm_head.weight' }),
      finalNorm: 'model.norm.weight',
      layers: Array.from({ length: layers }, (_, layer) =>
        layerTensorNames(`model.layers.${layer}`, features),
      ),
    },
  };
}

/** The names all four families use, with the parts the family has. */
function layerTensorNames(prefix: string, features: LayerFeatures): LayerTensorNames {
  const { qkvBias, oBias, mlpBias, qkNorm } = features;
  return {
    inputNorm: `${prefix}.input_layernorm.weight`,
    q: `${prefix}.self_attn.q_proj.weight`,
    k: `${prefix}.self_attn.k_proj.weight`,
    v: `${prefix}.self_attn.v_proj.weight`,
    ...(qkvBias && {
      qBias: `${prefix}.self_attn.q_proj.bias`,
      kBias: `${prefix}.self_attn.k_proj.bias`,
      vBias: `${prefix}.self_attn.v_proj.bias`,
    }),
    ...(qkNorm && {
      qNorm: `${prefix}.self_attn.q_norm.weight`,
      kNorm: `${prefix}.self_attn.k_norm.weight`,
    }),
    o: `${prefix}.self_attn.o_proj.weight`,
    ...(oBias && { oBias: `${prefix}.self_attn.o_proj.bias` }),
    postNorm: `${prefix}.post_attention_layernorm.weight`,
    gate: `${prefix}.mlp.gate_proj.weight`,
    up: `${prefix}.mlp.up_proj.weight`,
    down: `${prefix}.mlp.down_proj.weight`,
    ...(mlpBias && {
      gateBias: `${prefix}.mlp.gate_proj.bias`,
      upBias: `${prefix}.mlp.up_proj.bias`,
      downBias: `${prefix}.mlp.down_proj.bias`,
    }),
  };
}

/**
 * Sliding windows of Qwen2 and Qwen3: only if `use_sliding_window`, and then in the layers that
 * `layer_types` names, or from `max_window_layers` on.
 */
export function readQwenWindows(config: ConfigReader, layers: number): (number | null)[] {
  const window = config.flag('use_sliding_window', false)
    ? config.count('sliding_window', 4096)
    : null;
  const types = config.optionalTexts('layer_types');
  if (types === undefined) {
    const first = config.count('max_window_layers', 28, 0);
    return Array.from({ length: layers }, (_, layer) => (layer >= first ? window : null));
  }
  if (types.length !== layers)
    throw config.invalid('layer_types', `${layers} entries long, one per layer`);
  return types.map((type) => {
    if (type === 'full_attention') return null;
    if (type !== 'sliding_attention') {
      throw config.unsupported(
        'layer_types',
        `${type} is unknown; supported are full_attention, sliding_attention`,
      );
    }
    if (window === null) {
      throw new TransformerError(
        'ERR_INVALID_CONFIG',
        'config.json: layer_types names sliding_attention layers, but use_sliding_window is false',
        { key: 'layer_types', value: types },
      );
    }
    return window;
  });
}
