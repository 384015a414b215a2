import { randomBytes } from 'node:crypto';
import { mkdir, open, readdir, rename, rm, rmdir, writeFile } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import type { Dtype } from './dtype.ts';
import { planArchitecture, type TensorPlan } from './gguf-architectures.ts';
import { type GgufFile, openGguf } from './gguf-file.ts';
import { planTokenizer } from './gguf-tokenizer.ts';
import { narrowToBFloat16, narrowToFloat16 } from './half-floats.ts';
import { ModelLoaderError, reasonOf, systemCode } from './model-loader-error.ts';
import { SafetensorsWriter } from './safetensors-writer.ts';
import { SourceFile } from './source-file.ts';

/** How far an import is. */
export interface ImportProgress {
  /** Bytes of the GGUF file's tensors read so far. */
  done: number;
  /** Bytes of all its tensors. */
  total: number;
}

/** Options of {@link importGguf}. */
export interface ImportGgufOptions {
  /**
   * Element type of the weights that are written. `lossless` keeps F16 and BF16 as they are and widens
   * quantized weights to F32, so that every value is kept; the others round to the nearest. Defaults to
   * `lossless`.
   */
  dtype?: 'lossless' | 'F32' | 'F16' | 'BF16';
  /** Further files to write into the folder, by name. */
  extraFiles?: Record<string, string>;
  /** Called as tensors are written. */
  onProgress?: ((progress: ImportProgress) => void) | undefined;
  /** Stops the import and removes what it wrote; the promise rejects with the signal's reason. */
  signal?: AbortSignal | undefined;
}

/** Elements converted at a time: 4 MiB of floats, whatever the size of a tensor. */
const STEP_ELEMENTS = 1024 * 1024;

/**
 * Imports a GGUF file as a model folder in Hugging Face layout: config.json, generation_config.json,
 * tokenizer.json, tokenizer_config.json and model.safetensors.
 *
 * Weights go through memory a few megabytes at a time. The folder is written under a temporary name beside
 * `folder` and renamed when complete, so that it exists whole or not at all.
 *
 * @param path The GGUF file (version 3, one file).
 * @param folder Where the model folder shall be; must not exist or be empty.
 * @returns `folder`, as an absolute path.
 * @throws {@link ModelLoaderError} `ERR_GGUF_INVALID`, `ERR_GGUF_VERSION`, `ERR_GGUF_ARCHITECTURE`,
 *   `ERR_GGUF_TENSOR_TYPE`, `ERR_GGUF_TENSOR_NAME`, `ERR_GGUF_TOKENIZER`, `ERR_GGUF_PRE_TOKENIZER`,
 *   `ERR_OUTPUT_EXISTS`, `ERR_OUTPUT_FAILED`, `ERR_MODEL_NOT_FOUND`, `ERR_MODEL_UNREADABLE`.
 */
export async function importGguf(
  path: string,
  folder: string,
  options: ImportGgufOptions = {},
): Promise<string> {
  const target = resolve(folder);
  options.signal?.throwIfAborted();
  const gguf = await openGguf(path);
  const source = await SourceFile.open(path);
  try {
    const architecture = planArchitecture(gguf, await readRopeFactors(gguf, source));
    const contextLength = architecture.config['max_position_embeddings'] as number;
    const tokenizer = planTokenizer(gguf, contextLength);
    const embedding = gguf.tensors.find((tensor) => tensor.name === 'token_embd.weight');
    const config = {
      ...architecture.config,
      // Embeddings may have rows beyond the last token, for the sake of round numbers.
      vocab_size: embedding?.shape[0] ?? tokenizer.vocabSize,
      bos_token_id: tokenizer.ids.bos ?? null,
      eos_token_id: tokenizer.ids.eos ?? null,
      pad_token_id: tokenizer.ids.pad ?? null,
      torch_dtype: configDtype(architecture.tensors, options.dtype ?? 'lossless'),
    };
    const generationConfig = Object.fromEntries(
      Object.entries({
        bos_token_id: tokenizer.ids.bos,
        eos_token_id: tokenizer.ids.eos,
        pad_token_id: tokenizer.ids.pad,
      }).filter(([, value]) => value !== undefined),
    );
    const json = (value: unknown) => `${JSON.stringify(value, null, 2)}\n`;
    const files: Record<string, string> = {
      'config.json': json(config),
      'generation_config.json': json(generationConfig),
      'tokenizer.json': json(tokenizer.tokenizer),
      'tokenizer_config.json': json(tokenizer.tokenizerConfig),
      ...options.extraFiles,
    };
    await writeFolder(target, async (temporary) => {
      for (const [name, text] of Object.entries(files)) {
        await writeFile(join(temporary, name), text, { flush: true });
      }
      await writeWeights(
        source,
        architecture.tensors,
        join(temporary, 'model.safetensors'),
        path,
        options,
      );
    });
    return target;
  } finally {
    await source.close();
  }
}

/** Makes a folder under a temporary name beside its final one, fills it, and renames it. */
async function writeFolder(
  target: string,
  fill: (temporary: string) => Promise<void>,
): Promise<void> {
  const failed = (error: unknown) =>
    error instanceof ModelLoaderError || systemCode(error) === undefined
      ? error
      : new ModelLoaderError(
          'ERR_OUTPUT_FAILED',
          `cannot write ${target}: ${reasonOf(error)}`,
          { path: target, system: systemCode(error) },
          error,
        );
  const existing = await readdir(target).catch((error: unknown) => {
    if (systemCode(error) === 'ENOENT') return undefined;
    if (systemCode(error) === 'ENOTDIR') return ['a file'];
    throw failed(error);
  });
  if (existing !== undefined && existing.length > 0) {
    throw new ModelLoaderError('ERR_OUTPUT_EXISTS', `${target} exists and is not an empty folder`, {
      path: target,
    });
  }
  const temporary = join(
    dirname(target),
    `.${basename(target)}.${process.pid}-${randomBytes(4).toString('hex')}.partial`,
  );
  try {
    await mkdir(temporary, { recursive: true });
    await fill(temporary);
    await syncFolder(temporary);
    if (existing !== undefined) await rmdir(target);
    await rename(temporary, target);
    await syncFolder(dirname(target));
  } catch (error) {
    await rm(temporary, { recursive: true, force: true });
    throw failed(error);
  }
}

/** Makes a folder's entries durable, where the system can. */
async function syncFolder(folder: string): Promise<void> {
  try {
    const handle = await open(folder, 'r');
    try {
      await handle.sync();
    } finally {
      await handle.close();
    }
  } catch {
    // Windows cannot open folders; there the rename itself is journaled.
  }
}

async function readRopeFactors(
  gguf: GgufFile,
  source: SourceFile,
): Promise<Float32Array | undefined> {
  const tensor = gguf.tensors.find(({ name }) => name === 'rope_freqs.weight');
  if (tensor === undefined) return undefined;
  const elements = tensor.shape.reduce((product, size) => product * size, 1);
  if (elements > 65536) {
    throw new ModelLoaderError('ERR_GGUF_INVALID', `${gguf.path} has ${elements} rope factors`, {
      path: gguf.path,
    });
  }
  const bytes = new Uint8Array(tensor.byteLength);
  await source.read(bytes, tensor.byteOffset);
  const values = new Float32Array(elements);
  tensor.type.widen(bytes, values);
  return values;
}

/** The dtype a tensor is written in. */
function targetDtype(plan: TensorPlan, dtype: 'lossless' | 'F32' | 'F16' | 'BF16'): Dtype {
  if (dtype !== 'lossless') return dtype;
  const { name } = plan.source.type;
  return (name === 'F16' || name === 'BF16') && plan.offset === undefined ? name : 'F32';
}

/** The dtype config.json names: that of most weights. */
function configDtype(plans: TensorPlan[], dtype: 'lossless' | 'F32' | 'F16' | 'BF16'): string {
  const largest = plans.reduce((a, b) => (b.source.byteLength > a.source.byteLength ? b : a));
  const name = targetDtype(largest, dtype);
  return name === 'F16' ? 'float16' : name === 'BF16' ? 'bfloat16' : 'float32';
}

async function writeWeights(
  source: SourceFile,
  plans: TensorPlan[],
  path: string,
  ggufPath: string,
  options: ImportGgufOptions,
): Promise<void> {
  const dtypes = plans.map((plan) => targetDtype(plan, options.dtype ?? 'lossless'));
  const total = plans.reduce((sum, plan) => sum + plan.source.byteLength, 0);
  let done = 0;
  const writer = await SafetensorsWriter.create(
    path,
    plans.map((plan, index) => ({
      name: plan.name,
      dtype: dtypes[index] as Dtype,
      shape: plan.source.shape,
    })),
  );
  try {
    for (const [index, plan] of plans.entries()) {
      for await (const { values, bytesRead } of readRows(source, plan, ggufPath)) {
        options.signal?.throwIfAborted();
        await writer.write(encode(values, dtypes[index] as Dtype));
        done += bytesRead;
        options.onProgress?.({ done, total });
      }
    }
  } catch (error) {
    await writer.abandon();
    throw error;
  }
  await writer.close();
}

/** Reads a tensor some whole rows (and whole heads, where rows change places) at a time. */
async function* readRows(
  source: SourceFile,
  plan: TensorPlan,
  ggufPath: string,
): AsyncGenerator<{ values: Float32Array; bytesRead: number }> {
  const { shape, type, byteOffset, name } = plan.source;
  // A vector of a permuted bias has rows of one element; otherwise vectors are one row.
  const isVector = shape.length < 2 && plan.interleavedHead === undefined;
  const rowElements = isVector
    ? shape.reduce((product, size) => product * size, 1)
    : shape.slice(1).reduce((product, size) => product * size, 1);
  const rows = isVector ? 1 : (shape[0] as number);
  const unit = plan.interleavedHead ?? 1;
  const step = Math.max(1, Math.floor(STEP_ELEMENTS / (rowElements * unit))) * unit;
  // [step, rowElements]
  const values = new Float32Array(Math.min(step, rows) * rowElements);
  const blocks = (elements: number) => (elements / type.blockElements) * type.blockBytes;
  const bytes = new Uint8Array(blocks(values.length));
  const scratch =
    plan.interleavedHead === undefined ? undefined : new Float32Array(unit * rowElements);
  for (let row = 0; row < rows; row += step) {
    const count = Math.min(step, rows - row);
    const part = values.subarray(0, count * rowElements);
    const raw = bytes.subarray(0, blocks(part.length));
    const read = await source.read(raw, byteOffset + blocks(row * rowElements));
    if (read < raw.byteLength) {
      throw new ModelLoaderError('ERR_GGUF_INVALID', `${ggufPath} ends inside tensor ${name}`, {
        path: ggufPath,
        tensor: name,
      });
    }
    type.widen(raw, part);
    if (scratch !== undefined) separateHalves(part, unit, rowElements, scratch);
    if (plan.offset !== undefined) {
      for (let i = 0; i < part.length; i++) part[i] = (part[i] as number) + plan.offset;
    }
    yield { values: part, bytesRead: raw.byteLength };
  }
}

/** In each head, rows 0, 1, 2, 3… become rows 0, half, 1, half + 1…. */
function separateHalves(
  values: Float32Array,
  head: number,
  rowElements: number,
  scratch: Float32Array,
): void {
  const half = head / 2;
  for (let start = 0; start < values.length; start += head * rowElements) {
    scratch.set(values.subarray(start, start + head * rowElements));
    for (let row = 0; row < head; row++) {
      const to = (row & 1) * half + (row >> 1);
      values.set(
        scratch.subarray(row * rowElements, (row + 1) * rowElements),
        start + to * rowElements,
      );
    }
  }
}

function encode(values: Float32Array, dtype: Dtype): Uint8Array {
  if (dtype === 'F32') return new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
  const halves = new Uint16Array(values.length);
  if (dtype === 'BF16') narrowToBFloat16(values, halves);
  else narrowToFloat16(values, halves);
  return new Uint8Array(halves.buffer);
}
