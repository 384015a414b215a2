import { readFileSync } from 'node:fs';
import process from 'node:process';
import type { Job, JobResult } from './job.ts';

/**
 * Tokens, from the end of the text, that a process runs through its model before the clock starts: the weights are
 * mapped and the threads exist. They must not be the prompt's first, which a prefix cache would keep.
 */
export const WARM_UP_TOKENS = 64;

/** Reads the job from the command line, runs it, and prints the result for the parent. */
export async function runEngine(
  measure: (job: Job, tokens: Uint32Array) => Promise<Omit<JobResult, 'peakRssBytes'>>,
): Promise<void> {
  const job = JSON.parse(process.argv[2] ?? '') as Job;
  const result = await measure(job, readTokens(job.tokensFile));
  const peakRssBytes = process.resourceUsage().maxRSS * 1024;
  process.stdout.write(`${JSON.stringify({ ...result, peakRssBytes } satisfies JobResult)}\n`);
}

function readTokens(path: string): Uint32Array {
  const bytes = readFileSync(path);
  return new Uint32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength));
}
