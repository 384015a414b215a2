import { openModel, resolveModel } from '@iceformer/model-loader';
import { estimateCacheBytes } from '@iceformer/sparse-attention';
import { estimateScratchBytes } from './decoder.ts';
import type { MemoryEstimate } from './memory.ts';
import { availableMemory } from './memory.ts';
import { describeDecoder, estimateWeightBytes } from './native.ts';
import { scaledContext } from './rotary.ts';
import type { RuntimeOptions } from './runtime-options.ts';
import { cacheOptions, configure, resolveRuntimeOptions } from './runtime-options.ts';

/**
 * Memory a model needs for a sequence of `context` tokens, from the headers of its files alone.
 *
 * @param options.context - default: the longest the model can do.
 */
export async function estimateMemory(options: RuntimeOptions): Promise<MemoryEstimate> {
  const params = resolveRuntimeOptions(options);
  const folder = await openModel(await resolveModel(params.model));
  try {
    const config = configure(folder, params);
    const weights = estimateWeightBytes(describeDecoder(config, folder.tensors, params));
    const tokens = params.context ?? scaledContext(config.rotary);
    // Presets attend in every layer; a plan may skip some.
    const plan = typeof params.attention === 'string' ? {} : { plan: params.attention };
    const cache = estimateCacheBytes({ ...cacheOptions(config, params), ...plan, tokens });
    const scratch = estimateScratchBytes(config, params.maxChunk);
    return {
      weights,
      cache,
      scratch,
      total: weights + cache + scratch,
      available: availableMemory(),
    };
  } finally {
    await folder.close();
  }
}
