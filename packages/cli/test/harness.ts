import { PassThrough, Readable } from 'node:stream';
import { createInterruption, type Interruption } from '../src/interruption.ts';
import { main } from '../src/main.ts';
import type { Packages } from '../src/packages.ts';

/** A run of the command line inside this process, with fake packages. */
export interface Run {
  code: number;
  stdout: string;
  stderr: string;
}

export interface RunOptions {
  packages?: Packages;
  stdin?: string | Buffer;
  stdinIsTty?: boolean;
  stdoutIsTty?: boolean;
  stderrIsTty?: boolean;
  env?: Record<string, string>;
  interruption?: Interruption;
}

function collectText(stream: PassThrough): () => string {
  const chunks: Buffer[] = [];
  stream.on('data', (chunk: Buffer) => chunks.push(chunk));
  return () => Buffer.concat(chunks).toString('utf8');
}

/** Runs `iceformer ...args` and collects what it prints. */
export async function run(args: string[], options: RunOptions = {}): Promise<Run> {
  const stdout = Object.assign(new PassThrough(), { isTTY: options.stdoutIsTty ?? false });
  const stderr = Object.assign(new PassThrough(), { isTTY: options.stderrIsTty ?? false });
  const stdin = Object.assign(Readable.from([Buffer.from(options.stdin ?? '')]), {
    isTTY: options.stdinIsTty ?? false,
  });
  const [out, err] = [collectText(stdout), collectText(stderr)];
  const code = await main(args, {
    streams: { stdin, stdout, stderr, env: options.env ?? {} },
    interruption: options.interruption ?? createInterruption(),
    loadPackages: () =>
      options.packages
        ? Promise.resolve(options.packages)
        : Promise.reject(new Error('this run must not load the packages')),
    version: '1.2.3',
  });
  return { code, stdout: out(), stderr: err() };
}
