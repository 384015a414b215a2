import { readFileSync } from 'node:fs';
import { pull } from '@iceformer/model-loader';
import { type FixtureTensor, readFixture } from '../../../bench/reference/fixture.ts';

/** Folder of the default model; the first call on a machine downloads it. */
export const defaultModel = (): Promise<string> => pull('smollm2-135m-instruct');

const fixtures = new URL(
  '../../../bench/reference/fixtures/smollm2-135m-instruct/',
  import.meta.url,
);

/** What PyTorch makes of some prompts, see bench/reference/README.md. */
export function expectedTensors(): (name: string) => FixtureTensor {
  const tensors = readFixture(new URL('expected.safetensors', fixtures).pathname);
  return (name) => {
    const tensor = tensors.get(name);
    if (tensor === undefined) throw new Error(`the fixture has no ${name}`);
    return tensor;
  };
}

/** A JSON file beside the expected tensors. */
export function expectedJson(name: string): unknown {
  return JSON.parse(readFileSync(new URL(name, fixtures), 'utf8'));
}

/** A text of the documents kept in the repository. */
export function document(name: string): string {
  return readFileSync(new URL(`../../../docs/corpus/${name}`, import.meta.url), 'utf8');
}
