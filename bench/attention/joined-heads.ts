import { closeSync, existsSync, openSync, readSync, renameSync, writeSync } from 'node:fs';
import type { TensorFiles } from './job.ts';

/** Shape of an 8-billion model's attention, as pairs of heads of 64 dimensions make it. */
export const JOINED = { heads: 32, kvHeads: 8, headDim: 128 };

/** Tokens joined at a time. */
const BLOCK = 256;

/** Query heads of a pair: which of each half's query heads. */
const QUERY_PAIRS: [number, number][] = [
  [0, 0],
  [1, 1],
  [2, 2],
  [0, 1],
];

/** The captured layers that are joined, and their shape. */
export interface Halves {
  layers: readonly TensorFiles[];
  heads: number;
  kvHeads: number;
  headDim: number;
}

/** How many layers it takes, or why these heads cannot be joined. */
export function layersToJoin({ heads, kvHeads, headDim }: Omit<Halves, 'layers'>): number {
  if (2 * headDim !== JOINED.headDim || heads / kvHeads < 3) {
    throw new Error(
      `pairs are joined of heads of 64 dimensions, 3 or more to a key head; these have ${headDim}, ${heads / kvHeads} to one`,
    );
  }
  return Math.ceil((2 * JOINED.kvHeads) / kvHeads);
}

/**
 * Joins key/value heads, two by two in the order of layers and heads, to heads of twice the width: a key is both keys one
 * behind the other, so that a score is the sum of two real scores over the square root of 2, and the values alike.
 *
 * @param n tokens
 */
export function joinHeads(halves: Halves, n: number, target: TensorFiles): void {
  if (existsSync(target.q)) return;
  const { layers, heads, kvHeads, headDim } = halves;
  const group = heads / kvHeads;
  const half = (index: number) => ({
    layer: Math.floor(index / kvHeads),
    head: index % kvHeads,
  });
  const keyHeads = Array.from({ length: 2 * JOINED.kvHeads }, (_, index) => half(index));
  const queryHeads = Array.from({ length: JOINED.kvHeads }, (_, pair) =>
    QUERY_PAIRS.flatMap((picks) =>
      picks.map((pick, side) => {
        const { layer, head } = half(2 * pair + side);
        return { layer, head: head * group + pick };
      }),
    ),
  ).flat();
  const copy = (part: keyof TensorFiles, picks: typeof keyHeads, width: number): void =>
    gather(
      layers.map((files) => files[part]),
      picks,
      width,
      headDim,
      n,
      target[part],
    );
  copy('k', keyHeads, kvHeads);
  copy('v', keyHeads, kvHeads);
  // Queries last: they say that all is there.
  copy('q', queryHeads, heads);
}

/** Writes `[n, picks, headDim]` of files that hold `[tokens, width, headDim]`. */
function gather(
  sources: readonly string[],
  picks: readonly { layer: number; head: number }[],
  width: number,
  headDim: number,
  n: number,
  target: string,
): void {
  const handles = sources.map((path) => openSync(path, 'r'));
  const unfinished = `${target}.part`;
  const out = openSync(unfinished, 'w');
  const blocks = sources.map(() => new Float32Array(BLOCK * width * headDim));
  const joined = new Float32Array(BLOCK * picks.length * headDim);
  for (let first = 0; first < n; first += BLOCK) {
    const count = Math.min(BLOCK, n - first);
    const bytes = 4 * width * headDim;
    for (const [layer, handle] of handles.entries()) {
      const read = readSync(handle, blocks[layer] as Float32Array, 0, count * bytes, first * bytes);
      if (read < count * bytes) throw new Error(`${sources[layer]} ended after ${first} tokens`);
    }
    for (let token = 0; token < count; token++) {
      for (const [place, { layer, head }] of picks.entries()) {
        const from = (token * width + head) * headDim;
        const to = (token * picks.length + place) * headDim;
        joined.set((blocks[layer] as Float32Array).subarray(from, from + headDim), to);
      }
    }
    writeSync(out, joined.subarray(0, count * picks.length * headDim));
  }
  for (const handle of [...handles, out]) closeSync(handle);
  renameSync(unfinished, target);
}
