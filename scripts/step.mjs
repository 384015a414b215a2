import { spawn } from 'node:child_process';
import { basename } from 'node:path';
import process from 'node:process';
import { fileURLToPath } from 'node:url';

/** The repository's top folder; every step runs there. */
export const ROOT = fileURLToPath(new URL('..', import.meta.url));

/** What every step sees on top of the caller's environment: no telemetry, no remote build cache, no prompts. */
const QUIET = {
  TURBO_TELEMETRY_DISABLED: '1',
  DO_NOT_TRACK: '1',
  TURBO_CACHE: 'local:rw',
  TURBO_NO_UPDATE_NOTIFIER: '1',
  NO_UPDATE_NOTIFIER: '1',
};

/** A step that cannot go on for a reason that its message tells in full, so that no stack is shown. */
export class StepError extends Error {
  /** @param {string} message @param {number} [exitCode] */
  constructor(message, exitCode = 1) {
    super(message);
    this.name = 'StepError';
    this.exitCode = exitCode;
  }
}

/**
 * Runs a command with its output on the terminal, or its standard output returned as text.
 *
 * @param {string} command
 * @param {string[]} args
 * @param {{ capture?: boolean, cwd?: string, env?: Record<string, string> }} [options]
 * @returns {Promise<string>} standard output when `capture`, else the empty string
 * @throws {StepError} when the command fails
 */
export function run(command, args, options = {}) {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, {
      cwd: options.cwd ?? ROOT,
      env: { ...process.env, ...QUIET, ...options.env },
      stdio: ['ignore', options.capture ? 'pipe' : 'inherit', 'inherit'],
      // npx and cargo are .cmd files on Windows.
      shell: process.platform === 'win32',
    });
    // The terminal sends Ctrl-C to the child as well: it decides how to end, we pass its exit code on.
    const wait = () => undefined;
    process.on('SIGINT', wait);
    let output = '';
    child.stdout?.setEncoding('utf8').on('data', (text) => {
      output += text;
    });
    child.on('error', reject);
    child.on('close', (code, signal) => {
      process.off('SIGINT', wait);
      if (code === 0) return resolve(output);
      process.stderr.write(output);
      const exitCode = code ?? (signal === 'SIGINT' ? 130 : 1);
      reject(
        new StepError(`${[command, ...args].join(' ')} ended with exit code ${exitCode}`, exitCode),
      );
    });
  });
}

/** Runs pnpm: the one that runs us, else the version the README names. @param {string[]} args @param {Parameters<typeof run>[2]} [options] */
export function pnpm(args, options) {
  const self = process.env.npm_execpath;
  return self && basename(self).startsWith('pnpm') && /\.[cm]?js$/.test(self)
    ? run(process.execPath, [self, ...args], options)
    : run('npx', ['--yes', 'pnpm@10', ...args], options);
}

/** Runs the command line of this checkout. @param {string[]} args @param {Parameters<typeof run>[2]} [options] */
export function iceformer(args, options) {
  return run(process.execPath, ['packages/cli/dist/iceformer.js', ...args], options);
}

/** Runs a script's main function; a failed command has already said why, so no stack is shown for it. @param {() => Promise<void>} main */
export function start(main) {
  main().catch((error) => {
    console.error(error instanceof StepError ? `\n${error.message}` : error);
    process.exitCode = error instanceof StepError ? error.exitCode : 1;
  });
}
