import { type ChildProcess, spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';

/** The built binary. */
export const BINARY = fileURLToPath(new URL('../dist/iceformer.js', import.meta.url));

/** The repository's top folder. */
export const ROOT = fileURLToPath(new URL('../../..', import.meta.url));

/** A finished run of the binary. */
export interface BinaryRun {
  code: number | null;
  signal: NodeJS.Signals | null;
  stdout: string;
  stderr: string;
}

export interface BinaryOptions {
  env?: Record<string, string | undefined>;
  stdin?: string;
  /** Called with each piece of standard error. */
  onStderr?: (text: string, child: ChildProcess) => void;
}

/** Runs `iceformer ...args` as a process of its own. */
export function runBinary(args: string[], options: BinaryOptions = {}): Promise<BinaryRun> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [BINARY, ...args], {
      cwd: ROOT,
      env: { ...process.env, ...options.env },
      stdio: ['pipe', 'pipe', 'pipe'],
    });
    let stdout = '';
    let stderr = '';
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      stdout += text;
    });
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      stderr += text;
      options.onStderr?.(text, child);
    });
    child.on('error', reject);
    child.on('close', (code, signal) => resolve({ code, signal, stdout, stderr }));
    // A run that fails at once leaves nobody to read.
    child.stdin.on('error', () => undefined);
    child.stdin.end(options.stdin ?? '');
  });
}
