import { isUtf8 } from 'node:buffer';
import { createReadStream } from 'node:fs';
import { stat } from 'node:fs/promises';
import { CliError, usageError } from './failure.ts';
import type { Streams } from './terminal.ts';

/** No supported model comes near so much text; it stops a wrong path (/dev/zero) from eating memory. */
const MAX_BYTES = 256 * 1024 * 1024;

/**
 * Reads a text document: a path, or `-` for standard input. A leading byte-order mark is dropped.
 *
 * @throws CliError `ERR_FILE_NOT_FOUND`, `ERR_FILE_IS_DIRECTORY`, `ERR_FILE_UNREADABLE`,
 * `ERR_FILE_EMPTY`, `ERR_FILE_BINARY` (NUL bytes), `ERR_FILE_ENCODING` (not UTF-8),
 * `ERR_FILE_TOO_LARGE` (above 256 MiB), `ERR_USAGE` (`-` where standard input is a terminal).
 */
export async function readDocument(
  path: string,
  stdin: Streams['stdin'],
  signal: AbortSignal,
): Promise<string> {
  const name = path === '-' ? 'standard input' : path;
  if (path === '-') {
    if (stdin.isTTY) {
      throw usageError(
        '--file - reads standard input, which is a terminal here: pipe a document into it (cat notes.txt | iceformer …)',
      );
    }
    return toText(await readAll(stdin, name, signal), name);
  }
  await checkPath(path);
  return toText(await readAll(createReadStream(path), name, signal), name);
}

async function checkPath(path: string): Promise<void> {
  let stats: Awaited<ReturnType<typeof stat>>;
  try {
    stats = await stat(path);
  } catch (error) {
    throw unreadable(path, error);
  }
  if (stats.isDirectory()) throw isDirectory(path);
  if (stats.isFile() && stats.size > MAX_BYTES) throw tooLarge(path, stats.size);
}

function unreadable(path: string, error: unknown): unknown {
  const { code: errno, syscall } = error as NodeJS.ErrnoException;
  if (syscall === undefined) return error;
  if (errno === 'ENOENT' || errno === 'ENOTDIR') {
    return new CliError('ERR_FILE_NOT_FOUND', `there is no file ${path}`, { path });
  }
  if (errno === 'EISDIR') return isDirectory(path);
  return new CliError(
    'ERR_FILE_UNREADABLE',
    `${path} cannot be read: ${(error as Error).message}`,
    {
      path,
      errno,
    },
  );
}

function isDirectory(path: string): CliError {
  return new CliError('ERR_FILE_IS_DIRECTORY', `${path} is a directory, not a text file`, { path });
}

function tooLarge(path: string, bytes: number): CliError {
  return new CliError(
    'ERR_FILE_TOO_LARGE',
    `${path} holds ${bytes} bytes or more, at most ${MAX_BYTES} are read`,
    { path, bytes, limit: MAX_BYTES },
  );
}

async function readAll(
  stream: NodeJS.ReadableStream,
  name: string,
  signal: AbortSignal,
): Promise<Buffer> {
  const readable = stream as NodeJS.ReadableStream & { destroy(error?: Error): void };
  const chunks: Buffer[] = [];
  let length = 0;
  const abort = (): void => readable.destroy(new DOMException('Aborted', 'AbortError'));
  signal.throwIfAborted();
  signal.addEventListener('abort', abort, { once: true });
  try {
    for await (const chunk of readable) {
      const bytes = typeof chunk === 'string' ? Buffer.from(chunk) : (chunk as Buffer);
      const nul = bytes.indexOf(0);
      // At the first NUL, not at the end: the end may never come (/dev/zero).
      if (nul !== -1) throw binary(name, length + nul, chunks[0] ?? bytes);
      length += bytes.length;
      if (length > MAX_BYTES) throw tooLarge(name, length);
      chunks.push(bytes);
    }
  } catch (error) {
    throw signal.aborted ? signal.reason : unreadable(name, error);
  } finally {
    signal.removeEventListener('abort', abort);
  }
  return Buffer.concat(chunks);
}

function binary(name: string, offset: number, start: Buffer): CliError {
  const mark = start.length >= 2 ? start.readUInt16BE(0) : 0;
  const utf16 = mark === 0xfffe || mark === 0xfeff;
  const hint = utf16 ? ' (it looks like UTF-16: iconv -f UTF-16 -t UTF-8 converts it)' : '';
  return new CliError(
    'ERR_FILE_BINARY',
    `${name} is not text: it has a NUL byte at offset ${offset}${hint}`,
    { path: name, offset },
  );
}

function toText(bytes: Buffer, name: string): string {
  if (!isUtf8(bytes)) {
    const offset = firstInvalid(bytes);
    const byte = (bytes[offset] ?? 0).toString(16).padStart(2, '0');
    throw new CliError(
      'ERR_FILE_ENCODING',
      `${name} is not UTF-8 text: byte 0x${byte} at offset ${offset}`,
      { path: name, offset },
    );
  }
  const text = bytes.toString('utf8').replace(/^\uFEFF/, '');
  if (text.trim() === '') {
    const what = bytes.length === 0 ? 'is empty' : 'holds nothing but white space';
    throw new CliError('ERR_FILE_EMPTY', `${name} ${what}`, { path: name, bytes: bytes.length });
  }
  return text;
}

/** Where decoding and encoding again first gives other bytes. */
function firstInvalid(bytes: Buffer): number {
  const again = Buffer.from(bytes.toString('utf8'));
  const length = Math.min(bytes.length, again.length);
  for (let offset = 0; offset < length; offset++) {
    if (bytes[offset] !== again[offset]) return offset;
  }
  return length;
}
