import { spawn } from 'node:child_process';
import process from 'node:process';

/** What a process that was given a job came to. */
export type JobOutcome<Result> =
  | { result: Result }
  | {
      /** Exit code, signal, or why it could not be started. */
      ended: number | string | null;
      stderr: string;
    };

/**
 * Runs a job in a process of its own, to its end.
 *
 * @param command program and arguments; the job is added as the last one, as JSON.
 * @param environment variables on top of this process's.
 * @param seconds after which the process is killed. Default: never.
 * @returns what the process printed, as JSON, on the last line of its stdout.
 */
export async function runJob<Result>(
  [program, ...parameters]: [string, ...string[]],
  job: object,
  environment: Record<string, string> = {},
  seconds?: number,
): Promise<JobOutcome<Result>> {
  const child = spawn(program, [...parameters, JSON.stringify(job)], {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, ...environment },
    ...(seconds === undefined ? {} : { timeout: seconds * 1000, killSignal: 'SIGKILL' }),
  });
  let stdout = '';
  let stderr = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    stdout += text;
  });
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    stderr += text;
  });
  const ended = await new Promise<number | string | null>((resolve) => {
    child.on('error', (error) => resolve(error.message));
    child.on('close', (status, signal) => resolve(status ?? signal));
  });
  if (ended !== 0) return { ended, stderr };
  return { result: JSON.parse(stdout.trim().split('\n').at(-1) ?? '') as Result };
}
