import { randomBytes } from 'node:crypto';
import { readdir, readFile, rename, rm, stat } from 'node:fs/promises';
import { homedir } from 'node:os';
import { join, resolve } from 'node:path';
import { ModelLoaderError, reasonOf, systemCode } from './model-loader-error.ts';
import { findModel, listModels, type ModelSource } from './model-registry.ts';

/** Where a pulled model came from; the file `iceformer.json` of its folder. */
export interface PullRecord {
  /** Version of this format. */
  version: 1;
  /** Name it was pulled by. */
  model: string;
  /** The source that delivered it; for a hub source with the commit. */
  source: ModelSource & { commit?: string };
  /** When, in ISO 8601. */
  pulledAt: string;
  /** Its files: size in bytes, and SHA-256 where it was downloaded as it is. */
  files: Record<string, { size: number; sha256?: string }>;
}

/** A model in the cache. */
export interface CachedModel {
  /** Name it was pulled by. */
  name: string;
  /** Its folder. */
  path: string;
  /** Bytes its files take. */
  bytes: number;
  /** Where it came from. */
  record: PullRecord;
}

/** Name of the file that says where a folder came from. */
export const RECORD_FILE = 'iceformer.json';

/**
 * The folder that pulled models live in: `$ICEFORMER_HOME/models`, else `$XDG_CACHE_HOME/iceformer/models`, else
 * `%LOCALAPPDATA%\iceformer\models` on Windows and `~/.cache/iceformer/models` elsewhere.
 */
export function cacheFolder(environment: NodeJS.ProcessEnv = process.env): string {
  const home = environment['ICEFORMER_HOME'];
  if (home) return resolve(home, 'models');
  const xdg = environment['XDG_CACHE_HOME'];
  // The XDG specification has relative paths ignored.
  if (xdg && resolve(xdg) === join(xdg)) return join(xdg, 'iceformer', 'models');
  const local = process.platform === 'win32' ? environment['LOCALAPPDATA'] : undefined;
  return join(local || join(homedir(), '.cache'), 'iceformer', 'models');
}

/** The folder of a model inside the cache: `owner/name` becomes `owner--name`. */
export function cachedPath(cache: string, name: string): string {
  return join(cache, name.replace('/', '--'));
}

/** The record of a complete folder; undefined when the folder is absent, incomplete or damaged. */
export async function readRecord(folder: string): Promise<PullRecord | undefined> {
  let record: PullRecord;
  try {
    record = JSON.parse(await readFile(join(folder, RECORD_FILE), 'utf8')) as PullRecord;
  } catch {
    return undefined;
  }
  if (record?.version !== 1 || typeof record.files !== 'object') return undefined;
  for (const [name, { size }] of Object.entries(record.files)) {
    const found = await stat(join(folder, name)).catch(() => undefined);
    if (found?.size !== size) return undefined;
  }
  return record;
}

/** Models in the cache, by name. */
export async function listCachedModels(cache: string = cacheFolder()): Promise<CachedModel[]> {
  let names: string[];
  try {
    names = await readdir(cache);
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return [];
    throw new ModelLoaderError(
      'ERR_MODEL_UNREADABLE',
      `cannot read the cache ${cache}: ${systemCode(error) ?? reasonOf(error)}`,
      { path: cache },
      error,
    );
  }
  const models: CachedModel[] = [];
  // Names that begin with a dot are work in progress.
  for (const name of names.filter((entry) => !entry.startsWith('.')).sort()) {
    const path = join(cache, name);
    const record = await readRecord(path);
    if (record === undefined) continue;
    const bytes = Object.values(record.files).reduce((sum, file) => sum + file.size, 0);
    models.push({ name: record.model, path, bytes, record });
  }
  return models;
}

/**
 * Removes a model from the cache, with what an interrupted pull of it left.
 *
 * @returns Whether there was anything to remove.
 */
export async function removeCachedModel(
  name: string,
  cache: string = cacheFolder(),
): Promise<boolean> {
  const path = cachedPath(cache, findModel(name).name);
  const partial = partialPath(path);
  const hadPartial = await stat(partial).then(
    () => true,
    () => false,
  );
  await rm(partial, { recursive: true, force: true });
  const removed = join(cache, `.removed-${process.pid}-${randomBytes(4).toString('hex')}`);
  try {
    // Renamed first: a folder that is half deleted must not be found.
    await rename(path, removed);
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return hadPartial;
    throw new ModelLoaderError(
      'ERR_OUTPUT_FAILED',
      `cannot remove ${path}: ${systemCode(error) ?? reasonOf(error)}`,
      { path },
      error,
    );
  }
  await rm(removed, { recursive: true, force: true });
  return true;
}

/** Where the pull of a folder keeps its work. */
export function partialPath(path: string): string {
  return hiddenBeside(path, '.partial');
}

/** The lock of a folder. */
export function lockPath(path: string): string {
  return hiddenBeside(path, '.lock');
}

function hiddenBeside(path: string, suffix: string): string {
  return join(path, '..', `.${path.slice(join(path, '..').length + 1)}${suffix}`);
}

/**
 * The folder of a model: an existing folder as it is (made absolute), else the cached folder of a pulled model.
 *
 * @throws {@link ModelLoaderError} `ERR_MODEL_NOT_FOUND`.
 */
export async function resolveModel(
  nameOrFolder: string,
  cache: string = cacheFolder(),
): Promise<string> {
  const folder = resolve(nameOrFolder);
  const isFolder = await stat(folder).then(
    (found) => found.isDirectory(),
    () => false,
  );
  if (isFolder) return folder;
  let name: string;
  try {
    name = findModel(nameOrFolder).name;
  } catch {
    throw new ModelLoaderError(
      'ERR_MODEL_NOT_FOUND',
      `there is no folder ${nameOrFolder}, and no model of that name; known are ${listModels()
        .map((model) => model.name)
        .join(', ')}`,
      { model: nameOrFolder, path: folder },
    );
  }
  const cached = cachedPath(cache, name);
  if ((await readRecord(cached)) !== undefined) return cached;
  const noFolder = name.includes('/') ? `there is no folder ${nameOrFolder}, and ` : '';
  throw new ModelLoaderError(
    'ERR_MODEL_NOT_FOUND',
    `${noFolder}the model ${name} has not been pulled (looked in ${cached})`,
    { model: name, path: cached },
  );
}
