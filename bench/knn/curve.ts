/** One point of a recall-time curve. */
export interface CurvePoint {
  recall: number;
  /** Seconds; less is better. */
  cost: number;
}

/**
 * Seconds at a recall, between the two measured points around it: the logarithm of the seconds is taken to be linear in
 * the logarithm of what is missed. Undefined where the curve does not reach.
 */
export function costAt(points: readonly CurvePoint[], recall: number): number | undefined {
  const front = frontier(points);
  const above = front.findIndex((point) => point.recall >= recall);
  if (above < 0) return undefined;
  const upper = front[above] as CurvePoint;
  const lower = front[above - 1];
  if (lower === undefined) return upper.cost;
  const missed = (share: number): number => Math.log(Math.max(1 - share, 1e-4));
  const width = missed(upper.recall) - missed(lower.recall);
  const part = width === 0 ? 1 : (missed(recall) - missed(lower.recall)) / width;
  return Math.exp(Math.log(lower.cost) + part * (Math.log(upper.cost) - Math.log(lower.cost)));
}

/** The points that no other one beats, by ascending recall. */
function frontier(points: readonly CurvePoint[]): CurvePoint[] {
  const kept: CurvePoint[] = [];
  for (const point of points.toSorted((a, b) => b.recall - a.recall || a.cost - b.cost)) {
    if (point.cost < (kept.at(-1)?.cost ?? Number.POSITIVE_INFINITY)) kept.push(point);
  }
  return kept.reverse();
}
