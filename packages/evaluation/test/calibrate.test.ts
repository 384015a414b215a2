import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { type HeadPlan, headPlans, PRESETS } from '@iceformer/sparse-attention';
import {
  type ComparedPass,
  type CompareOptions,
  type ComparisonResult,
  loadModel,
  type Model,
} from '@iceformer/transformer';
import { describe, expect, test } from 'vitest';
import {
  CALIBRATION_CANDIDATES,
  type CalibrateOptions,
  calibrate,
  spendLoss,
} from '../src/index.ts';

describe('spending an allowed loss', () => {
  test('buys most time first, and no more than is allowed', () => {
    const places = [
      [
        { loss: 1, gain: 10 },
        { loss: 3, gain: 15 },
      ],
      [{ loss: 2, gain: 8 }],
      [{ loss: 0, gain: 1 }],
      [{ loss: 0.1, gain: -5 }],
    ];
    expect(spendLoss(places, 0)).toEqual([-1, -1, 0, -1]);
    expect(spendLoss(places, 1)).toEqual([0, -1, 0, -1]);
    expect(spendLoss(places, 3)).toEqual([0, 0, 0, -1]);
    expect(spendLoss(places, 5)).toEqual([1, 0, 0, -1]);
  });

  test('takes a cheaper option instead when that is faster too', () => {
    expect(
      spendLoss(
        [
          [
            { loss: 2, gain: 3 },
            { loss: 1, gain: 4 },
          ],
        ],
        2,
      ),
    ).toEqual([1]);
  });
});

const CONTEXT = 64;
const careful: HeadPlan = {
  strategy: 'selected',
  massTarget: 0.9,
  sinks: 16,
  recent: 16,
  batch: 16,
};
const rough: HeadPlan = { ...careful, massTarget: 0.1 };

/** A model of three layers whose losses and times are known: layers differ in what selection costs and saves. */
function knownModel(costs: readonly [careful: number, rough: number][]) {
  const calls: CompareOptions[] = [];
  const read = (options: CompareOptions, windows: number): ComparisonResult => {
    const scored = windows * 31;
    const pass = (choice: CompareOptions['attention'][number]): ComparedPass => {
      const plan = typeof choice === 'string' ? undefined : choice.layers;
      // Both key heads of a layer cost and save the same.
      const headsOf = (layer: number): HeadPlan[] => {
        const own = plan?.[layer];
        return own === undefined ? [] : headPlans(own, 2);
      };
      const half = (head: HeadPlan, exact: number, low: number, high: number): number => {
        if (head.strategy !== 'selected') return exact / 2;
        return (head.massTarget === 0.9 ? low : high) / 2;
      };
      const cost = costs.map(([low, high], layer) =>
        headsOf(layer).reduce((sum, head) => sum + half(head, 0, low, high), 0),
      );
      const loss = cost.reduce((sum, value) => sum + value, 0);
      const layers = cost.map((_, layer) => {
        const own = plan?.[layer];
        const attentionMs =
          plan === undefined
            ? 10
            : headsOf(layer).reduce((sum, head) => sum + half(head, 10, 5, 2), 0);
        return {
          strategy: own?.strategy ?? 'exact',
          retainedMass: 1,
          tilesRead: 1,
          attentionMs: attentionMs * windows,
        };
      });
      const attentionMs = layers.reduce((sum, layer) => sum + layer.attentionMs, 0);
      return {
        losses: new Float32Array(scored).fill(2 + loss),
        agreements: new Uint8Array(scored).fill(1),
        divergences: new Float32Array(windows).fill(loss),
        retainedMass: 1,
        tilesRead: 1,
        layers,
        attentionMs,
        prefillMs: attentionMs + 20 * windows,
      };
    };
    return {
      context: CONTEXT,
      windows,
      tokens: scored,
      dense: pass('exact'),
      passes: options.attention.map(pass),
    };
  };
  const model = {
    info: {
      layers: costs.length,
      heads: 4,
      kvHeads: 2,
      headDim: 16,
      fingerprint: 'abc',
      contextLength: 512,
      simd: 'avx2',
      threads: 3,
      dtype: 'bf16',
      kvDtype: 'bf16',
    },
    tokenizer: {
      encodeAsync: (text: string) =>
        Promise.resolve(Uint32Array.from([...text], (character) => character.charCodeAt(0))),
    },
    compare: (tokens: Uint32Array, options: CompareOptions) => {
      calls.push(options);
      return Promise.resolve(read(options, tokens.length / CONTEXT));
    },
  } as unknown as Model;
  return { model, calls };
}

const options = (accuracy: number): CalibrateOptions => ({
  text: 'a'.repeat(5 * CONTEXT),
  accuracy,
  context: CONTEXT,
  candidates: [careful, rough],
});

describe('calibrate', () => {
  test('selects where it costs little, keeps the accuracy, and records both', async () => {
    const { model } = knownModel([
      [0.02, 0.5],
      [0.001, 0.004],
      [0.001, 0.1],
    ]);
    const { plan, measurements, verified } = await calibrate(model, options(0.99));
    expect(plan.layers).toEqual([{ strategy: 'exact' }, rough, careful]);
    expect(plan.calibration).toMatchObject({
      model: { fingerprint: 'abc', layers: 3, heads: 4, kvHeads: 2, headDim: 16 },
      text: { sha256: expect.stringMatching(/^[0-9a-f]{64}$/), tokens: 5 * CONTEXT },
      context: CONTEXT,
      accuracy: { wanted: 0.99, tokens: 4 * 31 },
      time: { densePrefillMs: 50, planPrefillMs: 37, denseAttentionMs: 30, planAttentionMs: 17 },
      machine: { simd: 'avx2', threads: 3, dtype: 'bf16', kvDtype: 'bf16' },
    });
    expect(plan.calibration.accuracy.reached).toBeCloseTo(Math.exp(-0.005), 5);
    expect(measurements).toHaveLength(6);
    expect(measurements[3]).toMatchObject({ layer: 1, candidate: rough, denseMs: 10 });
    expect(measurements[3]?.loss).toBeCloseTo(0.004, 6);
    expect(measurements[3]?.candidateMs).toBeCloseTo(2, 6);
    for (const { accuracy, holds } of verified) expect(holds).toBe(accuracy.low >= 0.99);
    expect(verified[0]).toMatchObject({ holds: true, attentionMs: 30 });
  });

  test('chooses for single heads where it is asked to', async () => {
    const { model, calls } = knownModel([
      [0.02, 0.5],
      [0.001, 0.004],
    ]);
    const { plan, measurements } = await calibrate(model, { ...options(0.985), perHead: true });
    expect(calls[0]?.attention).toHaveLength(8);
    expect(measurements.map(({ layer, head }) => [layer, head])).toEqual(
      [0, 1].flatMap((layer) => [0, 0, 1, 1].map((head) => [layer, head])),
    );
    expect(plan.layers).toEqual([
      { strategy: 'exact', heads: [careful, null] },
      { strategy: 'exact', heads: [rough, rough] },
    ]);
    expect(plan.calibration.accuracy.reached).toBeCloseTo(Math.exp(-0.014), 5);
  });

  test('spends more where more is allowed', async () => {
    const costs: [number, number][] = [
      [0.02, 0.5],
      [0.001, 0.004],
      [0.001, 0.1],
    ];
    const { plan } = await calibrate(knownModel(costs).model, options(0.87));
    expect(plan.layers).toEqual([careful, rough, rough]);
  });

  test('reads every key where nothing else keeps the accuracy', async () => {
    for (const accuracy of [1, 0.9999]) {
      const { plan } = await calibrate(knownModel([[0.01, 0.02]]).model, options(accuracy));
      expect(plan.layers).toEqual([{ strategy: 'exact' }]);
      expect(plan.calibration.accuracy).toMatchObject({ reached: 1, interval: [1, 1] });
    }
  });

  test('what is tried unless said otherwise reads short inputs whole, as the presets do', async () => {
    for (const [context, exactUntil] of [
      [CONTEXT, CONTEXT / 2],
      [5000, PRESETS.balanced?.exactUntil],
    ]) {
      const { model, calls } = knownModel([[0.001, 0.002]]);
      const text = 'a'.repeat(2 * Number(context));
      await calibrate(model, { text, accuracy: 0.99, context: Number(context) });
      const tried = (calls[0]?.attention ?? []).flatMap((plan) =>
        typeof plan === 'string' ? [] : plan.layers,
      );
      expect(tried).toHaveLength(CALIBRATION_CANDIDATES.length);
      const selecting = tried.filter((layer) => layer.strategy === 'selected');
      expect(selecting.length).toBeGreaterThan(3);
      for (const layer of selecting) expect(layer).toMatchObject({ exactUntil });
    }
  });

  test('windows of choosing and of verifying are different ones', async () => {
    const { model } = knownModel([[0.001, 0.002]]);
    const seen: number[][] = [];
    const compare = model.compare.bind(model);
    model.compare = (tokens, compareOptions) => {
      seen.push([...new Set(tokens)]);
      return compare(tokens, compareOptions);
    };
    const text = ['a', 'b', 'c', 'd', 'e'].map((letter) => letter.repeat(CONTEXT)).join('');
    await calibrate(model, { ...options(0.9), text });
    expect(seen).toEqual([[99], [97, 98, 100, 101]]);
  });

  test.each([
    [{ accuracy: 0 }, 'ERR_INVALID_ARGUMENT'],
    [{ accuracy: 1.01 }, 'ERR_INVALID_ARGUMENT'],
    [{ accuracy: Number.NaN }, 'ERR_INVALID_ARGUMENT'],
    [{ context: 0 }, 'ERR_INVALID_ARGUMENT'],
    [{ choosing: 0.5 }, 'ERR_INVALID_ARGUMENT'],
    [{ candidates: [] }, 'ERR_INVALID_ARGUMENT'],
    [{ text: 'a'.repeat(2 * CONTEXT - 1) }, 'ERR_TEXT_TOO_SHORT'],
  ])('%j is refused', async (wrong, code) => {
    const { model, calls } = knownModel([[0.001, 0.002]]);
    await expect(calibrate(model, { ...options(0.9), ...wrong })).rejects.toMatchObject({
      name: 'EvaluationError',
      code,
    });
    expect(calls).toEqual([]);
  });

  test('a real model: the plan is taken by it, and the work can be stopped', async () => {
    const path = (name: string) => fileURLToPath(new URL(`../../../${name}`, import.meta.url));
    const folder = path('bench/reference/fixtures/tiny/llama-bias');
    const model = await loadModel({ model: folder, threads: 1, maxChunk: 32 });
    try {
      const own: CalibrateOptions = {
        ...options(0.5),
        text: readFileSync(path('docs/corpus/esther.txt'), 'utf8').slice(0, 2000),
        context: 256,
      };
      const phases = new Set<string>();
      const { plan } = await calibrate(model, {
        ...own,
        onProgress: ({ phase, done, total }) => phases.add(`${phase} ${done === total}`),
      });
      // Which plans there are to verify depends on the times measured.
      expect([...phases]).toEqual(expect.arrayContaining(['measuring true', 'verifying true']));
      await model.setAttention(JSON.parse(JSON.stringify(plan)));
      expect(plan.calibration.accuracy.interval[0]).toBeGreaterThanOrEqual(0.5);
      const reason = new Error('enough');
      const stopped = calibrate(model, { ...own, signal: AbortSignal.abort(reason) });
      await expect(stopped).rejects.toBe(reason);
    } finally {
      await model.close();
    }
  });
});
