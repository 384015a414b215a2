import { constants } from 'node:buffer';
import { type Dtype, dtypeBits } from './dtype.ts';
import { widenBFloat16, widenFloat16 } from './half-floats.ts';
import { ModelLoaderError } from './model-loader-error.ts';
import { SourceFile } from './source-file.ts';

/** Rows of a tensor's first dimension: `start` inclusive, `end` exclusive. */
export interface RowRange {
  /** First row. Defaults to 0. */
  start?: number;
  /** One past the last row. Defaults to the number of rows. */
  end?: number;
}

/** Bytes converted at a time, so that a conversion needs no second copy of the tensor. */
const CONVERT_STEP = 1024 * 1024;

/** How a block of raw elements becomes 32-bit floats; dtypes that are absent are read as bytes only. */
const CONVERTERS: Partial<
  Record<Dtype, (bytes: Uint8Array<ArrayBuffer>, out: Float32Array) => void>
> = {
  F16: (bytes, out) => widenFloat16(new Uint16Array(bytes.buffer, 0, out.length), out),
  BF16: (bytes, out) => widenBFloat16(new Uint16Array(bytes.buffer, 0, out.length), out),
  F64: (bytes, out) => out.set(new Float64Array(bytes.buffer, 0, out.length)),
  I32: (bytes, out) => out.set(new Int32Array(bytes.buffer, 0, out.length)),
  U32: (bytes, out) => out.set(new Uint32Array(bytes.buffer, 0, out.length)),
  I16: (bytes, out) => out.set(new Int16Array(bytes.buffer, 0, out.length)),
  U16: (bytes, out) => out.set(new Uint16Array(bytes.buffer, 0, out.length)),
  I8: (bytes, out) => out.set(new Int8Array(bytes.buffer, 0, out.length)),
  U8: (bytes, out) => out.set(new Uint8Array(bytes.buffer, 0, out.length)),
  BOOL: (bytes, out) => out.set(new Uint8Array(bytes.buffer, 0, out.length)),
};

/**
 * A tensor as it lies in a file: where it is, what shape it has. Holds no data and no open file.
 *
 * Native code maps `path` from `byteOffset`; JavaScript reads all of it or some rows.
 */
export class TensorView {
  /** Name in the checkpoint, for example `model.embed_tokens.weight`. */
  readonly name: string;
  /** Element type. */
  readonly dtype: Dtype;
  /** Sizes, outermost first; `[]` is a scalar. Weights of linear layers are `[out, in]`. */
  readonly shape: readonly number[];
  /** The file that holds it. */
  readonly path: string;
  /** Offset of its first byte from the start of that file. */
  readonly byteOffset: number;
  /** Bytes it takes. */
  readonly byteLength: number;

  constructor(
    name: string,
    dtype: Dtype,
    shape: readonly number[],
    path: string,
    byteOffset: number,
    byteLength: number,
  ) {
    this.name = name;
    this.dtype = dtype;
    this.shape = shape;
    this.path = path;
    this.byteOffset = byteOffset;
    this.byteLength = byteLength;
  }

  /** Number of elements. */
  get elements(): number {
    return this.shape.reduce((product, size) => product * size, 1);
  }

  /**
   * Reads the raw bytes, or those of some rows, with positioned reads.
   *
   * @throws {@link ModelLoaderError} `ERR_TENSOR_RANGE` for rows the tensor does not have,
   *   `ERR_TENSOR_TOO_LARGE` when one buffer cannot hold them (read fewer rows), `ERR_SAFETENSORS_TRUNCATED`
   *   when the file became shorter.
   */
  async read(range?: RowRange): Promise<Uint8Array> {
    const { byteStart, byteLength } = this.#locate(range);
    this.#checkFits(byteLength);
    const bytes = new Uint8Array(byteLength);
    const file = await SourceFile.open(this.path);
    try {
      await this.#fill(file, bytes, byteStart);
    } finally {
      await file.close();
    }
    return bytes;
  }

  /**
   * Reads all elements, or those of some rows, as 32-bit floats: F32, F16, BF16, I8, U8, I16, U16 and BOOL
   * exactly, F64, I32 and U32 rounded to the nearest.
   *
   * @throws {@link ModelLoaderError} `ERR_TENSOR_DTYPE` for the other dtypes (use {@link TensorView.read}),
   *   and as {@link TensorView.read}.
   */
  async readFloat32(range?: RowRange): Promise<Float32Array> {
    const { byteStart, elements } = this.#locate(range);
    this.#checkFits(elements * 4);
    const convert = CONVERTERS[this.dtype];
    if (this.dtype !== 'F32' && convert === undefined) {
      throw new ModelLoaderError(
        'ERR_TENSOR_DTYPE',
        `tensor ${this.name} has dtype ${this.dtype}, which cannot be read as 32-bit floats`,
        { tensor: this.name, dtype: this.dtype },
      );
    }
    const values = new Float32Array(elements);
    const file = await SourceFile.open(this.path);
    try {
      if (convert === undefined) {
        await this.#fill(file, new Uint8Array(values.buffer), byteStart);
        return values;
      }
      const elementBytes = dtypeBits(this.dtype) / 8;
      const step = CONVERT_STEP / elementBytes;
      const block = new Uint8Array(Math.min(CONVERT_STEP, elements * elementBytes));
      for (let at = 0; at < elements; at += step) {
        const count = Math.min(step, elements - at);
        await this.#fill(
          file,
          block.subarray(0, count * elementBytes),
          byteStart + at * elementBytes,
        );
        convert(block, values.subarray(at, at + count));
      }
    } finally {
      await file.close();
    }
    return values;
  }

  #locate(range: RowRange | undefined): {
    byteStart: number;
    byteLength: number;
    elements: number;
  } {
    if (range === undefined) {
      return { byteStart: this.byteOffset, byteLength: this.byteLength, elements: this.elements };
    }
    const rows = this.shape[0];
    const start = range.start ?? 0;
    const end = range.end ?? rows ?? 0;
    if (
      rows === undefined ||
      !Number.isInteger(start) ||
      !Number.isInteger(end) ||
      start < 0 ||
      end < start ||
      end > rows
    ) {
      throw new ModelLoaderError(
        'ERR_TENSOR_RANGE',
        `rows ${start} to ${end} of tensor ${this.name} do not exist: its shape is [${this.shape}]`,
        { tensor: this.name, start, end, shape: this.shape },
      );
    }
    const rowElements = this.shape.slice(1).reduce((product, size) => product * size, 1);
    const rowBits = rowElements * dtypeBits(this.dtype);
    if (rowBits % 8 !== 0) {
      throw new ModelLoaderError(
        'ERR_TENSOR_RANGE',
        `rows of tensor ${this.name} do not start on whole bytes (${this.dtype}, shape [${this.shape}])`,
        { tensor: this.name, dtype: this.dtype, shape: this.shape },
      );
    }
    return {
      byteStart: this.byteOffset + (start * rowBits) / 8,
      byteLength: ((end - start) * rowBits) / 8,
      elements: (end - start) * rowElements,
    };
  }

  #checkFits(bytes: number): void {
    if (bytes > constants.MAX_LENGTH) {
      throw new ModelLoaderError(
        'ERR_TENSOR_TOO_LARGE',
        `reading tensor ${this.name} needs ${bytes} bytes, one buffer holds ${constants.MAX_LENGTH}; read it by rows`,
        { tensor: this.name, bytes, limit: constants.MAX_LENGTH },
      );
    }
  }

  async #fill(file: SourceFile, target: Uint8Array, position: number): Promise<void> {
    const read = await file.read(target, position);
    if (read < target.byteLength) {
      throw new ModelLoaderError(
        'ERR_SAFETENSORS_TRUNCATED',
        `${this.path} ends inside tensor ${this.name}: ${target.byteLength} bytes wanted at ${position}, ${read} found`,
        { path: this.path, tensor: this.name, position, wanted: target.byteLength, found: read },
      );
    }
  }
}
