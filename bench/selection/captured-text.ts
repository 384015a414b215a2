import { readFileSync } from 'node:fs';
import { openModel } from '@iceformer/model-loader';
import { captureAttention } from '../capture-attention.ts';
import type { ModelSize } from '../model/limits.ts';
import { BLOCK, type LayerTensors } from './tiled-layer.ts';

/** What some layers hand to attention while a model reads the beginning of a text. */
export interface CapturedLayer {
  layer: number;
  tensors: LayerTensors;
  /** By length: `[BLOCK, heads, headDim]`, the queries of its last tokens. */
  queries: Map<number, Float32Array>;
}

/** Reads a text densely, once for all `lengths`, and keeps what `layers` hand to attention. */
export async function captureText(
  folder: string,
  size: ModelSize,
  text: string,
  lengths: readonly number[],
  layers: readonly number[],
  threads: number,
): Promise<CapturedLayer[]> {
  const longest = Math.max(...lengths);
  const { heads, kvHeads, headDim } = size;
  const model = await openModel(folder);
  const all = (await model.tokenizer()).encode(readFileSync(text, 'utf8'));
  await model.close();
  if (all.length < longest) {
    throw new Error(`${text} has ${all.length} tokens, ${longest} are needed`);
  }
  const captured = new Map(
    layers.map((layer): [number, CapturedLayer] => {
      const room = () => new Float32Array(longest * kvHeads * headDim);
      const tensors = { heads, kvHeads, headDim, keys: room(), values: room() };
      const queries = new Map(
        lengths.map((length) => [length, new Float32Array(BLOCK * heads * headDim)]),
      );
      return [layer, { layer, tensors, queries }];
    }),
  );
  const positions = new Map(layers.map((layer) => [layer, 0]));
  await captureAttention({
    folder,
    tokens: Uint32Array.from(all.slice(0, longest)),
    threads,
    attention: 'dense',
    lastLayer: Math.max(...layers),
    listener(layer, q, k, v, count) {
      const kept = captured.get(layer);
      if (kept === undefined) return;
      const start = positions.get(layer) ?? 0;
      positions.set(layer, start + count);
      kept.tensors.keys.set(k.subarray(0, count * kvHeads * headDim), start * kvHeads * headDim);
      kept.tensors.values.set(v.subarray(0, count * kvHeads * headDim), start * kvHeads * headDim);
      const row = heads * headDim;
      for (const [length, queries] of kept.queries) {
        const first = length - BLOCK;
        const from = Math.max(first, start);
        const to = Math.min(length, start + count);
        if (from >= to) continue;
        queries.set(q.subarray((from - start) * row, (to - start) * row), (from - first) * row);
      }
    },
  });
  return [...captured.values()];
}
