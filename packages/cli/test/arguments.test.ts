import { describe, expect, test } from 'vitest';
import { fakePackages } from './fakes.ts';
import { run } from './harness.ts';

describe('wrong usage: one line, exit code 2', () => {
  test.each([
    [['generate', '--fil', 'x'], "unknown option '--fil' (Did you mean --file?)"],
    [['genrate'], "unknown command 'genrate' (Did you mean generate?)"],
    [['generate', 'book.txt'], "too many arguments for 'generate'"],
    [['generate', '--prompt'], "option '-p, --prompt <text>' argument missing"],
    [['ppl'], "required option '-f, --file <path>' not specified"],
    [['generate'], 'nothing to read: give --file, --prompt, or both'],
    [['generate', '--prompt', ''], 'nothing to read'],
    [['generate', '-p', 'x', '--model', ' '], 'must not be empty'],
    [['generate', '-p', 'x', '--file', ''], 'must not be empty'],
    [['generate', '-p', 'x', '--stop', ''], 'must not be empty'],
    [['generate', '-p', 'x', '--attention', 'sprse'], 'Allowed choices are exact, accurate'],
    [['generate', '-p', 'x', '--dtype', 'f16'], 'Allowed choices are f32, bf16, int8'],
    [['generate', '-p', 'x', '--kv-dtype', 'i8'], 'Allowed choices are f32, bf16, int8'],
    [['pull', '--list', 'some-model'], '--list takes no name, got some-model'],
  ])('%j', async (args, message) => {
    const { code, stdout, stderr } = await run(args);
    expect({ code, stdout }).toEqual({ code: 2, stdout: '' });
    expect(stderr).toMatch(/^error ERR_USAGE: .*\n$/);
    expect(stderr).toContain(message);
  });

  const whole = ['', 'x', '1.5', '1e3', '0x10', 'NaN', 'Infinity', '-1', '99999999999999999999'];
  const decimal = ['', 'x', 'NaN', 'Infinity', '0x1', '-1', '1,5', '1.2.3'];
  test.each([
    ...[...whole, '0', '1025'].map((value) => ['--threads', value]),
    ...[...whole, '0'].map((value) => ['--context', value]),
    ...[...whole, '0'].map((value) => ['--max-tokens', value]),
    ...whole.map((value) => ['--top-k', value]),
    ...[...whole, '4294967296'].map((value) => ['--seed', value]),
    ...[...decimal, '11'].map((value) => ['--temperature', value]),
    ...[...decimal, '0', '1.01'].map((value) => ['--top-p', value]),
    ...[...decimal, '1.01'].map((value) => ['--min-p', value]),
    ...[...decimal, '0'].map((value) => ['--repetition-penalty', value]),
    ...['', 'ntk', 'none:2', 'yarn:', 'yarn:x', 'yarn:0.5', 'yarn:NaN', 'linear:2000'].map(
      (value) => ['--rope-scaling', value],
    ),
  ])('%s %j is refused', async (flag, value) => {
    const { code, stderr } = await run(['generate', '-p', 'x', flag as string, value as string]);
    expect(code).toBe(2);
    expect(stderr).toMatch(/^error ERR_USAGE: .*is invalid\. .*\n$/);
  });

  test('a value from the environment is checked like a flag', async () => {
    process.env['ICEFORMER_THREADS'] = 'many';
    try {
      const { code, stderr } = await run(['generate', '-p', 'x']);
      expect(code).toBe(2);
      expect(stderr).toContain("'many' from env 'ICEFORMER_THREADS' is invalid");
    } finally {
      delete process.env['ICEFORMER_THREADS'];
    }
  });

  test('--plan contradicts --attention dense', async () => {
    const { packages } = fakePackages();
    const args = ['generate', '-p', 'x', '--plan', 'plan.json', '--attention', 'dense'];
    const { code, stderr } = await run(args, { packages });
    expect(code).toBe(2);
    expect(stderr).toContain('--attention is dense');
  });

  test('a RoPE scaling must know how far', async () => {
    const { packages } = fakePackages();
    const { code, stderr } = await run(['generate', '-p', 'x', '--rope-scaling', 'yarn'], {
      packages,
    });
    expect(code).toBe(2);
    expect(stderr).toContain('give --context, or a factor (yarn:4)');
  });

  test('with --json the error is an object on standard output too', async () => {
    const { code, stdout, stderr } = await run(['generate', '--json', '--treads', '2']);
    expect(code).toBe(2);
    expect(JSON.parse(stdout)).toEqual({
      error: {
        code: 'ERR_USAGE',
        message: expect.stringContaining('Did you mean --threads?'),
        details: { reason: 'commander.unknownOption' },
      },
    });
    expect(stderr).toMatch(/^error ERR_USAGE: .*\n$/);
  });
});

describe('flags reach the packages', () => {
  test('defaults', async () => {
    const { packages, calls } = fakePackages();
    await run(['generate', '-p', 'Hello'], { packages });
    expect(calls.load[0]).toEqual({
      model: '/models/smollm2-135m-instruct',
      dtype: 'bf16',
      attention: 'dense',
      signal: expect.any(AbortSignal),
      onProgress: expect.any(Function),
    });
    expect(calls.generate[0]).toEqual({
      messages: [{ role: 'user', content: 'Hello' }],
      maxTokens: 256,
      temperature: 0,
      profile: false,
      signal: expect.any(AbortSignal),
      onPrefill: expect.any(Function),
    });
  });

  test('every flag', async () => {
    const { packages, calls } = fakePackages();
    await run(
      [
        ...['generate', '-m', 'other', '-p', 'Hello', '-a', 'sparse', '-c', '32768', '-t', '3'],
        ...['--rope-scaling', 'yarn:4', '--dtype', 'f32', '-n', '9', '--temperature', '0.5'],
        ...['--top-k', '40', '--top-p', '.9', '--min-p', '0.05', '--repetition-penalty', '1.1'],
        ...['--seed', '7', '--stop', 'a', '--stop', '\n', '--profile', '--kv-dtype', 'int8'],
      ],
      { packages },
    );
    expect(calls.load[0]).toMatchObject({
      model: '/models/other',
      dtype: 'f32',
      kvDtype: 'int8',
      attention: 'sparse',
      threads: 3,
      context: 32768,
      ropeScaling: { type: 'yarn', factor: 4, originalContext: 8192 },
    });
    expect(calls.generate[0]).toMatchObject({
      maxTokens: 9,
      temperature: 0.5,
      topK: 40,
      topP: 0.9,
      minP: 0.05,
      repetitionPenalty: 1.1,
      seed: 7,
      stop: ['a', '\n'],
      profile: true,
    });
  });

  test.each([
    ['none', { type: 'default' }],
    ['linear', { type: 'linear', factor: 2.5 }],
    ['dynamic', { type: 'dynamic', factor: 2.5 }],
    ['dynamic:3', { type: 'dynamic', factor: 3 }],
    ['yarn', { type: 'yarn', factor: 2.5, originalContext: 8192 }],
  ])('--rope-scaling %s with --context 20480', async (flag, expected) => {
    const { packages, calls } = fakePackages();
    await run(['generate', '-p', 'x', '-c', '20480', '--rope-scaling', flag], { packages });
    expect(calls.load[0]?.ropeScaling).toEqual(expected);
  });

  test('a context past the window without scaling is remarked upon', async () => {
    const { packages } = fakePackages();
    const past = await run(['generate', '-p', 'x', '-c', '8193'], { packages });
    expect(past.code).toBe(0);
    expect(past.stderr).toContain("--context 8193 is past the model's window of 8,192 tokens");
    const scaled = await run(['generate', '-p', 'x', '-c', '8193', '--rope-scaling', 'linear'], {
      packages,
    });
    expect(scaled.stderr).not.toContain('note:');
  });
});

describe('help', () => {
  test('without a command: the help on standard error, exit code 2', async () => {
    const { code, stdout, stderr } = await run([]);
    expect({ code, stdout }).toEqual({ code: 2, stdout: '' });
    expect(stderr).toContain('Usage: iceformer [options] [command]');
  });

  test('--help names every command and the environment', async () => {
    const { code, stdout, stderr } = await run(['--help']);
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    for (const word of ['pull', 'generate', 'inspect', 'ppl', 'ICEFORMER_HOME', 'NO_COLOR']) {
      expect(stdout).toContain(word);
    }
  });

  test.each(['pull', 'generate', 'inspect', 'ppl'])('%s --help has examples', async (name) => {
    const { code, stdout, stderr } = await run([name, '--help']);
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    expect(stdout).toContain(`Usage: iceformer ${name}`);
    expect(stdout).toMatch(new RegExp(`Examples:\n  \\$ iceformer ${name}`));
    expect(stdout).toBe((await run(['help', name])).stdout);
  });

  test('the examples in the help are valid command lines', async () => {
    const { packages } = fakePackages({
      loader: { pull: () => Promise.resolve('/models/x') },
    });
    const { stdout } = await run(['generate', '--help']);
    const examples = [...stdout.matchAll(/^ {2}\$ (?:.*\| )?iceformer (.*?)(?: \|.*)?$/gm)];
    expect(examples.length).toBeGreaterThan(3);
    for (const [, line] of examples) {
      const args = [...(line as string).matchAll(/"([^"]*)"|(\S+)/g)].map(
        ([, quoted, plain]) => quoted ?? (plain as string),
      );
      const path = args.indexOf('--file');
      if (path !== -1) args[path + 1] = '-';
      const { code, stderr } = await run(args, { packages, stdin: 'A document.' });
      expect({ line, code, stderr: code === 0 ? '' : stderr }).toEqual({
        line,
        code: 0,
        stderr: '',
      });
    }
  });

  test('--version', async () => {
    expect(await run(['--version'])).toEqual({ code: 0, stdout: '1.2.3\n', stderr: '' });
  });
});
