import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { SamplingOptions } from '../src/sampler.ts';
import { argmax, resolveSampling, Sampler } from '../src/sampler.ts';

/** Distribution over tokens after penalty, temperature, top-k, top-p and min-p, as transformers defines them. */
function expectedDistribution(
  logits: Float32Array,
  options: SamplingOptions,
  seen: number[],
): Map<number, number> {
  const { temperature = 1, topK = 0, topP = 1, minP = 0, repetitionPenalty = 1 } = options;
  let scores = Array.from(logits);
  for (const token of new Set(seen)) {
    const logit = scores[token] as number;
    scores[token] = Math.fround(logit < 0 ? logit * repetitionPenalty : logit / repetitionPenalty);
  }
  scores = scores.map((score) => score / temperature);
  const softmax = (values: number[]): number[] => {
    const top = Math.max(...values);
    const powers = values.map((value) => Math.exp(value - top));
    const sum = powers.reduce((a, b) => a + b, 0);
    return powers.map((power) => power / sum);
  };
  if (topK > 0 && topK < scores.length) {
    const least = [...scores].sort((a, b) => b - a)[topK - 1] as number;
    scores = scores.map((score) => (score < least ? Number.NEGATIVE_INFINITY : score));
  }
  if (topP < 1) {
    const order = scores.map((_, token) => token);
    order.sort((a, b) => (scores[b] as number) - (scores[a] as number) || a - b);
    const probabilities = softmax(scores);
    let above = 0;
    order.forEach((token, rank) => {
      if (rank > 0 && above >= topP - 1e-12) scores[token] = Number.NEGATIVE_INFINITY;
      above += probabilities[token] as number;
    });
  }
  const before = softmax(scores);
  const least = minP * Math.max(...before);
  scores = scores.map((score, token) =>
    (before[token] as number) < least ? Number.NEGATIVE_INFINITY : score,
  );
  const result = new Map<number, number>();
  softmax(scores).forEach((probability, token) => {
    if (probability > 0) result.set(token, probability);
  });
  return result;
}

const logitsArbitrary = fc
  .array(fc.integer({ min: -60, max: 60 }), { minLength: 2, maxLength: 40 })
  // Quarter steps: ties occur, and sums are far from the borders of top-p.
  .map((values) => Float32Array.from(values, (value) => value / 4));

const optionsArbitrary = fc.record({
  temperature: fc.constantFrom(0.3, 0.7, 1, 2),
  topK: fc.constantFrom(0, 1, 2, 5, 1000),
  topP: fc.constantFrom(1, 0.97, 0.83, 0.51, 0),
  minP: fc.constantFrom(0, 0.033, 0.47, 1),
  repetitionPenalty: fc.constantFrom(1, 1.3, 0.8),
});

describe('sampling', () => {
  test('only ever picks tokens that transformers would keep', () => {
    fc.assert(
      fc.property(
        logitsArbitrary,
        optionsArbitrary,
        fc.array(fc.nat(39), { maxLength: 10 }),
        fc.nat(),
        (logits, options, seenAnywhere, seed) => {
          const seen = seenAnywhere.filter((token) => token < logits.length);
          const allowed = expectedDistribution(logits, options, seen);
          const sampler = new Sampler(logits.length, resolveSampling({ ...options, seed }));
          for (const token of seen) sampler.observe(token);
          for (let draw = 0; draw < 8; draw++) {
            expect([...allowed.keys()]).toContain(sampler.sample(logits.slice()));
          }
        },
      ),
      { numRuns: 500 },
    );
  });

  test.each([
    ['temperature', { temperature: 0.8 }],
    ['top-k', { temperature: 1, topK: 3 }],
    ['top-p', { temperature: 1, topP: 0.8 }],
    ['min-p', { temperature: 1.5, minP: 0.1 }],
    ['all of them', { temperature: 1.2, topK: 6, topP: 0.9, minP: 0.05, repetitionPenalty: 1.2 }],
  ])('draws by the distribution of transformers: %s', (_, options) => {
    const logits = Float32Array.from([1, 0.5, 2.5, -1, 2, 0, 1.5, -3]);
    const seen = [2, 3];
    const expected = expectedDistribution(logits, options, seen);
    const sampler = new Sampler(logits.length, resolveSampling({ ...options, seed: 5 }));
    for (const token of seen) sampler.observe(token);
    const draws = 40_000;
    const counts = new Array<number>(logits.length).fill(0);
    for (let draw = 0; draw < draws; draw++) {
      const token = sampler.sample(logits.slice());
      counts[token] = (counts[token] as number) + 1;
    }
    counts.forEach((count, token) => {
      const probability = expected.get(token) ?? 0;
      const deviation = Math.sqrt((probability * (1 - probability)) / draws);
      expect(Math.abs(count / draws - probability)).toBeLessThanOrEqual(5 * deviation);
    });
  });

  test('top-k keeps ties with the k-th, as transformers does', () => {
    const logits = Float32Array.from([0, 3, 3, 3, 1]);
    const sampler = new Sampler(5, resolveSampling({ temperature: 1, topK: 2, seed: 1 }));
    const drawn = new Set(Array.from({ length: 200 }, () => sampler.sample(logits.slice())));
    expect([...drawn].sort()).toEqual([1, 2, 3]);
  });

  test('the same seed gives the same tokens, another one others', () => {
    const logits = Float32Array.from({ length: 100 }, (_, token) => Math.sin(token));
    const draw = (seed: number) => {
      const sampler = new Sampler(100, resolveSampling({ temperature: 1, seed }));
      return Array.from({ length: 50 }, () => sampler.sample(logits.slice()));
    };
    expect(draw(7)).toEqual(draw(7));
    expect(draw(7)).not.toEqual(draw(8));
    expect(draw(7)).not.toEqual(draw(7 + 2 ** 32));
  });

  test('a seed means the same in every version', () => {
    const logits = Float32Array.from({ length: 1000 }, () => 0);
    const sampler = new Sampler(1000, resolveSampling({ temperature: 1, seed: 42 }));
    expect(Array.from({ length: 5 }, () => sampler.sample(logits))).toMatchInlineSnapshot(`
      [
        660,
        111,
        79,
        15,
        880,
      ]
    `);
  });
});

describe('greedy', () => {
  test('takes the largest logit, the first one of equals', () => {
    const sampler = new Sampler(4, resolveSampling({}));
    expect(sampler.sample(Float32Array.from([1, 5, 5, 2]))).toBe(1);
  });

  test('the repetition penalty can change it', () => {
    const sampler = new Sampler(3, resolveSampling({ repetitionPenalty: 2 }));
    sampler.observe(0);
    sampler.observe(0); // a token is penalised once, however often it occurs
    expect(sampler.sample(Float32Array.from([4, 2.5, 1]))).toBe(1);
    expect(sampler.sample(Float32Array.from([6, 2.5, 1]))).toBe(0);
    const negative = new Sampler(2, resolveSampling({ repetitionPenalty: 2 }));
    negative.observe(0);
    expect(negative.sample(Float32Array.from([-1, -1.5]))).toBe(1);
  });

  test('refuses logits that are not finite', () => {
    for (const bad of [Number.NaN, Number.POSITIVE_INFINITY]) {
      expect(() => argmax(Float32Array.from([0, bad, 1]))).toThrow(
        expect.objectContaining({ code: 'ERR_NON_FINITE_LOGITS' }),
      );
    }
  });
});

test.each([
  ['temperature', -1],
  ['temperature', Number.NaN],
  ['topK', 1.5],
  ['topP', 1.1],
  ['minP', -0.1],
  ['repetitionPenalty', 0],
  ['seed', -1],
  ['seed', 2 ** 60],
])('refuses %s = %d', (name, value) => {
  expect(() => resolveSampling({ [name]: value })).toThrow(
    expect.objectContaining({
      code: 'ERR_INVALID_ARGUMENT',
      message: expect.stringContaining(`${name} must be`),
    }),
  );
});
