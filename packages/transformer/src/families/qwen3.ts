import type { ConfigReader } from '../config-reader.ts';
import type { DecoderConfig } from '../decoder-config.ts';
import { readQwenWindows, readShared } from '../decoder-config.ts';

/**
 * Qwen3 (dense): an RMSNorm over each query and key head before the rotation, heads of 128
 * dimensions whatever the hidden size, no biases unless `attention_bias`.
 *
 * Checkpoint names as in Llama, plus `self_attn.{q,k}_norm`.
 */
export const qwen3 = {
  architectures: ['Qwen3ForCausalLM'],
  modelType: 'qwen3',
  read(config: ConfigReader, architecture: string): DecoderConfig {
    const attentionBias = config.flag('attention_bias', false);
    const shared = readShared(
      config,
      'qwen3',
      architecture,
      { kvHeads: 32, headDim: 128, maxPositions: 32_768 },
      { qkvBias: attentionBias, oBias: attentionBias, mlpBias: false, qkNorm: true },
    );
    return { ...shared, slidingWindows: readQwenWindows(config, shared.layers) };
  },
} as const;
