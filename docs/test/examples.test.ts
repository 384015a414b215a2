import { execFile } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { mkdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { codeBlocks } from './code-blocks.ts';

// The examples of every README and guide, as a reader would run them: compiled by tsc under the strict settings of this
// repository, then run by Node from the repository's top folder.

const exec = promisify(execFile);
const root = fileURLToPath(new URL('../..', import.meta.url));
const folder = fileURLToPath(new URL('.examples', import.meta.url));

const pages = [
  'README.md',
  ...readdirSync(join(root, 'packages')).map((name) => `packages/${name}/README.md`),
  ...['docs', 'docs/knn-index'].flatMap((path) =>
    readdirSync(join(root, path))
      .filter((name) => name.endsWith('.md'))
      .map((name) => `${path}/${name}`),
  ),
];
const examples = pages.flatMap((path) =>
  codeBlocks(readFileSync(join(root, path), 'utf8'))
    .filter((block) => block.language === 'ts')
    .map((block) => ({
      ...block,
      title: `${path}:${block.line}`,
      name: `${path.replaceAll('/', '-').replace('.md', '').toLowerCase()}-${block.line}`,
    })),
);

describe('examples of READMEs and guides', () => {
  beforeAll(async () => {
    await rm(folder, { recursive: true, force: true });
    await mkdir(folder);
    for (const { name, text } of examples) await writeFile(join(folder, `${name}.ts`), text);
    const settings = {
      extends: '../../../tsconfig.base.json',
      compilerOptions: { declaration: false, declarationMap: false, sourceMap: false },
    };
    await writeFile(join(folder, 'tsconfig.json'), JSON.stringify(settings));
    const tsc = fileURLToPath(import.meta.resolve('typescript/bin/tsc'));
    await exec(process.execPath, [tsc, '-p', folder], { cwd: root }).catch((error) => {
      throw new Error(error.stdout);
    });
  }, 60_000);

  afterAll(() => rm(folder, { recursive: true, force: true }));

  it.each(examples)('$title', { timeout: 120_000 }, async ({ name, output }) => {
    const { stdout } = await exec(process.execPath, [join(folder, `${name}.js`)], { cwd: root });
    expect(stdout).not.toBe('');
    if (output !== undefined) expect(stdout).toBe(output);
  });
});
