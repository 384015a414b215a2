import { constants } from 'node:fs';
import { access, stat, writeFile } from 'node:fs/promises';
import { dirname } from 'node:path';
import { CliError } from './failure.ts';

/**
 * Makes sure that a file can be written before the work whose result it takes begins.
 *
 * @throws CliError `ERR_OUTPUT_UNWRITABLE`
 */
export async function checkOutputFile(path: string): Promise<void> {
  try {
    await access(dirname(path), constants.W_OK);
    const stats = await stat(path).catch(() => undefined);
    if (stats?.isDirectory()) throw new Error('it is a directory');
  } catch (error) {
    throw unwritable(path, error);
  }
}

/** Writes a text file. @throws CliError `ERR_OUTPUT_UNWRITABLE` */
export async function writeOutputFile(path: string, text: string): Promise<void> {
  try {
    await writeFile(path, text);
  } catch (error) {
    throw unwritable(path, error);
  }
}

function unwritable(path: string, error: unknown): CliError {
  return new CliError(
    'ERR_OUTPUT_UNWRITABLE',
    `${path} cannot be written: ${(error as Error).message}`,
    { path },
  );
}
