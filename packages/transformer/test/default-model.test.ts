import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { estimateMemory, type GenerateOptions, loadModel, type Model } from '../dist/index.js';
import { defaultModel, document, expectedJson, expectedTensors } from './default-model.ts';

/* The default model against PyTorch, and what only a real model can show. */

let folder: string;
beforeAll(async () => {
  folder = await defaultModel();
});

const expected = expectedTensors();
const numbers = (name: string) => expected(name).data;
const tokensOf = (name: string) => Uint32Array.from(numbers(`${name}.tokens`));

/** Token with the largest logit at each of `rows`. */
async function bestTokens(model: Model, tokens: Uint32Array, rows: Uint32Array): Promise<number[]> {
  const logits = await model.logits(tokens, { rows });
  const { vocabSize } = model.info;
  return Array.from(rows, (_, index) => {
    const row = logits.subarray(index * vocabSize, (index + 1) * vocabSize);
    return row.reduce((best, logit, token) => (logit > (row[best] as number) ? token : best), 0);
  });
}

async function collect(model: Model, options: GenerateOptions) {
  const generation = model.generate(options);
  let text = '';
  const tokens: number[] = [];
  for await (const chunk of generation) {
    text += chunk.text;
    tokens.push(chunk.token);
  }
  return { text, tokens, summary: await generation.summary };
}

describe('in f32', () => {
  let model: Model;
  beforeAll(async () => {
    model = await loadModel({ model: folder, dtype: 'f32' });
  });
  afterAll(() => model.close());

  test.each(['short', 'medium', 'long'])('logits after the %s prompt', async (name) => {
    const tokens = tokensOf(name);
    const logits = await model.logits(tokens);
    const wanted = numbers(`${name}.last`);
    const worst = logits.reduce(
      (most, logit, token) => Math.max(most, Math.abs(logit - (wanted[token] as number))),
      0,
    );
    expect(logits).toHaveLength(wanted.length);
    expect(worst).toBeLessThan(2e-3);
  });

  test.each(['medium', 'long'])('logits inside the %s prompt', async (name) => {
    const rows = Uint32Array.from(numbers(`${name}.rows`));
    const logits = await model.logits(tokensOf(name), { rows });
    const { vocabSize } = model.info;
    const ids = numbers(`${name}.topIds`);
    const values = numbers(`${name}.topLogits`);
    const perRow = ids.length / rows.length;
    let worst = 0;
    for (let index = 0; index < ids.length; index++) {
      const row = Math.floor(index / perRow);
      const logit = logits[row * vocabSize + (ids[index] as number)] as number;
      worst = Math.max(worst, Math.abs(logit - (values[index] as number)));
    }
    rows.forEach((_, row) => {
      const part = logits.subarray(row * vocabSize, (row + 1) * vocabSize);
      const sum = part.reduce((total, logit) => total + Math.exp(logit), 0);
      const logSumExp = numbers(`${name}.logSumExp`)[row] as number;
      worst = Math.max(worst, Math.abs(Math.log(sum) - logSumExp));
    });
    expect(worst).toBeLessThan(2e-3);
  });

  const { greedy } = expectedJson('index.json') as { greedy: { name: string; text: string }[] };
  test.each(greedy)('the 64 tokens of $name', async ({ name, text }) => {
    const wanted = [...numbers(`${name}.greedy`)];
    const { tokens } = await collect(model, {
      tokens: tokensOf(name),
      maxTokens: wanted.length,
      ignoreEos: true,
    });
    expect(tokens).toEqual(wanted);
    expect(model.tokenizer.decode(tokens, { skipSpecialTokens: true })).toContain(text.trimEnd());
  });
});

describe('in bf16', () => {
  let model: Model;
  beforeAll(async () => {
    model = await loadModel({ model: folder });
  });
  afterAll(() => model.close());

  test('agrees with PyTorch in f32 on at least 98 % of the most likely tokens', async () => {
    let agreed = 0;
    let compared = 0;
    for (const [name, step] of [
      ['medium', 1],
      ['long', 4],
    ] as const) {
      const tokens = tokensOf(name);
      const rows = Uint32Array.from({ length: tokens.length / step }, (_, index) => index * step);
      const best = await bestTokens(model, tokens, rows);
      const wanted = numbers(`${name}.best`);
      agreed += best.filter((token, index) => token === wanted[rows[index] as number]).length;
      compared += best.length;
    }
    expect(compared).toBe(512 + 1024);
    expect(agreed / compared).toBeGreaterThanOrEqual(0.98);
  });

  test('answers a question in the chat template and ends by itself', async () => {
    const { text, summary } = await collect(model, {
      messages: [{ role: 'user', content: 'What is the capital of France?' }],
      maxTokens: 60,
    });
    expect(text).toContain('Paris');
    expect(text).toBe(summary.text);
    expect(summary.stopReason).toBe('eos');
    expect(text).not.toContain('<|im_end|>');
  });

  test('stops at a stop sequence without showing any of it', async () => {
    const messages = [{ role: 'user', content: 'What is the capital of France?' }];
    const { text, summary } = await collect(model, { messages, maxTokens: 60, stop: ['Paris'] });
    expect(summary.stopReason).toBe('stop');
    expect(summary.text).toBe(text);
    expect(text).toMatch(/ $/);
    expect(text).not.toMatch(/P/);
  });

  // Guards that a prompt is not read to its end after an abort; most of it is left when the abort comes.
  test('stops inside a long prompt', async () => {
    const controller = new AbortController();
    const long = tokensOf('long');
    const tokens = Uint32Array.from({ length: 8000 }, (_, index) => long[index % long.length] ?? 0);
    let read = 0;
    const { summary } = model.generate({
      tokens,
      signal: controller.signal,
      onPrefill({ processed }) {
        read = processed;
        if (processed > 0) controller.abort();
      },
    });
    expect(await summary).toMatchObject({ stopReason: 'aborted', generatedTokens: 0 });
    expect(read).toBeGreaterThan(0);
    expect(read).toBeLessThan(tokens.length);
  });

  test('perplexity of a window is that of PyTorch within one per cent', async () => {
    const { documents } = expectedJson('perplexity.json') as {
      documents: { file: string; windows: { negativeLogLikelihood: number; tokens: number }[] }[];
    };
    const [{ file, windows }] = documents as [(typeof documents)[number]];
    const [window] = windows as [(typeof windows)[number]];
    const tokens = (await model.tokenizer.encodeAsync(document(file))).slice(0, 8192);
    const result = await model.perplexity(tokens, { context: 8192 });
    expect(result).toMatchObject({
      tokens: window.tokens,
      windows: 1,
      retainedMass: 1,
      tilesRead: 1,
    });
    const wanted = Math.exp(window.negativeLogLikelihood / window.tokens);
    expect(Math.abs(result.perplexity / wanted - 1)).toBeLessThan(0.01);
  });
});

describe('in int8', () => {
  test('agrees with PyTorch in f32 on at least 94 % of the most likely tokens, in half the memory of bf16', async () => {
    const [model, bf16] = await Promise.all([
      loadModel({ model: folder, dtype: 'int8' }),
      estimateMemory({ model: folder }),
    ]);
    try {
      expect(model.info.dtype).toBe('int8');
      const { weights } = await estimateMemory({ model: folder, dtype: 'int8' });
      expect(model.info.weightBytes).toBe(weights);
      expect(weights).toBeLessThan(0.53 * bf16.weights);
      const tokens = tokensOf('medium');
      const best = await bestTokens(model, tokens, Uint32Array.from(tokens.keys()));
      const wanted = numbers('medium.best');
      const agreed = best.filter((token, index) => token === wanted[index]).length;
      expect(agreed / best.length).toBeGreaterThanOrEqual(0.94);
    } finally {
      await model.close();
    }
  });
});

describe('with sparse attention', () => {
  test('reads less, keeps most of the mass, and hardly loses accuracy', async () => {
    const model = await loadModel({ model: folder, attention: 'sparse' });
    try {
      const tokens = tokensOf('long');
      const { perplexity, retainedMass, tilesRead, attention } = await model.perplexity(tokens, {
        context: tokens.length,
      });
      expect(attention).toBe('sparse');
      expect(retainedMass).toBeGreaterThan(0.9);
      expect(tilesRead).toBeLessThan(0.8);
      const dense = await loadModel({ model: folder });
      const reference = await dense.perplexity(tokens, { context: tokens.length });
      await dense.close();
      expect(perplexity).toBeLessThan(1.02 * reference.perplexity);
    } finally {
      await model.close();
    }
  });
});
