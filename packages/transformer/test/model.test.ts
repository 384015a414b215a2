import { execFile } from 'node:child_process';
import { cp, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { ModelLoaderError } from '@iceformer/model-loader';
import { AttentionError, type AttentionPlan } from '@iceformer/sparse-attention';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import {
  estimateMemory,
  type GenerateOptions,
  type KvDtype,
  type LoadProgress,
  loadModel,
  type Model,
  TransformerError,
} from '../dist/index.js';

const folder = fileURLToPath(
  new URL('../../../bench/reference/fixtures/tiny/llama-smollm2', import.meta.url),
);

let temporary: string;
beforeAll(async () => {
  temporary = await mkdtemp(join(tmpdir(), 'iceformer-transformer-'));
});
afterAll(() => rm(temporary, { recursive: true, force: true }));

const models: Model[] = [];
afterEach(async () => {
  await Promise.all(models.splice(0).map((model) => model.close()));
});

async function load(options: Partial<Parameters<typeof loadModel>[0]> = {}): Promise<Model> {
  const model = await loadModel({ model: folder, threads: 2, ...options });
  models.push(model);
  return model;
}

/** A copy of the tiny model with other settings in its config. */
async function variant(name: string, settings: Record<string, unknown>): Promise<string> {
  const copy = join(temporary, name);
  await cp(folder, copy, { recursive: true });
  const path = join(copy, 'config.json');
  const config = JSON.parse(await readFile(path, 'utf8')) as Record<string, unknown>;
  await writeFile(path, JSON.stringify({ ...config, ...settings }));
  return copy;
}

const failure = (promise: Promise<unknown>): Promise<unknown> =>
  promise.then(
    () => expect.fail('was not rejected'),
    (error: unknown) => error,
  );

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

const prompt = Uint32Array.from({ length: 40 }, (_, index) => (index * 29) % 90);

describe('loading', () => {
  test('says what was loaded, and how far it is', async () => {
    const progress: LoadProgress[] = [];
    const model = await load({ onProgress: (step) => progress.push(step) });
    expect(model.info).toMatchObject({
      family: 'llama',
      architecture: 'LlamaForCausalLM',
      dtype: 'bf16',
      kvDtype: 'bf16',
      attention: 'dense',
      threads: 2,
    });
    expect(model.info.parameters).toBeGreaterThan(1000);
    expect(model.info.weightBytes).toBeGreaterThan(1000);
    const total = model.info.layers + 1;
    expect(progress).toEqual(
      Array.from({ length: total }, (_, index) => ({ done: index + 1, total })),
    );
  });

  test('can be aborted', async () => {
    const controller = new AbortController();
    const reason = new Error('changed my mind');
    const loading = loadModel({
      model: folder,
      signal: controller.signal,
      onProgress: () => controller.abort(reason),
    });
    expect(await failure(loading)).toBe(reason);
    expect(await failure(loadModel({ model: folder, signal: AbortSignal.abort(reason) }))).toBe(
      reason,
    );
  });

  test('refuses bad options before it touches a file', async () => {
    for (const [option, value] of [
      ['dtype', 'int3'],
      ['kvDtype', 'i8'],
      ['threads', 0],
      ['context', 1.5],
      ['maxChunk', -1],
      ['attention', 'quick'],
      ['model', ''],
      ['ropeScaling', { type: 'linear', factor: 0 }],
    ] as const) {
      expect(await failure(loadModel({ model: folder, [option]: value } as never))).toMatchObject({
        name: 'TransformerError',
        code: 'ERR_INVALID_ARGUMENT',
      });
    }
  });

  test("errors come from the model's thread with their class", async () => {
    const missing = await failure(loadModel({ model: join(temporary, 'nothing-here') }));
    expect(missing).toBeInstanceOf(ModelLoaderError);
    expect(missing).toMatchObject({ code: 'ERR_MODEL_NOT_FOUND' });

    const foreign = await variant('foreign', {
      architectures: ['GPTBigCode'],
      model_type: 'bigcode',
    });
    const unsupported = await failure(loadModel({ model: foreign }));
    expect(unsupported).toBeInstanceOf(TransformerError);
    expect(unsupported).toMatchObject({ code: 'ERR_UNSUPPORTED_ARCHITECTURE' });
    expect((unsupported as Error).message).toMatch(
      /GPTBigCode.*LlamaForCausalLM.*Qwen3ForCausalLM/,
    );

    const untied = await variant('untied', { tie_word_embeddings: false });
    expect(await failure(loadModel({ model: untied }))).toMatchObject({
      name: 'ModelLoaderError',
      code: 'ERR_TENSOR_MISSING',
    });

    const plan = { version: 1, layers: [] } as never;
    const wrongPlan = await failure(loadModel({ model: folder, attention: plan }));
    expect(wrongPlan).toBeInstanceOf(AttentionError);
  });

  test('a shape that does not fit the config is refused with both', async () => {
    const wrong = await variant('wrong-shape', { intermediate_size: 999 });
    const error = await failure(loadModel({ model: wrong }));
    expect(error).toBeInstanceOf(TransformerError);
    expect((error as Error).message).toMatch(/999/);
  });

  test('a model that cannot fit is refused before anything is allocated', async () => {
    const vast = await load({ context: 2 ** 31 });
    const error = await failure(vast.generate({ tokens: prompt, maxTokens: 2 ** 31 }).summary);
    expect(error).toMatchObject({ code: 'ERR_NOT_ENOUGH_MEMORY' });
    expect((error as TransformerError).details['needed']).toBeGreaterThan(1e11);
    expect((await collect(vast, { tokens: prompt, maxTokens: 2 })).tokens).toHaveLength(2);
  });
});

test('a model without a tokenizer computes logits, and says why it cannot generate', async () => {
  const bare = await variant('bare', {});
  await rm(join(bare, 'tokenizer.json'));
  const model = await load({ model: bare });
  expect(await model.logits(prompt)).toHaveLength(model.info.vocabSize);
  expect(() => model.tokenizer).toThrow(expect.objectContaining({ code: 'ERR_TOKENIZER_MISSING' }));
  for (const options of [{ tokens: prompt }, { text: 'a' }]) {
    const error = await failure(model.generate(options).summary);
    expect(error).toBeInstanceOf(ModelLoaderError);
    expect(error).toMatchObject({ code: 'ERR_TOKENIZER_MISSING' });
  }
});

describe('memory estimates', () => {
  test('grow with the context, and agree with what is loaded', async () => {
    const model = await load();
    const short = await estimateMemory({ model: folder, context: 100 });
    const long = await estimateMemory({ model: folder, context: 100_000 });
    expect(short.weights).toBe(model.info.weightBytes);
    expect(long.cache).toBeGreaterThan(50 * short.cache);
    expect(short.total).toBe(short.weights + short.cache + short.scratch);
    expect(short.available).toBeGreaterThan(0);
  });

  test.each(['dense', 'sparse'] as const)(
    'hold for a %s sequence of many times the trained length',
    async (attention) => {
      const { max_position_embeddings: trained } = JSON.parse(
        await readFile(join(folder, 'config.json'), 'utf8'),
      ) as { max_position_embeddings: number };
      const long = Uint32Array.from({ length: 12 * trained }, (_, i) => (i * i * 7 + 29 * i) % 90);
      const options = { maxTokens: 8, ignoreEos: true, temperature: 0 };
      const context = long.length + options.maxTokens;
      const model = await load({ attention, context, ropeScaling: { type: 'yarn', factor: 13 } });
      const { summary, tokens } = await collect(model, { tokens: long, ...options });
      expect(tokens).toHaveLength(8);
      const { cache } = await estimateMemory({ model: folder, attention, context });
      expect(summary.cacheBytes).toBeLessThanOrEqual(cache);
      expect(summary.cacheBytes).toBeGreaterThan(0.4 * cache);
      // The next sequence begins anew: nothing of the long one stays but what it needs itself.
      const short = await collect(model, { tokens: prompt, ...options });
      expect(short.summary.cacheBytes).toBeLessThan(0.5 * summary.cacheBytes);
    },
  );
});

describe('generating', () => {
  test('streams what the summary tells', async () => {
    const model = await load();
    const progress: number[] = [];
    const { text, tokens, summary } = await collect(model, {
      tokens: prompt,
      maxTokens: 30,
      ignoreEos: true,
      onPrefill: ({ processed, total, cached }) => {
        expect(total).toBe(40);
        expect(cached).toBe(0);
        progress.push(processed);
      },
    });
    expect(tokens).toHaveLength(30);
    expect(summary).toMatchObject({
      text,
      promptTokens: 40,
      cachedTokens: 0,
      generatedTokens: 30,
      stopReason: 'length',
      retainedMass: 1,
      tilesRead: 1,
      simd: model.info.simd,
    });
    expect(progress).toEqual([0, 40]);
    for (const key of [
      'prefillMs',
      'decodeMs',
      'firstTokenMs',
      'cacheBytes',
      'peakRssBytes',
    ] as const) {
      expect(summary[key], key).toBeGreaterThan(0);
    }
    expect(summary.firstTokenMs).toBeGreaterThan(summary.prefillMs);
  });

  test('takes text and messages', async () => {
    const model = await load();
    const fromText = await collect(model, { text: 'Hello there', maxTokens: 4, ignoreEos: true });
    expect(fromText.summary.promptTokens).toBe(model.tokenizer.encode('Hello there').length);
    const same = await collect(model, {
      tokens: model.tokenizer.encode('Hello there'),
      maxTokens: 4,
      ignoreEos: true,
    });
    expect(same.tokens).toEqual(fromText.tokens);
  });

  test('tokenizes a long text in a thread of its own, with the same outcome', async () => {
    const model = await load({ context: 1_000_000 });
    const text = 'some words, again and again; '.repeat(1000);
    const { summary } = await collect(model, { text, maxTokens: 1 });
    expect(summary.promptTokens).toBe(model.tokenizer.encode(text).length);
  });

  test('reuses the common beginning without changing the outcome', async () => {
    const model = await load({ dtype: 'f32' });
    const options = { maxTokens: 8, ignoreEos: true };
    const first = await collect(model, { tokens: prompt, ...options });
    const again = await collect(model, { tokens: prompt, ...options });
    expect(again.summary.cachedTokens).toBe(39);
    expect(again.tokens).toEqual(first.tokens);

    const longer = Uint32Array.from([...prompt, ...first.tokens, 5]);
    const continued = await collect(model, { tokens: longer, ...options });
    // All but the last generated token were fed back, and the prompt's last token must run.
    expect(continued.summary.cachedTokens).toBe(47);
    const fresh = await load({ dtype: 'f32' });
    expect((await collect(fresh, { tokens: longer, ...options })).tokens).toEqual(continued.tokens);

    // A change early in the prompt leaves only what is before it.
    const changed = prompt.map((token, index) => (index === 10 ? 3 : token));
    expect((await collect(model, { tokens: changed, ...options })).summary.cachedTokens).toBe(10);
  });

  test('one seed gives one text', async () => {
    const model = await load();
    const draw = async (seed: number) =>
      (
        await collect(model, {
          tokens: prompt,
          maxTokens: 20,
          temperature: 2,
          ignoreEos: true,
          seed,
        })
      ).tokens;
    const first = await draw(1);
    expect(await draw(1)).toEqual(first);
    expect(await draw(2)).not.toEqual(first);
  });

  test('calls made at once do not disturb each other', async () => {
    const model = await load({ dtype: 'f32' });
    const other = prompt.map((token) => token + 3);
    const options = { maxTokens: 10, ignoreEos: true };
    const apart = [
      (await collect(model, { tokens: prompt, ...options })).tokens,
      (await collect(model, { tokens: other, ...options })).tokens,
    ];
    const [first, logits, second] = await Promise.all([
      collect(model, { tokens: prompt, ...options }),
      model.logits(prompt),
      collect(model, { tokens: other, ...options }),
    ]);
    expect([first.tokens, second.tokens]).toEqual(apart);
    expect(logits.indexOf(Math.max(...logits))).toBe(first.tokens[0]);
  });

  test('leaving the loop ends the generation', async () => {
    const model = await load({ context: 1_000_000 });
    const generation = model.generate({ tokens: prompt, maxTokens: 100_000, ignoreEos: true });
    for await (const chunk of generation) {
      expect(chunk.token).toBeTypeOf('number');
      break;
    }
    const summary = await generation.summary;
    expect(summary.stopReason).toBe('aborted');
    expect(summary.generatedTokens).toBeLessThan(100_000);
    // The model is ready for the next call.
    expect(
      (await collect(model, { tokens: prompt, maxTokens: 2, ignoreEos: true })).tokens,
    ).toHaveLength(2);
  });

  test('a signal ends it quietly: in the prompt, while decoding, before it begins', async () => {
    const model = await load({ context: 1_000_000, maxChunk: 16 });
    const long = Uint32Array.from({ length: 60_000 }, (_, index) => index % 90);
    const inPrompt = new AbortController();
    const aborted = await collect(model, {
      tokens: long,
      signal: inPrompt.signal,
      onPrefill: ({ processed }) => processed > 0 && inPrompt.abort(),
    });
    expect(aborted.summary).toMatchObject({
      stopReason: 'aborted',
      generatedTokens: 0,
      promptTokens: 60_000,
    });

    const decoding = new AbortController();
    const generation = model.generate({
      tokens: prompt,
      maxTokens: 100_000,
      ignoreEos: true,
      signal: decoding.signal,
    });
    let text = '';
    for await (const chunk of generation) {
      text += chunk.text;
      decoding.abort();
    }
    const summary = await generation.summary;
    expect(summary.stopReason).toBe('aborted');
    expect(summary.text.startsWith(text)).toBe(true);

    const before = await collect(model, { text: 'x', signal: AbortSignal.abort() });
    expect(before).toMatchObject({
      tokens: [],
      summary: { stopReason: 'aborted', generatedTokens: 0 },
    });
  });

  test('the event loop stays free', async () => {
    const model = await load({ context: 1_000_000 });
    const controller = new AbortController();
    const { summary } = model.generate({
      tokens: Uint32Array.from({ length: 50_000 }, (_, index) => index % 90),
      signal: controller.signal,
    });
    let ticks = 0;
    const ticking = setInterval(() => {
      if (++ticks === 20) controller.abort();
    }, 5);
    expect((await summary).stopReason).toBe('aborted');
    clearInterval(ticking);
    expect(ticks).toBeGreaterThanOrEqual(20);
  });

  test('a failing progress callback ends the call with its error', async () => {
    const model = await load();
    const thrown = new Error('in onPrefill');
    const { summary } = model.generate({
      tokens: prompt,
      onPrefill() {
        throw thrown;
      },
    });
    expect(await failure(summary)).toBe(thrown);
  });

  test('bad arguments are thrown at once', async () => {
    const model = await load();
    for (const options of [
      {},
      { text: 'a', tokens: prompt },
      { text: 'a', maxTokens: 0 },
      { text: 'a', temperature: -1 },
      { text: 'a', stop: [''] },
      { text: 5 },
      { tokens: [1, 2] },
    ] as unknown as GenerateOptions[]) {
      expect(() => model.generate(options)).toThrow(
        expect.objectContaining({ code: 'ERR_INVALID_ARGUMENT' }),
      );
    }
  });

  test('bad prompts fail iterator and summary with the numbers', async () => {
    const model = await load({ context: 30 });
    for (const [options, code, message] of [
      [{ text: '' }, 'ERR_EMPTY_PROMPT', /no tokens/],
      [{ tokens: prompt }, 'ERR_PROMPT_TOO_LONG', /40 tokens.*30/],
      [{ tokens: Uint32Array.of(1, 70_000) }, 'ERR_INVALID_TOKEN', /70000 at position 1/],
    ] as const) {
      const generation = model.generate(options);
      const fromIterator = await failure(collect(model, options));
      expect(fromIterator).toBeInstanceOf(TransformerError);
      expect(fromIterator).toMatchObject({ code, message: expect.stringMatching(message) });
      expect(await failure(generation.summary)).toMatchObject({ code });
    }
  });
});

describe('sparse attention', () => {
  const layers = 2;
  /** Settles early, so that a short prompt has clusters; keeps all the mass, so that the outcome is dense. */
  const plan: AttentionPlan = {
    version: 1,
    layers: Array.from({ length: layers }, () => ({
      strategy: 'selected',
      massTarget: 1,
      sinks: 16,
      recent: 16,
      batch: 32,
    })),
  };
  const long = Uint32Array.from({ length: 300 }, (_, index) => (index * index + 7 * index) % 90);

  test('that keeps everything is dense attention, also after a prefix was reused', async () => {
    const dense = await load({ dtype: 'f32' });
    expect(dense.info.layers).toBe(layers);
    const sparse = await load({ dtype: 'f32', attention: plan, maxChunk: 48 });
    expect(sparse.info.attention).toBe('plan');
    const options = { maxTokens: 12, ignoreEos: true };
    for (const [tokens, cached] of [
      [long, 0],
      [long.slice(0, 250), 249], // cut inside what has settled
      [long.map((token, index) => (index < 130 ? token : token + 1)), 130],
      [long, 130],
    ] as const) {
      const wanted = await collect(dense, { tokens, ...options });
      const got = await collect(sparse, { tokens, ...options });
      expect(got.tokens).toEqual(wanted.tokens);
      expect(got.summary.cachedTokens).toBe(cached);
      expect(got.summary.retainedMass).toBeGreaterThan(0.99);
    }
  });

  test('an aborted prompt leaves nothing behind', async () => {
    const dense = await load({ dtype: 'f32' });
    const sparse = await load({ dtype: 'f32', attention: plan, maxChunk: 48, context: 100_000 });
    const options = { tokens: long, maxTokens: 12, ignoreEos: true };
    const controller = new AbortController();
    // So much more text that it cannot be read to its end before the signal arrives, even on a busy machine.
    const muchMore = Uint32Array.from({ length: 60_000 }, (_, index) => long[index] ?? index % 90);
    const aborted = await collect(sparse, {
      ...options,
      tokens: muchMore,
      signal: controller.signal,
      onPrefill: ({ processed }) => processed > 100 && controller.abort(),
    });
    expect(aborted.summary.stopReason).toBe('aborted');
    const got = await collect(sparse, options);
    expect(got.tokens).toEqual((await collect(dense, options)).tokens);
    expect(got.summary.cachedTokens).toBeGreaterThan(100);
  });
});

describe('layers that skip attention', () => {
  test('need no memory for keys and values', async () => {
    const dense = await estimateMemory({ model: folder });
    const skipped = await estimateMemory({ model: folder, attention: skipping(0) });
    expect(skipped).toMatchObject({ weights: dense.weights, cache: dense.cache / 2 });
  });

  const text = Uint32Array.from({ length: 200 }, (_, index) => (index * index + 5 * index) % 90);
  const skipping = (layer: number): AttentionPlan => ({
    version: 1,
    layers: [0, 1].map((index) => ({ strategy: index === layer ? 'skip' : 'exact' })),
  });
  const options = { maxTokens: 12, ignoreEos: true };

  test.each([0, 1])('layer %d: any way through a text gives the same', async (layer) => {
    const model = await load({ dtype: 'f32', attention: skipping(layer), maxChunk: 48 });
    const fresh = await load({ dtype: 'f32', attention: skipping(layer), maxChunk: 512 });
    const wanted = await collect(fresh, { tokens: text, ...options });
    // Token by token after the prompt, or all at once: what the answer's tokens were chosen by is the same.
    const whole = Uint32Array.from([...text, ...wanted.tokens]);
    const rows = Uint32Array.from(wanted.tokens, (_, index) => text.length - 1 + index);
    const logits = await model.logits(whole, { rows });
    const { vocabSize } = model.info;
    const best = [...rows.keys()].map((index) => {
      const row = logits.subarray(index * vocabSize, (index + 1) * vocabSize);
      return row.indexOf(Math.max(...row));
    });
    expect(best).toEqual(wanted.tokens);
    for (const [tokens, cached] of [
      [text.slice(0, 150), 149],
      [text.map((token, index) => (index < 70 ? token : token + 1)), 70],
      [text, 70],
    ] as const) {
      const got = await collect(model, { tokens, ...options });
      expect(got.summary.cachedTokens).toBe(cached);
      await fresh.setAttention(skipping(layer));
      expect(got.tokens).toEqual((await collect(fresh, { tokens, ...options })).tokens);
    }
    // A plan that attends in the layer again finds no keys of another plan's.
    await model.setAttention(skipping(1 - layer));
    await model.setAttention('dense');
    const dense = await load({ dtype: 'f32' });
    const again = await collect(model, { tokens: text, ...options });
    expect(again.summary.cachedTokens).toBe(0);
    expect(again.tokens).toEqual((await collect(dense, { tokens: text, ...options })).tokens);
    expect(again.tokens).not.toEqual(wanted.tokens);
  });
});

describe('keys and values in int8', () => {
  test('take less memory, and what they change is small', async () => {
    const exact = await load({ dtype: 'f32' });
    const narrow = await load({ dtype: 'f32', kvDtype: 'int8' });
    expect(exact.info.kvDtype).toBe('f32');
    expect(narrow.info.kvDtype).toBe('int8');
    const wanted = await exact.logits(prompt);
    const got = await narrow.logits(prompt);
    const size = Math.sqrt(wanted.reduce((sum, logit) => sum + logit * logit, 0));
    const off = Math.sqrt(wanted.reduce((sum, logit, i) => sum + (logit - (got[i] ?? 0)) ** 2, 0));
    expect(off).toBeGreaterThan(0);
    expect(off / size).toBeLessThan(0.05);

    const estimate = async (kvDtype: KvDtype): Promise<number> =>
      (await estimateMemory({ model: folder, context: 10_000, kvDtype })).cache;
    const bytes = { bf16: await estimate('bf16'), int8: await estimate('int8') };
    // Keys and values alone take little more than half; their summaries and sketches stay as they are.
    expect(bytes.int8).toBeLessThan(0.8 * bytes.bf16);
    const { summary } = await collect(narrow, { tokens: prompt, maxTokens: 4, ignoreEos: true });
    const { cache } = await estimateMemory({ model: folder, context: 44, kvDtype: 'int8' });
    expect(summary.cacheBytes).toBeGreaterThan(0);
    expect(summary.cacheBytes).toBeLessThanOrEqual(cache);
  });

  test('answer the same whether a prompt was read at once or a prefix of it was kept', async () => {
    const options = { maxTokens: 12, ignoreEos: true };
    const kept = await load({ kvDtype: 'int8' });
    await collect(kept, { tokens: prompt.slice(0, 25), ...options });
    const got = await collect(kept, { tokens: prompt, ...options });
    expect(got.summary.cachedTokens).toBe(25);
    const fresh = await load({ kvDtype: 'int8' });
    expect(got.tokens).toEqual((await collect(fresh, { tokens: prompt, ...options })).tokens);
  });
});

describe('logits', () => {
  test('of chosen rows are those of one call each, whatever the chunks', async () => {
    const model = await load({ dtype: 'f32', maxChunk: 16 });
    const rows = Uint32Array.of(0, 15, 16, 17, 39);
    const together = await model.logits(prompt, { rows });
    const { vocabSize } = model.info;
    expect(together).toHaveLength(rows.length * vocabSize);
    for (const [index, row] of rows.entries()) {
      const alone = await model.logits(prompt.slice(0, row + 1));
      alone.forEach((logit, token) => {
        expect(together[index * vocabSize + token]).toBeCloseTo(logit, 4);
      });
    }
  });

  test('refuses rows that do not ascend or do not exist', async () => {
    const model = await load();
    for (const rows of [Uint32Array.of(3, 3), Uint32Array.of(40), Uint32Array.of(5, 2)]) {
      expect(await failure(model.logits(prompt, { rows }))).toMatchObject({
        code: 'ERR_INVALID_ARGUMENT',
      });
    }
    expect(await failure(model.logits(new Uint32Array(0)))).toMatchObject({
      code: 'ERR_EMPTY_PROMPT',
    });
    for (const call of [
      model.logits([1] as never),
      model.perplexity([1] as never, { context: 4 }),
    ]) {
      expect(await failure(call)).toMatchObject({ code: 'ERR_INVALID_ARGUMENT' });
    }
  });

  test('can be aborted', async () => {
    const model = await load({ context: 1_000_000, maxChunk: 16 });
    const long = Uint32Array.from({ length: 60_000 }, (_, index) => index % 90);
    const controller = new AbortController();
    const reason = new Error('enough');
    setTimeout(() => controller.abort(reason), 50);
    expect(await failure(model.logits(long, { signal: controller.signal }))).toBe(reason);
  });
});

describe('perplexity', () => {
  test('is the exponential of the mean loss that the logits give', async () => {
    const model = await load({ dtype: 'f32', maxChunk: 8 });
    const tokens = Uint32Array.from({ length: 70 }, (_, index) => (index * 17) % 90);
    const result = await model.perplexity(tokens, { context: 32 });
    const { vocabSize } = model.info;
    const losses: number[] = [];
    for (const window of [tokens.slice(0, 32), tokens.slice(32, 64)]) {
      const rows = Uint32Array.from({ length: 15 }, (_, index) => 16 + index);
      const logits = await model.logits(window, { rows });
      rows.forEach((row, index) => {
        const part = [...logits.subarray(index * vocabSize, (index + 1) * vocabSize)];
        const sum = part.reduce((total, logit) => total + Math.exp(logit), 0);
        losses.push(Math.log(sum) - (part[window[row + 1] as number] as number));
      });
    }
    const mean = losses.reduce((a, b) => a + b, 0) / losses.length;
    expect(result).toMatchObject({ tokens: 30, windows: 2, context: 32, attention: 'dense' });
    expect(result.perplexity / Math.exp(mean)).toBeCloseTo(1, 4);
    expect(result.standardError).toBeGreaterThan(0);
  });
});

describe('closing', () => {
  test('ends what is under way, and everything after it', async () => {
    const model = await load({ context: 1_000_000 });
    const generation = model.generate({ tokens: prompt, maxTokens: 500_000, ignoreEos: true });
    await generation[Symbol.asyncIterator]().next();
    await Promise.all([model.close(), model.close()]);
    expect((await generation.summary).stopReason).toBe('aborted');
    expect(await failure(model.logits(prompt))).toMatchObject({ code: 'ERR_MODEL_CLOSED' });
    expect(await failure(model.generate({ tokens: prompt }).summary)).toMatchObject({
      code: 'ERR_MODEL_CLOSED',
    });
  });

  test('is what `await using` does', async () => {
    const model = await load();
    await model[Symbol.asyncDispose]();
    expect(await failure(model.logits(prompt))).toMatchObject({ code: 'ERR_MODEL_CLOSED' });
  });

  test('can be forgotten: an idle model does not keep the process alive', async () => {
    const script = `
      import { loadModel } from ${JSON.stringify(new URL('../dist/index.js', import.meta.url).href)};
      loadModel({ model: ${JSON.stringify(folder)} })
        .then((model) => model.generate({ tokens: Uint32Array.of(1, 2, 3), maxTokens: 3 }).summary)
        .then((summary) => console.log(summary.generatedTokens));
    `;
    const { stdout } = await promisify(execFile)(
      process.execPath,
      ['--input-type=module', '--eval', script],
      { timeout: 60_000 },
    );
    expect(stdout.trim()).toMatch(/^[123]$/);
  });
});
