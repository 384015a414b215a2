import { spawnSync } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import process from 'node:process';
import { LLAMA_BUILDS_ABOVE, type RunLevel } from './levels.ts';

const VERSION = '3.22.1';

const PLATFORM_PACKAGES: Record<string, string> = {
  'linux-x64': 'linux-x64',
  'linux-arm64': 'linux-arm64',
  'darwin-x64': 'mac-x64',
  'darwin-arm64': 'mac-arm64-metal',
  'win32-x64': 'win-x64',
  'win32-arm64': 'win-arm64',
};

/**
 * Installs node-llama-cpp with its prebuilt CPU binary into `peers`, outside the workspace and its lock file, unless
 * it is there already. For a level below the machine's own it takes a copy without the builds that need more: the
 * best build that is left is loaded.
 *
 * @returns the path of its entry module.
 */
export function installLlamaPeer(peers: string, level: RunLevel): string {
  const folder = join(peers, `node-llama-cpp-${VERSION}`);
  install(folder);
  if (level === 'native') return entryOf(folder);
  const held = `${folder}-${level}`;
  rmSync(held, { recursive: true, force: true });
  cpSync(folder, held, { recursive: true, verbatimSymlinks: true });
  for (const file of readdirSync(join(held, 'node_modules', '@node-llama-cpp'), {
    recursive: true,
    withFileTypes: true,
  })) {
    if (LLAMA_BUILDS_ABOVE[level].test(file.name)) rmSync(join(file.parentPath, file.name));
  }
  return entryOf(held);
}

const entryOf = (folder: string): string =>
  join(folder, 'node_modules', 'node-llama-cpp', 'dist', 'index.js');

function install(folder: string): void {
  const complete = join(folder, 'complete');
  if (existsSync(complete)) return;
  const platform = PLATFORM_PACKAGES[`${process.platform}-${process.arch}`];
  if (!platform) {
    throw new Error(`node-llama-cpp has no binary for ${process.platform}-${process.arch}`);
  }
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, 'package.json'), '{ "private": true }\n');
  process.stderr.write(`installing node-llama-cpp ${VERSION} into ${folder}\n`);
  // The optional packages hold GPU builds of several hundred megabytes, and the install script would compile if it
  // disliked the binary: the one binary wanted is named instead.
  const { status, stderr } = spawnSync(
    'npm',
    [
      ...['install', '--omit=optional', '--ignore-scripts', '--no-audit', '--no-fund'],
      ...[`node-llama-cpp@${VERSION}`, `@node-llama-cpp/${platform}@${VERSION}`],
    ],
    { cwd: folder, encoding: 'utf8', shell: process.platform === 'win32' },
  );
  if (status !== 0) throw new Error(`npm could not install node-llama-cpp ${VERSION}:\n${stderr}`);
  writeFileSync(complete, '');
}
