import { readFileSync } from 'node:fs';
import type { AttentionChoice, KvDtype, WeightDtype } from '@iceformer/transformer';
import type { Job } from './job.ts';

/** How a process of ours loads the model, from the settings of its engine. */
export function engineOptions(options: Job['options']): {
  attention: AttentionChoice;
  dtype: WeightDtype;
  kvDtype: KvDtype;
  /** Tokens that the model was trained on. */
  window: number;
  /** For the table. */
  description: string;
} {
  const { attention, dtype, kvDtype, plan, window } = options;
  return {
    attention: (typeof plan === 'string'
      ? JSON.parse(readFileSync(plan, 'utf8'))
      : attention) as AttentionChoice,
    dtype: dtype as WeightDtype,
    kvDtype: kvDtype as KvDtype,
    window: Number(window),
    description: `${attention}, ${dtype} weights, ${kvDtype} cache`,
  };
}
