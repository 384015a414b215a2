import type { ConfigReader } from '../config-reader.ts';
import type { DecoderConfig } from '../decoder-config.ts';
import { readShared } from '../decoder-config.ts';

/**
 * Llama 1, 2, 3 and what was built on them without changing the architecture: SmolLM2, Vicuna,
 * TinyLlama. RMSNorm, rotary embeddings, grouped-query attention, SwiGLU; biases only where the
 * config asks for them.
 *
 * Checkpoint: `model.embed_tokens`, `model.layers.N.{input_layernorm, self_attn.{q,k,v,o}_proj,
 * post_attention_layernorm, mlp.{gate,up,down}_proj}`, `model.norm`, `lm_head` unless tied.
 */
export const llama = {
  architectures: ['LlamaForCausalLM', 'LLaMAForCausalLM'],
  modelType: 'llama',
  read(config: ConfigReader, architecture: string): DecoderConfig {
    const attentionBias = config.flag('attention_bias', false);
    return readShared(
      config,
      'llama',
      architecture,
      { kvHeads: null, headDim: null, maxPositions: 2048 },
      {
        qkvBias: attentionBias,
        oBias: attentionBias,
        mlpBias: config.flag('mlp_bias', false),
        qkNorm: false,
      },
    );
  },
} as const;
