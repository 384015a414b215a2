import { copyFileSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { modelFingerprint, openModel } from '@iceformer/model-loader';
import { expect, test } from 'vitest';
import { temporaryFolder } from './temporary-folder.ts';

const tiny = (name: string) =>
  fileURLToPath(new URL(`../../../bench/reference/fixtures/tiny/${name}`, import.meta.url));

async function fingerprint(folder: string): Promise<string> {
  const model = await openModel(folder);
  try {
    return await modelFingerprint(model);
  } finally {
    await model.close();
  }
}

test('a fingerprint depends on the weights and on nothing else', async () => {
  const own = await fingerprint(tiny('llama-bias'));
  expect(own).toMatch(/^[0-9a-f]{64}$/);
  expect(await fingerprint(tiny('llama-smollm2'))).not.toBe(own);

  const copy = temporaryFolder();
  copyFileSync(join(tiny('llama-bias'), 'config.json'), join(copy, 'config.json'));
  const weights = readFileSync(join(tiny('llama-bias'), 'model.safetensors'));
  writeFileSync(join(copy, 'model.safetensors'), weights);
  expect(await fingerprint(copy)).toBe(own);
  weights[weights.length - 1] = (weights.at(-1) as number) ^ 1;
  writeFileSync(join(copy, 'model.safetensors'), weights);
  expect(await fingerprint(copy)).not.toBe(own);
});
