import { readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { scanJson } from './duplicate-keys.ts';
import { ModelLoaderError, reasonOf, systemCode } from './model-loader-error.ts';
import { openSafetensors } from './safetensors.ts';
import { unreadable } from './source-file.ts';
import type { TensorView } from './tensor-view.ts';

/** An index that lists every tensor of a very large model stays far below this. */
const MAX_INDEX_BYTES = 100_000_000;

/** The tensors of a checkpoint by name, wherever its files keep them. */
export class TensorCatalog {
  readonly #tensors: ReadonlyMap<string, TensorView>;
  readonly #folder: string;
  /** The safetensors files, in the order of their names. */
  readonly files: readonly string[];

  constructor(folder: string, files: readonly string[], tensors: ReadonlyMap<string, TensorView>) {
    this.#folder = folder;
    this.files = files;
    this.#tensors = tensors;
  }

  /** Names of all tensors. */
  names(): string[] {
    return [...this.#tensors.keys()];
  }

  /** Whether the checkpoint has this tensor. */
  has(name: string): boolean {
    return this.#tensors.has(name);
  }

  /**
   * The tensor of this name.
   *
   * @throws {@link ModelLoaderError} `ERR_TENSOR_MISSING`.
   */
  get(name: string): TensorView {
    const tensor = this.#tensors.get(name);
    if (tensor === undefined) {
      throw new ModelLoaderError(
        'ERR_TENSOR_MISSING',
        `${this.#folder} has no tensor ${name} among its ${this.#tensors.size}`,
        { path: this.#folder, tensor: name },
      );
    }
    return tensor;
  }

  /** All tensors, in the order of the files. */
  [Symbol.iterator](): IterableIterator<TensorView> {
    return this.#tensors.values();
  }
}

/**
 * Opens the weights of a folder: `model.safetensors`, or the shards that `model.safetensors.index.json` names.
 *
 * @throws {@link ModelLoaderError} `ERR_WEIGHTS_MISSING`, `ERR_SHARD_MISSING`, `ERR_SHARD_INDEX_INVALID`,
 *   `ERR_SHARD_MISMATCH`, and those of {@link openSafetensors}.
 */
export async function openTensorCatalog(folder: string): Promise<TensorCatalog> {
  const single = join(folder, 'model.safetensors');
  if (await exists(single)) {
    const { tensors } = await openSafetensors(single);
    return new TensorCatalog(folder, [single], tensors);
  }
  const index = join(folder, 'model.safetensors.index.json');
  if (await exists(index)) return openShards(folder, index);
  throw new ModelLoaderError(
    'ERR_WEIGHTS_MISSING',
    `${folder} has neither model.safetensors nor model.safetensors.index.json`,
    { path: folder },
  );
}

async function openShards(folder: string, indexPath: string): Promise<TensorCatalog> {
  const weightMap = await readWeightMap(indexPath);
  const names = [...new Set(Object.values(weightMap))].sort();
  const files = names.map((name) => join(folder, name));
  const tensors = new Map<string, TensorView>();
  for (const [position, shard] of names.entries()) {
    const path = files[position] as string;
    if (!(await exists(path))) {
      throw new ModelLoaderError(
        'ERR_SHARD_MISSING',
        `${folder} lacks the shard ${shard}, ${position + 1} of the ${names.length} that its index names`,
        { path, shard, shards: names.length },
      );
    }
    const opened = await openSafetensors(path);
    for (const view of opened.tensors.values()) {
      const expected = Object.hasOwn(weightMap, view.name) ? weightMap[view.name] : undefined;
      if (expected !== shard) {
        throw mismatch(
          indexPath,
          `shard ${shard} holds tensor ${view.name}, the index places it ${expected === undefined ? 'nowhere' : `in ${expected}`}`,
          { shard, tensor: view.name, expected },
        );
      }
      tensors.set(view.name, view);
    }
  }
  for (const [tensor, shard] of Object.entries(weightMap)) {
    if (!tensors.has(tensor)) {
      throw mismatch(
        indexPath,
        `the index places tensor ${tensor} in ${shard}, which does not hold it`,
        {
          shard,
          tensor,
        },
      );
    }
  }
  return new TensorCatalog(folder, files, tensors);
}

async function readWeightMap(path: string): Promise<Record<string, string>> {
  const invalid = (what: string, cause?: unknown) =>
    new ModelLoaderError('ERR_SHARD_INDEX_INVALID', `${path} ${what}`, { path }, cause);
  let text: string;
  try {
    const { size } = await stat(path);
    if (size > MAX_INDEX_BYTES) throw invalid(`has ${size} bytes, the limit is ${MAX_INDEX_BYTES}`);
    text = await readFile(path, 'utf8');
  } catch (error) {
    if (error instanceof ModelLoaderError) throw error;
    throw unreadable(path, error);
  }
  let parsed: unknown;
  try {
    parsed = JSON.parse(text);
  } catch (error) {
    throw invalid(`is not JSON: ${reasonOf(error)}`, error);
  }
  const { duplicateKey } = scanJson(text);
  if (duplicateKey !== undefined)
    throw invalid(`has the key ${JSON.stringify(duplicateKey)} twice`);
  const map = (parsed as { weight_map?: unknown } | null)?.weight_map;
  if (typeof map !== 'object' || map === null || Array.isArray(map)) {
    throw invalid('has no weight_map object');
  }
  for (const [tensor, shard] of Object.entries(map)) {
    // A plain file name: an index must not reach outside its folder.
    if (typeof shard !== 'string' || !/^[^/\\]+\.safetensors$/.test(shard)) {
      throw invalid(
        `places tensor ${tensor} in ${JSON.stringify(shard)}, which is no safetensors file name`,
      );
    }
  }
  return map as Record<string, string>;
}

function mismatch(path: string, what: string, details: Record<string, unknown>): ModelLoaderError {
  return new ModelLoaderError('ERR_SHARD_MISMATCH', `${path}: ${what}`, { path, ...details });
}

async function exists(path: string): Promise<boolean> {
  try {
    await stat(path);
    return true;
  } catch (error) {
    const system = systemCode(error);
    if (system === 'ENOENT' || system === 'ENOTDIR') return false;
    throw unreadable(path, error);
  }
}
