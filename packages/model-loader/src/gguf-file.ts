import { GGMLQuantizationType, GGUFValueType, gguf } from '@huggingface/gguf';
import { GGML_TYPE_NAMES, type GgmlType, ggmlType } from './ggml-blocks.ts';
import { type GgufHead, walkGgufHead } from './gguf-head.ts';
import { ModelLoaderError, reasonOf, systemCode } from './model-loader-error.ts';
import { SourceFile, unreadable } from './source-file.ts';

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
 * Parses and checks the head of a GGUF v3 file with positioned reads; no tensor data is read.
 *
 * @throws {@link ModelLoaderError} `ERR_GGUF_INVALID`, `ERR_GGUF_VERSION`, `ERR_GGUF_TENSOR_TYPE`, or
 *   `ERR_MODEL_NOT_FOUND` / `ERR_MODEL_UNREADABLE`.
 */
export async function openGguf(path: string): Promise<GgufFile> {
  const file = await SourceFile.open(path);
  try {
    const { size } = file;
    const magic = new Uint8Array(8);
    const read = await file.read(magic, 0);
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
    const head = await walkGgufHead(file);
    let parsed: ParsedHead;
    try {
      parsed = await parse(path);
    } catch (error) {
      const system = systemCode(error);
      if (system === 'ENOENT' || system === 'EACCES') throw unreadable(path, error);
      throw invalid(path, `cannot be parsed: ${reasonOf(error)}`, error);
    }
    await restoreCutTexts(file, head, parsed.entries);
    checkTexts(path, head, parsed.entries);
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
interface ParsedHead {
  entries: Entries;
  tensorInfos: { name: string; shape: bigint[]; dtype: number; offset: bigint }[];
  tensorDataOffset: bigint;
}

async function parse(path: string): Promise<ParsedHead> {
  const { typedMetadata, tensorInfos, tensorDataOffset } = await gguf(path, {
    allowLocalFile: true,
    typedMetadata: true,
  });
  return { entries: typedMetadata, tensorInfos, tensorDataOffset };
}

function invalid(path: string, what: string, cause?: unknown): ModelLoaderError {
  return new ModelLoaderError('ERR_GGUF_INVALID', `${path} ${what}`, { path }, cause);
}

/** Keys the parser adds for the fixed head of the file. */
const FIXED_KEYS: readonly string[] = ['version', 'tensor_count', 'kv_count'];

/**
 * Reads again the last text of every value. The parser takes the file in steps and notices that the next step is
 * missing when a number lies beyond; the last text of a value, which no number of that value follows, it cuts
 * silently where the step ends.
 */
async function restoreCutTexts(file: SourceFile, head: GgufHead, entries: Entries): Promise<void> {
  for (const [key, { lastText }] of head.values) {
    const entry = entries[key];
    if (lastText === undefined || entry === undefined) continue;
    const bytes = new Uint8Array(lastText.bytes);
    await file.read(bytes, lastText.at);
    const text = new TextDecoder().decode(bytes);
    if (Array.isArray(entry.value)) entry.value[entry.value.length - 1] = text;
    else entry.value = text;
  }
}

/** Texts, written again, must take the bytes they take in the file; those that are not UTF-8 do not. */
function checkTexts(path: string, head: GgufHead, entries: Entries): void {
  for (const [key, { bytes }] of head.values) {
    const entry = entries[key];
    if (entry === undefined) throw invalid(path, `has the key ${key}, which cannot be read`);
    const texts =
      entry.type === GGUFValueType.STRING
        ? [entry.value as string]
        : entry.type === GGUFValueType.ARRAY && entry.subType === GGUFValueType.STRING
          ? (entry.value as string[])
          : undefined;
    if (texts === undefined) continue;
    const before = entry.type === GGUFValueType.STRING ? 0 : 12;
    const found = texts.reduce((sum, text) => sum + 8 + Buffer.byteLength(text), before);
    if (found !== bytes) throw invalid(path, `has text under ${key} that is not UTF-8`);
  }
}

function readTensors(path: string, parsed: ParsedHead, size: number): GgufTensor[] {
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
      throw invalid(
        path,
        `has tensor ${info.name} at ${byteOffset}, not a multiple of ${alignment}`,
      );
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
