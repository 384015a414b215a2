import { writeFileSync } from 'node:fs';

/** Bytes of a safetensors file with this header, as object or as text, and data. */
export function safetensorsBytes(
  header: unknown,
  data: Uint8Array = new Uint8Array(0),
  headerLength?: bigint,
): Buffer {
  const text = Buffer.from(typeof header === 'string' ? header : JSON.stringify(header));
  const prefix = Buffer.alloc(8);
  prefix.writeBigUInt64LE(headerLength ?? BigInt(text.byteLength));
  return Buffer.concat([prefix, text, data]);
}

/** Writes such a file and returns its path. */
export function writeSafetensors(path: string, header: unknown, data?: Uint8Array): string {
  writeFileSync(path, safetensorsBytes(header, data));
  return path;
}
