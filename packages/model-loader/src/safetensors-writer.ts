import { type FileHandle, open } from 'node:fs/promises';
import { type Dtype, dtypeBits } from './dtype.ts';
import { ModelLoaderError } from './model-loader-error.ts';

/** A tensor to be written: its data follows later, in the same order. */
export interface TensorSpec {
  /** Name in the checkpoint. */
  name: string;
  /** Element type. */
  dtype: Dtype;
  /** Sizes, outermost first. */
  shape: readonly number[];
}

/**
 * Writes a safetensors file from beginning to end, so that memory holds one block at a time.
 *
 * The header is written first, then {@link SafetensorsWriter.write} takes the data of the tensors in the
 * order of their specs, in blocks of any size; {@link SafetensorsWriter.close} checks that all has come and
 * flushes the file to the disk.
 */
export class SafetensorsWriter {
  readonly #file: FileHandle;
  readonly #path: string;
  readonly #end: number;
  #position: number;

  private constructor(file: FileHandle, path: string, position: number, end: number) {
    this.#file = file;
    this.#path = path;
    this.#position = position;
    this.#end = end;
  }

  /** Creates (or replaces) the file and writes its header. */
  static async create(
    path: string,
    tensors: readonly TensorSpec[],
    metadata: Record<string, string> = { format: 'pt' },
  ): Promise<SafetensorsWriter> {
    const header: Record<string, unknown> = { __metadata__: metadata };
    let end = 0;
    for (const { name, dtype, shape } of tensors) {
      const begin = end;
      end += shape.reduce((product, size) => product * size, dtypeBits(dtype)) / 8;
      header[name] = { dtype, shape, data_offsets: [begin, end] };
    }
    let text = JSON.stringify(header);
    // Spaces until the data begin on a multiple of 64 bytes, so that maps of the file are aligned for SIMD.
    const length = Buffer.byteLength(text);
    text += ' '.repeat((64 - ((8 + length) % 64)) % 64);
    const bytes = Buffer.from(text);
    const prefix = Buffer.alloc(8);
    prefix.writeBigUInt64LE(BigInt(bytes.byteLength));
    const file = await open(path, 'w');
    try {
      await file.writeFile(Buffer.concat([prefix, bytes]));
    } catch (error) {
      await file.close();
      throw error;
    }
    const start = 8 + bytes.byteLength;
    return new SafetensorsWriter(file, path, start, start + end);
  }

  /** Appends a block of data. */
  async write(bytes: Uint8Array): Promise<void> {
    let done = 0;
    while (done < bytes.byteLength) {
      const { bytesWritten } = await this.#file.write(
        bytes,
        done,
        bytes.byteLength - done,
        this.#position + done,
      );
      done += bytesWritten;
    }
    this.#position += done;
  }

  /** Flushes and closes the file. */
  async close(): Promise<void> {
    try {
      if (this.#position !== this.#end) {
        throw new ModelLoaderError(
          'ERR_OUTPUT_FAILED',
          `${this.#path} should have ${this.#end} bytes, ${this.#position} were written`,
          { path: this.#path, expected: this.#end, found: this.#position },
        );
      }
      await this.#file.sync();
    } finally {
      await this.#file.close();
    }
  }

  /** Closes the file without checks, after a failure. */
  async abandon(): Promise<void> {
    await this.#file.close();
  }
}
