import type { LaneStrategy } from '@iceformer/knn-index';

/** By what a block of queries chooses the settled tiles that it reads, of the mass that it estimates. */
export interface Rule {
  /**
   * `tile mass`, the rule of the presets: tiles that each hold at least `value` of the block's mass. `mass target`: the
   * heaviest tiles, until at most 1 - `value` is left out.
   */
  by: 'tile mass' | 'mass target';
  /** Share of the mass, above 0, at most 1. */
  value: number;
}

/** The rule as the operator takes it. */
export function strategyOf({ by, value }: Rule): LaneStrategy {
  return by === 'tile mass'
    ? { kind: 'selected', massTarget: 1, leastMass: value }
    : { kind: 'selected', massTarget: value };
}

/** Such as `tiles from 0.3 %` or `mass target 0.9`. */
export function nameOf({ by, value }: Rule): string {
  return by === 'tile mass'
    ? `tiles from ${Number((100 * value).toPrecision(3))} %`
    : `mass target ${value}`;
}

export const sameRule = (one: Rule, other: Rule): boolean =>
  one.by === other.by && one.value === other.value;
