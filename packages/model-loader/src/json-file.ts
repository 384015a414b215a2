import { readFile } from 'node:fs/promises';
import {
  ModelLoaderError,
  type ModelLoaderErrorCode,
  reasonOf,
  systemCode,
} from './model-loader-error.ts';
import { unreadable } from './source-file.ts';

/** Reads a UTF-8 text file; undefined when it does not exist. */
export async function readTextIfPresent(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return undefined;
    throw unreadable(path, error);
  }
}

/** Reads a JSON file that holds an object; undefined when it does not exist. */
export async function readJsonIfPresent(
  path: string,
  invalid: ModelLoaderErrorCode,
): Promise<Record<string, unknown> | undefined> {
  const text = await readTextIfPresent(path);
  if (text === undefined) return undefined;
  let value: unknown;
  try {
    // Some editors put a byte order mark before the text.
    value = JSON.parse(text.replace(/^\uFEFF/, ''));
  } catch (error) {
    throw new ModelLoaderError(invalid, `${path} is not JSON: ${reasonOf(error)}`, { path }, error);
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new ModelLoaderError(invalid, `${path} does not hold a JSON object`, { path });
  }
  return value as Record<string, unknown>;
}
