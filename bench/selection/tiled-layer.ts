import { KnnIndexGroup, type LaneStrategy } from '@iceformer/knn-index';
import { headPlans, selectedPlan } from '@iceformer/sparse-attention';

/** Keys of a tile. */
export const TILE = 16;

/** Queries that select together. */
export const BLOCK = 64;

/** Numbers that a value has at most: as many tiles can be told apart. */
const MOST_TILES = 1024;

/** Tokens that {@link readOff} takes at most. */
export const MOST_TOKENS = MOST_TILES * TILE;

/** Keys and values of one layer, and how many heads it has. */
export interface LayerTensors {
  heads: number;
  kvHeads: number;
  headDim: number;
  /** `[n, kvHeads, headDim]`, rotated */
  keys: Float32Array;
  /** `[n, kvHeads, headDim]` */
  values: Float32Array;
}

/** What one search of a block did. */
export interface Reading {
  /** `[heads][tiles]`: 1 where the head read the tile. */
  chosen: Uint8Array[];
  /** `[BLOCK, heads, headDim]`: what the operator answered. */
  output: Float32Array;
}

/**
 * One layer at the end of `end` tokens, settled as the operator settles when a prompt's last {@link BLOCK} tokens come:
 * which token stands in which tile, and what the operator reads for these.
 */
export class TiledLayer {
  readonly tensors: LayerTensors;
  readonly end: number;
  /** `[kvHeads][end]`: number of the token at each place; sixteen places are a tile. */
  readonly standing: Uint32Array[];
  /** `[BLOCK, heads, headDim]`, rotated */
  readonly #queries: Float32Array;
  readonly #attending: KnnIndexGroup;
  /** The same keys, with values that tell which tile was read. */
  readonly #telling: KnnIndexGroup;

  constructor(tensors: LayerTensors, queries: Float32Array, end: number) {
    this.tensors = tensors;
    this.end = end;
    this.#queries = queries;
    const { kvHeads, headDim } = tensors;
    this.#attending = this.#settled(tensors.values.subarray(0, end * kvHeads * headDim), headDim);
    const { sinks } = settings();
    this.standing = Array.from({ length: kvHeads }, (_, lane) => {
      const places = Uint32Array.from({ length: end }, (_, token) => token);
      places.set(this.#attending.settledOrder(lane), sinks);
      return places;
    });
    // A tile's own column of the values is 1 and -1 for its keys by turns. Left out, the tile stands in by their mean,
    // which is 0; so only a tile that was read leaves anything in its column.
    const tiles = Math.ceil(end / TILE);
    const values = new Float32Array(end * kvHeads * tiles);
    this.standing.forEach((places, lane) => {
      places.forEach((token, place) => {
        const tile = Math.floor(place / TILE);
        values[(token * kvHeads + lane) * tiles + tile] = place % 2 === 0 ? 1 : -1;
      });
    });
    this.#telling = this.#settled(values, tiles);
  }

  /** What each query head reads of the last {@link BLOCK} tokens' past, and what it answers. */
  read(strategy: LaneStrategy): Reading {
    const { heads, headDim } = this.tensors;
    const output = new Float32Array(BLOCK * heads * headDim);
    this.#search(this.#attending, output, strategy);
    const tiles = Math.ceil(this.end / TILE);
    const columns = new Float32Array(BLOCK * heads * tiles);
    const reported = this.#search(this.#telling, columns, strategy);
    const chosen = Array.from({ length: heads }, (_, head) => {
      const read = new Uint8Array(tiles);
      for (let row = 0; row < BLOCK; row++) {
        const own = columns.subarray(
          (row * heads + head) * tiles,
          (row * heads + head + 1) * tiles,
        );
        own.forEach((left, tile) => {
          if (left !== 0) read[tile] = 1;
        });
      }
      return read;
    });
    const found = chosen.reduce(
      (sum, read) => sum + read.reduce((count, one) => count + one, 0),
      0,
    );
    if (found * BLOCK !== reported) {
      throw new Error(`the operator reports ${reported / BLOCK} tiles read, ${found} were found`);
    }
    return { chosen, output };
  }

  close(): void {
    this.#attending.close();
    this.#telling.close();
  }

  /** @returns tiles read, of all rows */
  #search(group: KnnIndexGroup, output: Float32Array, strategy: LaneStrategy): number {
    const { tilesRead } = group.softSearch(this.#queries, output, {
      queries: BLOCK,
      visible: this.end - BLOCK + 1,
      causal: true,
      strategies: Array.from({ length: this.tensors.kvHeads }, () => strategy),
    });
    return tilesRead;
  }

  #settled(values: Float32Array, valueDimensions: number): KnnIndexGroup {
    const { kvHeads, headDim, keys } = this.tensors;
    const group = new KnnIndexGroup({
      count: kvHeads,
      dimensions: headDim,
      valueDimensions,
      storage: 'f32',
    });
    group.append(keys.subarray(0, this.end * kvHeads * headDim), values);
    const { sinks, recent, batch } = settings();
    group.settle(sinks, sinks);
    for (let to = sinks + batch; to + recent <= this.end - BLOCK; to += batch) {
      group.settle(sinks, to);
    }
    return group;
  }
}

/** How the presets settle. */
function settings(): { sinks: number; recent: number; batch: number } {
  const [plan] = headPlans(selectedPlan(1).layers[0] ?? { strategy: 'exact' }, 1);
  if (plan?.strategy !== 'selected') throw new Error('a selected plan selects');
  return plan;
}
