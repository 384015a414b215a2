import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import process from 'node:process';

/** Libraries that are measured, and what their data takes to make. */
const PACKAGES = [
  'numpy==2.4.6',
  'faiss-cpu==1.15.1',
  'hnswlib==0.8.0',
  'usearch==2.26.6',
  'onnx==1.23.2',
  'onnxruntime==1.32.0',
  'safetensors==0.8.0',
  'tokenizers==0.23.3',
];

/** A Python environment of the bench's own. */
export interface PythonPeers {
  python: string;
  /** Packages that could not be installed, with pip's reason. */
  missing: Record<string, string>;
}

/** Makes the environment in `folder`, unless it is there. A package that cannot be had is left out and named. */
export function installPythonPeers(folder: string): PythonPeers {
  const home = join(folder, 'python');
  const python = join(
    home,
    ...(process.platform === 'win32' ? ['Scripts', 'python.exe'] : ['bin', 'python']),
  );
  const missing: Record<string, string> = {};
  const wanted = PACKAGES.filter((name) => !existsSync(join(home, `${name}.installed`)));
  if (wanted.length === 0) return { python, missing };
  if (!existsSync(python)) {
    mkdirSync(folder, { recursive: true });
    run('python3', ['-m', 'venv', home]);
  }
  for (const name of wanted) {
    process.stderr.write(`installing ${name} from PyPI\n`);
    const error = run(python, [
      '-m',
      'pip',
      'install',
      '--quiet',
      '--disable-pip-version-check',
      name,
    ]);
    if (error === undefined) writeFileSync(join(home, `${name}.installed`), '');
    else missing[name.split('=')[0] as string] = error;
  }
  return { python, missing };
}

/** Undefined if it worked, else the last line of what it said. */
function run(program: string, parameters: string[]): string | undefined {
  const { status, stderr, error } = spawnSync(program, parameters, { encoding: 'utf8' });
  if (status === 0) return undefined;
  return error?.message ?? stderr.trim().split('\n').at(-1) ?? 'unknown';
}
