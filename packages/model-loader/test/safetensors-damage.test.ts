import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { ModelLoaderError, openSafetensors } from '@iceformer/model-loader';
import { expect, test } from 'vitest';
import { safetensorsBytes } from './safetensors-file.ts';
import { temporaryFolder } from './temporary-folder.ts';

const HEADER = {
  __metadata__: { format: 'pt' },
  'a.weight': { dtype: 'F32', shape: [2, 3], data_offsets: [0, 24] },
  'b.bias': { dtype: 'BF16', shape: [4], data_offsets: [24, 32] },
  c: { dtype: 'I8', shape: [], data_offsets: [32, 33] },
};

/** Opens damaged bytes; a success must still be a file whose parts add up. */
async function outcome(path: string, bytes: Uint8Array): Promise<string> {
  writeFileSync(path, bytes);
  try {
    const { tensors, byteLength } = await openSafetensors(path);
    let total = 0;
    for (const tensor of tensors.values()) {
      expect(tensor.byteOffset + tensor.byteLength).toBeLessThanOrEqual(byteLength);
      expect((await tensor.read()).byteLength).toBe(tensor.byteLength);
      total += tensor.byteLength;
    }
    const headerLength = Number(new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(0, true));
    expect(8 + headerLength + total).toBe(byteLength);
    return 'ok';
  } catch (error) {
    if (!(error instanceof ModelLoaderError)) throw error;
    expect(error.message).not.toContain('\n');
    return error.code;
  }
}

const whole = safetensorsBytes(
  HEADER,
  Uint8Array.from({ length: 33 }, (_, i) => i),
);

test('every truncation is a typed error', async () => {
  const path = join(temporaryFolder(), 'cut.safetensors');
  expect(await outcome(path, whole)).toBe('ok');
  for (let length = 0; length < whole.byteLength; length++) {
    expect(await outcome(path, whole.subarray(0, length)), `${length} bytes`).toMatch(
      /^ERR_SAFETENSORS_/,
    );
  }
});

test('every flipped bit is a typed error or a file that adds up', async () => {
  const path = join(temporaryFolder(), 'flip.safetensors');
  const outcomes = new Map<string, number>();
  for (let at = 0; at < whole.byteLength; at++) {
    for (let bit = 0; bit < 8; bit++) {
      const damaged = Buffer.from(whole);
      damaged[at] = (damaged[at] as number) ^ (1 << bit);
      const code = await outcome(path, damaged);
      outcomes.set(code, (outcomes.get(code) ?? 0) + 1);
    }
  }
  // Data cannot be told from damaged data, and neither can names.
  expect(outcomes.get('ok')).toBeGreaterThanOrEqual(33 * 8);
  for (const code of [
    'ERR_SAFETENSORS_HEADER_TOO_LARGE',
    'ERR_SAFETENSORS_TRUNCATED',
    'ERR_SAFETENSORS_HEADER_INVALID',
    'ERR_SAFETENSORS_DTYPE',
    'ERR_SAFETENSORS_OFFSETS',
    'ERR_SAFETENSORS_SIZE_MISMATCH',
  ]) {
    expect(outcomes.get(code), code).toBeGreaterThan(0);
  }
});

test('bytes added in the header or the data are typed errors', async () => {
  const path = join(temporaryFolder(), 'longer.safetensors');
  for (let at = 0; at <= whole.byteLength; at++) {
    const longer = Buffer.concat([whole.subarray(0, at), Buffer.of(0x31), whole.subarray(at)]);
    expect(await outcome(path, longer), `at ${at}`).toMatch(/^ERR_SAFETENSORS_/);
  }
});
