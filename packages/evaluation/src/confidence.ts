import { SeededRandom } from './seeded-random.ts';

/** A measured value, and where the true one lies with a probability of 95 %. */
export interface Estimate {
  value: number;
  low: number;
  high: number;
}

/** A count of successes as {@link Estimate} of their share. */
export interface ShareEstimate extends Estimate {
  hits: number;
  trials: number;
}

/** 97.5 % point of the normal distribution: two-sided 95 %. */
const Z = 1.959963984540054;

/**
 * The share of successes with Wilson's score interval, which holds for few trials and for shares near 0 and 1 too
 * (Wilson 1927). Without trials: 0 to 1.
 */
export function wilson(hits: number, trials: number): ShareEstimate {
  if (trials === 0) return { hits, trials, value: 0, low: 0, high: 1 };
  const share = hits / trials;
  const spread = (Z * Z) / trials;
  const centre = (share + spread / 2) / (1 + spread);
  const half =
    (Z / (1 + spread)) * Math.sqrt((share * (1 - share)) / trials + spread / (4 * trials));
  return {
    hits,
    trials,
    value: share,
    low: hits === 0 ? 0 : Math.max(0, centre - half),
    high: hits === trials ? 1 : Math.min(1, centre + half),
  };
}

/** Settings of {@link bootstrapMean}. */
export interface BootstrapOptions {
  /** Default 1. */
  seed?: number;
  /** Times the values are drawn again. Default 1,000. */
  resamples?: number;
  /** Neighbouring values that are drawn together. Default 64. */
  block?: number;
}

/**
 * The mean of values with a percentile bootstrap interval. Tokens that follow each other are surprising together, so
 * not single values are drawn but blocks of neighbours (Künsch 1989, without overlap).
 */
export function bootstrapMean(
  values: ArrayLike<number>,
  { seed = 1, resamples = 1000, block = 64 }: BootstrapOptions = {},
): Estimate {
  const sums: number[] = [];
  const counts: number[] = [];
  for (let start = 0; start < values.length; start += block) {
    const end = Math.min(values.length, start + block);
    let sum = 0;
    for (let index = start; index < end; index++) sum += values[index] as number;
    sums.push(sum);
    counts.push(end - start);
  }
  const total = sums.reduce((all, sum) => all + sum, 0);
  const value = total / values.length;
  const random = new SeededRandom(seed);
  const means = Float64Array.from({ length: resamples }, () => {
    let sum = 0;
    let count = 0;
    for (const _ of sums) {
      const index = random.below(sums.length);
      sum += sums[index] as number;
      count += counts[index] as number;
    }
    return sum / count;
  }).sort();
  const at = (share: number): number =>
    means[Math.min(resamples - 1, Math.floor(share * resamples))] as number;
  return { value, low: at(0.025), high: at(0.975) };
}

/** The estimate under a rising function. */
export function mapEstimate({ value, low, high }: Estimate, f: (x: number) => number): Estimate {
  return { value: f(value), low: f(low), high: f(high) };
}
