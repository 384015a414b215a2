import {
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  writeSync,
} from 'node:fs';
import { basename, join } from 'node:path';
import process from 'node:process';
import { openModel } from '@iceformer/model-loader';
import { selectedPlan } from '@iceformer/sparse-attention';
import { captureAttention } from '../capture-attention.ts';
import type { ModelSize } from '../model/limits.ts';
import { corpusText } from '../named-model.ts';
import { stretchedRope } from '../stretched-rope.ts';
import type { TensorFiles } from './job.ts';

/** Texts that follow one another, and begin anew where they are too short. */
const TEXTS = ['genesis.txt', 'sqlite-file-format.txt', 'stb_ds.h.txt', 'ezra-nehemiah-esther.txt'];

/** Tokens up to which the prompt runs dense; beyond, that would take longer than all measurements. */
const DENSE_TOKENS = 16_384;

/** Share of the mass that a longer prompt keeps. */
const CAPTURE_MASS = 0.9;

/** Where captures come from. */
export interface CaptureSource {
  /** Model folder. */
  folder: string;
  size: ModelSize;
  /** Where captures are kept. */
  work: string;
  threads: number;
}

/**
 * Queries, keys and values of some layers of a model that reads a text of at least `n` tokens: one text for all lengths
 * in the model's window, and beyond it a text of its own for each length, with RoPE stretched (YaRN) as far as it needs.
 * Captured once and kept.
 */
export async function captureLayers(
  source: CaptureSource,
  n: number,
  wanted: readonly number[],
): Promise<TensorFiles[]> {
  const { folder, work, size, threads } = source;
  const { heads, kvHeads, headDim, window } = size;
  const length = Math.max(n, window);
  const place = join(work, `${basename(folder)}-${length}`);
  const filesOf = (layer: number): TensorFiles => {
    const file = (part: string): string => join(place, `layer${layer}.${part}.f32`);
    return { q: file('q'), k: file('k'), v: file('v') };
  };
  const missing = new Set(wanted.filter((layer) => !existsSync(filesOf(layer).q)));
  if (missing.size === 0) return wanted.map(filesOf);
  process.stderr.write(`capturing layers ${[...missing].join(', ')} over ${length} tokens\n`);
  mkdirSync(place, { recursive: true });
  const parts = new Map(
    [...missing].map((layer) => [layer, Object.values(filesOf(layer)).map(openPart)]),
  );
  await captureAttention({
    folder,
    tokens: await textTokens(folder, length),
    threads,
    attention:
      length > DENSE_TOKENS ? selectedPlan(size.layers, { massTarget: CAPTURE_MASS }) : 'dense',
    ...stretchedRope(length, window),
    lastLayer: Math.max(...missing),
    listener(layer, q, k, v, count) {
      const [queries, keys, values] = parts.get(layer) ?? [];
      queries?.write(q.subarray(0, count * heads * headDim));
      keys?.write(k.subarray(0, count * kvHeads * headDim));
      values?.write(v.subarray(0, count * kvHeads * headDim));
    },
  });
  // Queries last: they say that the layer is whole.
  for (const opened of parts.values()) for (const part of opened.toReversed()) part.finish();
  return wanted.map(filesOf);
}

/** A file that has its name only once it is whole. */
interface Part {
  write(values: Float32Array): void;
  finish(): void;
}

function openPart(path: string): Part {
  const unfinished = `${path}.part`;
  const handle = openSync(unfinished, 'w');
  return {
    write(values) {
      writeSync(handle, values);
    },
    finish() {
      closeSync(handle);
      renameSync(unfinished, path);
    },
  };
}

async function textTokens(folder: string, length: number): Promise<Uint32Array> {
  const model = await openModel(folder);
  const tokenizer = await model.tokenizer();
  const text = TEXTS.map((name) => readFileSync(corpusText(name), 'utf8')).join('\n\n');
  const tokens = tokenizer.encode(text, { addSpecialTokens: false });
  await model.close();
  return Uint32Array.from({ length }, (_, index) => tokens[index % tokens.length] as number);
}
