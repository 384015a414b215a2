import { float16ToFloat32, widenBFloat16, widenFloat16 } from './half-floats.ts';

/** A ggml tensor type that can be widened to 32-bit floats. */
export interface GgmlType {
  /** Its name in ggml, for example `Q4_K`. */
  readonly name: string;
  /** Elements per block. */
  readonly blockElements: number;
  /** Bytes per block. */
  readonly blockBytes: number;
  /**
   * Widens whole blocks. `bytes` begins at a block, `out` holds a whole number of blocks. The results are those
   * of ggml to the bit: every product below is exact in a double, so that storing rounds once, as C does.
   */
  readonly widen: (bytes: Uint8Array, out: Float32Array) => void;
}

/** The f16 that starts at `at`. */
function half(bytes: Uint8Array, at: number): number {
  return float16ToFloat32((bytes[at] as number) | ((bytes[at + 1] as number) << 8));
}

/** Q4_0: 32 elements in 18 bytes: scale f16, 16 bytes of low and high halves, offset 8. */
function widenQ4_0(bytes: Uint8Array, out: Float32Array): void {
  for (let from = 0, to = 0; to < out.length; from += 18, to += 32) {
    const scale = half(bytes, from);
    for (let j = 0; j < 16; j++) {
      const pair = bytes[from + 2 + j] as number;
      out[to + j] = ((pair & 15) - 8) * scale;
      out[to + 16 + j] = ((pair >> 4) - 8) * scale;
    }
  }
}

/** Q4_1: 32 elements in 20 bytes: scale f16, minimum f16, 16 bytes. */
function widenQ4_1(bytes: Uint8Array, out: Float32Array): void {
  for (let from = 0, to = 0; to < out.length; from += 20, to += 32) {
    const scale = half(bytes, from);
    const minimum = half(bytes, from + 2);
    for (let j = 0; j < 16; j++) {
      const pair = bytes[from + 4 + j] as number;
      out[to + j] = (pair & 15) * scale + minimum;
      out[to + 16 + j] = (pair >> 4) * scale + minimum;
    }
  }
}

/** Q5_0: 32 elements in 22 bytes: scale f16, 32 fifth bits, 16 bytes, offset 16. */
function widenQ5_0(bytes: Uint8Array, out: Float32Array): void {
  for (let from = 0, to = 0; to < out.length; from += 22, to += 32) {
    const scale = half(bytes, from);
    for (let j = 0; j < 16; j++) {
      const pair = bytes[from + 6 + j] as number;
      const low = ((bytes[from + 2 + (j >> 3)] as number) >> (j & 7)) & 1;
      const high = ((bytes[from + 4 + (j >> 3)] as number) >> (j & 7)) & 1;
      out[to + j] = (((pair & 15) | (low << 4)) - 16) * scale;
      out[to + 16 + j] = (((pair >> 4) | (high << 4)) - 16) * scale;
    }
  }
}

/** Q5_1: 32 elements in 24 bytes: scale f16, minimum f16, 32 fifth bits, 16 bytes. */
function widenQ5_1(bytes: Uint8Array, out: Float32Array): void {
  for (let from = 0, to = 0; to < out.length; from += 24, to += 32) {
    const scale = half(bytes, from);
    const minimum = half(bytes, from + 2);
    for (let j = 0; j < 16; j++) {
      const pair = bytes[from + 8 + j] as number;
      const low = ((bytes[from + 4 + (j >> 3)] as number) >> (j & 7)) & 1;
      const high = ((bytes[from + 6 + (j >> 3)] as number) >> (j & 7)) & 1;
      out[to + j] = ((pair & 15) | (low << 4)) * scale + minimum;
      out[to + 16 + j] = ((pair >> 4) | (high << 4)) * scale + minimum;
    }
  }
}

/** Q8_0: 32 elements in 34 bytes: scale f16, 32 signed bytes. */
function widenQ8_0(bytes: Uint8Array, out: Float32Array): void {
  for (let from = 0, to = 0; to < out.length; from += 34, to += 32) {
    const scale = half(bytes, from);
    for (let j = 0; j < 32; j++)
      out[to + j] = (((bytes[from + 2 + j] as number) << 24) >> 24) * scale;
  }
}

/**
 * Scale and minimum of sub-block `index` (0 to 7) of Q4_K and Q5_K: six bits each in 12 bytes. The first four
 * stand in the low six bits of bytes 0-3 and 4-7; the others have their low four bits in bytes 8-11 and their
 * high two in the top of bytes 0-7.
 */
function scaleOf(bytes: Uint8Array, at: number, index: number): number {
  return index < 4
    ? (bytes[at + index] as number) & 63
    : ((bytes[at + index + 4] as number) & 15) | (((bytes[at + index - 4] as number) >> 6) << 4);
}
function minimumOf(bytes: Uint8Array, at: number, index: number): number {
  return index < 4
    ? (bytes[at + index + 4] as number) & 63
    : ((bytes[at + index + 4] as number) >> 4) | (((bytes[at + index] as number) >> 6) << 4);
}

/** Q4_K: 256 elements in 144 bytes: scale f16, minimum f16, 12 bytes of sub-scales, 128 bytes. */
function widenQ4_K(bytes: Uint8Array, out: Float32Array): void {
  for (let from = 0, to = 0; to < out.length; from += 144, to += 256) {
    const scale = half(bytes, from);
    const minimum = half(bytes, from + 2);
    for (let sub = 0; sub < 8; sub += 2) {
      const scale0 = scale * scaleOf(bytes, from + 4, sub);
      const minimum0 = minimum * minimumOf(bytes, from + 4, sub);
      const scale1 = scale * scaleOf(bytes, from + 4, sub + 1);
      const minimum1 = minimum * minimumOf(bytes, from + 4, sub + 1);
      const quants = from + 16 + sub * 16;
      const target = to + sub * 32;
      for (let j = 0; j < 32; j++) {
        const pair = bytes[quants + j] as number;
        out[target + j] = scale0 * (pair & 15) - minimum0;
        out[target + 32 + j] = scale1 * (pair >> 4) - minimum1;
      }
    }
  }
}

/** Q5_K: 256 elements in 176 bytes: as Q4_K with 32 bytes of fifth bits before the 128 bytes. */
function widenQ5_K(bytes: Uint8Array, out: Float32Array): void {
  for (let from = 0, to = 0; to < out.length; from += 176, to += 256) {
    const scale = half(bytes, from);
    const minimum = half(bytes, from + 2);
    for (let sub = 0; sub < 8; sub += 2) {
      const scale0 = scale * scaleOf(bytes, from + 4, sub);
      const minimum0 = minimum * minimumOf(bytes, from + 4, sub);
      const scale1 = scale * scaleOf(bytes, from + 4, sub + 1);
      const minimum1 = minimum * minimumOf(bytes, from + 4, sub + 1);
      const quants = from + 48 + sub * 16;
      const target = to + sub * 32;
      for (let j = 0; j < 32; j++) {
        const pair = bytes[quants + j] as number;
        const fifth = (bytes[from + 16 + j] as number) >> sub;
        out[target + j] = scale0 * ((pair & 15) | ((fifth & 1) << 4)) - minimum0;
        out[target + 32 + j] = scale1 * ((pair >> 4) | ((fifth & 2) << 3)) - minimum1;
      }
    }
  }
}

/** Q6_K: 256 elements in 210 bytes: 128 bytes of low halves, 64 of high quarters, 16 signed scales, scale f16. */
function widenQ6_K(bytes: Uint8Array, out: Float32Array): void {
  for (let from = 0, to = 0; to < out.length; from += 210, to += 256) {
    const scale = half(bytes, from + 208);
    for (let part = 0; part < 2; part++) {
      const low = from + part * 64;
      const high = from + 128 + part * 32;
      const scales = from + 192 + part * 8;
      const target = to + part * 128;
      for (let j = 0; j < 32; j++) {
        const low0 = bytes[low + j] as number;
        const low1 = bytes[low + 32 + j] as number;
        const bits = bytes[high + j] as number;
        const sub = scales + (j >> 4);
        const scale0 = scale * (((bytes[sub] as number) << 24) >> 24);
        const scale1 = scale * (((bytes[sub + 2] as number) << 24) >> 24);
        const scale2 = scale * (((bytes[sub + 4] as number) << 24) >> 24);
        const scale3 = scale * (((bytes[sub + 6] as number) << 24) >> 24);
        out[target + j] = scale0 * (((low0 & 15) | ((bits & 3) << 4)) - 32);
        out[target + 32 + j] = scale1 * (((low1 & 15) | (((bits >> 2) & 3) << 4)) - 32);
        out[target + 64 + j] = scale2 * (((low0 >> 4) | (((bits >> 4) & 3) << 4)) - 32);
        out[target + 96 + j] = scale3 * (((low1 >> 4) | ((bits >> 6) << 4)) - 32);
      }
    }
  }
}

/** The first `count` 16-bit words of `bytes`, copied when they do not start on an even address. */
function words(bytes: Uint8Array, count: number): Uint16Array {
  const source = bytes.byteOffset % 2 === 0 ? bytes : bytes.slice(0, count * 2);
  return new Uint16Array(source.buffer, source.byteOffset, count);
}

const TYPES: Readonly<Record<number, GgmlType>> = {
  0: {
    name: 'F32',
    blockElements: 1,
    blockBytes: 4,
    widen: (bytes, out) =>
      new Uint8Array(out.buffer, out.byteOffset, out.byteLength).set(
        bytes.subarray(0, out.byteLength),
      ),
  },
  1: {
    name: 'F16',
    blockElements: 1,
    blockBytes: 2,
    widen: (bytes, out) => widenFloat16(words(bytes, out.length), out),
  },
  2: { name: 'Q4_0', blockElements: 32, blockBytes: 18, widen: widenQ4_0 },
  3: { name: 'Q4_1', blockElements: 32, blockBytes: 20, widen: widenQ4_1 },
  6: { name: 'Q5_0', blockElements: 32, blockBytes: 22, widen: widenQ5_0 },
  7: { name: 'Q5_1', blockElements: 32, blockBytes: 24, widen: widenQ5_1 },
  8: { name: 'Q8_0', blockElements: 32, blockBytes: 34, widen: widenQ8_0 },
  12: { name: 'Q4_K', blockElements: 256, blockBytes: 144, widen: widenQ4_K },
  13: { name: 'Q5_K', blockElements: 256, blockBytes: 176, widen: widenQ5_K },
  14: { name: 'Q6_K', blockElements: 256, blockBytes: 210, widen: widenQ6_K },
  30: {
    name: 'BF16',
    blockElements: 1,
    blockBytes: 2,
    widen: (bytes, out) => widenBFloat16(words(bytes, out.length), out),
  },
};

/** Names of the types that can be imported. */
export const GGML_TYPE_NAMES: readonly string[] = Object.values(TYPES).map((type) => type.name);

/** The ggml type with this number in GGUF files, or undefined when it cannot be imported. */
export function ggmlType(id: number): GgmlType | undefined {
  return TYPES[id];
}
