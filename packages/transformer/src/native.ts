import type { TensorCatalog, TensorView } from '@iceformer/model-loader';
import type { NativeDecoderOptions, NativeLayer, NativeTensor } from '../native/native.js';
import type { DecoderConfig } from './decoder-config.ts';
import { TransformerError } from './errors.ts';

export type { NativeDecoderOptions } from '../native/native.js';
export { argmax, estimateWeightBytes, NativeDecoder, simdLevel } from '../native/native.js';

/** Types of weights and activations inside the kernels. */
export const WEIGHT_DTYPES = ['f32', 'bf16', 'int8'] as const;

/** Type of weights and activations inside the kernels. */
export type WeightDtype = (typeof WEIGHT_DTYPES)[number];

/**
 * Looks up every tensor the config names and describes the decoder to the native code, which maps
 * the files itself.
 *
 * @throws ModelLoaderError ERR_TENSOR_MISSING, TransformerError ERR_UNSUPPORTED_FEATURE for a dtype
 * that is no float.
 */
export function describeDecoder(
  config: DecoderConfig,
  tensors: TensorCatalog,
  { dtype, threads, maxChunk }: { dtype: WeightDtype; threads: number; maxChunk: number },
): NativeDecoderOptions {
  const locate = (name: string): NativeTensor => toNative(tensors.get(name));
  const { embedding, head, finalNorm, layers } = config.tensors;
  return {
    hiddenSize: config.hiddenSize,
    intermediateSize: config.intermediateSize,
    heads: config.heads,
    kvHeads: config.kvHeads,
    headDim: config.headDim,
    vocabSize: config.vocabSize,
    normEps: config.normEps,
    dtype,
    threads,
    maxChunk,
    embedding: locate(embedding),
    ...(head !== undefined && { head: locate(head) }),
    finalNorm: locate(finalNorm),
    layers: layers.map(
      (names) =>
        // The names of a layer's parts are the same on both sides.
        Object.fromEntries(
          Object.entries(names as unknown as Record<string, string>).map(([part, name]) => [
            part,
            locate(name),
          ]),
        ) as unknown as NativeLayer,
    ),
  };
}

/** Number of weights in the tensors that the config names. */
export function countParameters(config: DecoderConfig, tensors: TensorCatalog): number {
  const { embedding, head, finalNorm, layers } = config.tensors;
  const names = [
    embedding,
    head,
    finalNorm,
    ...layers.flatMap((layer) => Object.values(layer) as string[]),
  ];
  return names
    .filter((name) => name !== undefined)
    .reduce(
      (sum, name) => sum + tensors.get(name).shape.reduce((product, size) => product * size, 1),
      0,
    );
}

function toNative({ name, path, dtype, shape, byteOffset, byteLength }: TensorView): NativeTensor {
  if (dtype !== 'F32' && dtype !== 'F16' && dtype !== 'BF16') {
    throw new TransformerError(
      'ERR_UNSUPPORTED_FEATURE',
      `tensor ${name} has dtype ${dtype}; weights must be F32, F16 or BF16`,
      { tensor: name, dtype, path },
    );
  }
  return { path, dtype, shape: [...shape], byteOffset, byteLength };
}
