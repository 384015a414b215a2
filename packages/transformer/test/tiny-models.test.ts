import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type FixtureTensor, readFixture } from '../../../bench/reference/fixture.ts';
import { loadModel, type Model } from '../dist/index.js';

/*
 * Every family and every RoPE scaling against PyTorch, through the whole stack: loader, worker,
 * native layers, attention cache, generation.
 */

const fixtures = new URL('../../../bench/reference/fixtures/tiny/', import.meta.url);

interface Prompt {
  name: string;
}

const { cases } = JSON.parse(readFileSync(new URL('index.json', fixtures), 'utf8')) as {
  cases: { name: string; prompts: Prompt[] }[];
};

describe.each(cases.map((item) => [item.name, item.prompts] as const))('%s', (name, prompts) => {
  const folder = fileURLToPath(new URL(name, fixtures));
  const expected = readFixture(`${folder}/expected.safetensors`);
  const tensor = (key: string): FixtureTensor['data'] => {
    const found = expected.get(key);
    if (found === undefined) throw new Error(`the fixture has no ${key}`);
    return found.data;
  };
  const tokensOf = (prompt: Prompt) => Uint32Array.from(tensor(`${prompt.name}.tokens`));
  let model: Model;
  beforeAll(async () => {
    model = await loadModel({ model: folder, dtype: 'f32', threads: 2, maxChunk: 64 });
  });
  afterAll(() => model.close());

  test.each(prompts)('logits of the $name prompt', async (prompt) => {
    const rows = Uint32Array.from(tensor(`${prompt.name}.rows`));
    const logits = await model.logits(tokensOf(prompt), { rows });
    const wanted = tensor(`${prompt.name}.logits`);
    expect(logits).toHaveLength(wanted.length);
    const worst = logits.reduce(
      (most, logit, index) => Math.max(most, Math.abs(logit - (wanted[index] as number))),
      0,
    );
    expect(worst).toBeLessThan(2e-3);
  });

  test.each(prompts.filter((prompt) => expected.has(`${prompt.name}.greedy`)))(
    'greedy tokens after the $name prompt',
    async (prompt) => {
      const wanted = [...tensor(`${prompt.name}.greedy`)];
      const generation = model.generate({
        tokens: tokensOf(prompt),
        maxTokens: wanted.length,
        ignoreEos: true,
      });
      const tokens: number[] = [];
      for await (const { token } of generation) tokens.push(token);
      expect(tokens).toEqual(wanted);
    },
  );
});
