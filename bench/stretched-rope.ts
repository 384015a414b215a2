import type { RopeScaling } from '@iceformer/transformer';

/** Options of a model that is to hold `tokens` tokens: past the `window` it was trained on RoPE is stretched (YaRN). */
export function stretchedRope(tokens: number, window: number): { ropeScaling?: RopeScaling } {
  return tokens > window ? { ropeScaling: { type: 'yarn', factor: tokens / window } } : {};
}
