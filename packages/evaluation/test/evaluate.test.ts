import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import type { AttentionPlan } from '@iceformer/sparse-attention';
import { loadModel, type Model } from '@iceformer/transformer';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type EvaluateOptions, evaluate } from '../src/index.ts';

const path = (name: string) => fileURLToPath(new URL(`../../../${name}`, import.meta.url));
const text = readFileSync(path('docs/corpus/esther.txt'), 'utf8');

let model: Model;
let rough: AttentionPlan;
beforeAll(async () => {
  const folder = path('bench/reference/fixtures/tiny/llama-bias');
  model = await loadModel({ model: folder, threads: 1, context: 1500, maxChunk: 32 });
  rough = {
    version: 1,
    layers: Array.from({ length: model.info.layers }, () => ({
      strategy: 'selected',
      massTarget: 0.05,
      sinks: 0,
      recent: 16,
      batch: 16,
    })),
  };
});
afterAll(() => model.close());

const options = (): EvaluateOptions => ({
  text,
  attention: [
    { name: 'same', attention: 'exact' },
    { name: 'rough', attention: rough },
  ],
  context: 256,
  windows: 2,
  lengths: [480],
  prompts: 2,
});

describe('evaluate', () => {
  test('measures every task, dense beside the others', async () => {
    const tasks = new Map<string, string>();
    const result = await evaluate(model, {
      ...options(),
      onProgress: ({ task, done, total }) => tasks.set(task, `${done}/${total}`),
    });
    expect(JSON.parse(JSON.stringify(result))).toEqual(result);
    expect(result).toMatchObject({
      form: 'iceformer-evaluation',
      version: 1,
      model: { fingerprint: model.info.fingerprint, layers: model.info.layers, dtype: 'bf16' },
      text: { sha256: '8c786abb166feda2f569fd2c6114f42d786d1df571c0255749a6747a901c78f4' },
      machine: { simd: model.info.simd, threads: 1 },
      attention: [
        { name: 'same', attention: 'exact' },
        { name: 'rough', attention: rough },
      ],
    });
    const [dense, same, other] = result.prediction?.scores ?? [];
    expect([dense?.attention, same?.attention, other?.attention]).toEqual([
      'dense',
      'same',
      'rough',
    ]);
    expect(dense?.ratio).toEqual({ value: 1, low: 1, high: 1 });
    expect(same?.ratio).toEqual({ value: 1, low: 1, high: 1 });
    expect(same?.agreement.value).toBe(1);
    expect(other?.ratio.value).not.toBe(1);
    expect(other?.divergence.value).toBeGreaterThan(0);
    expect(other?.tilesRead).toBeLessThan(0.98);
    expect(other?.layers).toHaveLength(model.info.layers);
    expect(Object.keys(result.retrieval)).toEqual(['passkey', 'lines', 'topics', 'questions']);
    for (const { scores, answers } of Object.values(result.retrieval)) {
      expect(answers).toHaveLength(6);
      expect(scores.map(({ attention, found }) => [attention, found.trials])).toEqual([
        ['dense', 2],
        ['same', 2],
        ['rough', 2],
      ]);
      const of = (name: string) =>
        answers.filter(({ attention }) => attention === name).map(({ text: answer }) => answer);
      expect(of('same')).toEqual(of('dense'));
      const alike = of('rough').filter((answer, index) => answer === of('dense')[index]).length;
      const agreed = scores.map(({ agreement }) => [agreement.hits, agreement.trials]);
      expect(agreed).toEqual([
        [2, 2],
        [2, 2],
        [alike, 2],
      ]);
    }
    expect([...tasks]).toEqual([
      ['prediction', '6/6'],
      ['passkey', '6/6'],
      ['lines', '6/6'],
      ['topics', '6/6'],
      ['questions', '6/6'],
    ]);
    expect(model.info.attention).toBe('dense');
  });

  test('leaves out questions where there are none, unless they were asked for', async () => {
    const own = { ...options(), text: 'Nothing of the kind.\n'.repeat(100), attention: [] };
    const { retrieval } = await evaluate(model, { ...own, prompts: 1 });
    expect(Object.keys(retrieval)).toEqual(['passkey', 'lines', 'topics']);
    await expect(evaluate(model, { ...own, tasks: ['questions'] })).rejects.toMatchObject({
      code: 'ERR_NO_QUESTIONS',
    });
  });

  test.each([
    [{ tasks: ['singing'] }, 'tasks'],
    [{ lengths: [0] }, 'lengths'],
    [{ lengths: [1e6] }, 'lengths'],
    [{ lengths: [] }, 'lengths'],
    [{ prompts: 0.5 }, 'prompts'],
    [{ attention: [{ name: 'dense', attention: 'fast' }] }, 'attention'],
  ])('%j is refused', async (wrong, name) => {
    const call = evaluate(model, { ...options(), ...wrong } as EvaluateOptions);
    await expect(call).rejects.toMatchObject({
      name: 'EvaluationError',
      code: 'ERR_INVALID_ARGUMENT',
      details: { name },
    });
  });

  test('can be stopped', async () => {
    const controller = new AbortController();
    const reason = new Error('enough');
    const call = evaluate(model, {
      ...options(),
      signal: controller.signal,
      onProgress: ({ task }) => task === 'passkey' && controller.abort(reason),
    });
    await expect(call).rejects.toBe(reason);
    expect(model.info.attention).toBe('dense');
  });
});
