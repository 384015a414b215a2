import type { FileHandle } from 'node:fs/promises';
import { GGMLQuantizationType, GGUFValueType, gguf } from '@huggingface/gguf';
import { openForReading, readInto, unreadable } from './file-read.ts';
import { GGML_TYPE_NAMES, type GgmlType, ggmlType } from './ggml-blocks.ts';
import { ModelLoaderError, reasonOf, systemCode } from './model-loader-error.ts';

/** A tensor of a GGUF file. */
export interface GgufTensor {
  /** Name in the file, for example `blk.0.attn_q.weight`. */
  name: string;
  /** Sizes, outermost first (GGUF itself lists them the other way round). */
  shape: number[];
  /** Element type. */
  type: GgmlType;
  /** Absolute offset in the file. */
  byteOffset: number;
  /** Bytes it takes. */
  byteLength: number;
}

/** The parsed head of a GGUF file. */
export interface GgufFile {
  /** Path as given. */
  path: string;
  /** Key-value entries. */
  metadata: GgufMetadata;
  /** Tensors in the order of the file. */
  tensors: GgufTensor[];
}

/**
 * The parser reads its file in steps of this many bytes; it cuts, silently, a string that is the last of a
 * value and crosses the end of what was read ({@link restoreCutStrings}).
 */
const PARSER_STEP = 2_000_000;

/**
 * Parses and checks the head of a GGUF v3 file with positioned reads; no tensor data is read.
 *
 * @throws {@link ModelLoaderError} `ERR_GGUF_INVALID`, `ERR_GGUF_VERSION`, `ERR_GGUF_TENSOR_TYPE`, or
 *   `ERR_MODEL_NOT_FOUND` / `ERR_MODEL_UNREADABLE`.
 */
export async function openGguf(path: string): Promise<GgufFile> {
  const file = await openForReading(path);
  try {
    const stats = await file.stat();
    if (!stats.isFile()) throw invalid(path, 'is not a file');
    const { size } = stats;
    const magic = new Uint8Array(8);
    const read = await readInto(file, magic, 0);
    if (read < 8 || new TextDecoder('latin1').decode(magic.subarray(0, 4)) !== 'GGUF') {
      throw invalid(path, 'does not begin with the letters GGUF');
    }
    const version = new DataView(magic.buffer).getUint32(4, true);
    if (version !== 3) {
      const found = version > 0xffff ? 'a big-endian version' : `version ${version}`;
      throw new ModelLoaderError(
        'ERR_GGUF_VERSION',
        `${path} is GGUF of ${found}; version 3, little-endian, is read`,
        { path, version },
      );
    }
    let parsed: Head;
    try {
      parsed = await parse(path);
    } catch (error) {
      const system = systemCode(error);
      if (system === 'ENOENT' || system === 'EACCES') throw unreadable(path, error);
      throw invalid(path, `cannot be parsed: ${reasonOf(error)}`, error);
    }
    const head = parsed.tensorInfoByteRange;
    if (head[1] > size) {
      throw invalid(path, `ends inside its head: ${size} bytes, the head takes ${head[1]}`);
    }
    await restoreCutStrings(file, parsed.entries);
    checkEntries(path, parsed.entries, head[0]);
    return {
      path,
      metadata: new GgufMetadata(path, parsed.entries),
      tensors: readTensors(path, parsed, size),
    };
  } finally {
    await file.close();
  }
}

/** One key-value entry as the parser gives it. */
interface Entry {
  type: GGUFValueType;
  /** Type of the elements of a list. */
  subType?: GGUFValueType | undefined;
  value: unknown;
}

type Entries = Record<string, Entry>;

/** What the parser found. Its own type knows the keys of each architecture; ours are looked up by name. */
interface Head {
  entries: Entries;
  tensorInfos: { name: string; shape: bigint[]; dtype: number; offset: bigint }[];
  tensorDataOffset: bigint;
  tensorInfoByteRange: [number, number];
}

async function parse(path: string): Promise<Head> {
  const { typedMetadata, tensorInfos, tensorDataOffset, tensorInfoByteRange } = await gguf(path, {
    allowLocalFile: true,
    typedMetadata: true,
  });
  return { entries: typedMetadata, tensorInfos, tensorDataOffset, tensorInfoByteRange };
}

function invalid(path: string, what: string, cause?: unknown): ModelLoaderError {
  return new ModelLoaderError('ERR_GGUF_INVALID', `${path} ${what}`, { path }, cause);
}

/** Keys the parser adds for the fixed head of the file. */
const FIXED_KEYS: readonly string[] = ['version', 'tensor_count', 'kv_count'];

/** Bytes of one value of a fixed-size type. */
const FIXED_BYTES: Partial<Record<GGUFValueType, number>> = {
  [GGUFValueType.UINT8]: 1,
  [GGUFValueType.INT8]: 1,
  [GGUFValueType.BOOL]: 1,
  [GGUFValueType.UINT16]: 2,
  [GGUFValueType.INT16]: 2,
  [GGUFValueType.UINT32]: 4,
  [GGUFValueType.INT32]: 4,
  [GGUFValueType.FLOAT32]: 4,
  [GGUFValueType.UINT64]: 8,
  [GGUFValueType.INT64]: 8,
  [GGUFValueType.FLOAT64]: 8,
};

/** Bytes a value takes in the file, its type number not counted; NaN for nested arrays, which no model uses. */
function valueBytes(entry: Entry): number {
  const { type, value } = entry;
  if (type === GGUFValueType.STRING) return 8 + Buffer.byteLength(value as string);
  if (type !== GGUFValueType.ARRAY) return FIXED_BYTES[type] ?? Number.NaN;
  const items = value as unknown[];
  const { subType } = entry;
  if (subType === GGUFValueType.STRING) {
    return (items as string[]).reduce((sum, text) => sum + 8 + Buffer.byteLength(text), 12);
  }
  return 12 + items.length * (subType === undefined ? Number.NaN : (FIXED_BYTES[subType] ?? Number.NaN));
}

/** Where the values of the entries begin, walking the sizes of what was parsed. */
function* valueOffsets(entries: Entries): Generator<{ entry: Entry; at: number }> {
  let at = 24;
  for (const [key, entry] of Object.entries(entries)) {
    if (FIXED_KEYS.includes(key)) continue;
    at += 8 + Buffer.byteLength(key) + 4;
    yield { entry, at };
    at += valueBytes(entry);
  }
}

/**
 * Reads again the last string of every long value. The parser fetches the file in steps and notices that a
 * step is missing when a number lies beyond it; the last string of a value, which no number follows, it cuts
 * at the end of the step instead.
 */
async function restoreCutStrings(file: FileHandle, entries: Entries): Promise<void> {
  for (const { entry, at } of valueOffsets(entries)) {
    const isArray = entry.type === GGUFValueType.ARRAY && entry.subType === GGUFValueType.STRING;
    if (entry.type !== GGUFValueType.STRING && !isArray) continue;
    const end = at + valueBytes(entry);
    // The cut may fall inside a character, which decodes to one of up to three bytes.
    const cut = Math.round(end / PARSER_STEP) * PARSER_STEP;
    if (!(Math.abs(end - cut) <= 3) || cut === 0) continue;
    const items = entry.value as string[];
    const last = isArray ? items.at(-1) : (entry.value as string);
    if (last === undefined) continue;
    const start = end - 8 - Buffer.byteLength(last);
    const prefix = new Uint8Array(8);
    await readInto(file, prefix, start);
    const length = Number(new DataView(prefix.buffer).getBigUint64(0, true));
    if (length > 10_000_000) continue;
    const bytes = new Uint8Array(length);
    if ((await readInto(file, bytes, start + 8)) < length) continue;
    const whole = new TextDecoder().decode(bytes);
    if (isArray) items[items.length - 1] = whole;
    else entry.value = whole;
  }
}

/**
 * The entries, written again, must take exactly the bytes before the tensor list. A key that appears twice or
 * a text that is not UTF-8 breaks the sum.
 */
function checkEntries(path: string, entries: Entries, expected: number): void {
  let end = 24;
  for (const { entry, at } of valueOffsets(entries)) end = at + valueBytes(entry);
  if (end !== expected) {
    throw invalid(
      path,
      `has a head that does not add up (${end} of ${expected} bytes): a key twice, or text that is not UTF-8`,
    );
  }
}

function readTensors(
  path: string,
  parsed: Head,
  size: number,
): GgufTensor[] {
  const base = Number(parsed.tensorDataOffset);
  const alignment = Number(parsed.entries['general.alignment']?.value ?? 32);
  const names = new Set<string>();
  const tensors = parsed.tensorInfos.map((info): GgufTensor => {
    if (names.has(info.name)) throw invalid(path, `has the tensor ${info.name} twice`);
    names.add(info.name);
    const type = ggmlType(info.dtype);
    if (type === undefined) {
      const found = GGMLQuantizationType[info.dtype] ?? `number ${info.dtype}`;
      throw new ModelLoaderError(
        'ERR_GGUF_TENSOR_TYPE',
        `in ${path}, tensor ${info.name} has type ${found}; read are ${GGML_TYPE_NAMES.join(', ')}`,
        { path, tensor: info.name, type: found },
      );
    }
    const shape = info.shape.map(Number).reverse();
    const row = shape.at(-1) ?? 1;
    if (row % type.blockElements !== 0) {
      throw invalid(
        path,
        `has tensor ${info.name} with rows of ${row}, type ${type.name} takes multiples of ${type.blockElements}`,
      );
    }
    const elements = shape.reduce((product, next) => product * next, 1);
    const byteLength = (elements / type.blockElements) * type.blockBytes;
    const byteOffset = base + Number(info.offset);
    if (!Number.isSafeInteger(byteLength) || !Number.isSafeInteger(byteOffset)) {
      throw invalid(path, `has tensor ${info.name} with the impossible shape [${shape}]`);
    }
    if (byteOffset % alignment !== 0) {
      throw invalid(path, `has tensor ${info.name} at ${byteOffset}, not a multiple of ${alignment}`);
    }
    if (byteOffset + byteLength > size) {
      throw invalid(
        path,
        `ends inside tensor ${info.name}: ${size} bytes, the tensor ends at ${byteOffset + byteLength}`,
      );
    }
    return { name: info.name, shape, type, byteOffset, byteLength };
  });
  const ordered = [...tensors].sort((a, b) => a.byteOffset - b.byteOffset);
  for (const [position, tensor] of ordered.entries()) {
    const next = ordered[position + 1];
    if (next !== undefined && next.byteOffset < tensor.byteOffset + tensor.byteLength) {
      throw invalid(path, `has the tensors ${tensor.name} and ${next.name} overlap`);
    }
  }
  return tensors;
}

/** Typed access to the entries of a GGUF file. */
export class GgufMetadata {
  readonly #path: string;
  readonly #entries: Entries;

  constructor(path: string, entries: Entries) {
    this.#path = path;
    this.#entries = entries;
  }

  /** Whether the file has this key. */
  has(key: string): boolean {
    return Object.hasOwn(this.#entries, key) && !FIXED_KEYS.includes(key);
  }

  #value(key: string): unknown {
    return this.has(key) ? this.#entries[key]?.value : undefined;
  }

  /** A text, or undefined. */
  text(key: string): string | undefined {
    return this.#typed(key, 'a text', (value) => typeof value === 'string') as string | undefined;
  }

  /** A truth value, or undefined. */
  flag(key: string): boolean | undefined {
    return this.#typed(key, 'true or false', (value) => typeof value === 'boolean') as
      | boolean
      | undefined;
  }

  /** A number, or undefined; 32-bit floats come back as the shortest decimal that means them (1e-5, not 0.00000999…). */
  number(key: string): number | undefined {
    const value = this.#value(key);
    if (value === undefined) return undefined;
    const number = typeof value === 'bigint' ? Number(value) : value;
    if (typeof number !== 'number' || !Number.isFinite(number)) throw this.#wrong(key, 'a number');
    return this.#entries[key]?.type === GGUFValueType.FLOAT32 ? shortestFloat32(number) : number;
  }

  /** A whole number that is not negative, or undefined. */
  integer(key: string): number | undefined {
    const number = this.number(key);
    if (number !== undefined && (!Number.isSafeInteger(number) || number < 0)) {
      throw this.#wrong(key, 'a whole number');
    }
    return number;
  }

  /** An array of texts, or undefined. */
  texts(key: string): string[] | undefined {
    return this.#typed(
      key,
      'a list of texts',
      (value) => Array.isArray(value) && value.every((item) => typeof item === 'string'),
    ) as string[] | undefined;
  }

  /** An array of numbers, or undefined. */
  numbers(key: string): number[] | undefined {
    const value = this.#typed(
      key,
      'a list of numbers',
      (items) =>
        Array.isArray(items) &&
        items.every((item) => typeof item === 'number' || typeof item === 'bigint'),
    ) as (number | bigint)[] | undefined;
    return value?.map(Number);
  }

  /** Whether the value is a list (some keys are a number or a number per layer). */
  isList(key: string): boolean {
    return Array.isArray(this.#value(key));
  }

  #typed(key: string, expected: string, test: (value: unknown) => boolean): unknown {
    const value = this.#value(key);
    if (value !== undefined && !test(value)) throw this.#wrong(key, expected);
    return value;
  }

  #wrong(key: string, expected: string): ModelLoaderError {
    return new ModelLoaderError(
      'ERR_GGUF_INVALID',
      `${this.#path} has a ${key} that is not ${expected}`,
      { path: this.#path, key, expected },
    );
  }
}

/** The decimal with the fewest digits that rounds to this 32-bit float. */
function shortestFloat32(value: number): number {
  for (let digits = 1; digits < 9; digits++) {
    const candidate = Number(value.toPrecision(digits));
    if (Math.fround(candidate) === value) return candidate;
  }
  return value;
}
