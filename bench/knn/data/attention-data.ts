import { readFileSync } from 'node:fs';
import { openModel } from '@iceformer/model-loader';
import { captureAttention } from '../../capture-attention.ts';
import { corpusText, modelFolder } from '../../named-model.ts';
import { writeDataset } from './dataset-files.ts';
import { sampleOf, seededRandom } from './random.ts';

const MODEL = 'smollm2-135m-instruct';
const TEXT = 'genesis.txt';
/** Layers whose heads make up (a). */
const LAYERS = [5, 10, 15, 20, 25];
const TRAINED_LENGTH = 8192;
const POOLED_KEYS = 1_000_000;
const POOLED_QUERIES = 10_000;

/** Shape of SmolLM2-135M's attention. */
const SHAPE = { layers: 30, heads: 9, kvHeads: 3, headDim: 64 };

/**
 * (a): keys and queries of some heads over `length` tokens, one set per key head, with the queries of one of the
 * query heads that share it.
 */
export async function makeHeads(folder: string, name: string, length: number, threads: number) {
  const { headDim, kvHeads, heads } = SHAPE;
  const sets = LAYERS.length * kvHeads;
  const keys = new Float32Array(sets * length * headDim);
  const queries = new Float32Array(keys.length);
  await capture(length, threads, (layer, q, k, from, n) => {
    const place = LAYERS.indexOf(layer);
    if (place < 0) return;
    for (let head = 0; head < kvHeads; head++) {
      const set = place * kvHeads + head;
      // The three query heads of a key head take turns from layer to layer.
      const shared = heads / kvHeads;
      const queryHead = head * shared + (place % shared);
      for (let token = 0; token < n; token++) {
        const to = (set * length + from + token) * headDim;
        keys.set(vector(k, token * kvHeads + head), to);
        queries.set(vector(q, token * heads + queryHead), to);
      }
    }
  });
  writeDataset(folder, {
    name,
    what: `${MODEL}, ${TEXT}, layers ${LAYERS.join(' ')}, all key heads, after rotation`,
    dimensions: headDim,
    metric: 'inner-product',
    sets,
    keys,
    queries,
    k: 64,
  });
}

/** (b): keys of all layers and heads pooled, a sample of exactly a million, and a sample of all queries. */
export async function makePool(folder: string, name: string, length: number, threads: number) {
  const { headDim, kvHeads, heads, layers } = SHAPE;
  const random = seededRandom(1);
  const keyPicks = sampleOf(layers * length * kvHeads, POOLED_KEYS, random);
  const queryPicks = sampleOf(layers * length * heads, POOLED_QUERIES, random);
  const keys = new Float32Array(POOLED_KEYS * headDim);
  const queries = new Float32Array(POOLED_QUERIES * headDim);
  await capture(length, threads, (layer, q, k, from, n) => {
    copyPicks(keys, keyPicks, k, (layer * length + from) * kvHeads, n * kvHeads);
    copyPicks(queries, queryPicks, q, (layer * length + from) * heads, n * heads);
  });
  shuffleRows(keys, headDim, random);
  shuffleRows(queries, headDim, random);
  writeDataset(folder, {
    name,
    what: `${MODEL}, ${length} tokens of ${TEXT}, all layers and heads pooled, seeded sample`,
    dimensions: headDim,
    metric: 'inner-product',
    sets: 1,
    keys,
    queries,
    k: 10,
  });
}

async function capture(
  length: number,
  threads: number,
  listener: (layer: number, q: Float32Array, k: Float32Array, from: number, n: number) => void,
): Promise<void> {
  const folder = await modelFolder(MODEL);
  const model = await openModel(folder);
  const tokenizer = await model.tokenizer();
  const text = readFileSync(corpusText(TEXT), 'utf8');
  const tokens = tokenizer.encode(text, { addSpecialTokens: false }).slice(0, length);
  await model.close();
  if (tokens.length < length) throw new Error(`${TEXT} has only ${tokens.length} tokens`);
  const done = new Uint32Array(SHAPE.layers);
  const factor = length / TRAINED_LENGTH;
  await captureAttention({
    folder,
    tokens,
    threads,
    attention: 'dense',
    ...(factor > 1 ? { ropeScaling: { type: 'dynamic', factor } } : {}),
    listener(layer, q, k, _, n) {
      const from = done[layer] as number;
      listener(layer, q, k, from, n);
      done[layer] = from + n;
    },
  });
}

function vector(array: Float32Array, row: number): Float32Array {
  return array.subarray(row * SHAPE.headDim, (row + 1) * SHAPE.headDim);
}

/** Copies those rows of `source`, numbered from `first`, that are among the picks. */
function copyPicks(
  target: Float32Array,
  picks: Float64Array,
  source: Float32Array,
  first: number,
  count: number,
): void {
  for (let at = lowerBound(picks, first); at < picks.length; at++) {
    const row = (picks[at] as number) - first;
    if (row >= count) return;
    target.set(vector(source, row), at * SHAPE.headDim);
  }
}

function lowerBound(sorted: Float64Array, value: number): number {
  let low = 0;
  let high = sorted.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((sorted[middle] as number) < value) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** Pools come in no order: an index must not profit from tokens that lie side by side. */
function shuffleRows(array: Float32Array, dimensions: number, random: () => number): void {
  const spare = new Float32Array(dimensions);
  for (let row = array.length / dimensions - 1; row > 0; row--) {
    const other = Math.floor(random() * (row + 1));
    spare.set(array.subarray(row * dimensions, (row + 1) * dimensions));
    array.copyWithin(row * dimensions, other * dimensions, (other + 1) * dimensions);
    array.set(spare, other * dimensions);
  }
}
