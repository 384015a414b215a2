import type { PerplexityOptions } from '@iceformer/transformer';
import { describe, expect, test } from 'vitest';
import { createInterruption } from '../src/interruption.ts';
import type { Packages } from '../src/packages.ts';
import { fakePackages } from './fakes.ts';
import { run } from './harness.ts';

const ARGS = ['ppl', '--file', '-', '--context', '512'];
const RESULT = {
  perplexity: 12.95612,
  standardError: 0.1234,
  tokens: 765,
  context: 512,
  windows: 3,
  retainedMass: 0.93,
  tilesRead: 0.32,
  attention: 'plan',
};

function scoring(perplexity: (options: PerplexityOptions) => Promise<unknown>): Packages {
  return fakePackages({
    transformer: {
      loadModel: (() =>
        Promise.resolve({
          info: { dtype: 'bf16', kvDtype: 'int8', threads: 2, simd: 'avx2' },
          tokenizer: { encodeAsync: () => Promise.resolve(new Uint32Array(1600)) },
          perplexity: (_tokens: Uint32Array, options: PerplexityOptions) => perplexity(options),
          close: () => Promise.resolve(),
        })) as unknown as Packages['transformer']['loadModel'],
    },
  }).packages;
}

describe('ppl', () => {
  test('for people', async () => {
    const packages = scoring(() => Promise.resolve(RESULT));
    const args = [...ARGS, '--attention', 'sparse'];
    const { code, stdout, stderr } = await run(args, { packages, stdin: 'Text.' });
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    expect(stdout.split('\n').slice(0, 3)).toEqual([
      'perplexity  12.9561 ± 0.1234',
      'scored      765 tokens, the second halves of 3 windows of 512',
      'attention   sparse, 93.0 % of the attention mass kept, 32.0 % of the key tiles read',
    ]);
  });

  test('--json', async () => {
    const packages = scoring(() => Promise.resolve(RESULT));
    const args = [...ARGS, '--attention', 'sparse', '--json'];
    const { stdout } = await run(args, { packages, stdin: 'Text.' });
    expect(JSON.parse(stdout)).toEqual({
      ...RESULT,
      attention: 'sparse',
      model: 'smollm2-135m-instruct',
      timeMs: expect.any(Number),
      peakRssBytes: expect.any(Number),
      dtype: 'bf16',
      kvDtype: 'int8',
      threads: 2,
      simd: 'avx2',
    });
  });

  test('Ctrl-C: the perplexity so far', async () => {
    const interruption = createInterruption();
    const packages = scoring((options) => {
      options.onProgress?.({ done: 2, total: 3, perplexity: 13.5 });
      interruption.stop('SIGINT');
      return Promise.reject(options.signal?.reason);
    });
    const { code, stdout, stderr } = await run(ARGS, { packages, interruption, stdin: 'Text.' });
    expect({ code, stdout }).toEqual({ code: 130, stdout: '' });
    expect(stderr).toBe(
      'perplexity so far 13.5000, after 2 of 3 windows\nerror ERR_INTERRUPTED: stopped by SIGINT\n',
    );
  });
});
