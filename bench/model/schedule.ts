import { runJob } from '../job-process.ts';
import type { Job, JobResult } from './job.ts';

/** An engine as the schedule sees it: how to start one measurement. */
export interface Engine {
  name: string;
  /** Program and arguments; the job is added as the last one. */
  command: [string, ...string[]];
  model: string;
  options: Job['options'];
}

export interface Sample extends JobResult {
  engine: string;
  /** What the engine says of itself. */
  description: string;
  length: number;
  round: number;
}

/** Why an engine has no figure at a length. */
export interface Failure {
  engine: string;
  /** Absent if it could not be had at all. */
  length?: number;
  reason: string;
}

export interface Schedule {
  engines: readonly Engine[];
  lengths: readonly number[];
  rounds: number;
  job: Omit<Job, 'model' | 'options' | 'length'>;
  environment: Record<string, string>;
  onSample(sample: Sample): void;
  onFailure(failure: Failure): void;
}

/**
 * Runs every engine at every length, `rounds` times, each in a process of its own, never two at once. Engines take
 * turns within a length, and another one begins in each round, so that a drift of the machine's speed meets all alike.
 * An engine that fails at a length is not tried there again.
 */
export async function runSchedule(schedule: Schedule): Promise<void> {
  const { engines, lengths, rounds, job, environment } = schedule;
  const failed = new Set<string>();
  for (let round = 0; round < rounds; round++) {
    for (const length of lengths) {
      for (let turn = 0; turn < engines.length; turn++) {
        const engine = engines[(turn + round) % engines.length] as Engine;
        const { model, options, name, command } = engine;
        const place = `${name} ${length}`;
        if (failed.has(place)) continue;
        const work: Job = { ...job, model, options, length };
        const outcome = await runJob<JobResult>(command, work, environment);
        if ('result' in outcome) {
          const { result } = outcome;
          schedule.onSample({ ...result, engine: name, description: result.engine, length, round });
        } else {
          failed.add(place);
          schedule.onFailure({ engine: name, length, reason: reasonOf(outcome) });
        }
      }
    }
  }
}

/** The line that names the error, in Node and in Python; what stands around it is code and a stack. */
export function reasonOf({
  ended,
  stderr,
}: {
  ended: number | string | null;
  stderr: string;
}): string {
  const lines = stderr.trim().split('\n');
  const line = lines.findLast((text) => /^\w*(Error|Exception)\b/.test(text)) ?? lines.at(-1) ?? '';
  return `ended with ${ended}: ${line.trim()}`;
}
