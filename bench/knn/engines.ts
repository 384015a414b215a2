import { existsSync } from 'node:fs';
import { join } from 'node:path';
import process from 'node:process';
import { fileURLToPath } from 'node:url';
import type { EngineName } from './candidates.ts';
import { installNpmPeer } from './npm-peers.ts';
import type { PythonPeers } from './python-peers.ts';

/** How to start an engine's program, or why it cannot be. */
export type EngineProgram =
  | { command: [string, ...string[]]; entry?: string }
  | { missing: string };

/** Package on PyPI of each engine in Python. */
const PYTHON: Partial<Record<EngineName, string>> = {
  faiss: 'faiss-cpu',
  hnswlib: 'hnswlib',
  usearch: 'usearch',
};

/** Finds the program of an engine; peers are fetched when they are first asked for. */
export function engineProgram(
  engine: EngineName,
  peers: string,
  python: PythonPeers,
  dci: { folder?: string; python?: string },
): EngineProgram {
  if (engine === 'iceformer') return { command: [process.execPath, '--expose-gc', node(engine)] };
  if (engine === 'usearch-npm' || engine === 'hnswlib-node') {
    const place = installNpmPeer(engine, peers);
    if ('missing' in place) return place;
    return { command: [process.execPath, '--expose-gc', node(engine)], ...place };
  }
  if (engine === 'dci') {
    if (!dci.folder || !existsSync(join(dci.folder, 'dciknn'))) {
      return {
        missing:
          'not on PyPI: build github.com/ke-li/dci-knn as its README says and name it with --dci',
      };
    }
    return { command: [dci.python ?? python.python, script('dci')], entry: dci.folder };
  }
  const reason = python.missing[PYTHON[engine] ?? ''] ?? python.missing['numpy'];
  return reason ? { missing: `pip: ${reason}` } : { command: [python.python, script(engine)] };
}

const node = (engine: string): string =>
  fileURLToPath(new URL(`engines/${engine}.js`, import.meta.url));

/** Python is not compiled to dist, so the script is the one in the source folder. */
const script = (engine: string): string =>
  fileURLToPath(new URL(`../../knn/engines/${engine}_engine.py`, import.meta.url));
