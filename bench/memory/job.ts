import type { WeightDtype } from '@iceformer/transformer';

/** One measurement of memory or loading, done by a fresh process. */
export interface MemoryJob {
  /** Model folder. */
  model: string;
  dtype: WeightDtype;
  attention: 'dense' | 'sparse';
  threads: number;
  task:
    | { kind: 'load' }
    /** Reads a text of at least so many tokens, and answers. */
    | { kind: 'peak'; textFile: string; tokens: number; window: number }
    /** Generates so many times, with prompts of changing lengths. */
    | { kind: 'growth'; textFile: string; calls: number };
}

/** What a process prints, as JSON, on the last line of its stdout. All memory in bytes. */
export type MemoryResult =
  | {
      kind: 'load';
      /** From the call of `loadModel` to the loaded model, and to its first token. */
      loadMs: number;
      firstTokenMs: number;
    }
  | {
      kind: 'peak';
      promptTokens: number;
      peakRss: number;
      weights: number;
      cache: number;
      /** What `estimateMemory` says for as many tokens. */
      estimate: number;
      prefillMs: number;
    }
  | {
      kind: 'growth';
      /** Resident after each call. */
      resident: number[];
    };
