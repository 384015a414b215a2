import type { ComparedLayer, ComparisonResult, Model } from '@iceformer/transformer';
import { bootstrapMean, type Estimate, mapEstimate } from './confidence.ts';
import { DENSE, type NamedAttention } from './retrieval.ts';

/** How one way to attend predicts a text. */
export interface PredictionScore {
  attention: string;
  perplexity: Estimate;
  /** Its perplexity over that of dense attention, token by token paired. */
  ratio: Estimate;
  /** Share of positions at which the likeliest token is that of dense attention. */
  agreement: Estimate;
  /** Mean Kullback-Leibler divergence from dense attention's next-token distribution, in nats. */
  divergence: Estimate;
  retainedMass: number;
  tilesRead: number;
  /** Reading all windows, without logits. */
  prefillMs: number;
  /** Of these, in attention. */
  attentionMs: number;
  layers: ComparedLayer[];
}

/** How a text is predicted, with dense attention and in other ways. */
export interface PredictionResult {
  /** Tokens of a window; the second half is scored. */
  context: number;
  windows: number;
  /** Tokens scored. */
  tokens: number;
  /** Dense attention first. */
  scores: PredictionScore[];
}

/** What {@link predictText} may be told. */
export interface PredictOptions {
  /** Tokens of a window. */
  context: number;
  /**
   * Scores the last tokens of each window, so many, run one at a time as those of an answer; all before them are read
   * densely. Default: the second half of a window is scored, and read as the ways to attend say.
   */
  decode?: number;
  /** Seed of the bootstrap. Default 1. */
  seed?: number;
  signal?: AbortSignal | undefined;
  /** Called after each pass over a window. */
  onProgress?: ((done: number, total: number) => void) | undefined;
}

/** Perplexity, top-1 agreement and divergence of dense attention and of other ways on the same windows of a text. */
export async function predictText(
  model: Pick<Model, 'compare'>,
  tokens: Uint32Array,
  others: readonly NamedAttention[],
  { context, decode = 0, seed = 1, signal, onProgress }: PredictOptions,
): Promise<PredictionResult> {
  const result = await model.compare(tokens, {
    context,
    decode,
    attention: others.map(({ attention }) => attention),
    ...(signal && { signal }),
    ...(onProgress && { onProgress: ({ done, total }) => onProgress(done, total) }),
  });
  return scorePrediction(result, [DENSE, ...others], seed);
}

function scorePrediction(
  { context, windows, tokens, dense, passes }: ComparisonResult,
  ways: readonly NamedAttention[],
  seed: number,
): PredictionResult {
  const scores = [dense, ...passes].map((pass, index): PredictionScore => {
    const { losses, agreements, divergences, layers } = pass;
    const { retainedMass, tilesRead, prefillMs, attentionMs } = pass;
    return {
      attention: ways[index]?.name ?? String(index),
      perplexity: mapEstimate(bootstrapMean(losses, { seed }), Math.exp),
      ratio: perplexityRatio(losses, dense.losses, seed),
      agreement: bootstrapMean(agreements, { seed }),
      divergence: bootstrapMean(divergences, { seed, block: 8 }),
      retainedMass,
      tilesRead,
      prefillMs,
      attentionMs,
      layers,
    };
  });
  return { context, windows, tokens, scores };
}

/** exp of the mean difference of paired losses: one perplexity over the other, with a narrower interval than either. */
export function perplexityRatio(
  losses: Float32Array,
  reference: Float32Array,
  seed: number,
): Estimate {
  const differences = losses.map((loss, index) => loss - (reference[index] as number));
  return mapEstimate(bootstrapMean(differences, { seed }), Math.exp);
}
