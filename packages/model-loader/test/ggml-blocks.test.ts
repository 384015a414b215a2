import { describe, expect, test } from 'vitest';
import { GGML_TYPE_NAMES, ggmlType } from '../src/ggml-blocks.ts';
import {
  narrowToBFloat16,
  narrowToFloat16,
  widenBFloat16,
  widenFloat16,
} from '../src/half-floats.ts';
import { fixture } from './fixture.ts';

interface Blocks {
  type: string;
  id: number;
  bytes: string;
  values: string;
}

const CASES = fixture<Blocks[]>('ggml-blocks.json');

test('the fixture has every type that can be imported', () => {
  expect(['F32', ...CASES.map((blocks) => blocks.type)].sort()).toEqual(
    [...GGML_TYPE_NAMES].sort(),
  );
});

test.each(CASES)('$type is widened as ggml does, to the bit', ({ type, id, bytes, values }) => {
  const raw = new Uint8Array(Buffer.from(bytes, 'base64'));
  const expected = new Float32Array(new Uint8Array(Buffer.from(values, 'base64')).buffer);
  const kind = ggmlType(id);
  expect(kind?.name).toBe(type);
  const out = new Float32Array(expected.length);
  kind?.widen(raw, out);
  expect(Buffer.from(out.buffer).equals(Buffer.from(expected.buffer))).toBe(true);
  // Sources need not lie at even addresses.
  const shifted = new Uint8Array(raw.byteLength + 1);
  shifted.set(raw, 1);
  out.fill(0);
  kind?.widen(shifted.subarray(1), out);
  expect(Buffer.from(out.buffer).equals(Buffer.from(expected.buffer))).toBe(true);
  expect((expected.length / (kind?.blockElements ?? 0)) * (kind?.blockBytes ?? 0)).toBe(raw.length);
});

test('types that cannot be imported are unknown', () => {
  expect(ggmlType(10)).toBeUndefined();
  expect(ggmlType(-1)).toBeUndefined();
});

describe('half floats', () => {
  const all = Uint16Array.from({ length: 65536 }, (_, bits) => bits);

  test('F16 comes back from F32 as it was', () => {
    const wide = new Float32Array(65536);
    widenFloat16(all, wide);
    expect(wide[0x3c00]).toBe(1);
    expect(wide[0x0001]).toBe(2 ** -24);
    expect(wide[0x7bff]).toBe(65504);
    expect(wide[0xfc00]).toBe(Number.NEGATIVE_INFINITY);
    const back = new Uint16Array(65536);
    narrowToFloat16(wide, back);
    for (let bits = 0; bits < 65536; bits++) {
      const notANumber = (bits & 0x7fff) > 0x7c00;
      if (notANumber) expect((back[bits] as number) & 0x7fff).toBeGreaterThan(0x7c00);
      else if (back[bits] !== bits) expect(back[bits]).toBe(bits);
    }
  });

  test('BF16 comes back from F32 as it was', () => {
    const wide = new Float32Array(65536);
    widenBFloat16(all, wide);
    const back = new Uint16Array(65536);
    narrowToBFloat16(wide, back);
    for (let bits = 0; bits < 65536; bits++) {
      const notANumber = (bits & 0x7fff) > 0x7f80;
      if (notANumber) expect((back[bits] as number) & 0x7fff).toBeGreaterThan(0x7f80);
      else if (back[bits] !== bits) expect(back[bits]).toBe(bits);
    }
  });

  test('F32 is rounded to the nearest, ties to even', () => {
    const wide = new Float32Array(65536);
    const narrow = new Uint16Array(1);
    for (const [narrowing, widening] of [
      [narrowToFloat16, widenFloat16],
      [narrowToBFloat16, widenBFloat16],
    ] as const) {
      widening(all, wide);
      // Between two neighbours: a little to either side of the middle, and the middle.
      for (let bits = 0; bits < 0x7bff; bits += 7) {
        const low = wide[bits] as number;
        const high = wide[bits + 1] as number;
        const middle = (low + high) / 2;
        if (!Number.isFinite(high) || Math.fround(middle) !== middle) continue;
        const near = (high - low) / 16;
        const even = bits % 2 === 0 ? bits : bits + 1;
        for (const [value, expected] of [
          [middle - near, bits],
          [middle, even],
          [middle + near, bits + 1],
        ] as const) {
          narrowing(Float32Array.of(value), narrow);
          if (narrow[0] !== expected) expect([value, narrow[0]]).toEqual([value, expected]);
        }
      }
      narrowing(Float32Array.of(3.39e38), narrow);
      widening(narrow, wide.subarray(0, 1));
      expect(wide[0]).toBe(
        narrowing === narrowToFloat16 ? Number.POSITIVE_INFINITY : 3.3895313892515355e38,
      );
    }
  });
});
