import { describe, expect, test } from 'vitest';
import { bootstrapMean, mapEstimate, wilson } from '../src/index.ts';
import { SeededRandom } from '../src/seeded-random.ts';

describe("Wilson's interval", () => {
  // Newcombe (1998), table I, method 3: 81 of 263, 15 of 148, 0 of 20, 1 of 29.
  test.each([
    [81, 263, 0.2553, 0.3662],
    [15, 148, 0.0624, 0.1605],
    [0, 20, 0, 0.1611],
    [1, 29, 0.0061, 0.1718],
  ])('%i of %i: %f to %f', (hits, trials, low, high) => {
    const estimate = wilson(hits, trials);
    expect(estimate.value).toBe(hits / trials);
    expect(estimate.low).toBeCloseTo(low, 4);
    expect(estimate.high).toBeCloseTo(high, 4);
    const mirrored = wilson(trials - hits, trials);
    expect(mirrored.low).toBeCloseTo(1 - high, 4);
    expect(mirrored.high).toBeCloseTo(1 - low, 4);
  });

  test('knows nothing without trials', () => {
    expect(wilson(0, 0)).toMatchObject({ low: 0, high: 1 });
  });
});

describe('bootstrap of a mean', () => {
  test("agrees with the normal approximation's interval", () => {
    const random = new SeededRandom(5);
    const n = 4000;
    const values = Float64Array.from({ length: n }, () => random.next());
    const { value, low, high } = bootstrapMean(values, { block: 1 });
    const half = 1.96 * Math.sqrt(1 / 12 / n);
    expect(value).toBeCloseTo(values.reduce((a, b) => a + b, 0) / n, 12);
    expect((high - low) / (2 * half)).toBeGreaterThan(0.85);
    expect((high - low) / (2 * half)).toBeLessThan(1.15);
    expect(low).toBeLessThan(value);
    expect(high).toBeGreaterThan(value);
  });

  test('is wider where neighbours are alike', () => {
    const random = new SeededRandom(6);
    let level = 0;
    const values = Float64Array.from({ length: 4096 }, (_, index) => {
      if (index % 64 === 0) level = random.next();
      return level;
    });
    const width = (block: number) => {
      const { low, high } = bootstrapMean(values, { block });
      return high - low;
    };
    expect(width(64)).toBeGreaterThan(4 * width(1));
  });

  test('is the same for the same seed, and a point for equal values', () => {
    const random = new SeededRandom(7);
    const values = Float64Array.from({ length: 300 }, () => random.next());
    expect(bootstrapMean(values, { seed: 3 })).toEqual(bootstrapMean(values, { seed: 3 }));
    expect(bootstrapMean(values, { seed: 3 })).not.toEqual(bootstrapMean(values, { seed: 4 }));
    expect(bootstrapMean(new Float64Array(100).fill(2))).toEqual({ value: 2, low: 2, high: 2 });
  });

  test('goes through a function', () => {
    expect(mapEstimate({ value: 0, low: -1, high: 1 }, Math.exp)).toEqual({
      value: 1,
      low: Math.exp(-1),
      high: Math.E,
    });
  });
});
