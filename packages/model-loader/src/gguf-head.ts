import { ModelLoaderError } from './model-loader-error.ts';
import type { SourceFile } from './source-file.ts';

/** Bytes read at a time. */
const WINDOW_BYTES = 256 * 1024;
/** Dimensions ggml has. */
const MAX_DIMENSIONS = 4;

/** Numbers of the value types that are not of a fixed size. */
const TEXT = 8;
const LIST = 9;
/** Bytes of the value types of fixed size, by number. */
const FIXED_BYTES: Readonly<Record<number, number>> = {
  0: 1, // uint8
  1: 1, // int8
  2: 2, // uint16
  3: 2, // int16
  4: 4, // uint32
  5: 4, // int32
  6: 4, // float32
  7: 1, // bool
  10: 8, // uint64
  11: 8, // int64
  12: 8, // float64
};

/** Where a value lies in the file. */
export interface ValueSpan {
  /** Bytes it takes, its type number not counted. */
  bytes: number;
  /** The last text of it, when it is a text or a list of texts that is not empty. */
  lastText?: { at: number; bytes: number };
}

/** The layout of the head of a GGUF file. */
export interface GgufHead {
  /** Values by key. */
  values: Map<string, ValueSpan>;
  /** Offset of the first byte after the head. */
  end: number;
}

/**
 * Walks through the head of a GGUF file and checks that every length and count stays inside the file.
 *
 * The parser of the metadata believes counts before it has seen what they count; on a damaged file it fills the
 * memory with entries made of nothing. After this walk the counts are known to be true.
 *
 * @throws {@link ModelLoaderError} `ERR_GGUF_INVALID`.
 */
export async function walkGgufHead(file: SourceFile): Promise<GgufHead> {
  const cursor = new Cursor(file);
  cursor.skip(8);
  const tensorCount = await cursor.u64();
  const entryCount = await cursor.u64();
  const values = new Map<string, ValueSpan>();
  for (let entry = 0; entry < entryCount; entry++) {
    const key = await cursor.text();
    if (values.has(key)) throw cursor.invalid(`has the key ${key} twice`);
    const type = await cursor.u32();
    const start = cursor.position;
    const lastText = await skipValue(cursor, type, key);
    const span: ValueSpan = { bytes: cursor.position - start };
    if (lastText !== undefined) span.lastText = lastText;
    values.set(key, span);
  }
  for (let tensor = 0; tensor < tensorCount; tensor++) {
    const name = await cursor.text();
    const dimensions = await cursor.u32();
    if (dimensions > MAX_DIMENSIONS) {
      throw cursor.invalid(`has the tensor ${name} of ${dimensions} dimensions`);
    }
    cursor.skip(dimensions * 8 + 4 + 8);
  }
  return { values, end: cursor.position };
}

async function skipValue(
  cursor: Cursor,
  type: number,
  key: string,
): Promise<ValueSpan['lastText'] | undefined> {
  const bytes = FIXED_BYTES[type];
  if (bytes !== undefined) {
    cursor.skip(bytes);
    return undefined;
  }
  if (type === TEXT) return cursor.skipText();
  if (type !== LIST) throw cursor.invalid(`has the key ${key} of the unknown type ${type}`);
  const itemType = await cursor.u32();
  const count = await cursor.u64();
  const itemBytes = FIXED_BYTES[itemType];
  if (itemBytes !== undefined) {
    cursor.skip(count * itemBytes);
    return undefined;
  }
  if (itemType !== TEXT) {
    throw cursor.invalid(`has the key ${key}, a list of the unknown type ${itemType}`);
  }
  let last: ValueSpan['lastText'];
  for (let item = 0; item < count; item++) last = await cursor.skipText();
  return last;
}

/** Reads forward through a file, a window at a time. */
class Cursor {
  position = 0;
  readonly #file: SourceFile;
  readonly #window = new Uint8Array(WINDOW_BYTES);
  readonly #view = new DataView(this.#window.buffer);
  #windowStart = 0;
  #windowEnd = 0;

  constructor(file: SourceFile) {
    this.#file = file;
  }

  invalid(what: string): ModelLoaderError {
    return new ModelLoaderError('ERR_GGUF_INVALID', `${this.#file.path} ${what}`, {
      path: this.#file.path,
    });
  }

  async u32(): Promise<number> {
    const at = await this.#take(4);
    return this.#view.getUint32(at, true);
  }

  /** A 64-bit number; one that no file can reach is refused when it is used. */
  async u64(): Promise<number> {
    const at = await this.#take(8);
    return Number(this.#view.getBigUint64(at, true));
  }

  /** A short text: a key or a name. */
  async text(): Promise<string> {
    const length = await this.u64();
    if (length > WINDOW_BYTES) throw this.invalid(`has a name of ${length} bytes`);
    const at = await this.#take(length);
    try {
      return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(
        this.#window.subarray(at, at + length),
      );
    } catch {
      throw this.invalid('has a name that is not UTF-8');
    }
  }

  async skipText(): Promise<{ at: number; bytes: number }> {
    const bytes = await this.u64();
    const at = this.position;
    this.skip(bytes);
    return { at, bytes };
  }

  skip(bytes: number): void {
    if (this.position + bytes > this.#file.size) {
      throw this.invalid(
        `ends inside its head: ${this.#file.size} bytes, the head needs ${this.position + bytes} or more`,
      );
    }
    this.position += bytes;
  }

  /** Makes the next bytes available and steps over them; returns where they are in the window. */
  async #take(bytes: number): Promise<number> {
    const start = this.position;
    this.skip(bytes);
    if (start < this.#windowStart || this.position > this.#windowEnd) {
      this.#windowStart = start;
      this.#windowEnd = start + (await this.#file.read(this.#window, start));
      if (this.position > this.#windowEnd) throw this.invalid('became shorter while it was read');
    }
    return start - this.#windowStart;
  }
}
