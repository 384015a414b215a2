import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { CalibrateOptions, EvaluateOptions } from '@iceformer/evaluation';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { createInterruption } from '../src/interruption.ts';
import type { Packages } from '../src/packages.ts';
import { runBinary } from './binary.ts';
import { fakePackages } from './fakes.ts';
import { run } from './harness.ts';

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'iceformer-cli-'));
});
afterAll(() => rm(folder, { recursive: true }));

const estimate = (value: number) => ({ value, low: value - 0.001, high: value + 0.001 });
const share = (hits: number) => ({ hits, trials: 20, value: hits / 20, low: 0.5, high: 0.9 });
const RESULT = {
  form: 'iceformer-evaluation',
  prediction: {
    context: 2048,
    windows: 2,
    tokens: 2046,
    scores: ['dense', 'fast'].map((attention, index) => ({
      attention,
      perplexity: estimate(12.5 + index),
      ratio: estimate(1 + index / 100),
      agreement: estimate(1 - index / 50),
      divergence: estimate(0.00512),
      tilesRead: 0.25,
      prefillMs: 3000,
    })),
  },
  retrieval: {
    passkey: {
      scores: ['dense', 'fast'].map((attention, index) => ({
        attention,
        found: share(17 - index),
        foundOfDense: share(17 - index),
        agreement: share(18 - index),
      })),
    },
  },
};

function evaluating(): { packages: Packages; asked: EvaluateOptions[] } {
  const asked: EvaluateOptions[] = [];
  const { packages } = fakePackages({
    evaluation: {
      evaluate: ((_: unknown, options: EvaluateOptions) => {
        asked.push(options);
        return Promise.resolve(RESULT);
      }) as unknown as Packages['evaluation']['evaluate'],
      renderReport: () => Promise.resolve('<!doctype html>'),
    },
  });
  return { packages, asked };
}

describe('eval', () => {
  const args = ['eval', '--file', '-'];

  test('for people', async () => {
    const { packages, asked } = evaluating();
    const { code, stdout, stderr } = await run(args, { packages, stdin: 'Text.' });
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    expect(stdout.split('\n').slice(0, 7)).toEqual([
      'prediction: 2,046 tokens, the second halves of 2 windows of 2,048',
      '         perplexity  × dense  (95 %)            top-1    divergence  tiles   time',
      '  dense  12.5000     1.0000   0.9990 to 1.0010  100.0 %  0.00512     25.0 %  1.50 s',
      '  fast   13.5000     1.0100   1.0090 to 1.0110  98.0 %   0.00512     25.0 %  1.50 s',
      'passkey: 20 prompts',
      '         found     (95 %)            of what dense finds  (95 %)            same answer (95 %)',
      '  dense  17 of 20  50.0 % to 90.0 %  17 of 20             50.0 % to 90.0 %  50.0 % to 90.0 %',
    ]);
    expect(asked[0]).toMatchObject({
      text: 'Text.',
      attention: ['accurate', 'balanced', 'fast'].map((name) => ({ name, attention: name })),
      windows: 4,
      prompts: 20,
      seed: 1,
    });
    // Defaults that depend on the model and the text are not the command line's.
    for (const name of ['tasks', 'context', 'lengths']) expect(asked[0]).not.toHaveProperty(name);
  });

  test('flags, files and plan', async () => {
    const { packages, asked } = evaluating();
    const [plan, json, html, questions] = ['p.json', 'r.json', 'r.html', 'q.json'].map((name) =>
      join(folder, name),
    ) as [string, string, string, string];
    const own = [{ question: 'Who?', answers: ['he'], evidence: 'it was he' }];
    await writeFile(plan, '{"version":1}');
    await writeFile(questions, JSON.stringify(own));
    const more = ['--plan', plan, '--attention', 'fast,balanced', '--tasks', 'questions, passkey'];
    const files = ['--json', json, '--html', html, '--questions', questions];
    const numbers = [
      '--lengths',
      '100,200',
      '--prompts',
      '3',
      '--seed',
      '9',
      '--windows',
      '1',
      '--window',
      '77',
    ];
    const { code, stderr } = await run([...args, ...more, ...files, ...numbers], {
      packages,
      stdin: 'Text.',
    });
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    expect(asked[0]).toMatchObject({
      attention: [
        { name: 'fast', attention: 'fast' },
        { name: 'balanced', attention: 'balanced' },
        { name: 'plan', attention: { version: 1 } },
      ],
      tasks: ['questions', 'passkey'],
      lengths: [100, 200],
      prompts: 3,
      seed: 9,
      windows: 1,
      context: 77,
      questions: own,
    });
    expect(JSON.parse(await readFile(json, 'utf8'))).toEqual(RESULT);
    expect(await readFile(html, 'utf8')).toBe('<!doctype html>');
  });

  test('--json without a file prints it', async () => {
    const { packages } = evaluating();
    const { stdout } = await run([...args, '--json'], { packages, stdin: 'Text.' });
    expect(JSON.parse(stdout)).toEqual(RESULT);
  });

  test.each([
    [['--tasks', 'singing'], 'Allowed choices are prediction, passkey'],
    [['--attention', 'fast,quick'], 'Allowed choices are exact, accurate'],
    [['--lengths', '100,'], 'must be a whole number'],
    [['--prompts', '0'], 'must be a whole number'],
  ])('%j is refused', async (wrong, message) => {
    const { code, stderr } = await run([...args, ...wrong]);
    expect(code).toBe(2);
    expect(stderr).toContain(message);
  });
});

const PLAN = {
  version: 1,
  layers: [
    { strategy: 'exact' },
    { strategy: 'selected', massTarget: 0.95 },
    { strategy: 'selected', massTarget: 0.95 },
  ],
  calibration: {
    context: 4096,
    accuracy: { wanted: 0.99, reached: 0.9951, interval: [0.9921, 0.9981], tokens: 8190 },
    time: {
      densePrefillMs: 3000,
      planPrefillMs: 2000,
      denseAttentionMs: 1500,
      planAttentionMs: 500,
    },
  },
};

function calibrating(calibrate: (options: CalibrateOptions) => Promise<unknown>): Packages {
  return fakePackages({
    evaluation: {
      calibrate: ((_: unknown, options: CalibrateOptions) =>
        calibrate(options)) as unknown as Packages['evaluation']['calibrate'],
    },
  }).packages;
}

describe('calibrate', () => {
  const args = ['calibrate', '--file', '-'];

  test('writes the plan and says what it is worth', async () => {
    const output = join(folder, 'plan.json');
    const asked: CalibrateOptions[] = [];
    const packages = calibrating((options) => {
      asked.push(options);
      return Promise.resolve({ plan: PLAN, measurements: [], verified: [{}, {}, {}] });
    });
    const flags = ['-o', output, '--accuracy', '0.995', '--context', '1024', '--windows', '2'];
    const { code, stdout, stderr } = await run([...args, ...flags], { packages, stdin: 'Text.' });
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    expect(asked[0]).toMatchObject({
      text: 'Text.',
      accuracy: 0.995,
      context: 1024,
      verifying: 2,
      seed: 1,
    });
    expect(JSON.parse(await readFile(output, 'utf8'))).toEqual(PLAN);
    expect(stdout.split('\n').slice(0, 6)).toEqual([
      `plan       ${output}, the best of 3 that were verified`,
      'layers     1 exact, 2 selected 0.95',
      'accuracy   0.9951 (95 %: 0.9921 to 0.9981), 0.99 was asked for',
      'verified   8,190 tokens in windows of 4,096',
      'attention  500 ms instead of 1.50 s (3.00 times as fast)',
      'reading    2.00 s instead of 3.00 s (1.50 times as fast)',
    ]);
  });

  test('Ctrl-C leaves no plan behind', async () => {
    const output = join(folder, 'none.json');
    const interruption = createInterruption();
    const packages = calibrating((options) => {
      interruption.stop('SIGINT');
      return Promise.reject(options.signal?.reason);
    });
    const { code, stderr } = await run([...args, '-o', output], {
      packages,
      interruption,
      stdin: 'Text.',
    });
    expect(code).toBe(130);
    expect(stderr).toBe('error ERR_INTERRUPTED: stopped by SIGINT\n');
    await expect(readFile(output)).rejects.toMatchObject({ code: 'ENOENT' });
  });

  test.each(['0', '1.5', 'x', '-1', 'NaN'])('--accuracy %s is refused', async (value) => {
    const { code, stderr } = await run([...args, `--accuracy=${value}`]);
    expect(code).toBe(2);
    expect(stderr).toMatch(/must be a number, above 0 and at most 1/);
  });
});

describe('through the binary', () => {
  const model = ['--model', 'bench/reference/fixtures/tiny/llama-bias', '--threads', '1'];
  const text = `${'Of one that was lost and of another that was found.\n'.repeat(60)}`;

  test('a plan is made, measured, used, and refused by another model', async () => {
    const [plan, html, file] = ['made.json', 'made.html', 'text.txt'].map((name) =>
      join(folder, name),
    ) as [string, string, string];
    await writeFile(file, text);
    const made = await runBinary([
      ...['calibrate', ...model, '--file', file, '--context', '256'],
      ...['--accuracy', '0.9', '-o', plan],
    ]);
    expect(made).toMatchObject({ code: 0, stderr: expect.not.stringContaining('error') });
    expect(JSON.parse(await readFile(plan, 'utf8'))).toMatchObject({
      version: 1,
      calibration: { accuracy: { wanted: 0.9 }, machine: { threads: 1 } },
    });
    const measured = await runBinary([
      ...['eval', ...model, '--file', file, '--plan', plan, '--window', '256'],
      ...['--tasks', 'prediction', '--html', html, '--json'],
    ]);
    expect(measured).toMatchObject({ code: 0, stderr: expect.not.stringContaining('error') });
    const { prediction } = JSON.parse(measured.stdout);
    expect(prediction.scores.map((score: { attention: string }) => score.attention)).toEqual([
      'dense',
      'plan',
    ]);
    expect(await readFile(html, 'utf8')).toContain('<svg');
    const other = 'bench/reference/fixtures/tiny/llama-smollm2';
    const refused = await runBinary(['generate', '-p', 'x', '--model', other, '--plan', plan]);
    expect(refused).toMatchObject({ code: 1, stdout: '' });
    expect(refused.stderr).toMatch(/^error ERR_PLAN_/);
  });

  test.each<[string, string[], string, RegExp]>([
    ['a text too short to calibrate', ['calibrate'], 'Short.', /^error ERR_TEXT_TOO_SHORT: .*\d+/],
    [
      'a folder that is not there',
      ['calibrate', '-o', '/no/such/folder/plan.json'],
      text,
      /^error ERR_OUTPUT_UNWRITABLE: \/no\/such/,
    ],
    [
      'a report that is a folder',
      ['eval', '--html', '/tmp'],
      text,
      /^error ERR_OUTPUT_UNWRITABLE: \/tmp/,
    ],
    [
      'no questions about the text',
      ['eval', '--tasks', 'questions'],
      text,
      /^error ERR_NO_QUESTIONS: /,
    ],
    [
      'questions that are none',
      ['eval', '--questions', 'package.json'],
      text,
      /^error ERR_QUESTIONS_UNREADABLE: the questions package\.json /,
    ],
    [
      'prompts longer than the window',
      ['eval', '--lengths', '600'],
      text,
      /^error ERR_INVALID_ARGUMENT: .*600/,
    ],
    ['a plan that is none', ['eval', '--plan', 'README.md'], text, /^error ERR_PLAN_UNREADABLE: /],
  ])('%s', async (_name, [command = '', ...flags], stdin, message) => {
    const run = await runBinary([command, ...model, '--file', '-', ...flags], { stdin });
    expect(run).toMatchObject({ code: 1, stdout: '' });
    expect(run.stderr).toMatch(message);
    expect(run.stderr).toMatch(/^[^\n]+\n$/);
  });
});
