import { describe, expect, test } from 'vitest';
import {
  checkPlanModel,
  exactPlan,
  type PlanCalibration,
  PRESETS,
  type PresetName,
  presetPlan,
  readPlan,
} from '../src/index.ts';

describe('presets', () => {
  test('are plans of any number of layers', () => {
    for (const name of Object.keys(PRESETS) as PresetName[]) {
      for (const layers of [1, 2, 30]) {
        const plan = presetPlan(name, layers);
        expect(readPlan(JSON.parse(JSON.stringify(plan)), layers)).toEqual(plan);
      }
    }
    expect(presetPlan('exact', 3)).toEqual(exactPlan(3));
  });

  test('of another name are refused', () => {
    for (const name of ['quick', 'toString']) {
      expect(() => presetPlan(name as PresetName, 3)).toThrow(
        expect.objectContaining({ code: 'ERR_PRESET', details: expect.objectContaining({ name }) }),
      );
    }
  });
});

describe('calibration of a plan', () => {
  const calibration: PlanCalibration = {
    model: { fingerprint: 'abc', layers: 2, heads: 4, kvHeads: 2, headDim: 32 },
    text: { sha256: 'def', tokens: 5000 },
    context: 2048,
    accuracy: { wanted: 0.99, reached: 0.995, interval: [0.99, 0.999], tokens: 2000 },
    time: { densePrefillMs: 40, planPrefillMs: 30, denseAttentionMs: 20, planAttentionMs: 10 },
    machine: { simd: 'avx2', threads: 2, dtype: 'bf16', kvDtype: 'bf16' },
  };

  test('survives JSON', () => {
    const plan = { ...exactPlan(2), calibration };
    expect(readPlan(JSON.parse(JSON.stringify(plan)), 2)).toEqual(plan);
  });

  test.each([
    [null, 'model.fingerprint'],
    ['yes', 'model.fingerprint'],
    [{ ...calibration, machine: {} }, 'machine.simd'],
    [{ ...calibration, accuracy: { ...calibration.accuracy, reached: '1' } }, 'accuracy.reached'],
  ])('%j is refused', (json, name) => {
    expect(() => readPlan({ ...exactPlan(2), calibration: json }, 2)).toThrow(
      expect.objectContaining({ code: 'ERR_PLAN', message: expect.stringContaining(name) }),
    );
  });

  test('is for one model', () => {
    const plan = { ...exactPlan(2), calibration };
    checkPlanModel(plan, calibration.model);
    checkPlanModel(exactPlan(2), { ...calibration.model, fingerprint: 'any' });
    for (const other of [{ fingerprint: 'xyz' }, { kvHeads: 1 }, { headDim: 64 }]) {
      const model = { ...calibration.model, ...other };
      expect(() => checkPlanModel(plan, model)).toThrow(
        expect.objectContaining({
          code: 'ERR_PLAN_MODEL',
          details: { plan: calibration.model, model },
        }),
      );
    }
  });
});
