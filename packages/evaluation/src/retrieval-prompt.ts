import type { Tokenizer } from '@iceformer/transformer';

/** A prompt whose answer can be checked. */
export interface RetrievalPrompt {
  /** Wanted length of the prompt in tokens. */
  length: number;
  /** Where the answer stands: 0 at the beginning of the text, 1 at its end. */
  depth: number;
  /** What is looked for, for people. */
  expected: string;
  /** Raw text, without special tokens. */
  tokens: Uint32Array;
  /** Most tokens of an answer. */
  maxTokens: number;
  /** Whether a text answers right. */
  accepts(answer: string): boolean;
}

/** What prompts are made from. */
export interface PromptSource {
  tokenizer: Pick<Tokenizer, 'encode'>;
  /** Text that is read, or that surrounds what is looked for. */
  text: string;
  /** Lengths of prompts in tokens, in turn. */
  lengths: readonly number[];
  /** Prompts in all. */
  count: number;
  /** The same seed gives the same prompts. */
  seed: number;
}

/** Length and depth of each of `count` prompts: the lengths in turn, the depths of each length spread evenly. */
export function promptGrid(
  lengths: readonly number[],
  count: number,
): { length: number; depth: number }[] {
  return Array.from({ length: count }, (_, index) => {
    const ofLength = Math.ceil((count - (index % lengths.length)) / lengths.length);
    return {
      length: lengths[index % lengths.length] as number,
      depth: (Math.floor(index / lengths.length) + 0.5) / ofLength,
    };
  });
}

/** Tokens of a text without special ones. */
export function encodeRaw(tokenizer: PromptSource['tokenizer'], text: string): Uint32Array {
  return tokenizer.encode(text, { addSpecialTokens: false });
}

/** Whether the first digits of an answer are exactly this number. */
export function startsWithNumber(answer: string, number: string): boolean {
  return /\d+/.exec(answer)?.[0] === number;
}

/** Whether an answer has one of the phrases as whole words, in any case. */
export function mentions(answer: string, phrases: readonly string[]): boolean {
  const words = (text: string): string =>
    ` ${text
      .toLowerCase()
      .replace(/[^\p{L}\p{N}]+/gu, ' ')
      .trim()} `;
  return phrases.some((phrase) => words(answer).includes(words(phrase)));
}
