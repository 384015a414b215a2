import { describe, expect, test } from 'vitest';
import { AttentionError, exactPlan, readPlan, selectedPlan } from '../src/index.ts';

describe('plans', () => {
  test('survive JSON', () => {
    for (const plan of [
      exactPlan(3),
      selectedPlan(3),
      selectedPlan(2, { massTarget: 1, exactLayers: 0 }),
    ]) {
      expect(readPlan(JSON.parse(JSON.stringify(plan)), plan.layers.length)).toEqual(plan);
    }
    expect(selectedPlan(3).layers.map((layer) => layer.strategy)).toEqual([
      'exact',
      'selected',
      'selected',
    ]);
  });

  const selected = { strategy: 'selected', massTarget: 0.9, sinks: 16, recent: 128, batch: 256 };
  test.each([
    [null, 'ERR_PLAN'],
    [[], 'ERR_PLAN'],
    ['exact', 'ERR_PLAN'],
    [{ layers: [] }, 'ERR_PLAN'],
    [{ version: 2, layers: [selected] }, 'ERR_PLAN'],
    [{ version: 1 }, 'ERR_PLAN'],
    [{ version: 1, layers: [selected, selected] }, 'ERR_PLAN_LAYERS'],
    [{ version: 1, layers: [null] }, 'ERR_PLAN_STRATEGY'],
    [{ version: 1, layers: [{ strategy: 'magic' }] }, 'ERR_PLAN_STRATEGY'],
    [{ version: 1, layers: [{ ...selected, massTarget: 0 }] }, 'ERR_PLAN'],
    [{ version: 1, layers: [{ ...selected, massTarget: 1.01 }] }, 'ERR_PLAN'],
    [{ version: 1, layers: [{ ...selected, massTarget: '0.9' }] }, 'ERR_PLAN'],
    [{ version: 1, layers: [{ ...selected, sinks: 15 }] }, 'ERR_PLAN'],
    [{ version: 1, layers: [{ ...selected, recent: -1 }] }, 'ERR_PLAN'],
    [{ version: 1, layers: [{ ...selected, batch: 0 }] }, 'ERR_PLAN'],
    [{ version: 1, layers: [{ strategy: 'selected', massTarget: 0.9 }] }, 'ERR_PLAN'],
  ])('%j is refused', (json, code) => {
    const read = () => readPlan(json, 1);
    expect(read).toThrow(AttentionError);
    expect(read).toThrow(expect.objectContaining({ code }));
  });
});
