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

/**
 * Runs every engine at every length, `rounds` times, each in a process of its own, never two at once. Engines take
 * turns within a length, and another one begins in each round, so that a drift of the machine's speed meets all alike.
 */
export async function runSchedule(
  engines: readonly Engine[],
  lengths: readonly number[],
  rounds: number,
  job: Omit<Job, 'model' | 'options' | 'length'>,
  onSample: (sample: Sample) => void,
): Promise<Sample[]> {
  const samples: Sample[] = [];
  for (let round = 0; round < rounds; round++) {
    for (const length of lengths) {
      for (let turn = 0; turn < engines.length; turn++) {
        const engine = engines[(turn + round) % engines.length] as Engine;
        const { model, options, name, command } = engine;
        const outcome = await runJob<JobResult>(command, {
          ...job,
          model,
          options,
          length,
        } satisfies Job);
        if (!('result' in outcome)) {
          throw new Error(
            `${name} at ${length} tokens ended with ${outcome.ended}:\n${outcome.stderr}`,
          );
        }
        const { result } = outcome;
        const sample = { ...result, engine: name, description: result.engine, length, round };
        samples.push(sample);
        onSample(sample);
      }
    }
  }
  return samples;
}
