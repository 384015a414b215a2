import type { AttentionChoice, Model } from '@iceformer/transformer';
import { type ShareEstimate, wilson } from './confidence.ts';
import type { RetrievalPrompt } from './retrieval-prompt.ts';

/** A way to attend, with the name it has in results. */
export interface NamedAttention {
  name: string;
  attention: AttentionChoice;
}

/** Dense attention, the first of what is asked. */
export const DENSE: NamedAttention = { name: 'dense', attention: 'exact' };

/** What one way to attend made of one prompt. */
export interface RetrievalAnswer {
  attention: string;
  length: number;
  depth: number;
  promptTokens: number;
  expected: string;
  text: string;
  found: boolean;
  retainedMass: number;
  tilesRead: number;
  prefillMs: number;
}

/** How much one way to attend found. */
export interface RetrievalScore {
  attention: string;
  /** Of all prompts. */
  found: ShareEstimate;
  /** Of the prompts that dense attention answered right. */
  foundOfDense: ShareEstimate;
  /**
   * Of all prompts, those answered as with dense attention, word for word, right or wrong: where a model finds little,
   * the other shares rest on few prompts, and this one on all.
   */
  agreement: ShareEstimate;
}

/** Answers of one task, with dense attention and in other ways. */
export interface RetrievalResult {
  scores: RetrievalScore[];
  answers: RetrievalAnswer[];
}

/** What {@link askPrompts} may be told. */
export interface AskOptions {
  signal?: AbortSignal | undefined;
  /** Called after each answer. */
  onAnswer?: ((answer: RetrievalAnswer, done: number, total: number) => void) | undefined;
}

/**
 * Asks every prompt with dense attention and in the other ways, in turn, so that a machine that slows down slows all.
 * Answers are greedy. The model attends as the last one when this ends.
 */
export async function askPrompts(
  model: Pick<Model, 'generate' | 'setAttention'>,
  prompts: readonly RetrievalPrompt[],
  others: readonly NamedAttention[],
  { signal, onAnswer }: AskOptions = {},
): Promise<RetrievalResult> {
  const ways = [DENSE, ...others];
  const answers: RetrievalAnswer[] = [];
  for (const prompt of prompts) {
    for (const { name, attention } of ways) {
      signal?.throwIfAborted();
      await model.setAttention(attention);
      const { summary } = model.generate({
        tokens: prompt.tokens,
        maxTokens: prompt.maxTokens,
        temperature: 0,
        ...(signal && { signal }),
      });
      const { text, promptTokens, retainedMass, tilesRead, prefillMs } = await summary;
      signal?.throwIfAborted();
      const answer: RetrievalAnswer = {
        attention: name,
        length: prompt.length,
        depth: prompt.depth,
        promptTokens,
        expected: prompt.expected,
        text,
        found: prompt.accepts(text),
        retainedMass,
        tilesRead,
        prefillMs,
      };
      answers.push(answer);
      onAnswer?.(answer, answers.length, prompts.length * ways.length);
    }
  }
  return { scores: score(answers, ways), answers };
}

function score(
  answers: readonly RetrievalAnswer[],
  ways: readonly NamedAttention[],
): RetrievalScore[] {
  const of = (name: string) => answers.filter(({ attention }) => attention === name);
  const dense = of(DENSE.name);
  return ways.map(({ name }) => {
    const own = of(name);
    const both = own.filter(({ found }, index) => found && dense[index]?.found).length;
    const same = own.filter(({ text }, index) => text === dense[index]?.text).length;
    return {
      attention: name,
      found: wilson(own.filter(({ found }) => found).length, own.length),
      foundOfDense: wilson(both, dense.filter(({ found }) => found).length),
      agreement: wilson(same, own.length),
    };
  });
}
