import { describe, expect, test } from 'vitest';
import { AttentionError, type AttentionInput, attention, type LayerPlan } from '../src/index.ts';
import {
  largestDifference,
  numbers,
  type PlainProblem,
  plainAttention,
  random,
} from './plain-attention.ts';

interface Case {
  input: AttentionInput;
  problems: PlainProblem[];
}

/** A problem of random shape, and the same as a formula for each sequence. */
function randomCase(seed: number): Case {
  const next = random(seed);
  const pick = <T>(...of: T[]): T => of[Math.floor(((next() + 1) / 2) * of.length)] as T;
  const kvHeads = pick(1, 2, 3);
  const heads = kvHeads * pick(1, 2, 3);
  const headDim = pick(32, 40, 64, 80, 128, 256);
  const valueDim = pick(headDim, headDim, 48);
  const batch = pick(1, 1, 2);
  const causal = pick(true, false);
  const nk = Math.ceil((next() + 1.05) * pick(8, 60, 180));
  const local = pick(false, false, true);
  const nq = causal ? Math.min(nk, pick(nk, 1, 17, nk)) : local ? nk : pick(1, 7, nk, 50);
  const window = local ? Math.ceil((next() + 1.01) * 20) : undefined;
  // Ordinary numbers, large scores, zeros, or the same key over and over.
  const kind = pick('plain', 'plain', 'extreme', 'zero', 'identical');
  const size = kind === 'zero' ? 0 : kind === 'extreme' ? 40 : 1;
  const q = numbers(next, batch * nq * heads * headDim, size);
  const k =
    kind === 'identical'
      ? new Float32Array(batch * nk * kvHeads * headDim).fill(0.25)
      : numbers(next, batch * nk * kvHeads * headDim, size);
  const v = numbers(next, batch * nk * kvHeads * valueDim);
  const masking = pick('none', 'lengths', 'mask');
  const lengths = Array.from({ length: batch }, () => Math.floor(((next() + 1) / 2) * nk));
  const mask = Uint8Array.from({ length: batch * nk }, () => (next() < 0.2 ? 1 : 0));
  const plan = pick<LayerPlan>(
    { strategy: 'exact' },
    { strategy: 'selected', massTarget: 1, sinks: 16, recent: 16, batch: 32 },
    { strategy: 'window', sinks: 0, recent: 1_000 },
    { strategy: 'top-k', k: 1_000, algorithm: pick('exact', 'dci', 'cluster'), recall: 1 },
  );
  const input: AttentionInput = {
    ...{ q, k, v, heads, kvHeads, headDim, valueDim, batch, causal, plan, threads: 2 },
    ...(window === undefined ? {} : { slidingWindow: window }),
    ...(masking === 'lengths' ? { keyLengths: lengths } : {}),
    ...(masking === 'mask' ? { keyMask: mask } : {}),
  };
  const problems = lengths.map((length, item): PlainProblem => {
    const part = (array: Float32Array) =>
      array.subarray((array.length / batch) * item, (array.length / batch) * (item + 1));
    const sees = (query: number, key: number) => {
      const own = nk - nq + query;
      if (masking === 'lengths' && key >= length) return false;
      if (masking === 'mask' && mask[item * nk + key] === 0) return false;
      if (causal && key > own) return false;
      return window === undefined || Math.abs(own - key) < window;
    };
    return { q: part(q), k: part(k), v: part(v), heads, kvHeads, headDim, valueDim, sees };
  });
  return { input, problems };
}

describe('attention', () => {
  test('equals the formula when nothing is left out, whatever shape, mask, window and strategy', () => {
    for (let seed = 1; seed <= 150; seed++) {
      const { input, problems } = randomCase(seed);
      const found = attention(input);
      const { q, k, v, keyMask, ...rest } = input;
      const what = `seed ${seed}: ${JSON.stringify({ ...rest, nq: q.length, nk: k.length })}`;
      problems.forEach((problem, item) => {
        const want = plainAttention(problem);
        const part = (array: Float32Array) =>
          array.subarray(
            (array.length / problems.length) * item,
            (array.length / problems.length) * (item + 1),
          );
        expect(largestDifference(part(found.output), want.output), what).toBeLessThan(2e-4);
        // Scores reach tens of thousands here, and f32 has seven digits.
        const size = want.lse.reduce(
          (most, x) => (x === -Infinity ? most : Math.max(most, Math.abs(x))),
          1,
        );
        expect(largestDifference(part(found.lse), want.lse) / size, what).toBeLessThan(2e-5);
      });
      if (found.retainedMass !== null) expect(found.retainedMass, what).toBeCloseTo(1, 6);
    }
  });

  test('masked keys never contribute, however large', () => {
    const next = random(7);
    const shape = { heads: 2, kvHeads: 1, headDim: 32 };
    const [q, k, v] = [numbers(next, 640), numbers(next, 320), numbers(next, 320)];
    const keyMask = Uint8Array.of(0, 0, 1, 1, 0, 1, 1, 1, 0, 0);
    const clean = attention({ q, k, v, ...shape, causal: true, keyMask });
    keyMask.forEach((kept, key) => {
      if (kept === 1) return;
      k.fill(1e8, key * 32, (key + 1) * 32);
      v.fill(-1e8, key * 32, (key + 1) * 32);
    });
    const dirty = attention({ q, k, v, ...shape, causal: true, keyMask });
    expect(dirty).toEqual(clean);
    // The first two positions see nothing.
    expect([...clean.output.subarray(0, 128)].every((x) => x === 0)).toBe(true);
    expect([...clean.lse.subarray(0, 4)]).toEqual([-Infinity, -Infinity, -Infinity, -Infinity]);
    expect(clean.lse.subarray(4).every(Number.isFinite)).toBe(true);
  });

  test('nothing to see: zeros and minus infinity', () => {
    const nothing = attention({
      q: new Float32Array(64).fill(1),
      k: new Float32Array(0),
      v: new Float32Array(0),
      heads: 2,
      headDim: 32,
    });
    expect(nothing.output).toEqual(new Float32Array(64));
    expect(nothing.lse).toEqual(new Float32Array(2).fill(-Infinity));
  });

  test('heads do what their entry says', () => {
    const next = random(3);
    const shape = { heads: 8, kvHeads: 4, headDim: 32, valueDim: 32 };
    const [q, k, v] = [numbers(next, 90 * 256), numbers(next, 90 * 128), numbers(next, 90 * 128)];
    const plan: LayerPlan = {
      strategy: 'exact',
      heads: [
        null,
        { strategy: 'window', sinks: 3, recent: 9 },
        { strategy: 'skip' },
        { strategy: 'top-k', k: 4, algorithm: 'exact', recall: 1 },
      ],
    };
    const found = attention({ q, k, v, ...shape, causal: true, plan });
    const problem = { q, k, v, ...shape };
    const causal = (i: number, j: number) => j <= i;
    const wanted = [
      plainAttention({ ...problem, sees: causal }),
      plainAttention({ ...problem, sees: (i, j) => j <= i && (j < 3 || j > i - 9) }),
      plainAttention({ ...problem, sees: () => false }),
      plainAttention({ ...problem, sees: causal, mostKeys: 4 }),
    ];
    const of = (array: ArrayLike<number>, width: number, kv: number) =>
      Array.from(array).filter((_, i) => (Math.floor(i / width) % 8) >> 1 === kv);
    wanted.forEach((want, kv) => {
      expect(largestDifference(of(found.output, 32, kv), of(want.output, 32, kv))).toBeLessThan(
        1e-4,
      );
      expect(largestDifference(of(found.lse, 1, kv), of(want.lse, 1, kv))).toBeLessThan(1e-4);
    });
    expect(found.retainedMass).toBe(1);
  });

  test('DCI finds the keys that matter', () => {
    const next = random(11);
    const n = 1500;
    const directions = Array.from({ length: 40 }, () => numbers(next, 64, 2));
    const along = (count: number, turn: number) =>
      Float32Array.from({ length: n * count * 64 }, (_, i) => {
        const direction = directions[(Math.floor(i / 64) * turn) % 40] as Float32Array;
        return (direction[i % 64] ?? 0) + 0.4 * next();
      });
    const [q, k, v] = [along(2, 3), along(1, 7), numbers(next, n * 64)];
    const shape = { heads: 2, kvHeads: 1, headDim: 64 };
    const dense = attention({ q, k, v, ...shape, causal: true });
    const error = (plan: LayerPlan) => {
      const { output } = attention({ q, k, v, ...shape, causal: true, plan });
      return (
        output.reduce((sum, x, i) => sum + Math.abs(x - (dense.output[i] ?? 0)), 0) / output.length
      );
    };
    const best = error({ strategy: 'top-k', k: 48, algorithm: 'exact', recall: 1 });
    const dci = error({ strategy: 'top-k', k: 48, algorithm: 'dci', effort: 0.2 });
    const few = error({ strategy: 'top-k', k: 4, algorithm: 'dci', effort: 0.2 });
    expect(dci).toBeLessThan(best + 0.02);
    expect(few).toBeGreaterThan(dci);
  });

  test('bad input is a typed error with the numbers', () => {
    const good: AttentionInput = {
      q: new Float32Array(64),
      k: new Float32Array(64),
      v: new Float32Array(64),
      heads: 1,
      headDim: 32,
    };
    const selected = { strategy: 'selected', massTarget: 0.9, sinks: 16, recent: 0, batch: 16 };
    for (const [change, code, details] of [
      [{ q: new Float32Array(63) }, 'ERR_SHAPE', { name: 'q', actual: 63, row: 32 }],
      [{ v: new Float32Array(32) }, 'ERR_SHAPE', { name: 'v', actual: 32, expected: 64 }],
      [{ k: [1, 2] }, 'ERR_SHAPE', { name: 'k' }],
      [{ heads: 3, kvHeads: 2 }, 'ERR_SHAPE', { heads: 3, kvHeads: 2 }],
      [{ headDim: 0 }, 'ERR_SHAPE', { name: 'headDim', value: 0 }],
      [{ batch: 0 }, 'ERR_SHAPE', { name: 'batch', value: 0 }],
      [{ threads: 0 }, 'ERR_SHAPE', { name: 'threads', value: 0 }],
      [{ storage: 'f16' }, 'ERR_SHAPE', { name: 'storage', value: 'f16' }],
      [{ exactQueries: -1 }, 'ERR_SHAPE', { name: 'exactQueries', value: -1 }],
      [{ exactQueries: 0.5 }, 'ERR_SHAPE', { name: 'exactQueries', value: 0.5 }],
      [
        { causal: true, k: new Float32Array(32), v: new Float32Array(32) },
        'ERR_SHAPE',
        { queries: 2, keys: 1 },
      ],
      [{ slidingWindow: 2, q: new Float32Array(32) }, 'ERR_SHAPE', { queries: 1, keys: 2 }],
      [{ slidingWindow: 0 }, 'ERR_SHAPE', { value: 0 }],
      [{ keyLengths: [3] }, 'ERR_SHAPE', { value: 3 }],
      [{ keyLengths: [1, 1] }, 'ERR_SHAPE', { value: 2 }],
      [{ keyMask: new Uint8Array(3) }, 'ERR_SHAPE', { name: 'keyMask', value: 3 }],
      [{ scale: Number.NaN }, 'ERR_SHAPE', { name: 'scale' }],
      [{ plan: { strategy: 'magic' } }, 'ERR_PLAN_STRATEGY', { layer: 0, strategy: 'magic' }],
      [{ plan: { ...selected, massTarget: 0 } }, 'ERR_PLAN', { name: 'massTarget', value: 0 }],
      [{ plan: { ...selected, massTarget: 1.5 } }, 'ERR_PLAN', { name: 'massTarget', value: 1.5 }],
      [{ plan: { ...selected, massTarget: Number.NaN } }, 'ERR_PLAN', { name: 'massTarget' }],
      [
        { plan: { strategy: 'exact', heads: [{ ...selected, massTarget: -1 }] } },
        'ERR_PLAN',
        { layer: 0, head: 0, name: 'massTarget', value: -1 },
      ],
      [
        { plan: { strategy: 'exact', heads: [null, null] } },
        'ERR_PLAN_HEADS',
        { plan: 2, model: 1 },
      ],
      [{ q: new Float32Array(64).fill(Number.NaN) }, 'ERR_NOT_FINITE', { row: 0, position: 0 }],
      [{ k: new Float32Array(64).fill(Infinity) }, 'ERR_NOT_FINITE', { what: 'key' }],
      [
        { v: new Float32Array(64).fill(-Infinity, 33) },
        'ERR_NOT_FINITE',
        { what: 'value', row: 1, position: 1, value: '-inf' },
      ],
      [{ v: new Float32Array(64).fill(3e38) }, 'ERR_TOO_LARGE', { what: 'value' }],
      [{ k: new Float32Array(64).fill(1e9) }, 'ERR_TOO_LARGE', { what: 'key', max: 1e9 }],
    ] as const) {
      const call = () => attention({ ...good, ...(change as Partial<AttentionInput>) });
      expect(call, JSON.stringify(change)).toThrow(
        expect.objectContaining({ code, details: expect.objectContaining(details) }),
      );
    }
    expect(() => attention({ ...good, heads: 3, kvHeads: 2 })).toThrow(AttentionError);
  });
});
