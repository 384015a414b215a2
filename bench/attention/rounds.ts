import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { runJob } from '../job-process.ts';
import { reasonOf } from '../model/schedule.ts';
import type { Candidate } from './candidates.ts';
import { type ExactRows, relativeErrors } from './exact-rows.ts';
import type { AttentionJob, AttentionResult, LayerFigure } from './job.ts';
import type { TensorKind, TensorSet } from './tensors.ts';

/** What one process measured. */
export interface Sample {
  kind: TensorKind;
  n: number;
  round: number;
  candidate: string;
  /** What the engine says of itself. */
  engine: string;
  /** Places in the set of the layers that were measured. */
  layers: number[];
  /** Query heads that were measured. */
  heads: number[];
  /** `[layers]` */
  figures: LayerFigure[];
  /** `[layers][heads]`, relative L2 */
  errors: number[][];
}

/** Why a candidate has no figures. */
export interface Failure {
  candidate: string;
  kind?: TensorKind;
  n?: number;
  reason: string;
}

/** One set at one length, with what its outputs should be. */
export interface Stage {
  set: TensorSet;
  n: number;
  exact: ExactRows;
}

export interface Schedule {
  candidates: readonly Candidate[];
  rounds: number;
  threads: number;
  decode: number;
  environment: Record<string, string>;
  /** A folder for outputs. */
  temporary: string;
  onSample(sample: Sample): void;
  onFailure(failure: Failure): void;
}

/** Passes over short sequences are many, because each is quick and uneven. */
const passes = (n: number): number => (n <= 4096 ? 5 : n <= 16_384 ? 2 : 1);

/**
 * Measures all candidates on one set at one length, each in a process of its own, never two at once. They take turns,
 * and another one begins in each round, so that a drift of the machine's speed meets all alike.
 */
export async function runRounds(schedule: Schedule, { set, n, exact }: Stage): Promise<void> {
  const { rounds, temporary } = schedule;
  const candidates = schedule.candidates.filter(({ limit }) => n <= limit);
  const failed = new Set<Candidate>();
  for (let round = 0; round < rounds; round++) {
    for (let turn = 0; turn < candidates.length; turn++) {
      const candidate = candidates[(turn + round) % candidates.length] as Candidate;
      const { slow, name } = candidate;
      if (failed.has(candidate) || (slow && round > 0)) continue;
      const all = set.files.map((_, place) => place);
      const layers = slow ? [all.length >> 1] : all;
      const output = join(temporary, 'output');
      const job: AttentionJob = {
        layers: layers.map((place) => set.files[place] as TensorSet['files'][number]),
        n,
        heads: set.heads,
        kvHeads: set.kvHeads,
        headDim: set.headDim,
        threads: schedule.threads,
        passes: passes(n),
        decode: Math.min(schedule.decode, n >> 1),
        rows: exact.rows,
        output,
        options: candidate.options(set),
      };
      const outcome = await runJob<AttentionResult>(
        candidate.command,
        job,
        schedule.environment,
        slow?.seconds,
      );
      if (!('result' in outcome)) {
        failed.add(candidate);
        const late = slow && outcome.ended === 'SIGKILL';
        const reason = late ? `not done after ${slow.seconds} s` : reasonOf(outcome);
        schedule.onFailure({ candidate: name, kind: set.kind, n, reason });
        continue;
      }
      const { result } = outcome;
      const heads = result.heads ?? Array.from({ length: set.heads }, (_, head) => head);
      const bytes = readFileSync(output);
      const outputs = new Float32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);
      schedule.onSample({
        kind: set.kind,
        n,
        round,
        candidate: name,
        engine: result.engine,
        layers,
        heads,
        figures: result.layers,
        errors: relativeErrors(outputs, exact, set, layers, heads),
      });
    }
  }
}
