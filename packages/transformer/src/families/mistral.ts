import type { ConfigReader } from '../config-reader.ts';
import type { DecoderConfig } from '../decoder-config.ts';
import { readShared } from '../decoder-config.ts';

/**
 * Mistral: Llama's layers, 8 key/value heads by default, and (in the first versions) a sliding
 * window in every layer. A file without `sliding_window` has transformers' default of 4,096;
 * an explicit `null` switches it off.
 *
 * Checkpoint names as in Llama, never a bias.
 */
export const mistral = {
  architectures: ['MistralForCausalLM'],
  modelType: 'mistral',
  read(config: ConfigReader, architecture: string): DecoderConfig {
    const shared = readShared(
      config,
      'mistral',
      architecture,
      { kvHeads: 8, headDim: null, maxPositions: 131_072 },
      { qkvBias: false, oBias: false, mlpBias: false, qkNorm: false },
    );
    const window = config.isNull('sliding_window') ? null : config.count('sliding_window', 4096);
    return { ...shared, slidingWindows: shared.slidingWindows.map(() => window) };
  },
} as const;
