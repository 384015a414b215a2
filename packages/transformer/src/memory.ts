import { readFileSync } from 'node:fs';
import { freemem } from 'node:os';
import { TransformerError } from './errors.ts';

/** Memory a model needs, in bytes. */
export interface MemoryEstimate {
  /** Packed weights. */
  weights: number;
  /** Keys and values of `context` tokens, with the summaries sparse attention keeps. */
  cache: number;
  /** Working buffers: activations of one chunk, logits. */
  scratch: number;
  /** Sum of the above. */
  total: number;
  /** What is free now, see {@link availableMemory}. */
  available: number;
}

/**
 * Memory this process may still take, in bytes: what the system has free, or what is left under
 * the tightest control-group limit (containers), whichever is less. Page cache counts as free,
 * because the kernel gives it up on demand.
 */
export function availableMemory(): number {
  return Math.min(freemem(), groupHeadroom(readText));
}

/** Throws ERR_NOT_ENOUGH_MEMORY if `parts` (bytes by name) exceed `available`. */
export function requireMemory(
  purpose: string,
  parts: Record<string, number>,
  available = availableMemory(),
): void {
  const needed = Object.values(parts).reduce((sum, bytes) => sum + bytes, 0);
  if (needed <= available) return;
  const list = Object.entries(parts)
    .filter(([, bytes]) => bytes > 0)
    .map(([name, bytes]) => `${name} ${formatBytes(bytes)}`)
    .join(', ');
  throw new TransformerError(
    'ERR_NOT_ENOUGH_MEMORY',
    `not enough memory ${purpose}: needs ${formatBytes(needed)} (${list}), ${formatBytes(available)} free`,
    { needed, available, ...parts },
  );
}

/**
 * Bytes left under the control groups this process is in; Infinity outside of any limit.
 *
 * @param read - returns a file's text, or undefined if there is no such file.
 */
export function groupHeadroom(read: (path: string) => string | undefined): number {
  let headroom = Number.POSITIVE_INFINITY;
  for (const line of (read('/proc/self/cgroup') ?? '').split('\n')) {
    const [, controllers, path] = /^\d+:([^:]*):(.*)$/.exec(line) ?? [];
    if (controllers === undefined || path === undefined) continue;
    if (controllers === '') {
      // Version 2: one tree, limits of all ancestors hold.
      for (const folder of ancestors('/sys/fs/cgroup', path)) {
        headroom = Math.min(headroom, folderHeadroom(read, folder, 'memory.max', 'memory.current'));
      }
    } else if (controllers.split(',').includes('memory')) {
      for (const folder of ancestors('/sys/fs/cgroup/memory', path)) {
        headroom = Math.min(
          headroom,
          folderHeadroom(read, folder, 'memory.limit_in_bytes', 'memory.usage_in_bytes'),
        );
      }
    }
  }
  return headroom;
}

function folderHeadroom(
  read: (path: string) => string | undefined,
  folder: string,
  limitFile: string,
  usageFile: string,
): number {
  const limit = Number(read(`${folder}/${limitFile}`)?.trim()); // NaN for "max" and for no file
  const usage = Number(read(`${folder}/${usageFile}`)?.trim());
  if (!Number.isFinite(limit) || !Number.isFinite(usage)) return Number.POSITIVE_INFINITY;
  const statistics = read(`${folder}/memory.stat`) ?? '';
  // Clean page cache is charged to the group but given up on demand; tmpfs pages are not.
  const cache = ['active_file', 'inactive_file'].reduce(
    (sum, key) =>
      sum + Number(new RegExp(`^(?:total_)?${key} (\\d+)$`, 'm').exec(statistics)?.[1] ?? 0),
    0,
  );
  return Math.max(0, limit - usage + cache);
}

/** `root` and every folder on the way down to `root + path`. In a container `path` may not exist under it. */
function ancestors(root: string, path: string): string[] {
  const folders = [root];
  for (const part of path.split('/')) {
    if (part !== '' && part !== '..') folders.push(`${folders.at(-1)}/${part}`);
  }
  return folders;
}

function readText(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return undefined; // not Linux, or this version of control groups is not mounted
  }
}

/** `1.5 GB`, powers of ten. */
function formatBytes(bytes: number): string {
  if (bytes >= 1e9) return `${(bytes / 1e9).toFixed(1)} GB`;
  if (bytes >= 1e6) return `${(bytes / 1e6).toFixed(0)} MB`;
  return `${Math.ceil(bytes / 1e3)} kB`;
}
