import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { open, readdir, rename, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { downloadFile, HubApiError, listFiles, modelInfo } from '@huggingface/hub';
import { ModelLoaderError, reasonOf, systemCode } from './model-loader-error.ts';
import type { HubSource } from './model-registry.ts';

/** How long to wait for what, in milliseconds. */
export interface HubTimeouts {
  /** The first answer: short, so that a machine without the hub goes on to the next source. */
  contact: number;
  /** The beginning of later answers. */
  answer: number;
  /** A byte of a transfer, before it counts as broken. */
  stall: number;
  /** Pause before the first new attempt; doubled each time. */
  retry: number;
}

const TIMEOUTS: HubTimeouts = { contact: 5_000, answer: 30_000, stall: 30_000, retry: 500 };
/** Broken transfers in a row, without a byte of progress, before giving up. */
const ATTEMPTS = 4;

/** The files of a repository that make a model folder. */
const WANTED =
  /^(?:(?:config|generation_config|tokenizer|tokenizer_config|special_tokens_map)\.json|chat_template\.jinja|model\.safetensors|model\.safetensors\.index\.json|model-\d+-of-\d+\.safetensors|LICENSE(?:\.\w+)?)$/;

/** A downloaded file. */
export interface DownloadedFile {
  /** Bytes. */
  size: number;
  /** SHA-256 in hexadecimal. */
  sha256: string;
}

/** What a download needs to know. */
export interface HubDownload {
  source: HubSource;
  /** Folder for the files; what is there from an interrupted download is used. */
  folder: string;
  /** Base address of the hub. */
  endpoint: string;
  /** Access token, or undefined. */
  token: string | undefined;
  signal: AbortSignal | undefined;
  /** Bytes of all files, as they come. */
  onProgress: (file: string, done: number, total: number) => void;
  /** Other times to wait, for tests. */
  timeouts?: HubTimeouts;
}

/** A file to fetch: its size and one of the two hashes the hub states. */
interface Wanted {
  path: string;
  size: number;
  sha256: string | undefined;
  gitSha1: string | undefined;
}

/**
 * Downloads the files of a model folder from the hub, all of one commit, each checked against the hash that the
 * hub states. Broken transfers are resumed where they stopped, also those of an earlier run.
 *
 * @throws {@link ModelLoaderError} `ERR_SOURCE_UNREACHABLE`, `ERR_SOURCE_NOT_FOUND`, `ERR_SOURCE_DENIED`,
 *   `ERR_SOURCE_FAILED`, `ERR_HASH_MISMATCH`.
 */
export async function downloadFromHub(
  download: HubDownload,
): Promise<{ commit: string; files: Record<string, DownloadedFile> }> {
  const { source, folder, signal } = download;
  const timeouts = download.timeouts ?? TIMEOUTS;
  if (download.token !== undefined && !download.token.startsWith('hf_')) {
    throw new ModelLoaderError(
      'ERR_SOURCE_DENIED',
      'HF_TOKEN holds something that is no access token of the hub: those begin with hf_',
    );
  }
  const access = {
    hubUrl: download.endpoint,
    ...(download.token === undefined ? {} : { accessToken: download.token }),
  };
  try {
    const { sha: commit } = (await modelInfo({
      ...access,
      name: source.repo,
      revision: source.revision,
      additionalFields: ['sha'],
      fetch: watchedFetch(signal, timeouts.contact),
    })) as { sha?: string };
    if (typeof commit !== 'string' || !/^[0-9a-f]{40}$/.test(commit)) {
      throw failed(source, 'the hub names no commit');
    }
    const wanted: Wanted[] = [];
    const listing = listFiles({
      ...access,
      repo: source.repo,
      revision: commit,
      fetch: watchedFetch(signal, timeouts.answer),
    });
    for await (const entry of listing) {
      if (entry.type !== 'file' || !WANTED.test(entry.path)) continue;
      wanted.push({
        path: entry.path,
        size: entry.lfs?.size ?? entry.size,
        sha256: entry.lfs?.oid,
        gitSha1: entry.lfs === undefined ? entry.oid : undefined,
      });
    }
    chooseWeights(source, wanted);
    await removeOthers(folder, wanted);

    const total = wanted.reduce((sum, file) => sum + file.size, 0);
    const files: Record<string, DownloadedFile> = {};
    let before = 0;
    // Small files first: a repository that lacks something is found out before the weights come.
    for (const file of wanted.sort((a, b) => a.size - b.size)) {
      files[file.path] = await fetchFile(file, download, commit, access, (done) =>
        download.onProgress(file.path, before + done, total),
      );
      before += file.size;
    }
    // Only now do they get the names under which a folder loads.
    for (const file of wanted) {
      await rename(join(folder, partName(file)), join(folder, file.path));
    }
    return { commit, files };
  } catch (error) {
    signal?.throwIfAborted();
    throw hubError(source, download.endpoint, error);
  }
}

/** Keeps what {@link openModel} will read: one file of weights, or the index and its shards. */
function chooseWeights(source: HubSource, wanted: Wanted[]): void {
  const has = (name: string) => wanted.some((file) => file.path === name);
  if (has('model.safetensors')) {
    const rest = wanted.filter(
      (file) => !/^model(-\d+-of-\d+)?\.safetensors(\.index\.json)?$/.test(file.path),
    );
    const single = wanted.filter((file) => file.path === 'model.safetensors');
    wanted.splice(0, wanted.length, ...rest, ...single);
  } else if (!has('model.safetensors.index.json')) {
    throw failed(source, 'the repository has no model.safetensors');
  }
  for (const name of ['config.json', 'tokenizer.json']) {
    if (!has(name)) throw failed(source, `the repository has no ${name}`);
  }
}

/** Parts carry the hash of what they are part of, so that another version does not continue them. */
function partName(file: Wanted): string {
  return `${file.path}.${(file.sha256 ?? file.gitSha1 ?? '').slice(0, 16)}.part`;
}

async function removeOthers(folder: string, wanted: Wanted[]): Promise<void> {
  const keep = new Set(wanted.map(partName));
  for (const name of await readdir(folder)) {
    if (!keep.has(name)) await rm(join(folder, name), { recursive: true, force: true });
  }
}

async function fetchFile(
  file: Wanted,
  download: HubDownload,
  commit: string,
  access: { hubUrl: string; accessToken?: string },
  onProgress: (done: number) => void,
): Promise<DownloadedFile> {
  const { source, signal } = download;
  if (file.sha256 === undefined && file.gitSha1 === undefined) {
    throw failed(source, `the hub states no hash for ${file.path}`);
  }
  const timeouts = download.timeouts ?? TIMEOUTS;
  const path = join(download.folder, partName(file));
  let failures = 0;
  // Turned off when the server answers a request for a part with the whole.
  const ranges = { supported: true };
  for (;;) {
    signal?.throwIfAborted();
    if (!ranges.supported) await rm(path, { force: true });
    const hashes = newHashes(file);
    const resumed = await hashExisting(path, file.size, hashes);
    let have = resumed;
    try {
      if (have < file.size || file.size === 0) {
        const blob = await downloadFile({
          ...access,
          repo: source.repo,
          path: file.path,
          revision: commit,
          fetch: watchedFetch(signal, timeouts.answer, ranges),
          // Plain transfers, which can be resumed at any byte.
          xet: false,
        });
        if (blob === null) throw failed(source, `${file.path} is listed but not there`);
        if (blob.size !== file.size) {
          throw failed(source, `${file.path} has ${blob.size} bytes, ${file.size} were listed`);
        }
        const rest = have === 0 ? blob : blob.slice(have);
        have = await append(path, rest, have, file, hashes, timeouts.stall, onProgress);
      }
    } catch (error) {
      signal?.throwIfAborted();
      if (error instanceof ModelLoaderError && error.code !== 'ERR_SOURCE_UNREACHABLE') throw error;
      if (error instanceof HubApiError && error.statusCode < 500 && error.statusCode !== 429)
        throw error;
      // A connection that delivers something each time may break as often as it likes.
      const now = await stat(path).then(
        (found) => found.size,
        () => 0,
      );
      failures = now > resumed && ranges.supported ? 1 : failures + 1;
      if (failures >= ATTEMPTS) throw error;
      await sleep(
        timeouts.retry * 2 ** (failures - 1),
        undefined,
        signal === undefined ? {} : { signal },
      );
      continue;
    }
    const sha256 = hashes.sha256.digest('hex');
    const expected = file.sha256 ?? file.gitSha1;
    const found = file.sha256 === undefined ? hashes.gitSha1.digest('hex') : sha256;
    if (have === file.size && found === expected) return { size: file.size, sha256 };
    await rm(path, { force: true });
    // What an earlier run left may be what is wrong: once more from the start.
    if (resumed > 0) continue;
    throw new ModelLoaderError(
      'ERR_HASH_MISMATCH',
      `${file.path} of ${source.repo} has the hash ${found}, ${expected} was expected`,
      { file: file.path, repo: source.repo, found, expected },
    );
  }
}

function newHashes(file: Wanted) {
  // Files kept in git itself are named by git's hash: SHA-1 over a header and the content.
  const gitSha1 = createHash('sha1').update(`blob ${file.size}\0`);
  return { sha256: createHash('sha256'), gitSha1 };
}

/** Hashes what is there already; a part that is too long is thrown away. */
async function hashExisting(
  path: string,
  size: number,
  hashes: ReturnType<typeof newHashes>,
): Promise<number> {
  const found = await stat(path).catch(() => undefined);
  if (found === undefined || found.size === 0) return 0;
  if (found.size > size) {
    await rm(path, { force: true });
    return 0;
  }
  for await (const chunk of createReadStream(path, { highWaterMark: 1024 * 1024 })) {
    hashes.sha256.update(chunk as Buffer);
    hashes.gitSha1.update(chunk as Buffer);
  }
  return found.size;
}

/** Appends a transfer to a part; returns the size it then has. */
async function append(
  path: string,
  blob: Blob,
  from: number,
  file: Wanted,
  hashes: ReturnType<typeof newHashes>,
  stall: number,
  onProgress: (done: number) => void,
): Promise<number> {
  let have = from;
  const target = await open(path, 'a');
  const reader = blob.stream().getReader();
  try {
    for (;;) {
      const { done, value } = await withTimeout(reader.read(), stall, 'the transfer stopped');
      if (done) break;
      const chunk = value as Uint8Array;
      if (have + chunk.byteLength > file.size) {
        throw new ModelLoaderError(
          'ERR_SOURCE_FAILED',
          `${file.path} is longer than the hub stated`,
        );
      }
      await target.writeFile(chunk);
      hashes.sha256.update(chunk);
      hashes.gitSha1.update(chunk);
      have += chunk.byteLength;
      onProgress(have);
    }
    if (have < file.size) {
      throw new ModelLoaderError(
        'ERR_SOURCE_UNREACHABLE',
        `the transfer of ${file.path} ended after ${have} of ${file.size} bytes`,
      );
    }
    await target.sync();
  } finally {
    reader.cancel().catch(() => undefined);
    await target.close();
  }
  return have;
}

async function withTimeout<T>(promise: Promise<T>, ms: number, what: string): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const timeout = new Promise<never>((_, reject) => {
    timer = setTimeout(
      () => reject(new ModelLoaderError('ERR_SOURCE_UNREACHABLE', `${what} for ${ms / 1000} s`)),
      ms,
    );
  });
  try {
    return await Promise.race([promise, timeout]);
  } finally {
    clearTimeout(timer);
  }
}

/** fetch that gives up when no answer begins in time, and that notes a server that knows no ranges. */
function watchedFetch(
  signal: AbortSignal | undefined,
  ms: number,
  ranges?: { supported: boolean },
): typeof fetch {
  return async (input, init) => {
    const late = new AbortController();
    const timer = setTimeout(
      () =>
        late.abort(
          new ModelLoaderError('ERR_SOURCE_UNREACHABLE', `no answer within ${ms / 1000} s`),
        ),
      ms,
    );
    try {
      const answer = await fetch(input, {
        ...init,
        signal: signal === undefined ? late.signal : AbortSignal.any([signal, late.signal]),
      });
      const range = new Headers(init?.headers).get('range');
      if (ranges !== undefined && /^bytes=[1-9]/.test(range ?? '') && answer.status === 200) {
        ranges.supported = false;
        await answer.body?.cancel();
        throw new ModelLoaderError('ERR_SOURCE_UNREACHABLE', 'the server cannot resume a file');
      }
      return answer;
    } finally {
      clearTimeout(timer);
    }
  };
}

function failed(source: HubSource, what: string): ModelLoaderError {
  return new ModelLoaderError('ERR_SOURCE_FAILED', `${source.repo}: ${what}`, {
    repo: source.repo,
  });
}

function hubError(source: HubSource, endpoint: string, error: unknown): ModelLoaderError {
  const host = URL.canParse(endpoint) ? new URL(endpoint).host : endpoint;
  const details = { repo: source.repo, endpoint };
  if (error instanceof ModelLoaderError) {
    if (error.code !== 'ERR_SOURCE_UNREACHABLE') return error;
    return new ModelLoaderError(error.code, `${host}: ${error.message}`, details, error);
  }
  if (error instanceof HubApiError) {
    const { statusCode: status } = error;
    if (status === 401 || status === 403) {
      return new ModelLoaderError(
        'ERR_SOURCE_DENIED',
        `${host} refuses ${source.repo} (status ${status}): it is private, gated or does not exist; HF_TOKEN may hold a token that has access`,
        { ...details, status },
        error,
      );
    }
    if (status === 404) {
      return new ModelLoaderError(
        'ERR_SOURCE_NOT_FOUND',
        `${host} has no ${source.repo} at revision ${source.revision}`,
        { ...details, status },
        error,
      );
    }
    return new ModelLoaderError(
      status >= 500 || status === 429 ? 'ERR_SOURCE_UNREACHABLE' : 'ERR_SOURCE_FAILED',
      `${host} answers with status ${status}`,
      { ...details, status },
      error,
    );
  }
  const system = systemCode(error);
  if (system !== undefined && ['ENOSPC', 'EACCES', 'EROFS', 'EDQUOT', 'EPERM'].includes(system)) {
    return new ModelLoaderError(
      'ERR_OUTPUT_FAILED',
      `cannot write: ${reasonOf(error)}`,
      details,
      error,
    );
  }
  return new ModelLoaderError(
    'ERR_SOURCE_UNREACHABLE',
    `${host} cannot be reached: ${reasonOf(error)}`,
    details,
    error,
  );
}
