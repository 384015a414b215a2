import { errorOf, exactBlock, type Loss, lossOf } from './exact-block.ts';
import { heaviest, ranking, tilesFor } from './oracle.ts';
import { type LayerTensors, TiledLayer } from './tiled-layer.ts';

/** One query head, one block of queries, one mass target. */
export interface Choice {
  head: number;
  massTarget: number;
  /** Tiles the block sees. */
  tiles: number;
  /** Tiles that are read whatever the target: sinks and the nearest tokens. */
  always: number;
  /** Share of the mass that these hold. */
  near: number;
  /** What the operator reads. */
  read: number;
  /** Output error of the operator, whose nodes stand in where they stay closed. */
  error: number;
  /** The tiles that the operator reads; each other one stands in by its own mean, or does not. */
  chosen: Loss;
  /** As many tiles, chosen by their true mass. */
  oracle: Loss;
  /** Tiles that suffice to leave as little of the mass, chosen by their true mass. */
  oracleTiles: number;
}

/**
 * What the operator selects for the last queries of `end` tokens of one layer, beside what an oracle selects that knows
 * every tile's true mass.
 * @param queries `[BLOCK, heads, headDim]`
 */
export function measureLayer(
  tensors: LayerTensors,
  queries: Float32Array,
  end: number,
  massTargets: readonly number[],
): Choice[] {
  const layer = new TiledLayer(tensors, queries, end);
  try {
    const least = layer.read({ kind: 'selected', massTarget: 1, mostTiles: 0 });
    const readings = massTargets.map((massTarget) => layer.read({ kind: 'selected', massTarget }));
    return Array.from({ length: tensors.heads }, (_, head) => {
      const block = exactBlock(layer, queries, head);
      const always = least.chosen[head] as Uint8Array;
      const ranked = ranking(block, always);
      const near = 1 - lossOf(block, always).missed;
      return readings.map(({ chosen, output }, index): Choice => {
        const tiles = chosen[head] as Uint8Array;
        const read = count(tiles);
        const loss = lossOf(block, tiles);
        return {
          head,
          massTarget: massTargets[index] as number,
          tiles: tiles.length,
          always: count(always),
          near,
          read,
          error: errorOf(block, output, tensors.heads, head),
          chosen: loss,
          oracle: lossOf(block, heaviest(ranked, read)),
          oracleTiles: Math.max(count(always), tilesFor(block, ranked, loss.missed)),
        };
      });
    }).flat();
  } finally {
    layer.close();
  }
}

const count = (chosen: Uint8Array): number => chosen.reduce((sum, one) => sum + one, 0);
