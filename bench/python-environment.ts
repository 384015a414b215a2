import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import process from 'node:process';

/** A Python environment of a bench's own. */
export interface PythonEnvironment {
  python: string;
  /** Packages that could not be installed, by name, with pip's reason. */
  missing: Record<string, string>;
}

/**
 * Makes the environment in `folder`, unless it is there. A package that cannot be had is left out and named.
 *
 * @param packages `name==version`, installed in this order.
 */
export function installPython(folder: string, packages: readonly string[]): PythonEnvironment {
  const home = join(folder, 'python');
  const python = join(
    home,
    ...(process.platform === 'win32' ? ['Scripts', 'python.exe'] : ['bin', 'python']),
  );
  const missing: Record<string, string> = {};
  const wanted = packages.filter((name) => !existsSync(join(home, `${name}.installed`)));
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
