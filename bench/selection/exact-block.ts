import { BLOCK, TILE, type TiledLayer } from './tiled-layer.ts';

/**
 * Exact causal attention of a block of queries of one head, in double precision, split by tiles: what each tile holds and
 * adds, and what would stand in for it.
 */
export interface ExactBlock {
  tiles: number;
  headDim: number;
  /** `[BLOCK, tiles]`: share of the softmax's mass. */
  masses: Float64Array;
  /** `[BLOCK, tiles, headDim]`: the sum of the tile's values, weighted by their shares. */
  sums: Float64Array;
  /** `[BLOCK, tiles]`: weight of sixteen keys that are their mean, relative to the whole mass. */
  standIns: Float64Array;
  /** `[tiles, headDim]`: the mean of the tile's values. */
  meanValues: Float64Array;
}

/** What is lost when only some tiles are read. */
export interface Loss {
  /** Mean share of the mass that was not read. */
  missed: number;
  /** Length of the difference from the exact output over its length, where tiles left out stand in by their means. */
  error: number;
  /** The same where they count for nothing. */
  errorWithout: number;
}

/**
 * @param queries `[BLOCK, heads, headDim]`, the last of `layer.end` tokens
 * @param head query head
 */
export function exactBlock(layer: TiledLayer, queries: Float32Array, head: number): ExactBlock {
  const { end, standing, tensors } = layer;
  const { heads, kvHeads, headDim, keys, values } = tensors;
  const lane = Math.floor(head / (heads / kvHeads));
  const places = standing[lane] as Uint32Array;
  const tiles = Math.ceil(end / TILE);
  const meanKeys = new Float64Array(tiles * headDim);
  const meanValues = new Float64Array(tiles * headDim);
  places.forEach((token, place) => {
    const tile = Math.floor(place / TILE);
    const from = (token * kvHeads + lane) * headDim;
    for (let d = 0; d < headDim; d++) {
      const at = tile * headDim + d;
      meanKeys[at] = (meanKeys[at] as number) + (keys[from + d] as number) / TILE;
      meanValues[at] = (meanValues[at] as number) + (values[from + d] as number) / TILE;
    }
  });
  const masses = new Float64Array(BLOCK * tiles);
  const sums = new Float64Array(BLOCK * tiles * headDim);
  const standIns = new Float64Array(BLOCK * tiles);
  const scale = 1 / Math.sqrt(headDim);
  const scores = new Float64Array(end);
  for (let row = 0; row < BLOCK; row++) {
    const query = queries.subarray(
      (row * heads + head) * headDim,
      (row * heads + head + 1) * headDim,
    );
    const position = end - BLOCK + row;
    let largest = Number.NEGATIVE_INFINITY;
    for (let place = 0; place < end; place++) {
      const token = places[place] as number;
      const from = (token * kvHeads + lane) * headDim;
      const score = token > position ? Number.NEGATIVE_INFINITY : scale * dot(query, keys, from);
      scores[place] = score;
      if (score > largest) largest = score;
    }
    let total = 0;
    for (let place = 0; place < end; place++) {
      const weight = Math.exp((scores[place] as number) - largest);
      scores[place] = weight;
      total += weight;
    }
    for (let place = 0; place < end; place++) {
      const share = (scores[place] as number) / total;
      if (share === 0) continue;
      const tile = row * tiles + Math.floor(place / TILE);
      masses[tile] = (masses[tile] as number) + share;
      const from = ((places[place] as number) * kvHeads + lane) * headDim;
      for (let d = 0; d < headDim; d++) {
        const at = tile * headDim + d;
        sums[at] = (sums[at] as number) + share * (values[from + d] as number);
      }
    }
    for (let tile = 0; tile < tiles; tile++) {
      const score = scale * dot(query, meanKeys, tile * headDim);
      standIns[row * tiles + tile] = (TILE * Math.exp(score - largest)) / total;
    }
  }
  return { tiles, headDim, masses, sums, standIns, meanValues };
}

/** What is lost when the chosen tiles are read, `[tiles]`, and each other one stands in by its mean, or does not. */
export function lossOf(block: ExactBlock, chosen: Uint8Array): Loss {
  const { tiles, headDim, masses, sums, standIns, meanValues } = block;
  const exact = new Float64Array(headDim);
  const kept = new Float64Array(headDim);
  const tail = new Float64Array(headDim);
  let missed = 0;
  let [difference, differenceWithout, length] = [0, 0, 0];
  for (let row = 0; row < BLOCK; row++) {
    exact.fill(0);
    kept.fill(0);
    tail.fill(0);
    let [keptMass, tailMass] = [0, 0];
    for (let tile = 0; tile < tiles; tile++) {
      const at = row * tiles + tile;
      const read = chosen[tile] === 1;
      const standIn = read ? 0 : (standIns[at] as number);
      if (read) keptMass += masses[at] as number;
      tailMass += standIn;
      for (let d = 0; d < headDim; d++) {
        const sum = sums[at * headDim + d] as number;
        exact[d] = (exact[d] as number) + sum;
        if (read) kept[d] = (kept[d] as number) + sum;
        else tail[d] = (tail[d] as number) + standIn * (meanValues[tile * headDim + d] as number);
      }
    }
    missed += 1 - keptMass;
    for (let d = 0; d < headDim; d++) {
      const wanted = exact[d] as number;
      const got = ((kept[d] as number) + (tail[d] as number)) / (keptMass + tailMass);
      difference += (got - wanted) ** 2;
      differenceWithout += ((kept[d] as number) / keptMass - wanted) ** 2;
      length += wanted ** 2;
    }
  }
  return {
    missed: Math.max(0, missed / BLOCK),
    error: Math.sqrt(difference / length),
    errorWithout: Math.sqrt(differenceWithout / length),
  };
}

/** Error of what the operator answered for a head: `output` is `[BLOCK, heads, headDim]`. */
export function errorOf(
  block: ExactBlock,
  output: Float32Array,
  heads: number,
  head: number,
): number {
  const { tiles, headDim, sums } = block;
  let [difference, length] = [0, 0];
  for (let row = 0; row < BLOCK; row++) {
    for (let d = 0; d < headDim; d++) {
      let wanted = 0;
      for (let tile = 0; tile < tiles; tile++) {
        wanted += sums[(row * tiles + tile) * headDim + d] as number;
      }
      difference += ((output[(row * heads + head) * headDim + d] as number) - wanted) ** 2;
      length += wanted ** 2;
    }
  }
  return Math.sqrt(difference / length);
}

function dot(query: Float32Array, vectors: ArrayLike<number>, from: number): number {
  let sum = 0;
  for (let d = 0; d < query.length; d++)
    sum += (query[d] as number) * (vectors[from + d] as number);
  return sum;
}
