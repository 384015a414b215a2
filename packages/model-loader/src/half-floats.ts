// Conversions between 32-bit floats and the two 16-bit formats of checkpoints. Typed arrays use the byte
// order of the machine; every platform Node supports on CPUs this package targets is little-endian, as the
// file formats are.

let float16Table: Float32Array | undefined;

/** All 65,536 values of F16 as 32-bit floats (256 KiB, made at first use). */
function float16Values(): Float32Array {
  if (float16Table !== undefined) return float16Table;
  const table = new Float32Array(65536);
  for (let bits = 0; bits < 65536; bits++) {
    const sign = bits & 0x8000 ? -1 : 1;
    const exponent = (bits >> 10) & 31;
    const fraction = bits & 1023;
    table[bits] =
      exponent === 0
        ? sign * fraction * 2 ** -24
        : exponent === 31
          ? fraction === 0
            ? sign * Number.POSITIVE_INFINITY
            : Number.NaN
          : sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
  }
  float16Table = table;
  return table;
}

/** The value of one F16 bit pattern. */
export function float16ToFloat32(bits: number): number {
  return float16Values()[bits & 0xffff] as number;
}

/** Widens F16 bit patterns into `out` (same length). Exact. */
export function widenFloat16(bits: Uint16Array, out: Float32Array): void {
  const values = float16Values();
  for (let i = 0; i < bits.length; i++) out[i] = values[bits[i] as number] as number;
}

/** Widens BF16 bit patterns into `out` (same length). Exact. */
export function widenBFloat16(bits: Uint16Array, out: Float32Array): void {
  const words = new Uint32Array(out.buffer, out.byteOffset, out.length);
  for (let i = 0; i < bits.length; i++) words[i] = (bits[i] as number) << 16;
}

/** Narrows floats to BF16, to the nearest with ties to even; NaN stays NaN. */
export function narrowToBFloat16(values: Float32Array, out: Uint16Array): void {
  const words = new Uint32Array(values.buffer, values.byteOffset, values.length);
  for (let i = 0; i < words.length; i++) {
    const word = words[i] as number;
    out[i] =
      (word & 0x7fffffff) > 0x7f800000
        ? (word >>> 16) | 0x40
        : (word + 0x7fff + ((word >>> 16) & 1)) >>> 16;
  }
}

/** Narrows floats to F16, to the nearest with ties to even; too large becomes infinity, NaN stays NaN. */
export function narrowToFloat16(values: Float32Array, out: Uint16Array): void {
  const words = new Uint32Array(values.buffer, values.byteOffset, values.length);
  for (let i = 0; i < words.length; i++) {
    const word = words[i] as number;
    const sign = (word >>> 16) & 0x8000;
    const magnitude = word & 0x7fffffff;
    let half: number;
    if (magnitude > 0x7f800000) half = 0x7e00;
    else if (magnitude >= 0x477ff000) half = 0x7c00;
    else if (magnitude >= 0x38800000) {
      // Normal: rebias the exponent, then round the 13 bits that fall away.
      half = (magnitude - 0x38000000 + 0xfff + ((magnitude >>> 13) & 1)) >>> 13;
    } else if (magnitude < 0x33000000) half = 0;
    else {
      // Subnormal: value / 2^-24 rounded to even.
      const exponent = magnitude >>> 23;
      const fraction = (magnitude & 0x7fffff) | 0x800000;
      const shift = 126 - exponent;
      const kept = fraction >>> shift;
      const lost = fraction & ((1 << shift) - 1);
      const middle = 1 << (shift - 1);
      half = kept + (lost > middle || (lost === middle && (kept & 1) === 1) ? 1 : 0);
    }
    out[i] = sign | half;
  }
}
