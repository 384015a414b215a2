import { join } from 'node:path';
import process from 'node:process';
import { fileURLToPath } from 'node:url';
import { installPython, type PythonEnvironment } from '../python-environment.ts';
import { fetchGguf } from './gguf.ts';
import type { RunLevel } from './levels.ts';
import type { ModelSize } from './limits.ts';
import { installLlamaPeer } from './llama-peer.ts';
import type { Engine } from './schedule.ts';

/** Installed into an environment of the bench's own. */
const PYTHON_PACKAGES = [
  'numpy==2.4.6',
  'openvino-genai==2026.4.1.0',
  'torch==2.15.0',
  'safetensors==0.8.0',
  'transformers==5.23.0',
];

/** All engines, in the order of the table. */
export const ENGINES = [
  'llama.cpp',
  'openvino',
  'openvino-xattention',
  'torch-f32',
  'torch-bf16',
  'transformers.js',
  'dense-f32',
  'dense',
  'dense-int8',
  'dense-int8-kv8',
  'accurate',
  'balanced',
  'balanced-int8',
  'balanced-int8-kv8',
  'fast',
] as const;

/** IceFormer: how it attends, type of the weights, type of keys and values. */
const OURS = /^(dense|sparse|exact|accurate|balanced|fast|plan)(?:-(f32|bf16|int8))?(-kv8)?$/;

export interface EngineSettings {
  /** Name of the model, or its folder. */
  model: string;
  /** Its folder. */
  folder: string;
  size: ModelSize;
  /** Where peers are installed. */
  work: string;
  gguf?: string;
  llamaBatch: number;
  openvinoBatch: number;
  /** An interpreter that has the packages already. */
  python?: string;
  level: RunLevel;
  /** File of the attention plan that the engine `plan` follows. */
  plan?: string;
}

/** Finds engines; peers are fetched when they are first asked for. */
export class EngineFinder {
  readonly #settings: EngineSettings;
  #environment: PythonEnvironment | undefined;

  constructor(settings: EngineSettings) {
    this.#settings = settings;
  }

  /** How to start an engine, or why it cannot be had. */
  find(name: string): Engine | { missing: string } {
    const { folder, size, work, llamaBatch, openvinoBatch, level } = this.#settings;
    const { window } = size;
    switch (name) {
      case 'llama.cpp': {
        const options = { entry: installLlamaPeer(work, level), batch: llamaBatch };
        return { name, command: node('llama'), model: this.#gguf(), options };
      }
      case 'openvino':
      case 'openvino-xattention': {
        const options = { batch: openvinoBatch, sparse: name === 'openvino' ? 0 : 1 };
        return this.#python(name, 'openvino-genai', 'openvino_engine.py', this.#gguf(), options);
      }
      case 'torch-f32':
      case 'torch-bf16': {
        const options = { dtype: name.slice('torch-'.length) };
        return this.#python(name, 'torch', 'torch_sdpa.py', folder, options);
      }
      case 'transformers.js':
        return {
          missing:
            'it reads ONNX only, and the weights measured here exist as GGUF and safetensors',
        };
    }
    const [, attention, dtype = 'bf16', bytes] = OURS.exec(name) ?? [];
    if (attention === undefined) {
      throw new Error(
        `unknown engine "${name}"; there are ${ENGINES.join(', ')}, and exact, sparse or plan, with -f32, -int8 and -kv8 behind it`,
      );
    }
    const { plan } = this.#settings;
    if (attention === 'plan' && plan === undefined) {
      return { missing: 'name its attention plan with --plan' };
    }
    const kvDtype = bytes ? 'int8' : dtype === 'f32' ? 'f32' : 'bf16';
    const options = {
      attention,
      dtype,
      kvDtype,
      window,
      ...(attention === 'plan' && plan ? { plan } : {}),
    };
    return { name: `iceformer ${name}`, command: node('iceformer'), model: folder, options };
  }

  #gguf(): string {
    const { gguf, model, work } = this.#settings;
    return gguf ?? fetchGguf(model, work);
  }

  #python(
    name: string,
    needs: string,
    file: string,
    model: string,
    options: Engine['options'],
  ): Engine | { missing: string } {
    const { python, work } = this.#settings;
    this.#environment ??= python
      ? { python, missing: {} }
      : installPython(join(work, 'model-bench'), PYTHON_PACKAGES);
    const reason = this.#environment.missing[needs];
    if (reason) return { missing: `pip: ${reason}` };
    // Python is not compiled to dist, so the script is the one in the source folder.
    const script = fileURLToPath(new URL(`../../model/engines/${file}`, import.meta.url));
    return { name, command: [this.#environment.python, script], model, options };
  }
}

const node = (engine: string): [string, string] => [
  process.execPath,
  fileURLToPath(new URL(`engines/${engine}.js`, import.meta.url)),
];
