import { runJob } from '../job-process.ts';
import type { Candidate } from './candidates.ts';
import type { EngineJob, EngineResult } from './engine-job.ts';
import type { EngineProgram } from './engines.ts';

/** What one process measured. */
export interface Sample {
  data: string;
  round: number;
  /** Place in the list of the dataset's candidates. */
  candidate: number;
  result: EngineResult;
}

/** Why a candidate has no figures. */
export interface Failure {
  data: string;
  family: string;
  reason: string;
}

export interface Schedule {
  folder: string;
  /** Names and candidates of the datasets. */
  data: readonly { name: string; rebuild: boolean; candidates: readonly Candidate[] }[];
  rounds: number;
  threads: readonly number[];
  singles: number;
  program(candidate: Candidate): EngineProgram;
  onSample(sample: Sample, candidate: Candidate): void;
  onFailure(failure: Failure): void;
}

/**
 * Measures every candidate in each round, each in a process of its own, never two at once. They take turns within a
 * dataset, and another one begins in each round, so that a drift of the machine's speed meets all alike.
 */
export async function runRounds(schedule: Schedule): Promise<void> {
  const failed = new Set<Candidate>();
  for (let round = 0; round < schedule.rounds; round++) {
    for (const { name, rebuild, candidates } of schedule.data) {
      const first = Math.floor((round * candidates.length) / schedule.rounds);
      for (let turn = 0; turn < candidates.length; turn++) {
        const at = (first + turn) % candidates.length;
        const candidate = candidates[at] as Candidate;
        if (failed.has(candidate) || (candidate.once && round > 0)) continue;
        const program = schedule.program(candidate);
        const threads = candidate.threads ?? schedule.threads;
        const outcome =
          'missing' in program
            ? program.missing
            : await measure(program.command, {
                folder: schedule.folder,
                data: name,
                threads: [...threads],
                rebuild: rebuild || candidate.engine === 'iceformer',
                index: candidate.index,
                searches: candidate.searches,
                singles: schedule.singles,
                ...candidate.sample,
                ...(program.entry === undefined ? {} : { entry: program.entry }),
              });
        if (typeof outcome === 'string') {
          failed.add(candidate);
          schedule.onFailure({ data: name, family: candidate.family, reason: outcome });
        } else {
          schedule.onSample({ data: name, round, candidate: at, result: outcome }, candidate);
        }
      }
    }
  }
}

/** The result, or why there is none. */
async function measure(
  command: [string, ...string[]],
  job: EngineJob,
): Promise<EngineResult | string> {
  const outcome = await runJob<EngineResult>(command, job);
  if ('result' in outcome) return outcome.result;
  // The line that names the error, in Node and in Python; what stands around it is code and a stack.
  const lines = outcome.stderr.trim().split('\n');
  const reason =
    lines.findLast((line) => /^\w*(Error|Exception)\b/.test(line)) ?? lines.at(-1) ?? '';
  return `ended with ${outcome.ended}: ${reason.trim()}`;
}
