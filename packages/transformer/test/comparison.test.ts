import { fileURLToPath } from 'node:url';
import { AttentionError, type AttentionPlan } from '@iceformer/sparse-attention';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type ComparisonProgress, loadModel, type Model } from '../dist/index.js';

const folder = fileURLToPath(
  new URL('../../../bench/reference/fixtures/tiny/llama-smollm2', import.meta.url),
);
const CONTEXT = 128;
const tokens = Uint32Array.from({ length: 2 * CONTEXT + 9 }, (_, index) => (index * index) % 89);

let model: Model;
let rough: AttentionPlan;
beforeAll(async () => {
  model = await loadModel({ model: folder, dtype: 'f32', threads: 1, maxChunk: 32 });
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

const mean = (numbers: Iterable<number>): number => {
  const all = [...numbers];
  return all.reduce((sum, value) => sum + value, 0) / all.length;
};

/** log softmax of each of the rows. */
function logSoftmax(logits: Float32Array, vocabSize: number): number[][] {
  return Array.from({ length: logits.length / vocabSize }, (_, index) => {
    const row = [...logits.subarray(index * vocabSize, (index + 1) * vocabSize)];
    const sum = Math.log(row.reduce((total, logit) => total + Math.exp(logit), 0));
    return row.map((logit) => logit - sum);
  });
}

describe('comparison with dense attention', () => {
  test('is what logits and perplexity of the two say', async () => {
    const windows = [tokens.slice(0, CONTEXT), tokens.slice(CONTEXT, 2 * CONTEXT)];
    const { vocabSize } = model.info;
    const rows = Uint32Array.from({ length: CONTEXT / 2 - 1 }, (_, index) => CONTEXT / 2 + index);
    const predict = async () => {
      const logits = [];
      for (const window of windows) logits.push(await model.logits(window, { rows }));
      return logits.flatMap((part) => logSoftmax(part, vocabSize));
    };
    const dense = await predict();
    const densePerplexity = await model.perplexity(tokens, { context: CONTEXT });
    await model.setAttention(rough);
    expect(model.info.attention).toBe('plan');
    const sparse = await predict();
    const sparsePerplexity = await model.perplexity(tokens, { context: CONTEXT });
    await model.setAttention('dense');
    expect(model.info.attention).toBe('dense');

    const progress: ComparisonProgress[] = [];
    const result = await model.compare(tokens, {
      context: CONTEXT,
      attention: [rough],
      divergences: 1000,
      onProgress: (now) => progress.push(now),
    });
    expect(result).toMatchObject({ context: CONTEXT, windows: 2, tokens: dense.length });
    expect(progress.map(({ done, total }) => `${done}/${total}`)).toEqual([
      '1/4',
      '2/4',
      '3/4',
      '4/4',
    ]);
    const [pass] = result.passes;
    if (!pass) return expect.fail('no pass');
    expect(Math.exp(mean(result.dense.losses))).toBeCloseTo(densePerplexity.perplexity, 3);
    expect(Math.exp(mean(pass.losses))).toBeCloseTo(sparsePerplexity.perplexity, 3);
    expect(pass.tilesRead).toBeCloseTo(sparsePerplexity.tilesRead, 6);
    expect(pass.tilesRead).toBeLessThan(1);

    const best = (row: number[]) => row.indexOf(Math.max(...row));
    expect([...pass.agreements]).toEqual(
      dense.map((row, index) => (best(row) === best(sparse[index] as number[]) ? 1 : 0)),
    );
    expect([...result.dense.agreements]).toEqual(dense.map(() => 1));
    const divergences = dense.map((row, index) =>
      row.reduce(
        (sum, logP, token) =>
          sum + Math.exp(logP) * (logP - ((sparse[index] as number[])[token] as number)),
        0,
      ),
    );
    expect(pass.divergences).toHaveLength(divergences.length);
    expect(mean(divergences)).toBeGreaterThan(1e-6);
    expect(mean(pass.divergences) / mean(divergences)).toBeCloseTo(1, 2);

    expect(pass.layers).toHaveLength(model.info.layers);
    expect(pass.layers.every(({ attentionMs }) => attentionMs > 0)).toBe(true);
    expect(pass.attentionMs).toBeLessThanOrEqual(pass.prefillMs);
  });

  test('of fewer positions', async () => {
    const result = await model.compare(tokens, {
      context: CONTEXT,
      attention: ['exact', 'fast'],
      scored: 10,
      divergences: 4,
    });
    expect(result.tokens).toBe(20);
    for (const pass of result.passes) {
      expect(pass.losses).toHaveLength(20);
      expect(pass.divergences).toHaveLength(8);
    }
    expect(result.passes[0]?.losses).toEqual(result.dense.losses);
  });

  test('of tokens run one at a time', async () => {
    const decode = 24;
    const result = await model.compare(tokens, {
      context: CONTEXT,
      attention: ['exact', rough],
      decode,
    });
    expect(result.tokens).toBe(2 * (decode - 1));
    // One at a time or all at once: the kernels add up in another order, no more.
    const whole = await model.compare(tokens, { context: CONTEXT, attention: [] });
    const scored = whole.dense.losses.length / 2;
    const last = [1, 2].flatMap((window) => [
      ...whole.dense.losses.subarray(window * scored - decode + 1, window * scored),
    ]);
    for (const [index, loss] of last.entries()) {
      expect(result.dense.losses[index]).toBeCloseTo(loss, 1);
    }
    const [exact, sparse] = result.passes;
    expect(exact?.losses).toEqual(result.dense.losses);
    expect(exact?.tilesRead).toBe(1);
    expect(sparse?.tilesRead).toBeLessThan(1);
    expect(sparse?.losses).not.toEqual(result.dense.losses);
  });

  test('refuses what makes no sense, and can be stopped', async () => {
    const compare = (options: object) =>
      model.compare(tokens, { context: CONTEXT, attention: ['fast'], ...options });
    await expect(compare({ attention: ['quick'] })).rejects.toMatchObject({
      code: 'ERR_INVALID_ARGUMENT',
    });
    await expect(compare({ scored: 0 })).rejects.toMatchObject({ code: 'ERR_INVALID_ARGUMENT' });
    for (const decode of [-1, 1, 1.5, CONTEXT]) {
      await expect(compare({ decode })).rejects.toMatchObject({ code: 'ERR_INVALID_ARGUMENT' });
    }
    await expect(compare({ context: 1e6 })).rejects.toMatchObject({ code: 'ERR_PROMPT_TOO_LONG' });
    const short = { ...rough, layers: rough.layers.slice(1) };
    await expect(compare({ attention: [short] })).rejects.toBeInstanceOf(AttentionError);
    await expect(model.setAttention(short)).rejects.toMatchObject({ code: 'ERR_PLAN_LAYERS' });
    const reason = new Error('enough');
    await expect(compare({ signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
    // It goes on as before.
    expect(model.info.attention).toBe('dense');
    expect((await model.perplexity(tokens, { context: CONTEXT })).attention).toBe('dense');
  });
});

describe('a calibrated plan', () => {
  const calibration = (fingerprint: string) => {
    const { layers, heads, kvHeads, headDim } = model.info;
    return {
      model: { fingerprint, layers, heads, kvHeads, headDim },
      text: { sha256: '00', tokens: 1 },
      context: 128,
      accuracy: {
        wanted: 0.99,
        reached: 1,
        interval: [0.99, 1.01] as [number, number],
        tokens: 1,
      },
      time: { densePrefillMs: 1, planPrefillMs: 1, denseAttentionMs: 1, planAttentionMs: 1 },
      machine: { simd: 'scalar', threads: 1, dtype: 'f32', kvDtype: 'bf16' },
    };
  };

  test('is refused by another model, with both fingerprints', async () => {
    const plan = { ...rough, calibration: calibration('another') };
    await expect(model.setAttention(plan)).rejects.toMatchObject({
      name: 'AttentionError',
      code: 'ERR_PLAN_MODEL',
      details: {
        plan: { fingerprint: 'another' },
        model: { fingerprint: model.info.fingerprint },
      },
    });
    await expect(loadModel({ model: folder, attention: plan })).rejects.toMatchObject({
      code: 'ERR_PLAN_MODEL',
    });
  });

  test('is taken by its own', async () => {
    await model.setAttention({ ...rough, calibration: calibration(model.info.fingerprint) });
    expect(model.info.attention).toBe('plan');
    await model.setAttention('dense');
  });
});
