import { closeSync, openSync, readSync } from 'node:fs';
import type { TensorSet } from './tensors.ts';

/** Exact causal attention of some query rows, in double precision. */
export interface ExactRows {
  rows: number[];
  /** `[layers, rows, heads, headDim]` */
  output: Float64Array;
  /**
   * Most of the softmax's mass that so many keys can hold, by number of keys: mean over layers, heads and rows. What
   * no choice of as many keys can beat.
   */
  massOf: Map<number, number>;
}

/** Query rows that are looked at: fewer where each is more work, spread over the sequence and off any grid. */
export function sampleRows(n: number): number[] {
  const count = Math.min(n, 128, Math.max(32, Math.floor(2 ** 20 / n)));
  // A fixed irrational stride within each of the parts of equal length.
  return Array.from({ length: count }, (_, index) =>
    Math.floor(((index + ((index * Math.SQRT2) % 1)) * n) / count),
  );
}

/**
 * Computes them for all layers of a set.
 * @param neighbours numbers of keys whose mass is asked for, ascending
 */
export function exactRows(
  { heads, kvHeads, headDim, files }: TensorSet,
  rows: number[],
  neighbours: readonly number[],
): ExactRows {
  const size = rows.length * heads * headDim;
  const output = new Float64Array(files.length * size);
  const mass = neighbours.map(() => 0);
  const group = heads / kvHeads;
  const visible = Math.max(...rows) + 1;
  for (const [layer, { q, k, v }] of files.entries()) {
    const queries = rows.map((row) => read(q, row * heads * headDim, heads * headDim));
    const keys = read(k, 0, visible * kvHeads * headDim);
    const values = read(v, 0, visible * kvHeads * headDim);
    for (const [place, row] of rows.entries()) {
      for (let head = 0; head < heads; head++) {
        const lane = Math.floor(head / group);
        const query = (queries[place] as Float32Array).subarray(head * headDim);
        const weights = softmax(query, keys, row + 1, kvHeads * headDim, lane * headDim, headDim);
        const at = layer * size + (place * heads + head) * headDim;
        average(
          weights,
          values,
          kvHeads * headDim,
          lane * headDim,
          output.subarray(at, at + headDim),
        );
        const largest = weights.sort().reverse();
        let sum = 0;
        let next = 0;
        for (const [index, count] of neighbours.entries()) {
          while (next < Math.min(count, largest.length)) sum += largest[next++] as number;
          mass[index] = (mass[index] as number) + sum;
        }
      }
    }
  }
  const total = files.length * rows.length * heads;
  const massOf = new Map(
    neighbours.map((count, index) => [count, (mass[index] as number) / total]),
  );
  return { rows, output, massOf };
}

/** Shares of the first `count` keys, which are `stride` numbers apart and begin at `offset`. */
function softmax(
  query: Float32Array,
  keys: Float32Array,
  count: number,
  stride: number,
  offset: number,
  headDim: number,
): Float64Array {
  const weights = new Float64Array(count);
  let largest = Number.NEGATIVE_INFINITY;
  const scale = 1 / Math.sqrt(headDim);
  for (let key = 0; key < count; key++) {
    const first = key * stride + offset;
    let dot = 0;
    for (let d = 0; d < headDim; d++) dot += (query[d] as number) * (keys[first + d] as number);
    const score = dot * scale;
    weights[key] = score;
    if (score > largest) largest = score;
  }
  let sum = 0;
  for (let key = 0; key < count; key++) {
    const weight = Math.exp((weights[key] as number) - largest);
    weights[key] = weight;
    sum += weight;
  }
  for (let key = 0; key < count; key++) weights[key] = (weights[key] as number) / sum;
  return weights;
}

function average(
  weights: Float64Array,
  values: Float32Array,
  stride: number,
  offset: number,
  out: Float64Array,
): void {
  for (let key = 0; key < weights.length; key++) {
    const weight = weights[key] as number;
    const first = key * stride + offset;
    for (let d = 0; d < out.length; d++) {
      out[d] = (out[d] as number) + weight * (values[first + d] as number);
    }
  }
}

function read(path: string, from: number, count: number): Float32Array {
  const numbers = new Float32Array(count);
  const file = openSync(path, 'r');
  for (let done = 0; done < numbers.byteLength; ) {
    const length = Math.min(2 ** 30, numbers.byteLength - done);
    const bytes = readSync(file, numbers, done, length, 4 * from + done);
    if (bytes === 0) throw new Error(`${path} ended after ${4 * from + done} bytes`);
    done += bytes;
  }
  closeSync(file);
  return numbers;
}

/**
 * Error of outputs against the exact ones, for each layer and head: the length of the difference over the length of the
 * exact output, all sampled rows together (relative L2).
 *
 * @param outputs `[layers, rows, heads, headDim]` of the layers and heads that were measured
 * @param layers places of these layers in the set
 * @param heads these heads
 * @returns `[layers][heads]`
 */
export function relativeErrors(
  outputs: Float32Array,
  exact: ExactRows,
  set: Pick<TensorSet, 'heads' | 'headDim'>,
  layers: readonly number[],
  heads: readonly number[],
): number[][] {
  const { headDim } = set;
  const rows = exact.rows.length;
  return layers.map((layer, layerPlace) =>
    heads.map((head, headPlace) => {
      let difference = 0;
      let length = 0;
      for (let row = 0; row < rows; row++) {
        const from = ((layerPlace * rows + row) * heads.length + headPlace) * headDim;
        const exactFrom = ((layer * rows + row) * set.heads + head) * headDim;
        for (let d = 0; d < headDim; d++) {
          const wanted = exact.output[exactFrom + d] as number;
          difference += ((outputs[from + d] as number) - wanted) ** 2;
          length += wanted ** 2;
        }
      }
      return Math.sqrt(difference / length);
    }),
  );
}
