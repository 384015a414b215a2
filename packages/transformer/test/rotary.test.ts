import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { readDecoderConfig } from '../src/families.ts';
import {
  checkRopeScaling,
  fillRotation,
  inverseFrequencies,
  rotationKey,
  scaledContext,
} from '../src/rotary.ts';

interface RotaryCase {
  name: string;
  config: Record<string, unknown>;
  length: number;
  inverseFrequencies: number[];
  attentionFactor: number;
  lastCos: number[];
  lastSin: number[];
}

/** Made by make_rotary.py with transformers. */
const cases = JSON.parse(
  readFileSync(new URL('./fixtures/rotary.json', import.meta.url), 'utf8'),
) as RotaryCase[];

describe('frequencies and tables agree with transformers', () => {
  test.each(cases.map((item) => [item.name, item] as const))('%s', (_, expected) => {
    const { rotary } = readDecoderConfig(expected.config);
    const frequencies = inverseFrequencies(rotary, expected.length);
    expect(frequencies.inverseFrequencies).toHaveLength(expected.inverseFrequencies.length);
    expected.inverseFrequencies.forEach((value, pair) => {
      // transformers computes in single precision.
      expect(Math.abs((frequencies.inverseFrequencies[pair] as number) / value - 1)).toBeLessThan(
        2e-6,
      );
    });
    expect(frequencies.attentionFactor).toBeCloseTo(expected.attentionFactor, 6);
    const pairs = expected.lastCos.length;
    const cos = new Float32Array(pairs);
    const sin = new Float32Array(pairs);
    fillRotation(frequencies, expected.length - 1, 1, cos, sin);
    // A frequency may be off by its last bit, and the angle grows with the position.
    const slack = 1e-6 + 2.5e-7 * expected.length;
    expected.lastCos.forEach((value, pair) => {
      expect(Math.abs((cos[pair] as number) - value)).toBeLessThan(slack);
      expect(Math.abs((sin[pair] as number) - (expected.lastSin[pair] as number))).toBeLessThan(
        slack,
      );
    });
  });
});

test('a table of many positions has the rows of tables of one', () => {
  const frequencies = inverseFrequencies({
    theta: 10_000,
    headDim: 8,
    maxPositions: 64,
    scaling: { type: 'default' },
  });
  const cos = new Float32Array(5 * 4);
  const sin = new Float32Array(5 * 4);
  fillRotation(frequencies, 7, 5, cos, sin);
  for (let row = 0; row < 5; row++) {
    const oneCos = new Float32Array(4);
    const oneSin = new Float32Array(4);
    fillRotation(frequencies, 7 + row, 1, oneCos, oneSin);
    expect(cos.subarray(row * 4, row * 4 + 4)).toEqual(oneCos);
    expect(sin.subarray(row * 4, row * 4 + 4)).toEqual(oneSin);
  }
});

test('only dynamic scaling beyond the trained length changes keys with the sequence length', () => {
  const base = { theta: 10_000, headDim: 8, maxPositions: 64 };
  const dynamic = { ...base, scaling: { type: 'dynamic', factor: 2 } as const };
  expect(rotationKey(dynamic, 10)).toBe(rotationKey(dynamic, 64));
  expect(rotationKey(dynamic, 65)).not.toBe(rotationKey(dynamic, 66));
  const linear = { ...base, scaling: { type: 'linear', factor: 2 } as const };
  expect(rotationKey(linear, 65)).toBe(rotationKey(linear, 1000));
});

test('the context a scaling is meant for', () => {
  const base = { theta: 10_000, headDim: 8, maxPositions: 4096 };
  expect(scaledContext({ ...base, scaling: { type: 'default' } })).toBe(4096);
  expect(scaledContext({ ...base, scaling: { type: 'linear', factor: 4 } })).toBe(16_384);
  expect(
    scaledContext({ ...base, scaling: { type: 'yarn', factor: 4, originalContext: 1024 } }),
  ).toBe(4096);
  expect(
    scaledContext({
      ...base,
      scaling: { type: 'llama3', factor: 8, lowFrequencyFactor: 1, highFrequencyFactor: 4 },
    }),
  ).toBe(4096);
});

test('a scaling that makes no sense is refused with its value', () => {
  const cases = [
    [{ type: 'linear', factor: 0.5 }, '0.5'],
    [{ type: 'yarn', factor: Number.NaN }, 'NaN'],
    [{ type: 'dynamic', factor: '2' }, 'factor'],
    [{ type: 'longrope', factor: 2 }, 'longrope'],
    [
      { type: 'llama3', factor: 8, lowFrequencyFactor: 4, highFrequencyFactor: 1 },
      'highFrequencyFactor',
    ],
  ] as const;
  for (const [scaling, mention] of cases) {
    expect(() => checkRopeScaling(scaling as never)).toThrow(
      expect.objectContaining({
        code: 'ERR_INVALID_ARGUMENT',
        message: expect.stringContaining(mention),
      }),
    );
  }
});
