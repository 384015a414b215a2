import { errorOf, exactBlock, type Loss, lossOf } from './exact-block.ts';
import { heaviest, ranking, tilesFor } from './oracle.ts';
import { type Rule, strategyOf } from './rule.ts';
import { type LayerTensors, TiledLayer } from './tiled-layer.ts';

/** One query head, one block of queries, one rule. */
export interface Choice {
  head: number;
  rule: Rule;
  /** Tiles the block sees. */
  tiles: number;
  /** Tiles that are read whatever the rule: sinks and the nearest tokens. */
  always: number;
  /** Share of the mass that these hold. */
  near: number;
  /** Tiles that the operator reads. */
  read: number;
  /** What is lost; `error` is that of the operator's own output. */
  lost: Loss;
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
  rules: readonly Rule[],
): Choice[] {
  const layer = new TiledLayer(tensors, queries, end);
  try {
    const least = layer.read({ kind: 'selected', massTarget: 1, mostTiles: 0 });
    const readings = rules.map((rule) => ({ rule, ...layer.read(strategyOf(rule)) }));
    return Array.from({ length: tensors.heads }, (_, head) => {
      const block = exactBlock(layer, queries, head);
      const always = least.chosen[head] as Uint8Array;
      const ranked = ranking(block, always);
      const near = 1 - lossOf(block, always).missed;
      return readings.map(({ rule, chosen, output }): Choice => {
        const tiles = chosen[head] as Uint8Array;
        const read = count(tiles);
        const lost = {
          ...lossOf(block, tiles),
          error: errorOf(block, output, tensors.heads, head),
        };
        return {
          head,
          rule,
          tiles: tiles.length,
          always: count(always),
          near,
          read,
          lost,
          oracle: lossOf(block, heaviest(ranked, read)),
          oracleTiles: Math.max(count(always), tilesFor(block, ranked, lost.missed)),
        };
      });
    }).flat();
  } finally {
    layer.close();
  }
}

const count = (chosen: Uint8Array): number => chosen.reduce((sum, one) => sum + one, 0);
