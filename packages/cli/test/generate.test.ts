import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { createInterruption } from '../src/interruption.ts';
import { fakePackages } from './fakes.ts';
import { run } from './harness.ts';

let folder: string;
let book: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'iceformer-cli-'));
  book = join(folder, 'book.txt');
  await writeFile(book, 'Once upon a time.\n');
});
afterAll(() => rm(folder, { recursive: true }));

describe('what the model reads', () => {
  test('document, empty line, prompt, as one user message', async () => {
    const { packages, calls } = fakePackages();
    await run(['generate', '-f', book, '-p', 'When?'], { packages });
    expect(calls.generate[0]?.messages).toEqual([
      { role: 'user', content: 'Once upon a time.\n\n\nWhen?' },
    ]);
  });

  test('--raw: document and prompt as they are', async () => {
    const { packages, calls } = fakePackages();
    await run(['generate', '-f', book, '-p', ' When?', '--raw'], { packages });
    expect(calls.generate[0]).toMatchObject({ text: 'Once upon a time.\n When?' });
    expect(calls.generate[0]).not.toHaveProperty('messages');
  });

  test('-f - reads standard input, without its byte-order mark', async () => {
    const { packages, calls } = fakePackages();
    await run(['generate', '-f', '-', '--raw'], { packages, stdin: '\uFEFFpiped é' });
    expect(calls.generate[0]?.text).toBe('piped é');
  });
});

describe('what is printed', () => {
  test('the answer on standard output, the summary on standard error', async () => {
    const { packages, calls } = fakePackages();
    const { code, stdout, stderr } = await run(['generate', '-p', 'x', '--attention', 'sparse'], {
      packages,
    });
    expect({ code, stdout }).toEqual({ code: 0, stdout: 'Noah built it.\n' });
    expect(stderr).toBe(
      [
        'prompt     1,000 tokens in 2.00 s (500 tokens/s)',
        'answer     3 tokens in 100 ms (20 tokens/s), the first after 2.01 s',
        'attention  sparse, 98.7 % of the attention mass kept, 21.3 % of the key tiles read',
        'memory     612 MB at most, keys and values 12 MB',
        'machine    avx2, 2 threads, bf16 weights',
        'end        the model ended its answer',
        '',
      ].join('\n'),
    );
    expect(calls.closed).toBe(1);
  });

  test('--profile: where the time went, on standard error', async () => {
    const phase = {
      embed: 1,
      qkv: 20,
      attention: 50,
      output: 10,
      mlp: 15,
      logits: 2,
      sampling: 1,
      rest: 1,
    };
    const profile = { prefill: phase, decode: { ...phase, attention: 150 } };
    const { packages, calls } = fakePackages({ summary: { profile } });
    const { stdout, stderr } = await run(['generate', '-p', 'x', '--profile'], { packages });
    expect(calls.generate[0]?.profile).toBe(true);
    expect(stdout).toBe('Noah built it.\n');
    expect(stderr).toMatch(/^attention +50 ms +50\.0 % +150 ms +75\.0 %$/m);
    expect(stderr).toMatch(/^all +100 ms +100\.0 % +200 ms +100\.0 %$/m);
    const json = await run(['generate', '-p', 'x', '--profile', '--json'], { packages });
    expect(JSON.parse(json.stdout)).toMatchObject({ profile });
  });

  test('--quiet: the answer alone', async () => {
    const { packages } = fakePackages();
    expect(await run(['generate', '-p', 'x', '-q'], { packages })).toEqual({
      code: 0,
      stdout: 'Noah built it.\n',
      stderr: '',
    });
  });

  test('no second line end after an answer that has one', async () => {
    const { packages } = fakePackages({ pieces: ['Noah.\n', ''] });
    const { stdout } = await run(['generate', '-p', 'x'], { packages });
    expect(stdout).toBe('Noah.\n');
  });

  test('a text cannot drive the terminal', async () => {
    const { packages } = fakePackages({ pieces: ['a\u001b[31mb\u0007\tc\n'] });
    const args = ['generate', '-p', 'x'];
    const terminal = await run(args, { packages, stdoutIsTty: true });
    expect(terminal.stdout).toBe('a[31mb\tc\n');
    expect((await run(args, { packages })).stdout).toBe('a\u001b[31mb\u0007\tc\n');
  });

  test('--json: one object, one line, all figures', async () => {
    const { packages } = fakePackages();
    const { code, stdout } = await run(['generate', '-p', 'x', '--json'], { packages });
    expect(code).toBe(0);
    expect(stdout).toMatch(/^\{.*\}\n$/);
    expect(JSON.parse(stdout)).toEqual({
      text: 'Noah built it.',
      promptTokens: 1000,
      processedTokens: 1000,
      cachedTokens: 0,
      generatedTokens: 3,
      prefillMs: 2000,
      decodeMs: 100,
      firstTokenMs: 2010,
      prefillTokensPerSecond: 500,
      decodeTokensPerSecond: 20,
      retainedMass: 0.987,
      tilesRead: 0.213,
      cacheBytes: 12_000_000,
      peakRssBytes: 612_000_000,
      seed: 7,
      stopReason: 'eos',
      simd: 'avx2',
      attention: 'dense',
      model: 'smollm2-135m-instruct',
      dtype: 'bf16',
      kvDtype: 'int8',
      threads: 2,
      context: 8192,
    });
  });

  test('a terminal gets a progress bar that wipes itself away, and colours', async () => {
    const { packages } = fakePackages();
    const { stderr } = await run(['generate', '-p', 'x'], { packages, stderrIsTty: true });
    expect(stderr).toContain('reading ');
    expect(stderr).toContain('1,000 of 1,000 tokens');
    expect(stderr).toContain('\u001b[2mprompt');
    // Nothing that would have to be undone if the process were killed: hidden cursor, no wrapping.
    expect(stderr).not.toContain('\u001b[?25l');
    expect(stderr).not.toContain('\u001b[?7l');
  });

  test.each([
    ['--no-color', ['--no-color'], {}],
    ['NO_COLOR', [], { NO_COLOR: '1' }],
    ['TERM=dumb', [], { TERM: 'dumb' }],
  ])('no colours with %s', async (_name, flags, env) => {
    const { packages } = fakePackages();
    const args = ['generate', '-p', 'x', ...flags];
    const { stderr } = await run(args, { packages, stderrIsTty: true, env });
    expect(stderr).toContain('prompt     1,000 tokens');
    expect(stderr).not.toContain('\u001b[2m');
  });
});

describe('stopping early', () => {
  test('in the answer: the text and the summary so far, exit code 130', async () => {
    const interruption = createInterruption();
    const { packages, calls } = fakePackages({
      beforePiece: (index) => {
        if (index === 1) interruption.stop('SIGINT');
      },
    });
    const { code, stdout, stderr } = await run(['generate', '-p', 'x'], {
      packages,
      interruption,
    });
    expect({ code, stdout }).toEqual({ code: 130, stdout: 'Noah\n' });
    expect(stderr).toMatch(/^end +stopped early$/m);
    expect(calls.closed).toBe(1);
  });

  test('in the prompt: the summary says how far it was read', async () => {
    const interruption = createInterruption();
    const { packages } = fakePackages({
      processed: 512,
      beforePiece: () => interruption.stop('SIGINT'),
    });
    const { code, stdout, stderr } = await run(['generate', '-p', 'x'], {
      packages,
      interruption,
    });
    expect({ code, stdout }).toEqual({ code: 130, stdout: '' });
    expect(stderr).toMatch(/^prompt +512 of 1,000 tokens in/m);
    expect(stderr).toMatch(/^answer +none$/m);
  });

  test('with --json: the object so far', async () => {
    const interruption = createInterruption();
    const { packages } = fakePackages({
      processed: 512,
      beforePiece: () => interruption.stop('SIGTERM'),
    });
    const { code, stdout } = await run(['generate', '-p', 'x', '--json'], {
      packages,
      interruption,
    });
    expect(code).toBe(143);
    expect(JSON.parse(stdout)).toMatchObject({ stopReason: 'aborted', processedTokens: 512 });
  });

  test('while the model loads', async () => {
    const interruption = createInterruption();
    const { packages } = fakePackages({
      transformer: {
        loadModel: ({ signal }) => {
          interruption.stop('SIGINT');
          return Promise.reject(signal?.reason);
        },
      },
    });
    const { code, stdout, stderr } = await run(['generate', '-p', 'x', '--json'], {
      packages,
      interruption,
    });
    expect({ code, stderr }).toEqual({
      code: 130,
      stderr: 'error ERR_INTERRUPTED: stopped by SIGINT\n',
    });
    expect(JSON.parse(stdout)).toMatchObject({ error: { code: 'ERR_INTERRUPTED' } });
  });

  test('while standard input is read', async () => {
    const interruption = createInterruption();
    interruption.stop('SIGINT');
    const { code } = await run(['generate', '-f', '-'], { interruption, stdin: 'x' });
    expect(code).toBe(130);
  });

  test('a closed pipe is no failure', async () => {
    const interruption = createInterruption();
    const { packages } = fakePackages({
      beforePiece: (index) => {
        if (index === 1) interruption.stop('stdout closed');
      },
    });
    const { code } = await run(['generate', '-p', 'x'], { packages, interruption });
    expect(code).toBe(0);
  });
});

describe('failures', () => {
  class PackageError extends Error {
    readonly code = 'ERR_MODEL_NOT_FOUND';
    readonly details = { name: 'nothing', bytes: 12n };
  }

  test("a package's error: its code and message on one line", async () => {
    const { packages } = fakePackages({
      loader: {
        listModels: () => [],
        resolveModel: () => Promise.reject(new PackageError('no model\nnamed nothing')),
      },
    });
    const { code, stdout, stderr } = await run(['generate', '-p', 'x', '--json'], { packages });
    expect({ code, stderr }).toEqual({
      code: 1,
      stderr: 'error ERR_MODEL_NOT_FOUND: no model named nothing\n',
    });
    expect(JSON.parse(stdout)).toEqual({
      error: {
        code: 'ERR_MODEL_NOT_FOUND',
        message: 'no model named nothing',
        details: { name: 'nothing', bytes: 12 },
      },
    });
  });

  test('a bug: one line, the stack only for those who ask', async () => {
    const { packages } = fakePackages({
      transformer: {
        loadModel: () => Promise.reject(new TypeError('x is not a function')),
      },
    });
    const plain = await run(['generate', '-p', 'x'], { packages });
    expect(plain.code).toBe(1);
    expect(plain.stderr).toMatch(/^error ERR_INTERNAL: .*ICEFORMER_DEBUG=1.*\n$/);
    const debug = await run(['generate', '-p', 'x'], { packages, env: { ICEFORMER_DEBUG: '1' } });
    expect(debug.stderr).toMatch(/TypeError: x is not a function\n +at /);
  });

  test("Node's own errors are not taken for a user's mistake", async () => {
    const error = Object.assign(new TypeError('bad argument'), { code: 'ERR_INVALID_ARG_TYPE' });
    const { packages } = fakePackages({
      transformer: { loadModel: () => Promise.reject(error) },
    });
    const { stderr } = await run(['generate', '-p', 'x'], { packages });
    expect(stderr).toContain('error ERR_INTERNAL: TypeError: bad argument');
  });

  test("a hint in the command line's own words", async () => {
    const error = Object.assign(new Error('the model has no chat template'), {
      code: 'ERR_CHAT_TEMPLATE_MISSING',
      details: {},
    });
    const { packages } = fakePackages({ transformer: { loadModel: () => Promise.reject(error) } });
    const { stderr } = await run(['generate', '-p', 'x'], { packages });
    expect(stderr).toBe(
      'error ERR_CHAT_TEMPLATE_MISSING: the model has no chat template (--raw gives it plain text)\n',
    );
  });

  test('a SIMD level this CPU has not is remarked upon', async () => {
    const { packages } = fakePackages();
    const args = ['generate', '-p', 'x'];
    const other = await run(args, { packages, env: { ICEFORMER_SIMD: 'neon' } });
    expect(other.stderr).toContain('ICEFORMER_SIMD=neon is not a level of this CPU, avx2 is used');
    const same = await run(args, { packages, env: { ICEFORMER_SIMD: 'avx2' } });
    expect(same.stderr).not.toContain('ICEFORMER_SIMD');
  });

  test('memory that runs out', async () => {
    const { packages } = fakePackages({
      transformer: {
        loadModel: () => Promise.reject(new RangeError('Array buffer allocation failed')),
      },
    });
    const { code, stderr } = await run(['generate', '-p', 'x'], { packages });
    expect(code).toBe(1);
    expect(stderr).toMatch(/^error ERR_NOT_ENOUGH_MEMORY: .*\n$/);
  });
});
