import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { run } from './harness.ts';

// None of these may load the packages: a wrong path is told at once.

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'iceformer-cli-'));
  await mkdir(join(folder, 'a-directory'));
  await writeFile(join(folder, 'empty.txt'), '');
  await writeFile(join(folder, 'blank.txt'), '\uFEFF \n\t\n');
  await writeFile(join(folder, 'program'), Buffer.from('text, then \u0000 and more'));
  await writeFile(join(folder, 'latin1.txt'), Buffer.from('caf\xe9 au lait', 'latin1'));
  await writeFile(join(folder, 'cut.txt'), Buffer.from('é').subarray(0, 1));
  await writeFile(join(folder, 'utf16.txt'), Buffer.from('\uFEFFhello', 'utf16le'));
});
afterAll(() => rm(folder, { recursive: true }));

test.each([
  ['missing.txt', 'ERR_FILE_NOT_FOUND', 'there is no file {}'],
  ['empty.txt/inside', 'ERR_FILE_NOT_FOUND', 'there is no file {}'],
  ['a-directory', 'ERR_FILE_IS_DIRECTORY', '{} is a directory, not a text file'],
  ['empty.txt', 'ERR_FILE_EMPTY', '{} is empty'],
  ['blank.txt', 'ERR_FILE_EMPTY', '{} holds nothing but white space'],
  ['program', 'ERR_FILE_BINARY', '{} is not text: it has a NUL byte at offset 11'],
  ['latin1.txt', 'ERR_FILE_ENCODING', '{} is not UTF-8 text: byte 0xe9 at offset 3'],
  ['cut.txt', 'ERR_FILE_ENCODING', '{} is not UTF-8 text: byte 0xc3 at offset 0'],
  [
    'utf16.txt',
    'ERR_FILE_BINARY',
    '{} is not text: it has a NUL byte at offset 3 (it looks like UTF-16: iconv -f UTF-16 -t UTF-8 converts it)',
  ],
])('%s: %s', async (name, errorCode, message) => {
  const path = join(folder, name);
  const expected = `error ${errorCode}: ${message.replace('{}', path)}\n`;
  for (const command of ['generate', 'ppl']) {
    expect(await run([command, '--file', path])).toEqual({ code: 1, stdout: '', stderr: expected });
  }
});

test('a file without an end is given up at its first NUL byte', async () => {
  const { code, stderr } = await run(['generate', '--file', '/dev/zero']);
  expect(code).toBe(1);
  expect(stderr).toContain('NUL byte at offset 0');
});

test('standard input that is a terminal is wrong usage', async () => {
  const { code, stderr } = await run(['generate', '--file', '-'], { stdinIsTty: true });
  expect(code).toBe(2);
  expect(stderr).toMatch(/^error ERR_USAGE: --file - reads standard input, which is a terminal/);
});

test('empty standard input', async () => {
  expect(await run(['generate', '--file', '-'], { stdin: '' })).toEqual({
    code: 1,
    stdout: '',
    stderr: 'error ERR_FILE_EMPTY: standard input is empty\n',
  });
});
