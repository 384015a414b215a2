import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { listModels, pull, resolveModel } from '@iceformer/model-loader';
import { type AttentionPlan, loadModel, type Model } from '@iceformer/transformer';

/** The folder of a model given by name, pulled if need be, or by path. */
export function modelFolder(nameOrFolder: string): Promise<string> {
  const named = listModels().some(({ name }) => name === nameOrFolder);
  return named ? pull(nameOrFolder) : resolveModel(nameOrFolder);
}

/** A text of `docs/corpus`, all of which are real and most longer than the model's window. */
export const corpusText = (name: string): string =>
  fileURLToPath(new URL(`../../docs/corpus/${name}`, import.meta.url));

/** What the evaluations let the user choose of a model. */
export interface EvaluationFlags {
  dtype?: string;
  threads?: string;
  /** JSON file with the plan that stands for sparse attention; default: the package's own. */
  plan?: string;
}

/** Loads the model dense or sparse. */
export function loadWith(
  folder: string,
  attention: 'dense' | 'sparse',
  { dtype = 'bf16', threads, plan }: EvaluationFlags,
): Promise<Model> {
  if (dtype !== 'f32' && dtype !== 'bf16' && dtype !== 'int8') {
    throw new Error(`dtype is f32, bf16 or int8, not ${dtype}`);
  }
  return loadModel({
    model: folder,
    dtype,
    attention:
      attention === 'sparse' && plan
        ? (JSON.parse(readFileSync(plan, 'utf8')) as AttentionPlan)
        : attention,
    ...(threads ? { threads: Number(threads) } : {}),
  });
}
