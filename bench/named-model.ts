import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import type { NamedAttention } from '@iceformer/evaluation';
import { listModels, pull, resolveModel } from '@iceformer/model-loader';
import {
  type AttentionName,
  type AttentionPlan,
  KV_DTYPES,
  type KvDtype,
  loadModel,
  type Model,
} from '@iceformer/transformer';
import { type Flags, type Options, toNumber } from './command-line.ts';

/** The model that is measured where none is named. */
export const DEFAULT_MODEL = 'smollm2-135m-instruct';

/** The folder of a model given by name, pulled if need be, or by path. */
export function modelFolder(nameOrFolder: string): Promise<string> {
  const named = listModels().some(({ name }) => name === nameOrFolder);
  return named ? pull(nameOrFolder) : resolveModel(nameOrFolder);
}

/** A text of `docs/corpus`, all of which are real and most longer than the model's window. */
export const corpusText = (name: string): string =>
  fileURLToPath(new URL(`../../docs/corpus/${name}`, import.meta.url));

/** What the evaluations let the user choose of a model. */
export const EVALUATION_OPTIONS = {
  model: { type: 'string', default: DEFAULT_MODEL },
  dtype: { type: 'string' },
  threads: { type: 'string' },
  /** Name of the preset that stands for sparse attention; default: `sparse`. */
  attention: { type: 'string' },
  /** JSON file with the plan that stands for sparse attention, before any preset. */
  plan: { type: 'string' },
} satisfies Options;

/** The values of {@link EVALUATION_OPTIONS}, and the type of keys and values. */
type EvaluationFlags = Flags<typeof EVALUATION_OPTIONS> & { kvDtype?: string };

/** Loads the model; it attends densely until it is told otherwise. */
export function loadDense(
  folder: string,
  { dtype = 'bf16', kvDtype, threads }: EvaluationFlags,
): Promise<Model> {
  if (dtype !== 'f32' && dtype !== 'bf16' && dtype !== 'int8') {
    throw new Error(`dtype is f32, bf16 or int8, not ${dtype}`);
  }
  if (kvDtype !== undefined && !isKvDtype(kvDtype)) {
    throw new Error(`kv-dtype is ${KV_DTYPES.join(', ')}, not ${kvDtype}`);
  }
  return loadModel({
    model: folder,
    dtype,
    ...(kvDtype ? { kvDtype } : {}),
    ...(threads ? { threads: toNumber(threads) } : {}),
  });
}

/** What the flags say stands for sparse attention. */
export function sparseAttention({ attention, plan }: EvaluationFlags): NamedAttention {
  return {
    name: 'sparse',
    attention: plan
      ? (JSON.parse(readFileSync(plan, 'utf8')) as AttentionPlan)
      : ((attention ?? 'sparse') as AttentionName),
  };
}

function isKvDtype(text: string): text is KvDtype {
  return (KV_DTYPES as readonly string[]).includes(text);
}
