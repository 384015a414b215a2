import { fileURLToPath } from 'node:url';
import { flag, integer, oneOf, record, shown } from './checks.ts';
import type { IdKind } from './id.ts';
import { KnnIndexError } from './knn-index-error.ts';
import { ID_KINDS, type OpenFileOptions, type OpenOptions } from './knn-index-options.ts';

/** What ids of an opened index are, and its threads; 0: as many as the default. */
export function openOptions<Kind extends IdKind>(
  options: OpenOptions<Kind>,
): { kind: Kind; threads: number } {
  const { ids = 'number', threads } = record(options, 'nothing');
  return {
    kind: oneOf('ids', ids, ID_KINDS) as Kind,
    threads: threads === undefined ? 0 : integer('threads', threads, 1, 1024),
  };
}

/** How a file is read. */
export function fileOptions(options: OpenFileOptions<IdKind>): {
  mapped: boolean;
  verify: boolean;
} {
  const { mapped = false, verify = true } = options;
  return { mapped: flag('mapped', mapped), verify: flag('verify', verify) };
}

/** The path of a file that is given by a path or a `file:` URL. */
export function pathOf(path: unknown): string {
  if (path instanceof URL) {
    return fileURLToPath(path);
  }
  if (typeof path !== 'string' || path === '') {
    throw new KnnIndexError(
      'ERR_OPTION',
      `path is ${shown(path)}, it must be a path or a file: URL`,
      { path },
    );
  }
  return path;
}
