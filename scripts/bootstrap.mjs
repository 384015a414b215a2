import process from 'node:process';
import { fileURLToPath } from 'node:url';
import { checkPrerequisites } from './prerequisites.mjs';
import { pnpm, start } from './step.mjs';

/** The default model: the one the demo and the tests use. */
export const MODEL = 'smollm2-135m-instruct';

/** Installs the packages of the lock file. */
export async function install() {
  checkPrerequisites();
  await pnpm([
    'install',
    '--frozen-lockfile',
    '--prefer-offline',
    '--config.confirmModulesPurge=false',
  ]);
}

/** Builds the native addons and all packages; what has not changed since the last time comes from the local cache. */
export async function build() {
  await pnpm([
    'exec',
    'turbo',
    'run',
    'build',
    '--ui=stream',
    '--output-logs=new-only',
    '--no-daemon',
  ]);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  start(async () => {
    await install();
    await build();
  });
}
