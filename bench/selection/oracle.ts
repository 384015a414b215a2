import type { ExactBlock } from './exact-block.ts';
import { BLOCK } from './tiled-layer.ts';

/** Tiles from the heaviest down, by the true mean mass of the block's queries; those that are always read come first. */
export function ranking({ tiles, masses }: ExactBlock, always: Uint8Array): number[] {
  const means = new Float64Array(tiles);
  for (let row = 0; row < BLOCK; row++) {
    for (let tile = 0; tile < tiles; tile++) {
      means[tile] = (means[tile] as number) + (masses[row * tiles + tile] as number) / BLOCK;
    }
  }
  const weight = (tile: number): number => (always[tile] === 1 ? 2 : 0) + (means[tile] as number);
  return Array.from(means.keys()).sort((a, b) => weight(b) - weight(a));
}

/** The first `count` of the ranked tiles, `[tiles]`. */
export function heaviest(ranked: readonly number[], count: number): Uint8Array {
  const chosen = new Uint8Array(ranked.length);
  for (const tile of ranked.slice(0, count)) chosen[tile] = 1;
  return chosen;
}

/** Sums of the same shares in another order differ by less. */
const ROUNDING = 1e-9;

/** How many of the ranked tiles leave at most `missed` of the mass, in the mean over the queries. */
export function tilesFor(block: ExactBlock, ranked: readonly number[], missed: number): number {
  let left = 1;
  for (const [index, tile] of ranked.entries()) {
    if (left <= missed + ROUNDING) return index;
    for (let row = 0; row < BLOCK; row++) {
      left -= (block.masses[row * block.tiles + tile] as number) / BLOCK;
    }
  }
  return ranked.length;
}
