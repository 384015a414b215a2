import { describe, expect, test } from 'vitest';
import { readDecoderConfig, supportedArchitectures } from '../src/families.ts';

const small = {
  hidden_size: 64,
  intermediate_size: 96,
  num_hidden_layers: 3,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  vocab_size: 128,
  rms_norm_eps: 1e-5,
  max_position_embeddings: 512,
};
const llama = { architectures: ['LlamaForCausalLM'], model_type: 'llama', ...small };
const qwen2 = { architectures: ['Qwen2ForCausalLM'], model_type: 'qwen2', ...small };
const qwen3 = { architectures: ['Qwen3ForCausalLM'], model_type: 'qwen3', ...small };
const mistral = { architectures: ['MistralForCausalLM'], model_type: 'mistral', ...small };

describe('llama', () => {
  test('reads SmolLM2', () => {
    const config = readDecoderConfig({
      architectures: ['LlamaForCausalLM'],
      attention_bias: false,
      hidden_act: 'silu',
      hidden_size: 576,
      intermediate_size: 1536,
      max_position_embeddings: 8192,
      mlp_bias: false,
      model_type: 'llama',
      num_attention_heads: 9,
      num_hidden_layers: 30,
      num_key_value_heads: 3,
      pretraining_tp: 1,
      rms_norm_eps: 1e-5,
      rope_interleaved: false,
      rope_scaling: null,
      rope_theta: 100_000,
      tie_word_embeddings: true,
      vocab_size: 49_152,
    });
    expect(config).toMatchObject({
      family: 'llama',
      hiddenSize: 576,
      intermediateSize: 1536,
      layers: 30,
      heads: 9,
      kvHeads: 3,
      headDim: 64,
      vocabSize: 49_152,
      normEps: 1e-5,
      rotary: { theta: 100_000, headDim: 64, maxPositions: 8192, scaling: { type: 'default' } },
    });
    expect(config.tensors.head).toBeUndefined();
    expect(config.tensors.layers).toHaveLength(30);
    expect(config.slidingWindows).toEqual(new Array(30).fill(null));
  });

  test('names the tensors as checkpoints do', () => {
    const { tensors } = readDecoderConfig(llama);
    expect(tensors.embedding).toBe('model.embed_tokens.weight');
    expect(tensors.head).toBe('lm_head.weight');
    expect(tensors.finalNorm).toBe('model.norm.weight');
    expect(tensors.layers[2]).toEqual({
      inputNorm: 'model.layers.2.input_layernorm.weight',
      q: 'model.layers.2.self_attn.q_proj.weight',
      k: 'model.layers.2.self_attn.k_proj.weight',
      v: 'model.layers.2.self_attn.v_proj.weight',
      o: 'model.layers.2.self_attn.o_proj.weight',
      postNorm: 'model.layers.2.post_attention_layernorm.weight',
      gate: 'model.layers.2.mlp.gate_proj.weight',
      up: 'model.layers.2.mlp.up_proj.weight',
      down: 'model.layers.2.mlp.down_proj.weight',
    });
  });

  test('has biases where the config asks for them', () => {
    const [layer] = readDecoderConfig({ ...llama, attention_bias: true, mlp_bias: true }).tensors
      .layers;
    expect(layer).toMatchObject({
      qBias: 'model.layers.0.self_attn.q_proj.bias',
      oBias: 'model.layers.0.self_attn.o_proj.bias',
      gateBias: 'model.layers.0.mlp.gate_proj.bias',
      downBias: 'model.layers.0.mlp.down_proj.bias',
    });
  });

  test('has as many key heads as query heads when the config names none (Llama 1)', () => {
    const { num_key_value_heads: _, ...old } = llama;
    expect(readDecoderConfig(old).kvHeads).toBe(4);
    expect(readDecoderConfig({ ...llama, num_key_value_heads: null }).kvHeads).toBe(4);
  });

  test('goes by model_type if architectures is missing', () => {
    const { architectures: _, ...unnamed } = llama;
    expect(readDecoderConfig(unnamed)).toMatchObject({
      family: 'llama',
      architecture: 'LlamaForCausalLM',
    });
  });
});

describe('mistral', () => {
  test('slides its window in every layer', () => {
    expect(readDecoderConfig({ ...mistral, sliding_window: 32 }).slidingWindows).toEqual([
      32, 32, 32,
    ]);
  });

  test('has no window when the config says null, and 4096 when it says nothing', () => {
    expect(readDecoderConfig({ ...mistral, sliding_window: null }).slidingWindows).toEqual([
      null,
      null,
      null,
    ]);
    expect(readDecoderConfig(mistral).slidingWindows).toEqual([4096, 4096, 4096]);
  });
});

describe('qwen2', () => {
  test('has biases on q, k and v only', () => {
    const [layer] = readDecoderConfig(qwen2).tensors.layers;
    expect(layer).toMatchObject({ qBias: 'model.layers.0.self_attn.q_proj.bias' });
    expect(layer).not.toHaveProperty('oBias');
  });

  test('ignores sliding_window unless use_sliding_window', () => {
    expect(
      readDecoderConfig({ ...qwen2, sliding_window: 16, max_window_layers: 0 }).slidingWindows,
    ).toEqual([null, null, null]);
  });

  test('slides from max_window_layers on', () => {
    const config = { ...qwen2, use_sliding_window: true, sliding_window: 16, max_window_layers: 1 };
    expect(readDecoderConfig(config).slidingWindows).toEqual([null, 16, 16]);
  });

  test('slides where layer_types says', () => {
    const config = {
      ...qwen2,
      use_sliding_window: true,
      sliding_window: 16,
      layer_types: ['sliding_attention', 'full_attention', 'sliding_attention'],
    };
    expect(readDecoderConfig(config).slidingWindows).toEqual([16, null, 16]);
    expect(() => readDecoderConfig({ ...config, use_sliding_window: false })).toThrow(
      expect.objectContaining({ code: 'ERR_INVALID_CONFIG' }),
    );
    expect(() => readDecoderConfig({ ...config, layer_types: ['full_attention'] })).toThrow(
      /3 entries/,
    );
    expect(() => readDecoderConfig({ ...config, layer_types: ['a', 'b', 'c'] })).toThrow(
      expect.objectContaining({ code: 'ERR_UNSUPPORTED_FEATURE' }),
    );
  });
});

describe('qwen3', () => {
  test('normalises heads and takes heads of 128 dimensions by default', () => {
    const config = readDecoderConfig(qwen3);
    expect(config.headDim).toBe(128);
    expect(config.tensors.layers[0]).toMatchObject({
      qNorm: 'model.layers.0.self_attn.q_norm.weight',
      kNorm: 'model.layers.0.self_attn.k_norm.weight',
    });
    expect(config.tensors.layers[0]).not.toHaveProperty('qBias');
  });

  test('reads head_dim', () => {
    expect(readDecoderConfig({ ...qwen3, head_dim: 32 }).headDim).toBe(32);
  });
});

describe('refuses, with the value', () => {
  test('an architecture it does not know, listing those it does', () => {
    const attempt = () =>
      readDecoderConfig({ ...llama, architectures: ['GPT2LMHeadModel'], model_type: 'gpt2' });
    expect(attempt).toThrow(
      expect.objectContaining({
        code: 'ERR_UNSUPPORTED_ARCHITECTURE',
        details: expect.objectContaining({ architecture: 'GPT2LMHeadModel' }),
      }),
    );
    for (const name of supportedArchitectures) expect(attempt).toThrow(name);
  });

  test('a file that names no architecture', () => {
    expect(() => readDecoderConfig({ hidden_size: 1 })).toThrow(
      expect.objectContaining({ code: 'ERR_UNSUPPORTED_ARCHITECTURE' }),
    );
  });

  test.each([
    ['hidden_size', 'big'],
    ['hidden_size', 0],
    ['hidden_size', undefined],
    ['num_hidden_layers', 1.5],
    ['num_key_value_heads', 3],
    ['num_attention_heads', 3],
    ['head_dim', 7],
    ['rms_norm_eps', -1],
    ['tie_word_embeddings', 'yes'],
    ['rope_theta', 0],
    ['rope_scaling', 'linear'],
    ['rope_scaling', { type: 'linear' }],
    ['rope_scaling', { rope_type: 'llama3', factor: 8 }],
    ['architectures', 'LlamaForCausalLM'],
  ])('%s = %j', (key, value) => {
    const attempt = () => readDecoderConfig({ ...llama, [key]: value });
    expect(attempt).toThrow(expect.objectContaining({ code: 'ERR_INVALID_CONFIG' }));
  });

  test.each([
    ['quantization_config', { quant_method: 'gptq' }],
    ['hidden_act', 'gelu'],
    ['partial_rotary_factor', 0.5],
    ['rope_scaling', { rope_type: 'longrope', factor: 2 }],
    ['rope_scaling', { full_attention: { rope_type: 'default' } }],
  ])('%s = %j, which it cannot run', (key, value) => {
    const attempt = () => readDecoderConfig({ ...llama, [key]: value });
    expect(attempt).toThrow(expect.objectContaining({ code: 'ERR_UNSUPPORTED_FEATURE' }));
  });
});
