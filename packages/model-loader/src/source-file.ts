import { type FileHandle, open } from 'node:fs/promises';
import { ModelLoaderError, reasonOf, systemCode } from './model-loader-error.ts';

/** Largest single read: the system refuses more than 2 GiB at once. */
const READ_STEP = 64 * 1024 * 1024;

/** A file that is read at positions, opened once. */
export class SourceFile {
  /** Path as given. */
  readonly path: string;
  /** Size in bytes when it was opened. */
  readonly size: number;
  readonly #handle: FileHandle;

  private constructor(path: string, size: number, handle: FileHandle) {
    this.path = path;
    this.size = size;
    this.#handle = handle;
  }

  /** @throws {@link ModelLoaderError} `ERR_MODEL_NOT_FOUND` or `ERR_MODEL_UNREADABLE`. */
  static async open(path: string): Promise<SourceFile> {
    let handle: FileHandle;
    try {
      handle = await open(path, 'r');
    } catch (error) {
      throw unreadable(path, error);
    }
    try {
      const stats = await handle.stat();
      if (!stats.isFile()) {
        throw new ModelLoaderError('ERR_MODEL_UNREADABLE', `${path} is not a file`, { path });
      }
      return new SourceFile(path, stats.size, handle);
    } catch (error) {
      await handle.close();
      throw error instanceof ModelLoaderError ? error : unreadable(path, error);
    }
  }

  /** Fills `target` from `position`; returns the bytes read, fewer only where the file ends. */
  async read(target: Uint8Array, position: number): Promise<number> {
    let done = 0;
    try {
      while (done < target.byteLength) {
        const length = Math.min(READ_STEP, target.byteLength - done);
        const { bytesRead } = await this.#handle.read(target, done, length, position + done);
        if (bytesRead === 0) break;
        done += bytesRead;
      }
    } catch (error) {
      throw unreadable(this.path, error);
    }
    return done;
  }

  /** Closes the file. */
  close(): Promise<void> {
    return this.#handle.close();
  }
}

/** A typed error for a file or folder that cannot be opened or read. */
export function unreadable(path: string, error: unknown): ModelLoaderError {
  const system = systemCode(error);
  if (system === 'ENOENT' || system === 'ENOTDIR') {
    return new ModelLoaderError('ERR_MODEL_NOT_FOUND', `no such file: ${path}`, { path }, error);
  }
  return new ModelLoaderError(
    'ERR_MODEL_UNREADABLE',
    `cannot read ${path}: ${system ?? reasonOf(error)}`,
    { path, system },
    error,
  );
}
