import { readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { readJsonIfPresent } from './json-file.ts';
import { ModelLoaderError } from './model-loader-error.ts';
import { unreadable } from './source-file.ts';
import { openTensorCatalog, type TensorCatalog } from './tensor-catalog.ts';
import { Tokenizer } from './tokenizer.ts';

/** An opened model folder in Hugging Face layout. */
export interface ModelFolder {
  /** Its path as given. */
  readonly path: string;
  /** The parsed config.json. */
  readonly config: Record<string, unknown>;
  /** The parsed generation_config.json, if the folder has one. */
  readonly generationConfig: Record<string, unknown> | undefined;
  /** The weights by name. No file stays open and no data is read until a tensor is. */
  readonly tensors: TensorCatalog;
  /**
   * The tokenizer, read at the first call.
   *
   * @throws {@link ModelLoaderError} `ERR_TOKENIZER_MISSING`, `ERR_TOKENIZER_INVALID`,
   *   `ERR_TOKENIZER_UNSUPPORTED`, `ERR_MODEL_CLOSED`.
   */
  tokenizer(): Promise<Tokenizer>;
  /** Ends the tokenizer's thread. Safe to call twice. */
  close(): Promise<void>;
  /** Does what `close` does, for `await using`. */
  [Symbol.asyncDispose](): Promise<void>;
}

/**
 * Opens a model folder: checks config.json and the headers of all safetensors files.
 *
 * @throws {@link ModelLoaderError} `ERR_MODEL_NOT_FOUND`, `ERR_MODEL_UNREADABLE`, `ERR_CONFIG_MISSING`,
 *   `ERR_CONFIG_INVALID`, and those of {@link openTensorCatalog}.
 */
export async function openModel(folder: string): Promise<ModelFolder> {
  await checkFolder(folder);
  const config = await readJsonIfPresent(join(folder, 'config.json'), 'ERR_CONFIG_INVALID');
  if (config === undefined) {
    const gguf = (await readdir(folder)).find((name) => name.endsWith('.gguf'));
    const hint = gguf === undefined ? '' : `; ${gguf} can be imported with importGguf`;
    throw new ModelLoaderError('ERR_CONFIG_MISSING', `${folder} has no config.json${hint}`, {
      path: folder,
    });
  }
  const generationConfig = await readJsonIfPresent(
    join(folder, 'generation_config.json'),
    'ERR_CONFIG_INVALID',
  );
  const tensors = await openTensorCatalog(folder);
  let tokenizer: Promise<Tokenizer> | undefined;
  let closed = false;
  const close = async () => {
    closed = true;
    const opened = tokenizer;
    tokenizer = undefined;
    // A tokenizer that failed to load has nothing to close, and its caller knows.
    await opened?.then(
      (loaded) => loaded.close(),
      () => undefined,
    );
  };
  return {
    path: folder,
    config,
    generationConfig,
    tensors,
    tokenizer() {
      if (closed) {
        return Promise.reject(
          new ModelLoaderError('ERR_MODEL_CLOSED', `${folder} was closed`, { path: folder }),
        );
      }
      tokenizer ??= Tokenizer.load(folder);
      return tokenizer;
    },
    close,
    [Symbol.asyncDispose]: close,
  };
}

async function checkFolder(folder: string): Promise<void> {
  let stats: Awaited<ReturnType<typeof stat>>;
  try {
    stats = await stat(folder);
    if (stats.isDirectory()) await readdir(folder);
  } catch (error) {
    const failure = unreadable(folder, error);
    if (failure.code !== 'ERR_MODEL_NOT_FOUND') throw failure;
    throw new ModelLoaderError(
      'ERR_MODEL_NOT_FOUND',
      `no model folder ${folder}`,
      { path: folder },
      error,
    );
  }
  if (stats.isDirectory()) return;
  const hint = folder.endsWith('.gguf') ? '; a GGUF file is imported with importGguf' : '';
  throw new ModelLoaderError(
    'ERR_MODEL_NOT_FOUND',
    `${folder} is a file, not a model folder${hint}`,
    {
      path: folder,
    },
  );
}
