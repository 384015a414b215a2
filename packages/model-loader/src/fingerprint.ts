import { createHash } from 'node:crypto';
import type { ModelFolder } from './model-folder.ts';
import { SourceFile } from './source-file.ts';

/** Bytes of each tensor that are looked at, from its middle. */
const SAMPLE_BYTES = 4096;

/**
 * Tells models apart: a SHA-256, in hexadecimal, of every tensor's name, dtype, shape and some kilobytes from its
 * middle. It takes milliseconds where a hash of all bytes takes seconds, does not depend on how the files are cut, and
 * changes with training, which moves all weights; it is no proof against somebody who wants two models to look alike.
 *
 * @throws {@link ModelLoaderError} `ERR_MODEL_NOT_FOUND`, `ERR_MODEL_UNREADABLE`.
 */
export async function modelFingerprint({ tensors }: ModelFolder): Promise<string> {
  const hash = createHash('sha256');
  const files = new Map<string, SourceFile>();
  const sample = new Uint8Array(SAMPLE_BYTES);
  try {
    for (const name of tensors.names().sort()) {
      const { dtype, shape, path, byteOffset, byteLength } = tensors.get(name);
      let file = files.get(path);
      if (file === undefined) {
        file = await SourceFile.open(path);
        files.set(path, file);
      }
      const length = Math.min(SAMPLE_BYTES, byteLength);
      const start = byteOffset + Math.floor((byteLength - length) / 2);
      const read = await file.read(sample.subarray(0, length), start);
      hash.update(JSON.stringify([name, dtype, shape])).update(sample.subarray(0, read));
    }
  } finally {
    for (const file of files.values()) await file.close();
  }
  return hash.digest('hex');
}
