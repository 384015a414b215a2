import { expect, test } from 'vitest';
import {
  AttentionCache,
  estimateCacheBytes,
  type LayerPlan,
  type SelectedStrategy,
} from '../src/index.ts';
import { largestDifference, numbers, plainAttention, random } from './plain-attention.ts';

const shape = { heads: 4, kvHeads: 2, headDim: 32, valueDim: 48 };
const rows = { q: 4 * 32, k: 2 * 32, v: 2 * 48, out: 4 * 48, lse: 4 };

interface Tokens {
  n: number;
  q: Float32Array;
  k: Float32Array;
  v: Float32Array;
  mask: Uint8Array | undefined;
}

/** Keys along a few directions, queries that keep theirs for a while: attention that is concentrated. */
function tokens(seed: number, n: number, masked: boolean): Tokens {
  const next = random(seed);
  const directions = Array.from({ length: 10 }, () => numbers(next, 32, 2));
  const along = (count: number, length: number) =>
    Float32Array.from({ length: n * count * 32 }, (_, i) => {
      const direction = directions[Math.floor(i / (32 * count * length)) % 10] as Float32Array;
      return (direction[i % 32] ?? 0) + 0.2 * next();
    });
  return {
    n,
    q: along(4, 40),
    k: along(2, 1),
    v: numbers(next, n * rows.v),
    mask: masked ? Uint8Array.from({ length: n }, () => (next() < 0.4 ? 1 : 0)) : undefined,
  };
}

/** Runs all tokens through layer 0 in pieces of random size. */
function stream(
  cache: AttentionCache,
  { n, q, k, v, mask }: Tokens,
  next: () => number,
  mostAtOnce: number,
) {
  const output = new Float32Array(n * rows.out);
  const lse = new Float32Array(n * rows.lse);
  for (let start = 0; start < n; ) {
    const size = Math.min(n - start, 1 + Math.floor(((next() + 1) / 2) * mostAtOnce));
    const of = (array: Float32Array, row: number) => array.subarray(start * row);
    cache.attend(0, of(q, rows.q), of(k, rows.k), of(v, rows.v), of(output, rows.out), size, 0, {
      lse: of(lse, rows.lse),
      ...(mask === undefined ? {} : { keyMask: mask.subarray(start) }),
    });
    start += size;
  }
  return { output, lse };
}

function cacheFor(plan: LayerPlan, window: number | null = null): AttentionCache {
  const layers = { layers: 1, plan: { version: 1 as const, layers: [plan] } };
  return new AttentionCache({
    ...shape,
    ...layers,
    storage: 'f32',
    threads: 2,
    slidingWindow: [window],
  });
}

const selected = (massTarget: number): SelectedStrategy => ({
  strategy: 'selected',
  massTarget,
  sinks: 16,
  recent: 32,
  batch: 64,
});

test('any split of the same tokens gives the same result when nothing is left out', () => {
  const plans: LayerPlan[] = [
    selected(1),
    { strategy: 'exact', heads: [selected(1), { strategy: 'window', sinks: 4, recent: 5_000 }] },
    { strategy: 'top-k', k: 5_000, algorithm: 'dci', recall: 1 },
  ];
  for (const [seed, masked, window] of [
    [1, false, null],
    [2, true, null],
    [3, true, 50],
    [4, false, 50],
  ] as const) {
    const given = tokens(seed, 420, masked);
    const seen = given.mask ?? new Uint8Array(420).fill(1);
    const sees = (i: number, j: number) =>
      j <= i && seen[j] === 1 && (window === null || i - j < window);
    const want = plainAttention({ ...given, ...shape, sees });
    for (const plan of plans) {
      for (const mostAtOnce of [1, 30, 300]) {
        const cache = cacheFor(plan, window);
        const found = stream(cache, given, random(seed * 31 + mostAtOnce), mostAtOnce);
        const what = `${plan.strategy}, seed ${seed}, at most ${mostAtOnce} at once`;
        expect(largestDifference(found.output, want.output), what).toBeLessThan(1e-4);
        expect(largestDifference(found.lse, want.lse), what).toBeLessThan(1e-4);
        expect(cache.length).toBe(420);
        expect(cache.report().retainedMass).toBeCloseTo(1, 6);
        // Going back, past what had settled, and on again.
        cache.truncate(200);
        expect(cache.length).toBe(200);
        const again = new Float32Array(rows.out);
        const of = (array: Float32Array, row: number) => array.subarray(200 * row);
        const mask = given.mask === undefined ? {} : { keyMask: given.mask.subarray(200) };
        cache.attend(
          0,
          of(given.q, rows.q),
          of(given.k, rows.k),
          of(given.v, rows.v),
          again,
          1,
          0,
          mask,
        );
        const row = want.output.subarray(200 * rows.out, 201 * rows.out);
        expect(largestDifference(again, row), what).toBeLessThan(1e-4);
        cache.close();
      }
    }
  }
});

test('below a target of 1 every split keeps the target, and reads less', () => {
  const given = tokens(9, 2_000, false);
  const want = plainAttention({ ...given, ...shape, sees: (i, j) => j <= i });
  for (const massTarget of [0.8, 0.95]) {
    for (const mostAtOnce of [1, 100, 700]) {
      const cache = cacheFor(selected(massTarget));
      const found = stream(cache, given, random(mostAtOnce), mostAtOnce);
      const { retainedMass, tilesRead, layers } = cache.report();
      const what = `target ${massTarget}, at most ${mostAtOnce} at once: ${retainedMass}, ${tilesRead}`;
      expect(retainedMass, what).toBeGreaterThan(massTarget - 0.01);
      expect(tilesRead, what).toBeLessThan(0.9);
      expect(layers[0]?.heads.map((head) => head.strategy)).toEqual(['selected', 'selected']);
      const error =
        found.output.reduce((sum, x, i) => sum + Math.abs(x - (want.output[i] ?? 0)), 0) /
        found.output.length;
      // Values are between -1 and 1: the share that may be left out bounds what its stand-ins can get wrong.
      expect(error, what).toBeLessThan(1 - massTarget);
      cache.close();
    }
  }
});

/** Tokens from number `from` on, before `to`, of tokens without a mask. */
const pieceOf = ({ q, k, v }: Tokens, from: number, to: number): Tokens => ({
  n: to - from,
  q: q.subarray(from * rows.q, to * rows.q),
  k: k.subarray(from * rows.k, to * rows.k),
  v: v.subarray(from * rows.v, to * rows.v),
  mask: undefined,
});

test('short inputs are read whole, single tokens for longer', () => {
  const given = tokens(6, 1_400, false);
  const part = (from: number, to: number) => pieceOf(given, from, to);
  const plan = { ...selected(0.8), exactUntil: 200 };
  const cache = cacheFor(plan);
  const exact = cacheFor({ strategy: 'exact' });
  const shortly = part(0, 199);
  expect(stream(cache, shortly, random(2), 90)).toEqual(stream(exact, shortly, random(2), 90));
  expect(cache.report().tilesRead).toBe(1);
  // Pieces of several tokens select from there on.
  cache.resetReport();
  stream(cache, part(199, 1_000), random(3), 90);
  expect(cache.report().tilesRead).toBeLessThan(0.9);
  // Single ones read every key up to six times as many, which have settled.
  cache.resetReport();
  stream(cache, part(1_000, 1_199), random(4), 1);
  expect(cache.report().tilesRead).toBe(1);
  cache.resetReport();
  stream(cache, part(1_200, 1_400), random(5), 1);
  expect(cache.report().tilesRead).toBeLessThan(0.9);
  cache.close();
  exact.close();
});

test('single tokens that read every key settle none', () => {
  const given = tokens(7, 1_300, false);
  const cache = cacheFor({ ...selected(0.8), exactUntil: 200 });
  const out = new Float32Array(1_000 * rows.out);
  const append = (from: number, n: number) => {
    const { q, k, v } = pieceOf(given, from, from + n);
    cache.attend(0, q, k, v, out, n);
  };
  for (let from = 0; from < 1_000; from += 100) append(from, 100);
  let settling = 0;
  for (let from = 1_000; from < 1_300; from++) {
    if (cache.entries(1) === undefined) {
      settling++;
      expect(from).toBeGreaterThanOrEqual(1_200);
    }
    append(from, 1);
  }
  // From there on what was put off settles.
  expect(settling).toBeGreaterThan(0);
  cache.close();
});

test('the end of a prompt of which few queries would select reads every key up to twice as many', () => {
  const given = tokens(8, 800, false);
  const cache = cacheFor({ ...selected(0.8), exactUntil: 200 });
  const exact = cacheFor({ strategy: 'exact' });
  const append = (from: number, n: number, exactQueries: number) => {
    const { q, k, v } = pieceOf(given, from, from + n);
    const answers = [cache, exact].map((each) => {
      const out = new Float32Array(n * rows.out);
      each.attend(0, q, k, v, out, n, exactQueries);
      return out;
    });
    const tilesRead = cache.report().tilesRead;
    cache.resetReport();
    return { tilesRead, answers };
  };
  // As many as are read whole, the last ones anyway.
  append(0, 100, 0);
  const whole = append(100, 100, 40);
  expect(whole.tilesRead).toBe(1);
  expect(whole.answers[0]).toEqual(whole.answers[1]);
  append(200, 100, 0);
  expect(append(300, 100, 40).tilesRead).toBe(1);
  expect(append(400, 100, 40).tilesRead).toBeLessThan(1);
  // Of these all read every key.
  expect(append(500, 100, 100).tilesRead).toBe(1);
  // So many select that it pays.
  expect(append(600, 200, 40).tilesRead).toBeLessThan(1);
  cache.close();
  exact.close();
});

/** Numbers that attention gets wrong first, for any number of query heads per key head. */
function oddTokens(
  kind: 'identical' | 'zero' | 'extreme',
  { heads, kvHeads, headDim, valueDim }: typeof shape,
  n: number,
): Tokens {
  const next = random(heads * 100 + kvHeads);
  const scale = { identical: 1, zero: 0, extreme: 30 }[kind];
  const key = numbers(next, kvHeads * headDim, scale);
  return {
    n,
    q: numbers(next, n * heads * headDim, scale),
    k:
      kind === 'extreme'
        ? numbers(next, n * key.length, scale)
        : Float32Array.from({ length: n * key.length }, (_, i) => key[i % key.length] as number),
    v: numbers(next, n * kvHeads * valueDim),
    mask: undefined,
  };
}

test.each([
  [1, 1],
  [4, 1],
  [6, 2],
  [3, 3],
])(
  '%d query heads on %d key heads, any split: identical keys, zeros, extreme scores',
  (heads, kvHeads) => {
    const given = { heads, kvHeads, headDim: 32, valueDim: 32 };
    const n = 700;
    for (const kind of ['identical', 'zero', 'extreme'] as const) {
      const { q, k, v } = oddTokens(kind, given, n);
      const want = plainAttention({ q, k, v, ...given, sees: (i, j) => j <= i });
      for (const massTarget of [1, 0.9, 0.3]) {
        for (const mostAtOnce of [1, 40, 700]) {
          const plan = { version: 1 as const, layers: [selected(massTarget)] };
          const cache = new AttentionCache({
            ...given,
            layers: 1,
            plan,
            storage: 'f32',
            threads: 2,
          });
          const output = new Float32Array(want.output.length);
          const lse = new Float32Array(want.lse.length);
          const next = random(mostAtOnce);
          for (let start = 0; start < n; ) {
            const size = Math.min(n - start, 1 + Math.floor(((next() + 1) / 2) * mostAtOnce));
            const of = (array: Float32Array) => array.subarray((array.length / n) * start);
            cache.attend(0, of(q), of(k), of(v), of(output), size, 0, { lse: of(lse) });
            start += size;
          }
          const { tilesRead, retainedMass } = cache.report();
          cache.close();
          const what = `${kind}, target ${massTarget}, at most ${mostAtOnce} at once: ${tilesRead} read, ${retainedMass} kept`;
          expect(output.every(Number.isFinite) && lse.every(Number.isFinite), what).toBe(true);
          // Keys that are all the same are their mean, so what stands in for them is no less than they are. But it is
          // scored in bytes: numbers of queries and means are off by up to a 254th of the largest, a score of 32 of them
          // by 0.002 (one standard deviation).
          if (massTarget === 1 || kind !== 'extreme') {
            const exact = massTarget === 1 || kind === 'zero';
            expect(largestDifference(output, want.output), what).toBeLessThan(exact ? 2e-4 : 5e-3);
            const size = want.lse.reduce((most, x) => Math.max(most, Math.abs(x)), 1);
            const rounding = exact ? 2e-5 * size : 0.01;
            expect(largestDifference(lse, want.lse), what).toBeLessThan(rounding);
          }
          // Single queries need not select where all that was said of the keys is that they are alike.
          if (massTarget < 1 && mostAtOnce > 1) expect(tilesRead, what).toBeLessThan(0.95);
          expect(retainedMass, what).toBeGreaterThan(massTarget - 0.01);
          // Every output is a mean of values, and these are from -1 to 1.
          expect(
            output.every((x) => Math.abs(x) <= 1 + 1e-5),
            what,
          ).toBe(true);
        }
      }
    }
  },
);

test('limits of tiles bound what is read', () => {
  const given = tokens(5, 1_000, false);
  const cache = cacheFor({ ...selected(1), maxTiles: 3 } as LayerPlan);
  stream(cache, given, random(1), 100);
  const { tilesRead, retainedMass } = cache.report();
  expect(tilesRead).toBeLessThan(0.6);
  expect(retainedMass).toBeLessThan(1);
  cache.close();
});

test('a skipped layer stores nothing and answers zero; layers and heads report for themselves', () => {
  const given = tokens(6, 100, false);
  const plan = {
    version: 1 as const,
    layers: [
      { strategy: 'exact', heads: [null, { strategy: 'window', sinks: 0, recent: 10 }] },
      { strategy: 'skip' },
    ] satisfies LayerPlan[],
  };
  const cache = new AttentionCache({ ...shape, layers: 2, plan, storage: 'f32' });
  const estimate = { ...shape, layers: 2, storage: 'f32' as const, tokens: given.n };
  expect(estimateCacheBytes({ ...estimate, plan })).toBe(estimateCacheBytes(estimate) / 2);
  expect(() => estimateCacheBytes({ ...estimate, layers: 3, plan })).toThrow(
    expect.objectContaining({ code: 'ERR_PLAN_LAYERS' }),
  );
  const out = new Float32Array(given.n * rows.out).fill(7);
  cache.attend(0, given.q, given.k, given.v, out, given.n);
  const { bytes } = cache;
  cache.attend(1, given.q, given.k, given.v, out, given.n);
  expect(out.every((x) => x === 0)).toBe(true);
  expect(cache.bytes).toBe(bytes);
  expect(cache.length).toBe(100);
  const { layers } = cache.report();
  expect(layers[0]).toMatchObject({ strategy: 'exact', retainedMass: 1 });
  expect(layers[0]?.heads).toMatchObject([
    { strategy: 'exact', retainedMass: 1, tilesRead: 1 },
    { strategy: 'window', retainedMass: null },
  ]);
  expect(layers[1]).toMatchObject({ strategy: 'skip', retainedMass: null, tilesRead: 0 });
  cache.truncate(40);
  expect(cache.length).toBe(40);
  cache.close();
});

test('a layer that skips is told of tokens without their keys; all that follows is as if it had got them', () => {
  const given = tokens(6, 100, false);
  const plan = {
    version: 1 as const,
    layers: [
      { strategy: 'exact', heads: [{ strategy: 'skip' }, null] },
      { strategy: 'skip' },
    ] satisfies LayerPlan[],
  };
  const caches = [0, 1].map(
    () => new AttentionCache({ ...shape, layers: 2, plan, storage: 'f32', threads: 1 }),
  );
  const [told, given2] = caches as [AttentionCache, AttentionCache];
  let at = 0;
  const take = (n: number): void => {
    const of = (array: Float32Array, row: number) => array.subarray(at * row, (at + n) * row);
    for (const cache of caches) {
      const out = new Float32Array(n * rows.out);
      const { q, k, v } = given;
      const parts = [of(q, rows.q), of(k, rows.k), of(v, rows.v), out] as const;
      // One head of the first layer attends, so it needs its keys.
      expect(cache.skip(0, n)).toBe(false);
      cache.attend(0, ...parts, n);
      if (cache === told) expect(cache.skip(1, n)).toBe(true);
      else cache.attend(1, ...parts, n);
    }
    at += n;
    expect(told.length).toBe(at);
    expect(told.report()).toEqual(given2.report());
  };
  take(60);
  take(1);
  take(9);
  for (const cache of caches) cache.truncate(33);
  at = 33;
  take(20);
  take(1);
  // Native decoders are told the same: no address, and nothing to report.
  for (const cache of caches) {
    const entries = [...(cache.entries(1) ?? [])];
    expect(entries.map((entry) => entry === 0n)).toEqual([false, true]);
    cache.entered(1, new Float64Array(2 * shape.kvHeads * 4));
    expect(cache.length).toBe(at + 1);
  }
  expect(told.report()).toEqual(given2.report());
  expect(told.report().layers[1]).toMatchObject({ retainedMass: null, tilesRead: 0 });
  expect(() => told.skip(2, 1)).toThrow(expect.objectContaining({ code: 'ERR_LAYER' }));
  for (const n of [0, -1, 1.5, Number.NaN]) {
    expect(() => told.skip(1, n)).toThrow(
      expect.objectContaining({ code: 'ERR_SHAPE', details: { name: 'n', value: n } }),
    );
  }
  expect(told.length).toBe(at + 1);
  for (const cache of caches) cache.close();
});

test('a layer reads what an earlier one selected, and steps what an earlier step selected', () => {
  const given = tokens(12, 1_500, false);
  // The second layer's keys stand in the same groups, in another space.
  const other = { ...tokens(13, 1_500, false), q: given.q };
  other.k = given.k.map((x, i) => (i % 2 === 0 ? -x : x));
  other.q = given.q.map((x, i) => (i % 2 === 0 ? -x : x));
  const sees = (i: number, j: number) => j <= i;
  const want = [given, other].map((layer) => plainAttention({ ...layer, ...shape, sees }).output);
  for (const massTarget of [1, 0.95]) {
    for (const [mostAtOnce, reuseSteps] of [
      [300, 1],
      [1, 8],
    ] as const) {
      const layers: LayerPlan[] = [
        { ...selected(massTarget), reuseSteps } as LayerPlan,
        { strategy: 'reuse', layer: 0 },
      ];
      const cache = new AttentionCache({
        ...{ ...shape, layers: 2, plan: { version: 1, layers }, storage: 'f32', threads: 2 },
      });
      const next = random(mostAtOnce);
      const outputs = [new Float32Array(1_500 * rows.out), new Float32Array(1_500 * rows.out)];
      for (let start = 0; start < 1_500; ) {
        const size = Math.min(1_500 - start, 1 + Math.floor(((next() + 1) / 2) * mostAtOnce));
        [given, other].forEach(({ q, k, v }, layer) => {
          const of = (array: Float32Array, row: number) => array.subarray(start * row);
          const out = of(outputs[layer] as Float32Array, rows.out);
          cache.attend(layer, of(q, rows.q), of(k, rows.k), of(v, rows.v), out, size);
        });
        start += size;
      }
      const report = cache.report();
      const what = `target ${massTarget}, at most ${mostAtOnce}: ${JSON.stringify(report.layers)}`;
      outputs.forEach((output, layer) => {
        const exact = want[layer] as Float64Array;
        if (massTarget === 1) {
          expect(largestDifference(output, exact), what).toBeLessThan(1e-4);
          return;
        }
        const error = output.reduce((sum, x, i) => sum + Math.abs(x - (exact[i] ?? 0)), 0);
        expect(error / output.length, what).toBeLessThan(0.05);
        expect(report.layers[layer]?.retainedMass, what).toBeGreaterThan(0.9);
        expect(report.layers[layer]?.tilesRead, what).toBeLessThan(0.9);
      });
      // The second layer read the tiles of the first.
      expect(report.layers[1]?.tilesRead).toBeCloseTo(report.layers[0]?.tilesRead ?? 0, 9);
      cache.truncate(700);
      const { q, k, v } = other;
      const of = (array: Float32Array, row: number) => array.subarray(700 * row);
      for (const layer of [0, 1]) {
        const again = new Float32Array(rows.out);
        cache.attend(layer, of(q, rows.q), of(k, rows.k), of(v, rows.v), again, 1, 1);
        if (layer === 0) continue;
        const row = (want[1] as Float64Array).subarray(700 * rows.out, 701 * rows.out);
        expect(largestDifference(again, row)).toBeLessThan(1e-4);
      }
      cache.close();
    }
  }
});

test('a call of many tokens settles on the way, as calls of 512 do', () => {
  const n = 1_700;
  const plans: LayerPlan[] = [
    { ...selected(0.8), exactUntil: 300 },
    {
      ...selected(1),
      minTileMass: 0.01,
      heads: [null, { strategy: 'window', sinks: 4, recent: 64 }],
    },
    { strategy: 'top-k', k: 20, algorithm: 'dci', recall: 1, heads: [null, selected(0.8)] },
  ];
  for (const [number, plan] of plans.entries()) {
    for (const masked of [false, true]) {
      const { q, k, v, mask } = tokens(70 + number, n, masked);
      const run = (before: number, atOnce: number, exactQueries: number, wantsSums: boolean) => {
        const cache = cacheFor(plan);
        const output = new Float32Array(n * rows.out);
        const lse = new Float32Array(n * rows.lse);
        for (let from = 0; from < n; ) {
          const size = from === 0 && before > 0 ? before : Math.min(n - from, atOnce);
          const exact = Math.min(size, Math.max(0, exactQueries - (n - from - size)));
          const of = (array: Float32Array, row: number) => array.subarray(from * row);
          const [queries, keys, values] = [of(q, rows.q), of(k, rows.k), of(v, rows.v)];
          cache.attend(0, queries, keys, values, of(output, rows.out), size, exact, {
            ...(wantsSums ? { lse: of(lse, rows.lse) } : {}),
            ...(mask === undefined ? {} : { keyMask: mask.subarray(from) }),
          });
          from += size;
        }
        const report = cache.report();
        cache.close();
        return { output, lse, report };
      };
      for (const [before, exactQueries] of [
        [0, 0],
        [0, 90],
        [340, 700],
      ] as const) {
        const what = `plan ${number}, masked ${masked}, ${before} before, ${exactQueries} exact`;
        const whole = run(before, n, exactQueries, true);
        const parts = run(before, 512, exactQueries, true);
        expect(largestDifference(whole.output, parts.output), what).toBe(0);
        expect(largestDifference(whole.lse, parts.lse), what).toBe(0);
        expect(whole.report, what).toEqual(parts.report);
        const { output } = run(before, n, exactQueries, false);
        expect(largestDifference(whole.output, output), what).toBe(0);
        if (exactQueries === 0) expect(whole.report.tilesRead, what).toBeLessThan(0.75);
      }
    }
  }
});

test('a call that fails on the way leaves cache and report as they were', () => {
  const given = tokens(9, 1_200, false);
  const cache = cacheFor(selected(0.8));
  const out = new Float32Array(1_200 * rows.out);
  const attend = (q: Float32Array, n: number, exactQueries = 0) =>
    cache.attend(0, q, given.k, given.v, out, n, exactQueries);
  attend(given.q, 100);
  const { layers } = cache.report();
  const q = given.q.map((x, i) => (i === 600 * rows.q + 40 ? Number.NaN : x));
  // In the second step; among the last queries, which read every key, of one step and of two.
  for (const [n, exactQueries] of [
    [1_200, 0],
    [700, 150],
    [1_200, 650],
  ] as const) {
    expect(() => attend(q, n, exactQueries)).toThrow(
      expect.objectContaining({
        code: 'ERR_NOT_FINITE',
        message: expect.stringMatching(/^query 2401 has NaN at position 8/),
        details: { what: 'query', row: 600 * shape.heads + 1, position: 8, value: 'NaN' },
      }),
    );
    expect(cache.length).toBe(100);
    expect(cache.report().layers).toEqual(layers);
  }
  cache.close();
});

test('what is wrong leaves the cache as it was', () => {
  const given = tokens(8, 20, false);
  const cache = cacheFor({ strategy: 'exact' });
  const out = new Float32Array(20 * rows.out);
  const q = given.q.map((x, i) => (i === 1_000 ? Number.NaN : x));
  const run = (of: Float32Array, mask?: Uint8Array) => () =>
    cache.attend(0, of, given.k, given.v, out, 20, 0, mask === undefined ? {} : { keyMask: mask });
  expect(run(q)).toThrow(
    expect.objectContaining({
      code: 'ERR_NOT_FINITE',
      details: { what: 'query', row: 31, position: 8, value: 'NaN' },
    }),
  );
  expect(cache.length).toBe(0);
  for (const [name, index, what] of [
    ['k', 64, 'key'],
    ['v', 5, 'value'],
  ] as const) {
    const damaged = { ...given, [name]: given[name].with(index, Number.POSITIVE_INFINITY) };
    const error = expect.objectContaining({
      code: 'ERR_NOT_FINITE',
      details: expect.objectContaining({ what, value: 'inf' }),
    });
    expect(() => cache.attend(0, given.q, damaged.k, damaged.v, out, 20)).toThrow(error);
    expect(() => cache.append(0, damaged.k, damaged.v, 20)).toThrow(error);
    expect(cache.length).toBe(0);
  }
  cache.append(0, given.k, given.v, 20);
  expect(() => cache.crossAttend(0, q, out, 20)).toThrow(
    expect.objectContaining({ code: 'ERR_NOT_FINITE' }),
  );
  cache.truncate(0);
  expect(run(given.q, new Uint8Array(19))).toThrow(expect.objectContaining({ code: 'ERR_SHAPE' }));
  expect(() => cache.crossAttend(1, given.q, out, 20)).toThrow(
    expect.objectContaining({ code: 'ERR_LAYER', details: { layer: 1, layers: 1 } }),
  );
  expect(() => cache.crossAttend(0, given.q, out, 0)).toThrow(
    expect.objectContaining({ code: 'ERR_SHAPE', details: { name: 'n', value: 0 } }),
  );
  expect(cache.length).toBe(0);
  run(given.q)();
  expect(cache.length).toBe(20);
  cache.close();
});
