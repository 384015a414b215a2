import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import process from 'node:process';

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
 * it is there already.
 *
 * @returns the path of its entry module.
 */
export function installLlamaPeer(peers: string): string {
  const folder = join(peers, `node-llama-cpp-${VERSION}`);
  const entry = join(folder, 'node_modules', 'node-llama-cpp', 'dist', 'index.js');
  const complete = join(folder, 'complete');
  if (existsSync(complete)) return entry;
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
  return entry;
}
