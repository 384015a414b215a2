import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { openModel } from '@iceformer/model-loader';
import { describe, expect, test } from 'vitest';
import { readFixture } from '../../../bench/reference/fixture.ts';
import { Decoder } from '../src/decoder.ts';
import { readDecoderConfig } from '../src/families.ts';
import { describeDecoder, NativeDecoder } from '../src/native.ts';
import { PlainAttention } from './plain-attention.ts';

/*
 * The native layers and the decoder around them against PyTorch, with attention in plain
 * TypeScript: a failure here is not the attention's.
 */

const fixtures = new URL('../../../bench/reference/fixtures/tiny/', import.meta.url);
const { cases } = JSON.parse(readFileSync(new URL('index.json', fixtures), 'utf8')) as {
  cases: { name: string; covers: string; prompts: { name: string }[] }[];
};

describe.each(cases.map((item) => [item.name, item] as const))('%s', (name, { prompts }) => {
  const folder = fileURLToPath(new URL(name, fixtures));

  test.each([1, 7, 512])('logits in chunks of %d', async (maxChunk) => {
    const model = await openModel(folder);
    const config = readDecoderConfig(model.config);
    const native = new NativeDecoder(
      describeDecoder(config, model.tensors, { dtype: 'f32', threads: 2, maxChunk }),
    );
    for (let step = 0; step < native.steps; step++) native.load(step);
    const expected = readFixture(`${folder}/expected.safetensors`);
    let worst = 0;
    for (const prompt of prompts) {
      const tokens = Uint32Array.from(expected.get(`${prompt.name}.tokens`)?.data ?? []);
      const rows = expected.get(`${prompt.name}.rows`)?.data ?? [];
      const logits = expected.get(`${prompt.name}.logits`)?.data as Float32Array;
      expect(tokens.length).toBeGreaterThan(0);
      const decoder = new Decoder(
        config,
        native,
        new PlainAttention(config),
        maxChunk,
        () => undefined,
      );
      decoder.rewind(new Uint32Array(0), tokens.length);
      const row = new Float32Array(config.vocabSize);
      for (let start = 0; start < tokens.length; start += maxChunk) {
        const chunk = tokens.subarray(start, start + maxChunk);
        decoder.append(chunk, () => false);
        for (const [index, position] of rows.entries()) {
          if (position < start || position >= start + chunk.length) continue;
          decoder.logits(Uint32Array.of(position - start), row);
          for (let token = 0; token < config.vocabSize; token++) {
            const difference = Math.abs(
              (row[token] as number) - (logits[index * config.vocabSize + token] as number),
            );
            worst = Math.max(worst, difference);
          }
        }
      }
    }
    native.close();
    expect(worst).toBeLessThan(2e-3);
  });
});
