import { describe, expect, test } from 'vitest';
import {
  AttentionCache,
  type AttentionCacheOptions,
  AttentionError,
  estimateCacheBytes,
  exactPlan,
  selectedPlan,
} from '../src/index.ts';

/** A small deterministic generator, so that failures repeat. */
function random(seed: number): () => number {
  let state = seed;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 31 - 1;
  };
}

function numbers(next: () => number, length: number): Float32Array {
  return Float32Array.from({ length }, next);
}

interface Shape {
  heads: number;
  kvHeads: number;
  headDim: number;
}

/** Causal attention of every token, written plainly. */
function plainAttention(
  shape: Shape,
  q: Float32Array,
  k: Float32Array,
  v: Float32Array,
  window = Infinity,
): Float32Array {
  const { heads, kvHeads, headDim } = shape;
  const tokens = k.length / (kvHeads * headDim);
  const out = new Float32Array(q.length);
  for (let token = 0; token < tokens; token++) {
    for (let head = 0; head < heads; head++) {
      const kv = Math.floor((head * kvHeads) / heads);
      const from = Math.max(0, token + 1 - window);
      const scores = Array.from({ length: token + 1 - from }, (_, i) => {
        let dot = 0;
        for (let d = 0; d < headDim; d++) {
          dot +=
            (q[(token * heads + head) * headDim + d] ?? 0) *
            (k[((from + i) * kvHeads + kv) * headDim + d] ?? 0);
        }
        return dot / Math.sqrt(headDim);
      });
      const top = Math.max(...scores);
      const weights = scores.map((score) => Math.exp(score - top));
      const sum = weights.reduce((a, b) => a + b);
      weights.forEach((weight, i) => {
        for (let d = 0; d < headDim; d++) {
          const at = (token * heads + head) * headDim + d;
          out[at] =
            (out[at] ?? 0) + (weight / sum) * (v[((from + i) * kvHeads + kv) * headDim + d] ?? 0);
        }
      });
    }
  }
  return out;
}

/** Runs the tokens through layer 0 in pieces of the given sizes. */
function run(
  cache: AttentionCache,
  shape: Shape,
  q: Float32Array,
  k: Float32Array,
  v: Float32Array,
  pieces: number[],
) {
  const out = new Float32Array(q.length);
  let start = 0;
  for (const n of pieces) {
    const row = shape.heads * shape.headDim;
    const kvRow = shape.kvHeads * shape.headDim;
    cache.attend(
      0,
      q.subarray(start * row),
      k.subarray(start * kvRow),
      v.subarray(start * kvRow),
      out.subarray(start * row),
      n,
    );
    start += n;
  }
  return out;
}

function largestDifference(a: Float32Array, b: Float32Array): number {
  return a.reduce((worst, x, i) => Math.max(worst, Math.abs(x - (b[i] ?? Number.NaN))), 0);
}

/** A selection keeps its target in the mean over a block of queries, so single rows may be further off. */
function meanDifference(a: Float32Array, b: Float32Array): number {
  return a.reduce((sum, x, i) => sum + Math.abs(x - (b[i] ?? Number.NaN)), 0) / a.length;
}

function single(shape: Shape, extra: Partial<AttentionCacheOptions> = {}): AttentionCache {
  return new AttentionCache({
    layers: 1,
    ...shape,
    storage: 'f32',
    plan: exactPlan(1),
    threads: 2,
    ...extra,
  });
}

describe('AttentionCache', () => {
  const shapes: Shape[] = [
    { heads: 4, kvHeads: 4, headDim: 16 },
    { heads: 9, kvHeads: 3, headDim: 64 },
    { heads: 4, kvHeads: 1, headDim: 80 },
  ];

  test.each(shapes)('equals plain attention however the tokens are split: %o', (shape) => {
    const next = random(1);
    const tokens = 150;
    const q = numbers(next, tokens * shape.heads * shape.headDim);
    const k = numbers(next, tokens * shape.kvHeads * shape.headDim);
    const v = numbers(next, tokens * shape.kvHeads * shape.headDim);
    for (const [window, pieces] of [
      [null, [150]],
      [null, [1, 63, 64, 1, 21]],
      [20, [50, 100]],
    ] as const) {
      const cache = single(shape, { slidingWindow: [window] });
      const out = run(cache, shape, q, k, v, [...pieces]);
      expect(
        largestDifference(out, plainAttention(shape, q, k, v, window ?? Infinity)),
      ).toBeLessThan(1e-4);
      expect(cache.length).toBe(tokens);
      expect(cache.report()).toMatchObject({ retainedMass: 1, tilesRead: 1 });
      cache.close();
    }
  });

  test('a mass target of 1 is exact although tokens settle, and reading less stays near', () => {
    const shape = { heads: 2, kvHeads: 1, headDim: 32 };
    const next = random(2);
    const tokens = 1200;
    // Few directions, so that mass is concentrated.
    const directions = Array.from({ length: 12 }, () => numbers(next, 32).map((x) => x * 2));
    const pick = (count: number, run: number) =>
      Float32Array.from({ length: tokens * count * 32 }, (_, i) => {
        const direction = directions[Math.floor(i / (32 * count * run)) % 12] as Float32Array;
        return (direction[i % 32] ?? 0) + 0.2 * next();
      });
    // Keys change their direction with every token; queries, as in a text, keep theirs for a while.
    const [q, k, v] = [pick(2, 60), pick(1, 1), numbers(next, tokens * 32)];
    const exact = plainAttention(shape, q, k, v);
    const pieces = [256, 256, 256, 256, 100, 50, ...Array.from({ length: 26 }, () => 1)];
    for (const [selected, kept, tolerance] of [
      [{ massTarget: 1 }, 1, 1e-4],
      [{ massTarget: 0.99 }, 0.99, 0.02],
      [{ massTarget: 0.01, minTileMass: 0.001 }, 0.97, 0.02],
    ] as const) {
      const plan = selectedPlan(1, { ...selected, recent: 64, batch: 128, exactLayers: 0 });
      const cache = single(shape, { plan });
      const out = run(cache, shape, q, k, v, pieces);
      expect(meanDifference(out, exact)).toBeLessThan(tolerance);
      if (kept === 1) {
        expect(largestDifference(out, exact)).toBeLessThan(tolerance);
      }
      const report = cache.report();
      expect(report.retainedMass).toBeGreaterThan(kept - 0.005);
      if (kept < 1) {
        expect(report.tilesRead).toBeLessThan(0.8);
      } else {
        expect(report.tilesRead).toBeCloseTo(1, 9);
      }
      // Going back and on again, past what had settled.
      cache.truncate(300);
      const again = new Float32Array(64);
      cache.attend(0, q.subarray(300 * 64), k.subarray(300 * 32), v.subarray(300 * 32), again, 1);
      expect(meanDifference(again, exact.subarray(300 * 64, 301 * 64))).toBeLessThan(4 * tolerance);
      cache.close();
    }
  });

  test('the last queries can read every key although the others select', () => {
    const shape = { heads: 2, kvHeads: 1, headDim: 32 };
    const next = random(5);
    const [q, k, v] = [numbers(next, 700 * 64), numbers(next, 700 * 32), numbers(next, 700 * 32)];
    const plan = selectedPlan(1, { massTarget: 0.3, recent: 16, batch: 64, exactLayers: 0 });
    const cache = single(shape, { plan });
    run(cache, shape, q, k, v, [300, 300]);
    const out = new Float32Array(100 * 64);
    cache.attend(0, q.subarray(600 * 64), k.subarray(600 * 32), v.subarray(600 * 32), out, 100, 40);
    const exact = plainAttention(shape, q, k, v).subarray(600 * 64);
    expect(largestDifference(out.subarray(60 * 64), exact.subarray(60 * 64))).toBeLessThan(1e-4);
    expect(largestDifference(out.subarray(0, 60 * 64), exact.subarray(0, 60 * 64))).toBeGreaterThan(
      1e-3,
    );
    cache.close();
  });

  test.each([
    ['exact', exactPlan(1), null],
    ['window', exactPlan(1), 30],
    ['selected', selectedPlan(1, { massTarget: 0.8, recent: 32, batch: 64 }), null],
  ] as const)('asking for log-sum-exps changes nothing else: %s', (_, plan, window) => {
    const shape = { heads: 4, kvHeads: 2, headDim: 32 };
    const next = random(9);
    // One without log-sum-exps, which takes the short way where it can, and one with.
    const [short, long] = [0, 1].map(() => single(shape, { plan, slidingWindow: [window] }));
    if (short === undefined || long === undefined) throw new Error('there are two');
    for (const piece of [5, 100, 1, 1, 90, 1, 64, 1, 1, -40, 1, -150, 1, 30, 200, 1]) {
      if (piece < 0) {
        short.truncate(short.length + piece);
        long.truncate(long.length + piece);
        continue;
      }
      const q = numbers(next, piece * shape.heads * shape.headDim);
      const k = numbers(next, piece * shape.kvHeads * shape.headDim);
      const v = numbers(next, piece * shape.kvHeads * shape.headDim);
      const [out, same] = [new Float32Array(q.length), new Float32Array(q.length)];
      const exact = piece === 90 ? 20 : piece === 64 ? 64 : 0;
      short.attend(0, q, k, v, out, piece, exact);
      const lse = new Float32Array(piece * shape.heads);
      long.attend(0, q, k, v, same, piece, exact, { lse });
      expect(out).toEqual(same);
      expect(short.length).toBe(long.length);
      expect(short.report()).toEqual(long.report());
    }
    short.close();
    long.close();
  });

  test('bf16 stays within its rounding', () => {
    const shape = { heads: 2, kvHeads: 2, headDim: 64 };
    const next = random(3);
    const [q, k, v] = [numbers(next, 8192), numbers(next, 8192), numbers(next, 8192)];
    const cache = single(shape, { storage: 'bf16' });
    const out = run(cache, shape, q, k, v, [64]);
    expect(largestDifference(out, plainAttention(shape, q, k, v))).toBeLessThan(0.02);
    cache.close();
  });

  test('i8 stays within its rounding, many tokens at once or one by one', () => {
    const shape = { heads: 4, kvHeads: 2, headDim: 64 };
    const next = random(3);
    const [q, k, v] = [numbers(next, 64 * 4 * 64), numbers(next, 8192), numbers(next, 8192)];
    for (const chunks of [[64], Array.from({ length: 64 }, () => 1)]) {
      const cache = single(shape, { storage: 'i8' });
      const out = run(cache, shape, q, k, v, chunks);
      expect(largestDifference(out, plainAttention(shape, q, k, v))).toBeLessThan(0.02);
      cache.close();
    }
  });

  test.each(['f32', 'bf16', 'i8'] as const)('the estimate covers what %s uses', (storage) => {
    const shape = { layers: 2, heads: 3, kvHeads: 3, headDim: 64, storage };
    const cache = new AttentionCache({ ...shape, plan: selectedPlan(2) });
    cache.reserve(5000);
    const estimate = estimateCacheBytes({ ...shape, tokens: 5000 });
    expect(cache.bytes).toBeLessThanOrEqual(estimate);
    expect(cache.bytes).toBeGreaterThan(estimate / 2);
    cache.close();
  });

  test('bad input is a typed error and changes nothing', () => {
    const shape = { heads: 2, kvHeads: 1, headDim: 16 };
    const cache = single(shape);
    const good = (n: number) => new Float32Array(n);
    const attempt =
      (layer: number, q: number, k: number, v: number, out: number, n: number) => () =>
        cache.attend(layer, good(q), good(k), good(v), good(out), n);
    expect(attempt(1, 32, 16, 16, 32, 1)).toThrow(expect.objectContaining({ code: 'ERR_LAYER' }));
    expect(attempt(0, 31, 16, 16, 32, 1)).toThrow(expect.objectContaining({ code: 'ERR_SHAPE' }));
    expect(attempt(0, 32, 15, 16, 32, 1)).toThrow('k has 15 numbers, 16 are needed');
    expect(attempt(0, 32, 16, 15, 32, 1)).toThrow(AttentionError);
    expect(attempt(0, 32, 16, 16, 31, 1)).toThrow(AttentionError);
    const bad = good(16).fill(Number.NaN);
    expect(() => cache.attend(0, good(32), bad, good(16), good(32), 1)).toThrow(
      expect.objectContaining({ code: 'ERR_NOT_FINITE' }),
    );
    expect(cache.length).toBe(0);
    cache.append(0, good(32), good(32), 2);
    for (const value of [-1, 0.5, Number.NaN, 2 ** 32, '1' as unknown as number]) {
      const refused = (name: string) =>
        expect.objectContaining({ code: 'ERR_SHAPE', details: { name, value } });
      expect(() => cache.truncate(value)).toThrow(refused('tokens'));
      expect(() => cache.reserve(value)).toThrow(refused('tokens'));
      expect(() => cache.append(0, good(16), good(16), value)).toThrow(refused('n'));
      expect(() => cache.attend(0, good(32), good(16), good(16), good(32), value)).toThrow(
        refused('n'),
      );
      expect(() => cache.attend(0, good(32), good(16), good(16), good(32), 1, value)).toThrow(
        refused('exactQueries'),
      );
      expect(() => single(shape, { threads: value })).toThrow(refused('threads'));
    }
    for (const [slidingWindow, actual] of [
      [[4, null], 2],
      [[], 0],
      ['4', 'string'],
    ] as const) {
      const options = { slidingWindow: slidingWindow as readonly (number | null)[] };
      expect(() => single(shape, options)).toThrow(
        expect.objectContaining({
          code: 'ERR_SHAPE',
          details: { name: 'slidingWindow', actual, expected: 1 },
        }),
      );
    }
    expect(cache.length).toBe(2);
    cache.close();
    expect(attempt(0, 32, 16, 16, 32, 1)).toThrow(expect.objectContaining({ code: 'ERR_CLOSED' }));
    expect(() => single({ heads: 3, kvHeads: 2, headDim: 16 })).toThrow('heads is 3');
    expect(() => single({ heads: 0, kvHeads: 2, headDim: 16 })).toThrow(AttentionError);
    expect(() => new AttentionCache({ layers: 2, ...shape, plan: exactPlan(1) })).toThrow(
      'the plan is for 1 layers, the model has 2',
    );
  });
});
