import { type Dtype, dtypeBits, isDtype } from './dtype.ts';
import { scanJson } from './duplicate-keys.ts';
import { ModelLoaderError, reasonOf } from './model-loader-error.ts';
import { SourceFile } from './source-file.ts';
import { TensorView } from './tensor-view.ts';

/** A header larger than this is refused: 100 MB, as the format's own reader has it. */
export const MAX_HEADER_BYTES = 100_000_000;

/** One safetensors file: its tensors as views, its metadata. */
export interface SafetensorsFile {
  /** Path as given. */
  path: string;
  /** Size of the file in bytes. */
  byteLength: number;
  /** The `__metadata__` entries, empty when there are none. */
  metadata: Record<string, string>;
  /** Tensors by name, in the order of their data. */
  tensors: Map<string, TensorView>;
}

/**
 * Reads and checks the header of a safetensors file; no tensor data is read.
 *
 * Everything the format promises is checked: the header lies inside the file and is UTF-8 JSON without
 * duplicate keys, each tensor's dtype, shape and offsets agree, and the tensors fill the data part without
 * overlap, hole or rest.
 *
 * @throws {@link ModelLoaderError} with a code that begins with `ERR_SAFETENSORS_`, or
 *   `ERR_MODEL_NOT_FOUND` / `ERR_MODEL_UNREADABLE`.
 */
export async function openSafetensors(path: string): Promise<SafetensorsFile> {
  const file = await SourceFile.open(path);
  try {
    const { size } = file;
    if (size < 8) {
      throw new ModelLoaderError(
        'ERR_SAFETENSORS_TRUNCATED',
        `${path} has ${size} bytes, a safetensors file begins with an 8-byte header length`,
        { path, size },
      );
    }
    const prefix = new Uint8Array(8);
    await file.read(prefix, 0);
    const headerLength = new DataView(prefix.buffer).getBigUint64(0, true);
    if (headerLength > BigInt(MAX_HEADER_BYTES)) {
      throw new ModelLoaderError(
        'ERR_SAFETENSORS_HEADER_TOO_LARGE',
        `${path} claims a header of ${headerLength} bytes, the limit is ${MAX_HEADER_BYTES}; is it a safetensors file?`,
        { path, headerLength: headerLength.toString(), limit: MAX_HEADER_BYTES },
      );
    }
    const dataStart = 8 + Number(headerLength);
    if (dataStart > size) {
      throw new ModelLoaderError(
        'ERR_SAFETENSORS_TRUNCATED',
        `${path} claims a header of ${headerLength} bytes, the file has ${size} bytes`,
        { path, headerLength: Number(headerLength), size },
      );
    }
    const header = new Uint8Array(Number(headerLength));
    if ((await file.read(header, 8)) < header.byteLength) {
      throw new ModelLoaderError(
        'ERR_SAFETENSORS_TRUNCATED',
        `${path} became shorter while its header was read`,
        { path },
      );
    }
    return { path, byteLength: size, ...readHeader(path, header, dataStart, size) };
  } finally {
    await file.close();
  }
}

function readHeader(
  path: string,
  header: Uint8Array,
  dataStart: number,
  size: number,
): { metadata: Record<string, string>; tensors: Map<string, TensorView> } {
  const invalid = (what: string, details: Record<string, unknown> = {}, cause?: unknown) =>
    new ModelLoaderError(
      'ERR_SAFETENSORS_HEADER_INVALID',
      `the header of ${path} ${what}`,
      { path, ...details },
      cause,
    );

  let text: string;
  let parsed: unknown;
  try {
    // ignoreBOM keeps a byte order mark in the text, where JSON.parse refuses it.
    text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(header);
  } catch (error) {
    throw invalid('is not UTF-8', {}, error);
  }
  if (!text.startsWith('{')) throw invalid('does not begin with "{"');
  try {
    parsed = JSON.parse(text);
  } catch (error) {
    throw invalid(`is not JSON: ${reasonOf(error)}`, {}, error);
  }
  const { duplicateKey, notAnInteger } = scanJson(text);
  if (duplicateKey !== undefined) {
    throw new ModelLoaderError(
      'ERR_SAFETENSORS_DUPLICATE_KEY',
      `the header of ${path} has the key ${JSON.stringify(duplicateKey)} twice`,
      { path, key: duplicateKey },
    );
  }
  if (notAnInteger !== undefined) {
    throw invalid(`has the number ${notAnInteger.slice(0, 40)}; sizes and offsets are integers`, {
      number: notAnInteger,
    });
  }

  const metadata: Record<string, string> = {};
  const views: TensorView[] = [];
  for (const [name, entry] of Object.entries(parsed as Record<string, unknown>)) {
    if (name === '__metadata__') {
      if (!isObject(entry)) throw invalid('has a __metadata__ that is not an object');
      for (const [key, value] of Object.entries(entry)) {
        if (typeof value !== 'string') {
          throw invalid(`has a __metadata__ entry ${JSON.stringify(key)} that is not a string`, {
            key,
          });
        }
        // defineProperty, so that a key called __proto__ stays data.
        Object.defineProperty(metadata, key, {
          value,
          enumerable: true,
          writable: true,
          configurable: true,
        });
      }
    } else {
      views.push(readEntry(path, name, entry, dataStart, size, invalid));
    }
  }

  // In the order of the data, with empty tensors before what begins where they stand.
  views.sort((a, b) => a.byteOffset - b.byteOffset || a.byteLength - b.byteLength);
  let end = dataStart;
  let previous: TensorView | undefined;
  for (const view of views) {
    if (view.byteOffset < end) {
      throw new ModelLoaderError(
        'ERR_SAFETENSORS_OVERLAP',
        `in ${path}, tensor ${view.name} begins at ${view.byteOffset}, before ${previous?.name} ends at ${end}`,
        { path, tensor: view.name, other: previous?.name, byteOffset: view.byteOffset, end },
      );
    }
    if (view.byteOffset > end) throw hole(path, end, view.byteOffset, `tensor ${view.name}`);
    end = view.byteOffset + view.byteLength;
    previous = view;
  }
  if (end < size) throw hole(path, end, size, 'the end of the file');
  return { metadata, tensors: new Map(views.map((view) => [view.name, view])) };
}

function hole(path: string, from: number, to: number, next: string): ModelLoaderError {
  return new ModelLoaderError(
    'ERR_SAFETENSORS_HOLE',
    `in ${path}, bytes ${from} to ${to} before ${next} belong to no tensor`,
    { path, from, to },
  );
}

function readEntry(
  path: string,
  name: string,
  entry: unknown,
  dataStart: number,
  size: number,
  invalid: (what: string, details?: Record<string, unknown>) => ModelLoaderError,
): TensorView {
  const label = name.length > 120 ? `${name.slice(0, 120)}…` : name;
  if (!isObject(entry))
    throw invalid(`describes tensor ${label} by something other than an object`);
  const { dtype, shape, data_offsets: offsets } = entry;
  if (!isDtype(dtype)) {
    throw new ModelLoaderError(
      'ERR_SAFETENSORS_DTYPE',
      `in ${path}, tensor ${label} has the unknown dtype ${JSON.stringify(dtype)?.slice(0, 40)}`,
      { path, tensor: name, dtype },
    );
  }
  if (!Array.isArray(shape) || !shape.every(isSize)) {
    throw new ModelLoaderError(
      'ERR_SAFETENSORS_SHAPE',
      `in ${path}, tensor ${label} has the shape ${JSON.stringify(shape)?.slice(0, 80)}; sizes are whole numbers from 0 to 2^53`,
      { path, tensor: name, shape },
    );
  }
  const bits = shape.reduce(
    (product: number, next: number) => product * next,
    dtypeBits(dtype as Dtype),
  );
  if (!Number.isSafeInteger(bits) || bits % 8 !== 0) {
    throw new ModelLoaderError(
      'ERR_SAFETENSORS_SHAPE',
      `in ${path}, tensor ${label} of shape [${shape}] and dtype ${dtype} does not take a whole number of bytes below 2^50`,
      { path, tensor: name, shape, dtype },
    );
  }
  if (!Array.isArray(offsets) || offsets.length !== 2 || !offsets.every(isSize)) {
    throw new ModelLoaderError(
      'ERR_SAFETENSORS_OFFSETS',
      `in ${path}, tensor ${label} has the data_offsets ${JSON.stringify(offsets)?.slice(0, 80)}; two whole numbers are expected`,
      { path, tensor: name, offsets },
    );
  }
  const [begin, end] = offsets as [number, number];
  if (end < begin) {
    throw new ModelLoaderError(
      'ERR_SAFETENSORS_OFFSETS',
      `in ${path}, tensor ${label} ends at ${end} before it begins at ${begin}`,
      { path, tensor: name, offsets },
    );
  }
  if (dataStart + end > size) {
    throw new ModelLoaderError(
      'ERR_SAFETENSORS_OFFSETS',
      `in ${path}, tensor ${label} ends at byte ${dataStart + end}, the file has ${size} bytes; it may be truncated`,
      { path, tensor: name, end: dataStart + end, size },
    );
  }
  if (end - begin !== bits / 8) {
    throw new ModelLoaderError(
      'ERR_SAFETENSORS_SIZE_MISMATCH',
      `in ${path}, tensor ${label} of shape [${shape}] and dtype ${dtype} takes ${bits / 8} bytes, its offsets give ${end - begin}`,
      { path, tensor: name, shape, dtype, expected: bits / 8, found: end - begin },
    );
  }
  return new TensorView(name, dtype, shape as number[], path, dataStart + begin, end - begin);
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function isSize(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}
