import { mkdirSync } from 'node:fs';
import { basename, join } from 'node:path';
import { type CaptureSource, captureLayers } from './captured-layers.ts';
import type { TensorFiles } from './job.ts';
import { JOINED, joinHeads, layersToJoin } from './joined-heads.ts';

/** Whose heads are measured: the model's as they are, or pairs of them joined to wider ones. */
export type TensorKind = 'model' | 'joined';

export const TENSOR_KINDS: readonly TensorKind[] = ['model', 'joined'];

/** Real queries, keys and values of some layers over some tokens. */
export interface TensorSet {
  kind: TensorKind;
  /** Where they come from, for the table. */
  what: string;
  heads: number;
  kvHeads: number;
  headDim: number;
  /** Each measured layer's number in the model; absent where it is put together of several. */
  layerNumbers: (number | undefined)[];
  /** One entry per measured layer. */
  files: TensorFiles[];
}

/** Makes the set of a kind for `n` tokens, unless it is there; a file may hold more tokens. */
export async function provideTensors(
  kind: TensorKind,
  source: CaptureSource,
  n: number,
  layers: readonly number[],
): Promise<TensorSet> {
  const { size, folder, work } = source;
  const { heads, kvHeads, headDim } = size;
  const name = basename(folder);
  if (kind === 'model') {
    return {
      kind,
      what: `${name}, layers ${layers.join(', ')}`,
      heads,
      kvHeads,
      headDim,
      layerNumbers: [...layers],
      files: await captureLayers(source, n, layers),
    };
  }
  const count = layersToJoin(size);
  // Spread over the model, but for its very first and last layers.
  const joined = Array.from({ length: count }, (_, index) =>
    Math.round(((index + 1) * size.layers) / (count + 1)),
  );
  const captured = await captureLayers(source, n, joined);
  const length = Math.max(n, size.window);
  const place = join(work, `${name}-${length}`);
  mkdirSync(place, { recursive: true });
  const file = (part: string): string => join(place, `joined.${part}.f32`);
  const files = { q: file('q'), k: file('k'), v: file('v') };
  joinHeads({ layers: captured, heads, kvHeads, headDim }, length, files);
  return {
    kind,
    what: `pairs of key/value heads of ${name}, layers ${joined.join(', ')}, joined to one layer: no model with heads of ${JOINED.headDim} dimensions is at hand`,
    ...JOINED,
    layerNumbers: [undefined],
    files: [files],
  };
}
