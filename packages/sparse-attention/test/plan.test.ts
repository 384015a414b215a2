import { describe, expect, test } from 'vitest';
import { AttentionError, exactPlan, readPlan, selectedPlan } from '../src/index.ts';

describe('plans', () => {
  test('survive JSON', () => {
    for (const plan of [
      exactPlan(3),
      selectedPlan(3),
      selectedPlan(2, { massTarget: 1, exactLayers: 1 }),
    ]) {
      expect(readPlan(JSON.parse(JSON.stringify(plan)), plan.layers.length)).toEqual(plan);
    }
    expect(selectedPlan(3, { exactLayers: 1 }).layers.map((layer) => layer.strategy)).toEqual([
      'exact',
      'selected',
      'selected',
    ]);
  });

  test('bound the tiles that are read', () => {
    const [layer] = selectedPlan(1, { minTileMass: 0.003, minTiles: 2, maxTiles: 64 }).layers;
    expect(layer).toMatchObject({ minTileMass: 0.003, minTiles: 2, maxTiles: 64 });
    const [unbounded] = selectedPlan(1).layers;
    expect(Object.keys(unbounded ?? {})).not.toContain('maxTiles');
    const refused = expect.objectContaining({ code: 'ERR_PLAN' });
    expect(() => selectedPlan(1, { minTiles: 5, maxTiles: 4 })).toThrow(refused);
    expect(() => selectedPlan(1, { maxTiles: -1 })).toThrow(refused);
  });

  test('keep what every strategy needs, for layers and for single heads', () => {
    const selected = { strategy: 'selected', massTarget: 0.9, sinks: 16, recent: 128, batch: 256 };
    const plan = {
      version: 1,
      layers: [
        {
          ...selected,
          minTileMass: 0.002,
          minTiles: 2,
          maxTiles: 40,
          heads: [null, { strategy: 'skip' }],
        },
        { strategy: 'window', sinks: 4, recent: 500 },
        { strategy: 'skip' },
        { strategy: 'top-k', k: 20, algorithm: 'dci', recall: 0.9, effort: 0.1 },
        { strategy: 'exact', heads: [{ strategy: 'top-k', k: 3 }, selected] },
        { ...selected, reuseSteps: 4 },
        { strategy: 'reuse', layer: 5 },
        { strategy: 'exact', heads: [null, { strategy: 'reuse', layer: 4 }] },
      ],
    };
    expect(readPlan(JSON.parse(JSON.stringify(plan)), 8, 2)).toEqual(plan);
    // Who does not know the number of heads gets them unchecked.
    expect(readPlan(plan, 8)).toEqual(plan);
    const message = 'layer 0 of the plan is for 2 key/value heads, the model has 3';
    expect(() => readPlan(plan, 8, 3)).toThrow(message);
  });

  test('reuse what an earlier layer selects in the same heads', () => {
    const selected = { strategy: 'selected', massTarget: 0.9, sinks: 16, recent: 128, batch: 256 };
    const reuse = (layer: number) => ({ strategy: 'reuse', layer });
    const first = { strategy: 'exact', heads: [selected, null] };
    const other = { ...selected, heads: [null, null] };
    for (const [layers, layer, value] of [
      [[selected, reuse(1)], 1, 1],
      [[reuse(1), selected], 0, 1],
      [[{ strategy: 'exact' }, reuse(0)], 1, 0],
      [[selected, reuse(0), reuse(1)], 2, 1],
      [[first, reuse(0)], 1, 0],
      [[first, other, { ...reuse(1), heads: [reuse(0), null] }], 2, 1],
      [[reuse(-1)], 0, -1],
    ] as const) {
      expect(() => readPlan({ version: 1, layers }, layers.length, 2)).toThrow(
        expect.objectContaining({
          code: 'ERR_PLAN',
          details: expect.objectContaining({ layer, name: 'layer', value }),
        }),
      );
    }
    const fits = { version: 1, layers: [first, { strategy: 'exact', heads: [reuse(0), null] }] };
    expect(readPlan(fits, 2, 2)).toEqual(fits);
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
    [{ version: 1, layers: [{ ...selected, minTileMass: 1.5 }] }, 'ERR_PLAN'],
    [{ version: 1, layers: [{ ...selected, minTileMass: -0.1 }] }, 'ERR_PLAN'],
    [{ version: 1, layers: [{ ...selected, minTileMass: '0.1' }] }, 'ERR_PLAN'],
    [{ version: 1, layers: [{ ...selected, minTiles: 1.5 }] }, 'ERR_PLAN'],
    [{ version: 1, layers: [{ ...selected, minTiles: 3, maxTiles: 2 }] }, 'ERR_PLAN'],
    [{ version: 1, layers: [{ strategy: 'window', sinks: 4, recent: 0 }] }, 'ERR_PLAN'],
    [{ version: 1, layers: [{ strategy: 'window', recent: 9 }] }, 'ERR_PLAN'],
    [{ version: 1, layers: [{ strategy: 'top-k', k: 0 }] }, 'ERR_PLAN'],
    [{ version: 1, layers: [{ strategy: 'top-k', k: 2 ** 24 + 1 }] }, 'ERR_PLAN'],
    [{ version: 1, layers: [{ strategy: 'top-k', k: 20, algorithm: 'magic' }] }, 'ERR_PLAN'],
    [{ version: 1, layers: [{ strategy: 'top-k', k: 20, recall: 1.1 }] }, 'ERR_PLAN'],
    [{ version: 1, layers: [{ strategy: 'top-k', k: 20, effort: 0 }] }, 'ERR_PLAN'],
    [{ version: 1, layers: [{ ...selected, reuseSteps: 0 }] }, 'ERR_PLAN'],
    [{ version: 1, layers: [{ strategy: 'reuse' }] }, 'ERR_PLAN'],
    [{ version: 1, layers: [{ ...selected, heads: [] }] }, 'ERR_PLAN'],
    [{ version: 1, layers: [{ ...selected, heads: 3 }] }, 'ERR_PLAN'],
    [
      { version: 1, layers: [{ ...selected, heads: [null, { strategy: 'magic' }] }] },
      'ERR_PLAN_STRATEGY',
    ],
    [{ version: 1, layers: [{ ...selected, heads: [null, null, null] }] }, 'ERR_PLAN_HEADS'],
  ])('%j is refused', (json, code) => {
    const read = () => readPlan(json, 1, 2);
    expect(read).toThrow(AttentionError);
    expect(read).toThrow(expect.objectContaining({ code }));
  });
});
