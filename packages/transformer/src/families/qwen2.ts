import type { ConfigReader } from '../config-reader.ts';
import type { DecoderConfig } from '../decoder-config.ts';
import { readQwenWindows, readShared } from '../decoder-config.ts';

/**
 * Qwen2 and Qwen2.5: Llama's layers with biases on q, k and v (never on o), and sliding windows in
 * some layers if the config switches them on.
 *
 * Checkpoint names as in Llama, plus `self_attn.{q,k,v}_proj.bias`.
 */
export const qwen2 = {
  architectures: ['Qwen2ForCausalLM'],
  modelType: 'qwen2',
  read(config: ConfigReader, architecture: string): DecoderConfig {
    const shared = readShared(
      config,
      'qwen2',
      architecture,
      { kvHeads: 32, headDim: null, maxPositions: 32_768 },
      { qkvBias: true, oBias: false, mlpBias: false, qkNorm: false },
    );
    return { ...shared, slidingWindows: readQwenWindows(config, shared.layers) };
  },
} as const;
