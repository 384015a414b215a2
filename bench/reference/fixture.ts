import { readFileSync } from 'node:fs';

/** A tensor of a fixture: row-major values in the given shape. */
export interface FixtureTensor {
  shape: number[];
  data: Float32Array | Int32Array;
}

/** Reads an `expected.safetensors` file (F32 and I32 tensors only) into memory. */
export function readFixture(path: string): Map<string, FixtureTensor> {
  const file = readFileSync(path);
  const headerLength = Number(file.readBigUInt64LE(0));
  const header = JSON.parse(file.toString('utf8', 8, 8 + headerLength)) as Record<
    string,
    { dtype: string; shape: number[]; data_offsets: [number, number] }
  >;
  const tensors = new Map<string, FixtureTensor>();
  for (const [name, { dtype, shape, data_offsets }] of Object.entries(header)) {
    if (name === '__metadata__') continue;
    const start = file.byteOffset + 8 + headerLength + data_offsets[0];
    // A copy, because the file's bytes need not be aligned for a typed array.
    const bytes = file.buffer.slice(start, start + data_offsets[1] - data_offsets[0]);
    if (dtype === 'F32') tensors.set(name, { shape, data: new Float32Array(bytes) });
    else if (dtype === 'I32') tensors.set(name, { shape, data: new Int32Array(bytes) });
    else throw new Error(`fixture tensor ${name} has dtype ${dtype}, expected F32 or I32`);
  }
  return tensors;
}
