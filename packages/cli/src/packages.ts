import type * as evaluation from '@iceformer/evaluation';
import type * as loader from '@iceformer/model-loader';
import type * as sparseAttention from '@iceformer/sparse-attention';
import type * as transformer from '@iceformer/transformer';

/** What the CLI uses of the other packages; tests put their own in place. */
export interface Packages {
  readonly evaluation: Pick<typeof evaluation, 'calibrate' | 'evaluate' | 'renderReport'>;
  readonly loader: Pick<
    typeof loader,
    'listCachedModels' | 'listModels' | 'openModel' | 'pull' | 'resolveModel'
  >;
  readonly sparseAttention: Pick<typeof sparseAttention, 'readPlan'>;
  readonly transformer: Pick<
    typeof transformer,
    'estimateMemory' | 'loadModel' | 'readDecoderConfig'
  >;
}

/** Loads the real packages, native code included. */
export async function loadPackages(): Promise<Packages> {
  const [evaluationPackage, loaderPackage, sparseAttentionPackage, transformerPackage] =
    await Promise.all([
      import('@iceformer/evaluation'),
      import('@iceformer/model-loader'),
      import('@iceformer/sparse-attention'),
      import('@iceformer/transformer'),
    ]);
  return {
    evaluation: evaluationPackage,
    loader: loaderPackage,
    sparseAttention: sparseAttentionPackage,
    transformer: transformerPackage,
  };
}
