import { type FileHandle, open } from 'node:fs/promises';
import { ModelLoaderError, reasonOf, systemCode } from './model-loader-error.ts';

/** Largest single read; the kernel refuses more than 2 GiB, and small steps keep aborts quick. */
const READ_STEP = 64 * 1024 * 1024;

/** Opens a file for reading; a system error becomes a typed one. */
export async function openForReading(path: string): Promise<FileHandle> {
  try {
    return await open(path, 'r');
  } catch (error) {
    throw unreadable(path, error);
  }
}

/** A typed error for a file that cannot be opened or read. */
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

/** Fills `target` from `position` of the file; returns the bytes read, fewer only at the end of the file. */
export async function readInto(
  file: FileHandle,
  target: Uint8Array,
  position: number,
): Promise<number> {
  let done = 0;
  while (done < target.byteLength) {
    const { bytesRead } = await file.read(
      target,
      done,
      Math.min(READ_STEP, target.byteLength - done),
      position + done,
    );
    if (bytesRead === 0) break;
    done += bytesRead;
  }
  return done;
}
