/** A small deterministic generator, so that failures repeat: numbers from -1 to 1. */
export function random(seed: number): () => number {
  let state = seed;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 31 - 1;
  };
}

export function numbers(next: () => number, length: number, factor = 1): Float32Array {
  return Float32Array.from({ length }, () => factor * next());
}

/** Attention of one sequence as a formula says it, in double precision. */
export interface PlainProblem {
  /** `[nq, heads, headDim]` */
  q: Float32Array;
  /** `[nk, kvHeads, headDim]` */
  k: Float32Array;
  /** `[nk, kvHeads, valueDim]` */
  v: Float32Array;
  heads: number;
  kvHeads: number;
  headDim: number;
  valueDim: number;
  scale?: number;
  /** Whether query i sees key j. */
  sees: (query: number, key: number) => boolean;
  /** Keeps so many keys per query and head, those of largest score. */
  mostKeys?: number;
}

/** Output `[nq, heads, valueDim]` and log-sum-exp `[nq, heads]`. */
export function plainAttention(problem: PlainProblem): { output: Float64Array; lse: Float64Array } {
  const { q, k, v, heads, kvHeads, headDim, valueDim, sees } = problem;
  const scale = problem.scale ?? 1 / Math.sqrt(headDim);
  const nq = q.length / (heads * headDim);
  const nk = k.length / (kvHeads * headDim);
  const output = new Float64Array(nq * heads * valueDim);
  const lse = new Float64Array(nq * heads);
  for (let i = 0; i < nq; i++) {
    for (let head = 0; head < heads; head++) {
      const kv = Math.floor((head * kvHeads) / heads);
      const scored: { key: number; score: number }[] = [];
      for (let key = 0; key < nk; key++) {
        if (!sees(i, key)) continue;
        let dot = 0;
        for (let d = 0; d < headDim; d++) {
          const a = q[(i * heads + head) * headDim + d] ?? 0;
          dot += a * (k[(key * kvHeads + kv) * headDim + d] ?? 0);
        }
        scored.push({ key, score: dot * scale });
      }
      if (problem.mostKeys !== undefined) {
        scored.sort((a, b) => b.score - a.score || a.key - b.key).splice(problem.mostKeys);
      }
      const top = scored.reduce((most, { score }) => Math.max(most, score), -Infinity);
      const sum = scored.reduce((total, { score }) => total + Math.exp(score - top), 0);
      lse[i * heads + head] = scored.length === 0 ? -Infinity : top + Math.log(sum);
      for (const { key, score } of scored) {
        const weight = Math.exp(score - top) / sum;
        for (let d = 0; d < valueDim; d++) {
          const at = (i * heads + head) * valueDim + d;
          output[at] = (output[at] ?? 0) + weight * (v[(key * kvHeads + kv) * valueDim + d] ?? 0);
        }
      }
    }
  }
  return { output, lse };
}

export function largestDifference(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let worst = a.length === b.length ? 0 : Number.POSITIVE_INFINITY;
  for (let i = 0; i < a.length; i++) {
    const [x, y] = [a[i] ?? Number.NaN, b[i] ?? Number.NaN];
    const difference = x === y ? 0 : Math.abs(x - y);
    worst = Number.isNaN(difference) ? Number.POSITIVE_INFINITY : Math.max(worst, difference);
  }
  return worst;
}
