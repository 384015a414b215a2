import { createHash } from 'node:crypto';
import { cpus } from 'node:os';
import { readPlan } from '@iceformer/sparse-attention';
import type { Model } from '@iceformer/transformer';
import { type DocumentQuestion, documentQuestionPrompts } from './document-questions.ts';
import { EvaluationError } from './evaluation-error.ts';
import { lineRetrievalPrompts } from './line-retrieval.ts';
import { passkeyPrompts } from './passkey.ts';
import { type PredictionResult, predictText } from './prediction.ts';
import { askPrompts, type NamedAttention, type RetrievalResult } from './retrieval.ts';
import type { PromptSource, RetrievalPrompt } from './retrieval-prompt.ts';
import { topicRetrievalPrompts } from './topic-retrieval.ts';

/** Tasks that ask for what stands in a long prompt. */
export const RETRIEVAL_TASKS = ['passkey', 'lines', 'topics', 'questions'] as const;

/** A task that asks for what stands in a long prompt. */
export type RetrievalTask = (typeof RETRIEVAL_TASKS)[number];

/** All tasks: prediction of the text (perplexity, top-1 agreement, divergence), and retrieval. */
export const EVALUATION_TASKS = ['prediction', ...RETRIEVAL_TASKS] as const;

/** A task of {@link evaluate}. */
export type EvaluationTask = (typeof EVALUATION_TASKS)[number];

/** What {@link evaluate} measures. */
export interface EvaluateOptions {
  /** The text that is predicted, that surrounds pass keys, and that questions are about. */
  text: string;
  /** Ways to attend that are compared with dense attention. */
  attention: readonly NamedAttention[];
  /** Default: all; `questions` only if there are some about the text. */
  tasks?: readonly EvaluationTask[];
  /** Tokens of a window of prediction. Default: 2,048, or what the model holds if that is less. */
  context?: number;
  /** Windows of prediction at most. Default: 4. */
  windows?: number;
  /** Lengths of the prompts of retrieval, in tokens. Default: a quarter, half and nearly all of the model's context, at most 7,500. */
  lengths?: readonly number[];
  /** Prompts of each task of retrieval. Default: 20. */
  prompts?: number;
  /** Questions about the text. Default: those about `docs/corpus`. */
  questions?: readonly DocumentQuestion[];
  /** The same seed gives the same prompts and intervals. Default: 1. */
  seed?: number;
  signal?: AbortSignal;
  /** Called as the work goes on. */
  onProgress?: (progress: EvaluationProgress) => void;
}

/** How far {@link evaluate} is. */
export interface EvaluationProgress {
  task: EvaluationTask;
  /** Passes over a window, or answers, done. */
  done: number;
  /** Of so many. */
  total: number;
}

/** A way to attend as it was when it was measured. */
export interface EvaluatedAttention {
  name: string;
  /** What was asked for: a name, or a plan. */
  attention: NamedAttention['attention'];
}

/** What was measured, on what, with what. The form of the JSON file. */
export interface EvaluationResult {
  /** What this is. */
  form: 'iceformer-evaluation';
  /** Version of the form, 1. */
  version: 1;
  model: {
    architecture: string;
    /** Tells it from others, see `modelFingerprint` of `@iceformer/model-loader`. */
    fingerprint: string;
    layers: number;
    heads: number;
    kvHeads: number;
    headDim: number;
    parameters: number;
    contextLength: number;
    /** Type of the weights. */
    dtype: string;
    /** Type of the keys and values in the cache. */
    kvDtype: string;
  };
  text: {
    /** Of its UTF-8 bytes, in hexadecimal. */
    sha256: string;
    tokens: number;
  };
  machine: {
    /** As the system names it. */
    cpu: string;
    /** SIMD level of the kernels. */
    simd: string;
    threads: number;
  };
  seed: number;
  /** Dense attention, which is always measured, is not listed. */
  attention: EvaluatedAttention[];
  prediction?: PredictionResult;
  retrieval: Partial<Record<RetrievalTask, RetrievalResult>>;
}

/**
 * Measures what ways to attend cost in accuracy, each against dense attention on the same text, prompts and weights.
 *
 * @throws {@link EvaluationError} `ERR_INVALID_ARGUMENT`, `ERR_TEXT_TOO_SHORT`, `ERR_NO_QUESTIONS`; what the model
 *   throws; the signal's reason
 */
export async function evaluate(model: Model, options: EvaluateOptions): Promise<EvaluationResult> {
  const { text, attention, seed = 1, signal, onProgress } = options;
  const { info, tokenizer } = model;
  const tasks = chosenTasks(options);
  checkNames(attention);
  const before = info.attention;
  const tokens = await tokenizer.encodeAsync(text, { ...(signal && { signal }) });
  const result: EvaluationResult = {
    form: 'iceformer-evaluation',
    version: 1,
    model: {
      architecture: info.architecture,
      fingerprint: info.fingerprint,
      layers: info.layers,
      heads: info.heads,
      kvHeads: info.kvHeads,
      headDim: info.headDim,
      parameters: info.parameters,
      contextLength: info.contextLength,
      dtype: info.dtype,
      kvDtype: info.kvDtype,
    },
    text: { sha256: textHash(text), tokens: tokens.length },
    machine: { cpu: cpus()[0]?.model.trim() ?? 'unknown', simd: info.simd, threads: info.threads },
    seed,
    attention: attention.map(({ name, attention: choice }) => ({
      name,
      attention: typeof choice === 'string' ? choice : readPlan(choice, info.layers, info.kvHeads),
    })),
    retrieval: {},
  };
  const source: PromptSource = {
    tokenizer,
    text,
    lengths: options.lengths ?? defaultLengths(info.contextLength),
    count: options.prompts ?? 20,
    seed,
  };
  checkSource(source, info.contextLength);
  // All prompts are made before the first is asked, so that a text too short is told at once.
  const prompts = new Map<RetrievalTask, RetrievalPrompt[]>();
  for (const task of RETRIEVAL_TASKS) {
    if (!tasks.includes(task)) continue;
    try {
      prompts.set(task, PROMPTS[task](source, options.questions));
    } catch (error) {
      const optional = options.tasks === undefined && task === 'questions';
      if (!optional || (error as { code?: unknown }).code !== 'ERR_NO_QUESTIONS') throw error;
    }
  }
  if (tasks.includes('prediction')) {
    const context = options.context ?? Math.min(2048, info.contextLength);
    result.prediction = await predictText(
      model,
      tokens.slice(0, Math.min(tokens.length, context * (options.windows ?? 4))),
      attention,
      {
        context,
        seed,
        signal,
        onProgress: (done, total) => onProgress?.({ task: 'prediction', done, total }),
      },
    );
  }
  try {
    for (const [task, own] of prompts) {
      result.retrieval[task] = await askPrompts(model, own, attention, {
        signal,
        onAnswer: (_, done, total) => onProgress?.({ task, done, total }),
      });
    }
  } finally {
    // A plan that was loaded with the model cannot be asked for; whoever loaded one sets it again.
    if (before !== 'plan' && prompts.size > 0) await model.setAttention(before);
  }
  return result;
}

/** SHA-256 of a text's UTF-8 bytes, in hexadecimal. */
export function textHash(text: string): string {
  return createHash('sha256').update(text, 'utf8').digest('hex');
}

const PROMPTS: Record<
  RetrievalTask,
  (source: PromptSource, questions?: readonly DocumentQuestion[]) => RetrievalPrompt[]
> = {
  passkey: (source) => passkeyPrompts(source),
  lines: (source) => lineRetrievalPrompts(source),
  topics: (source) => topicRetrievalPrompts(source),
  questions: documentQuestionPrompts,
};

function defaultLengths(contextLength: number): number[] {
  // Room for an answer and for the line of text that a prompt may be longer.
  const longest = Math.min(7500, Math.floor(contextLength * 0.9));
  return [longest / 4, longest / 2, longest].map(Math.floor);
}

function chosenTasks({ tasks = EVALUATION_TASKS }: EvaluateOptions): readonly EvaluationTask[] {
  for (const task of tasks) {
    if (EVALUATION_TASKS.includes(task)) continue;
    throw invalid('tasks', task, `of ${EVALUATION_TASKS.join(', ')}`);
  }
  return tasks;
}

function checkNames(attention: readonly NamedAttention[]): void {
  const names = attention.map(({ name }) => name);
  for (const [index, name] of names.entries()) {
    if (name === 'dense' || names.indexOf(name) !== index) {
      throw invalid('attention', name, 'names that differ from each other and from dense');
    }
  }
}

function checkSource({ lengths, count }: PromptSource, contextLength: number): void {
  const whole = (value: number): boolean => Number.isSafeInteger(value) && value >= 1;
  if (!whole(count)) throw invalid('prompts', count, 'a whole number of at least 1');
  for (const length of lengths) {
    if (whole(length) && length <= contextLength) continue;
    throw invalid('lengths', length, `whole numbers from 1 to the context of ${contextLength}`);
  }
  if (lengths.length === 0) throw invalid('lengths', '[]', 'at least one length');
}

function invalid(name: string, value: unknown, expected: string): EvaluationError {
  return new EvaluationError(
    'ERR_INVALID_ARGUMENT',
    `${name} must be ${expected}, got ${String(value)}`,
    { name, value, expected },
  );
}
