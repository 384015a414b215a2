import { randomBytes } from 'node:crypto';
import { link, open, readFile, rename, rm, stat, utimes } from 'node:fs/promises';
import { hostname } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { systemCode } from './model-loader-error.ts';

/** How often the holder of a lock says that it lives. */
const HEARTBEAT_MS = 5_000;
/** A lock without a sign of life for this long is taken over. */
const STALE_MS = 30_000;
/** How often a waiting process looks again. */
const POLL_MS = 250;

/** A lock that is held. */
export interface CacheLock {
  /** Lets go. */
  release(): Promise<void>;
}

/**
 * Waits for the lock file and takes it. Locks of processes that died are taken over: at once when they ran on
 * this machine, otherwise after half a minute without a sign of life.
 *
 * @param onWait Called once when the lock is held by someone else.
 */
export async function takeLock(
  path: string,
  signal: AbortSignal | undefined,
  onWait: () => void,
): Promise<CacheLock> {
  const mine = JSON.stringify({
    pid: process.pid,
    host: hostname(),
    token: randomBytes(8).toString('hex'),
  });
  let waited = false;
  for (;;) {
    signal?.throwIfAborted();
    try {
      const file = await open(path, 'wx');
      try {
        await file.writeFile(mine);
      } finally {
        await file.close();
      }
      break;
    } catch (error) {
      if (systemCode(error) !== 'EEXIST') throw error;
    }
    const stale = await staleContent(path);
    if (stale !== undefined) {
      await removeStale(path, stale);
      continue;
    }
    if (!waited) onWait();
    waited = true;
    await sleep(POLL_MS, undefined, signal === undefined ? {} : { signal }).catch(
      (error: unknown) => {
        signal?.throwIfAborted();
        throw error;
      },
    );
  }
  const heartbeat = setInterval(() => {
    const now = new Date();
    // A lock that someone else took over is no longer ours to touch; the renames that follow stay atomic.
    utimes(path, now, now).catch(() => undefined);
  }, HEARTBEAT_MS);
  heartbeat.unref();
  return {
    async release() {
      clearInterval(heartbeat);
      const found = await readFile(path, 'utf8').catch(() => '');
      if (found === mine) await rm(path, { force: true });
    },
  };
}

/** What the lock file says, when whoever wrote it is gone; undefined when it is held (or gone meanwhile). */
async function staleContent(path: string): Promise<string | undefined> {
  try {
    const [{ mtimeMs }, text] = await Promise.all([stat(path), readFile(path, 'utf8')]);
    if (Date.now() - mtimeMs > STALE_MS) return text;
    const { pid, host } = JSON.parse(text) as { pid: number; host: string };
    return host === hostname() && pid !== process.pid && !isAlive(pid) ? text : undefined;
  } catch {
    // Being written at this moment: look again.
    return undefined;
  }
}

/** Removes a stale lock, and not the fresh one of a process that was quicker. */
async function removeStale(path: string, content: string): Promise<void> {
  const aside = `${path}.${randomBytes(4).toString('hex')}`;
  try {
    await rename(path, aside);
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return;
    throw error;
  }
  if ((await readFile(aside, 'utf8')) !== content) await link(aside, path).catch(() => undefined);
  await rm(aside, { force: true });
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return systemCode(error) !== 'ESRCH';
  }
}
