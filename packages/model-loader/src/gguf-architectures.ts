import type { GgufFile, GgufTensor } from './gguf-file.ts';
import { ModelLoaderError } from './model-loader-error.ts';

/** How a tensor of a GGUF file becomes one of a Hugging Face checkpoint. */
export interface TensorPlan {
  /** Where it comes from. */
  source: GgufTensor;
  /** Name in the checkpoint. */
  name: string;
  /**
   * Rows per head when the rows of each head are interleaved: GGUF pairs the two halves that the rotary
   * embedding mixes (row 2i and 2i+1), the checkpoint keeps them apart (row i and i + half).
   */
  interleavedHead?: number;
  /** Added to every value: llama.cpp stores the norm weights of Gemma with 1 added. */
  offset?: number;
}

/** A model of a GGUF file in the terms of Hugging Face. */
export interface ArchitecturePlan {
  /** What config.json holds, without vocabulary and special tokens. */
  config: Record<string, unknown>;
  /** All tensors of the checkpoint. */
  tensors: TensorPlan[];
}

/** Architectures that can be imported, by their name in GGUF. */
export const GGUF_ARCHITECTURES: readonly string[] = ['llama', 'qwen2', 'qwen3', 'gemma3'];

/** Names of the tensors of one layer, GGUF to Hugging Face. */
const LLAMA_LAYER: Readonly<Record<string, string>> = {
  'attn_norm.weight': 'input_layernorm.weight',
  'attn_q.weight': 'self_attn.q_proj.weight',
  'attn_q.bias': 'self_attn.q_proj.bias',
  'attn_k.weight': 'self_attn.k_proj.weight',
  'attn_k.bias': 'self_attn.k_proj.bias',
  'attn_v.weight': 'self_attn.v_proj.weight',
  'attn_v.bias': 'self_attn.v_proj.bias',
  'attn_output.weight': 'self_attn.o_proj.weight',
  'attn_output.bias': 'self_attn.o_proj.bias',
  'ffn_norm.weight': 'post_attention_layernorm.weight',
  'ffn_gate.weight': 'mlp.gate_proj.weight',
  'ffn_gate.bias': 'mlp.gate_proj.bias',
  'ffn_up.weight': 'mlp.up_proj.weight',
  'ffn_up.bias': 'mlp.up_proj.bias',
  'ffn_down.weight': 'mlp.down_proj.weight',
  'ffn_down.bias': 'mlp.down_proj.bias',
};

const HEAD_NORMS: Readonly<Record<string, string>> = {
  'attn_q_norm.weight': 'self_attn.q_norm.weight',
  'attn_k_norm.weight': 'self_attn.k_norm.weight',
};

const GEMMA3_LAYER: Readonly<Record<string, string>> = {
  ...LLAMA_LAYER,
  ...HEAD_NORMS,
  'post_attention_norm.weight': 'post_attention_layernorm.weight',
  'ffn_norm.weight': 'pre_feedforward_layernorm.weight',
  'post_ffw_norm.weight': 'post_feedforward_layernorm.weight',
};

const LAYER_NAMES: Readonly<Record<string, Readonly<Record<string, string>>>> = {
  llama: LLAMA_LAYER,
  qwen2: LLAMA_LAYER,
  qwen3: { ...LLAMA_LAYER, ...HEAD_NORMS },
  gemma3: GEMMA3_LAYER,
};

/** Sizes of a model, from which the shapes of its tensors follow. */
interface Sizes {
  layers: number;
  hidden: number;
  inner: number;
  heads: number;
  kvHeads: number;
  headDim: number;
}

/** Tensors every layer must have, with their shapes. */
const REQUIRED: Readonly<Record<string, (sizes: Sizes) => number[]>> = {
  'attn_norm.weight': ({ hidden }) => [hidden],
  'attn_q.weight': ({ hidden, heads, headDim }) => [heads * headDim, hidden],
  'attn_k.weight': ({ hidden, kvHeads, headDim }) => [kvHeads * headDim, hidden],
  'attn_v.weight': ({ hidden, kvHeads, headDim }) => [kvHeads * headDim, hidden],
  'attn_output.weight': ({ hidden, heads, headDim }) => [hidden, heads * headDim],
  'ffn_norm.weight': ({ hidden }) => [hidden],
  'ffn_gate.weight': ({ hidden, inner }) => [inner, hidden],
  'ffn_up.weight': ({ hidden, inner }) => [inner, hidden],
  'ffn_down.weight': ({ hidden, inner }) => [hidden, inner],
};

/** Rotary settings, which several places need. */
interface Rope {
  theta: number;
  scaling?: Record<string, unknown>;
}

/**
 * Plans the checkpoint for a GGUF file.
 *
 * @throws {@link ModelLoaderError} `ERR_GGUF_ARCHITECTURE`, `ERR_GGUF_TENSOR_NAME`, `ERR_GGUF_INVALID`.
 */
export function planArchitecture(file: GgufFile, ropeFactors?: Float32Array): ArchitecturePlan {
  const { metadata, path } = file;
  const parts = metadata.integer('split.count') ?? 1;
  if (parts > 1) {
    throw new ModelLoaderError(
      'ERR_GGUF_INVALID',
      `${path} is one of ${parts} parts of a model; join them with llama-gguf-split --merge first`,
      { path, parts },
    );
  }
  const architecture = metadata.text('general.architecture');
  if (architecture === undefined || !GGUF_ARCHITECTURES.includes(architecture)) {
    throw new ModelLoaderError(
      'ERR_GGUF_ARCHITECTURE',
      `${path} holds a model of architecture ${architecture ?? '(none)'}; supported are ${GGUF_ARCHITECTURES.join(', ')}`,
      { path, architecture, supported: GGUF_ARCHITECTURES },
    );
  }
  const key = (name: string) => `${architecture}.${name}`;
  const required = (name: string): number => {
    const value = metadata.integer(key(name));
    if (value === undefined || value === 0) {
      throw new ModelLoaderError('ERR_GGUF_INVALID', `${path} has no ${key(name)}`, {
        path,
        key: key(name),
      });
    }
    return value;
  };
  if ((metadata.integer(key('expert_count')) ?? 0) > 0) {
    throw new ModelLoaderError(
      'ERR_GGUF_ARCHITECTURE',
      `${path} holds a mixture of ${metadata.integer(key('expert_count'))} experts, which is not supported`,
      { path, architecture },
    );
  }
  for (const list of ['attention.head_count', 'attention.head_count_kv', 'feed_forward_length']) {
    if (metadata.isList(key(list))) {
      throw new ModelLoaderError(
        'ERR_GGUF_ARCHITECTURE',
        `${path} has a different ${key(list)} for each layer, which is not supported`,
        { path, key: key(list) },
      );
    }
  }

  const layers = required('block_count');
  const hiddenSize = required('embedding_length');
  const heads = required('attention.head_count');
  const kvHeads = metadata.integer(key('attention.head_count_kv')) ?? heads;
  const headDim = metadata.integer(key('attention.key_length')) ?? hiddenSize / heads;
  if (!Number.isInteger(headDim) || kvHeads === 0 || heads % kvHeads !== 0) {
    throw new ModelLoaderError(
      'ERR_GGUF_INVALID',
      `${path} has ${heads} heads, ${kvHeads} key heads and a hidden size of ${hiddenSize}, which do not fit`,
      { path, heads, kvHeads, hiddenSize },
    );
  }
  const names = new Set(file.tensors.map((tensor) => tensor.name));
  const inner = required('feed_forward_length');
  const sizes: Sizes = { layers, hidden: hiddenSize, inner, heads, kvHeads, headDim };
  const tensors = planTensors(file, architecture, sizes);
  const theta = metadata.number(key('rope.freq_base'));
  const rope: Rope = { theta: theta ?? (architecture === 'gemma3' ? 1_000_000 : 10_000) };
  const scaling = ropeScaling(file, architecture, rope.theta, headDim, ropeFactors);
  if (scaling !== undefined) rope.scaling = scaling;
  const slidingWindow = metadata.integer(key('attention.sliding_window')) ?? 0;
  const tied = !names.has('output.weight');

  const config: Record<string, unknown> = {
    hidden_size: hiddenSize,
    intermediate_size: inner,
    num_hidden_layers: layers,
    num_attention_heads: heads,
    num_key_value_heads: kvHeads,
    head_dim: headDim,
    max_position_embeddings: required('context_length'),
    rms_norm_eps: metadata.number(key('attention.layer_norm_rms_epsilon')) ?? 1e-6,
    rope_theta: rope.theta,
    rope_scaling: rope.scaling ?? null,
    tie_word_embeddings: tied,
    hidden_act: 'silu',
  };
  switch (architecture) {
    case 'llama':
      Object.assign(config, llamaConfig(names, slidingWindow));
      break;
    case 'qwen2':
      Object.assign(config, {
        model_type: 'qwen2',
        architectures: ['Qwen2ForCausalLM'],
        use_sliding_window: false,
        sliding_window: null,
      });
      break;
    case 'qwen3':
      Object.assign(config, {
        model_type: 'qwen3',
        architectures: ['Qwen3ForCausalLM'],
        attention_bias: names.has('blk.0.attn_q.bias'),
        use_sliding_window: false,
        sliding_window: null,
      });
      break;
    default:
      Object.assign(config, gemma3Config(layers, hiddenSize, heads, headDim, slidingWindow));
  }
  return { config, tensors };
}

/**
 * What GGUF calls llama goes by several names in Hugging Face: with a sliding window it is Mistral, and with biases on
 * queries, keys and values alone it is Qwen2 (Llama's own option has one on the output as well).
 */
function llamaConfig(names: ReadonlySet<string>, slidingWindow: number): Record<string, unknown> {
  if (slidingWindow > 0) {
    return {
      model_type: 'mistral',
      architectures: ['MistralForCausalLM'],
      sliding_window: slidingWindow,
    };
  }
  const queryBias = names.has('blk.0.attn_q.bias');
  if (queryBias && !names.has('blk.0.attn_output.bias')) {
    return { model_type: 'qwen2', architectures: ['Qwen2ForCausalLM'], use_sliding_window: false };
  }
  return {
    model_type: 'llama',
    architectures: ['LlamaForCausalLM'],
    attention_bias: queryBias,
    mlp_bias: names.has('blk.0.ffn_gate.bias'),
  };
}

/**
 * Gemma 3 (text). What GGUF leaves out is the same in all its sizes: every sixth layer looks at everything, the
 * others at a window, with their own rotary base; the 27B model alone scales queries by its hidden size.
 */
function gemma3Config(
  layers: number,
  hiddenSize: number,
  heads: number,
  headDim: number,
  slidingWindow: number,
): Record<string, unknown> {
  return {
    model_type: 'gemma3_text',
    architectures: ['Gemma3ForCausalLM'],
    hidden_act: undefined,
    hidden_activation: 'gelu_pytorch_tanh',
    query_pre_attn_scalar: layers === 62 ? hiddenSize / heads : headDim,
    sliding_window: slidingWindow || 1024,
    sliding_window_pattern: 6,
    layer_types: Array.from({ length: layers }, (_, layer) =>
      (layer + 1) % 6 === 0 ? 'full_attention' : 'sliding_attention',
    ),
    rope_local_base_freq: 10_000,
    attention_bias: false,
    attn_logit_softcapping: null,
    final_logit_softcapping: null,
  };
}

function planTensors(file: GgufFile, architecture: string, sizes: Sizes): TensorPlan[] {
  const layerNames = LAYER_NAMES[architecture] ?? {};
  const plans: TensorPlan[] = [];
  for (const source of file.tensors) {
    const name = checkpointName(source.name, layerNames, sizes.layers);
    // Factors of the rotary embedding are no weights: they become rope_scaling.
    if (name === null) continue;
    if (name === undefined) {
      throw new ModelLoaderError(
        'ERR_GGUF_TENSOR_NAME',
        `${file.path} has the tensor ${source.name}, which a ${architecture} model of ${sizes.layers} layers does not have`,
        { path: file.path, tensor: source.name, architecture },
      );
    }
    const plan: TensorPlan = { source, name };
    const part = /^blk\.\d+\.attn_([qk])\.(?:weight|bias)$/.exec(source.name)?.[1];
    if (architecture === 'llama' && part !== undefined) {
      const heads = part === 'q' ? sizes.heads : sizes.kvHeads;
      const rows = source.shape[0] ?? 0;
      if (rows % (2 * heads) !== 0) {
        throw new ModelLoaderError(
          'ERR_GGUF_INVALID',
          `${file.path} has the tensor ${source.name} of ${rows} rows for ${heads} heads`,
          { path: file.path, tensor: source.name, rows, heads },
        );
      }
      plan.interleavedHead = rows / heads;
    }
    if (architecture === 'gemma3' && source.name.endsWith('norm.weight')) plan.offset = -1;
    plans.push(plan);
  }
  checkShapes(file, architecture, sizes);
  return plans;
}

/** Every tensor a layer needs must be there, and have the shape that the sizes ask for. */
function checkShapes(file: GgufFile, architecture: string, sizes: Sizes): void {
  const shapes = new Map(file.tensors.map((tensor) => [tensor.name, tensor.shape]));
  const tokens = file.metadata.texts('tokenizer.ggml.tokens')?.length ?? 0;
  // Rows beyond the last token make round numbers.
  const rows = Math.max(tokens, shapes.get('token_embd.weight')?.[0] ?? 0);
  const expected = new Map<string, number[]>([
    ['token_embd.weight', [rows, sizes.hidden]],
    ['output_norm.weight', [sizes.hidden]],
  ]);
  if (shapes.has('output.weight')) expected.set('output.weight', [rows, sizes.hidden]);
  for (let layer = 0; layer < sizes.layers; layer++) {
    for (const [name, shapeOf] of Object.entries(REQUIRED)) {
      const full = `blk.${layer}.${name}`;
      expected.set(full, shapeOf(sizes));
      // Told at once: a count of layers that is damaged may be in the billions.
      if (!shapes.has(full)) break;
    }
    if (expected.size > shapes.size) break;
  }
  for (const [name, shape] of expected) {
    const found = shapes.get(name);
    if (found === undefined) {
      throw new ModelLoaderError(
        'ERR_GGUF_TENSOR_NAME',
        `${file.path} lacks the tensor ${name} of a ${architecture} model of ${sizes.layers} layers`,
        { path: file.path, tensor: name, architecture },
      );
    }
    if (found.join() !== shape.join()) {
      throw new ModelLoaderError(
        'ERR_GGUF_INVALID',
        `${file.path} has the tensor ${name} of shape [${found}], [${shape}] is expected`,
        { path: file.path, tensor: name, shape: found, expected: shape },
      );
    }
  }
}

/** Name in the checkpoint; null for a tensor that is no weight, undefined for one that does not belong. */
function checkpointName(
  name: string,
  layerNames: Readonly<Record<string, string>>,
  layers: number,
): string | null | undefined {
  if (name === 'token_embd.weight') return 'model.embed_tokens.weight';
  if (name === 'output_norm.weight') return 'model.norm.weight';
  if (name === 'output.weight') return 'lm_head.weight';
  if (name === 'rope_freqs.weight' || /^blk\.\d+\.attn_rot_embd\.weight$/.test(name)) return null;
  const match = /^blk\.(\d+)\.(.+)$/.exec(name);
  const layer = Number(match?.[1]);
  const known = layerNames[match?.[2] ?? ''];
  return known === undefined || !(layer < layers) ? undefined : `model.layers.${layer}.${known}`;
}

function ropeScaling(
  file: GgufFile,
  architecture: string,
  theta: number,
  headDim: number,
  ropeFactors: Float32Array | undefined,
): Record<string, unknown> | undefined {
  const { metadata, path } = file;
  const key = (name: string) => `${architecture}.rope.scaling.${name}`;
  if (ropeFactors !== undefined) return llama3Scaling(path, theta, headDim, ropeFactors);
  const type = metadata.text(key('type')) ?? 'none';
  const factor =
    metadata.number(key('factor')) ?? metadata.number(`${architecture}.rope.scale_linear`);
  const original = metadata.integer(key('original_context_length'));
  switch (type) {
    case 'none':
      return factor === undefined || factor === 1 ? undefined : { rope_type: 'linear', factor };
    case 'linear':
      return factor === undefined || factor === 1 ? undefined : { rope_type: 'linear', factor };
    case 'yarn': {
      if (factor === undefined) break;
      const scaling: Record<string, unknown> = { rope_type: 'yarn', factor };
      if (original !== undefined) scaling['original_max_position_embeddings'] = original;
      const options = {
        attention_factor: metadata.number(key('attn_factor')),
        beta_fast: metadata.number(key('yarn_beta_fast')),
        beta_slow: metadata.number(key('yarn_beta_slow')),
      };
      for (const [name, value] of Object.entries(options)) {
        if (value !== undefined) scaling[name] = value;
      }
      return scaling;
    }
  }
  throw new ModelLoaderError(
    'ERR_GGUF_ARCHITECTURE',
    `${path} uses the rope scaling ${type}${factor === undefined ? ' without a factor' : ''}, which is not supported`,
    { path, type },
  );
}

/**
 * Llama 3.1 and later: GGUF holds the frequency divisors themselves. All released models come from the rule
 * below with factors 1 and 4 and 8,192 original positions; it is checked, not assumed.
 */
function llama3Scaling(
  path: string,
  theta: number,
  headDim: number,
  divisors: Float32Array,
): Record<string, unknown> | undefined {
  const factor = divisors.reduce((largest, next) => Math.max(largest, next), 0);
  if (divisors.every((divisor) => divisor === 1)) return undefined;
  const original = 8192;
  const expected = Float32Array.from({ length: headDim / 2 }, (_, i) => {
    const wavelength = 2 * Math.PI * theta ** ((2 * i) / headDim);
    if (wavelength < original / 4) return 1;
    if (wavelength > original) return factor;
    const smooth = (original / wavelength - 1) / (4 - 1);
    return 1 / ((1 - smooth) / factor + smooth);
  });
  const fits =
    divisors.length === expected.length &&
    divisors.every((divisor, i) => Math.abs(divisor / (expected[i] as number) - 1) < 1e-4);
  if (!fits) {
    throw new ModelLoaderError(
      'ERR_GGUF_ARCHITECTURE',
      `${path} has rope_freqs that are not those of Llama 3 (largest ${factor}), which config.json cannot express`,
      { path, factor },
    );
  }
  return {
    rope_type: 'llama3',
    factor,
    low_freq_factor: 1,
    high_freq_factor: 4,
    original_max_position_embeddings: original,
  };
}
