import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import process from 'node:process';

const PACKAGES = { 'usearch-npm': 'usearch@2.25.3', 'hnswlib-node': 'hnswlib-node@3.0.0' } as const;

export type NpmPeer = keyof typeof PACKAGES;

/** Where a peer from npm lies, or why it cannot be had. */
export type NpmPeerPlace = { entry: string } | { missing: string };

/**
 * Installs a peer into a folder of its own outside the workspace, unless it is there. hnswlib-node is compiled by its
 * install script, which needs a C++ compiler and Python.
 */
export function installNpmPeer(peer: NpmPeer, peers: string): NpmPeerPlace {
  const name = PACKAGES[peer];
  const folder = join(peers, name);
  const complete = join(folder, 'complete');
  if (existsSync(complete)) return { entry: folder };
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, 'package.json'), '{ "private": true }\n');
  process.stderr.write(`installing ${name} from npm\n`);
  const { status, stderr } = spawnSync('npm', ['install', '--no-audit', '--no-fund', name], {
    cwd: folder,
    encoding: 'utf8',
    shell: process.platform === 'win32',
  });
  if (status !== 0) {
    const reason = stderr.split('\n').find((line) => /error/i.test(line)) ?? stderr;
    return { missing: `npm could not install ${name}: ${reason.trim()}` };
  }
  const works = spawnSync(process.execPath, ['-e', `require('${name.split('@')[0]}')`], {
    cwd: folder,
    encoding: 'utf8',
  });
  if (works.status !== 0) return { missing: `${name} is installed but does not load` };
  writeFileSync(complete, '');
  return { entry: folder };
}
