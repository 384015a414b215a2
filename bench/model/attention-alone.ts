import process from 'node:process';
import { runJob } from '../job-process.ts';
import { type Engine, reasonOf } from './schedule.ts';
import { median } from './table.ts';

/** Dense causal attention of one layer, as one process measures it. */
export interface AttentionJob {
  attentionTokens: number;
  heads: number;
  kvHeads: number;
  headDim: number;
  threads: number;
  options: Engine['options'];
}

/** Median over the rounds. */
export interface AttentionFigure {
  engine: string;
  dtype: string;
  length: number;
  ms: number;
  /** Of the causal half, two operations for a multiply-add. */
  gigaflops: number;
}

const SHAPE = { heads: 9, kvHeads: 3, headDim: 64 };

/** Engines whose attention can be had alone, by the file beside which they lie, in place of the whole model's. */
export const ATTENTION_ENGINES: Record<string, [whole: RegExp, alone: string]> = {
  'torch-f32': [/torch_sdpa\.py$/, 'torch_attention.py'],
  'torch-bf16': [/torch_sdpa\.py$/, 'torch_attention.py'],
  'iceformer dense-f32': [/iceformer\.js$/, 'iceformer-attention.js'],
  'iceformer dense': [/iceformer\.js$/, 'iceformer-attention.js'],
};

/** Measures all engines at all lengths, in turns, each in a process of its own; says figures and failures as they come. */
export async function measureAttention(
  engines: readonly Engine[],
  lengths: readonly number[],
  rounds: number,
  threads: number,
  environment: Record<string, string>,
): Promise<AttentionFigure[]> {
  const times = new Map<string, number[]>();
  for (let round = 0; round < rounds; round++) {
    for (const length of lengths) {
      for (const { name, command, options } of engines) {
        const [whole, alone] = ATTENTION_ENGINES[name] as [RegExp, string];
        const [program, script = ''] = command;
        const job: AttentionJob = { attentionTokens: length, ...SHAPE, threads, options };
        const outcome = await runJob<{ ms: number }>(
          [program, script.replace(whole, alone)],
          job,
          environment,
        );
        if (!('result' in outcome)) {
          process.stderr.write(`attention of ${name}: ${reasonOf(outcome)}\n`);
          continue;
        }
        const { ms } = outcome.result;
        const place = `${length} ${name}`;
        times.set(place, [...(times.get(place) ?? []), ms]);
        process.stderr.write(`attention, ${length} tokens, ${name}: ${ms.toFixed(1)} ms\n`);
      }
    }
  }
  return lengths.flatMap((length) =>
    engines.flatMap(({ name, options }) => {
      const found = times.get(`${length} ${name}`);
      if (!found) return [];
      const ms = median(found);
      const operations = 2 * SHAPE.heads * SHAPE.headDim * length * (length + 1);
      return [
        {
          engine: name,
          dtype: String(options['dtype']),
          length,
          ms,
          gigaflops: operations / ms / 1e6,
        },
      ];
    }),
  );
}
