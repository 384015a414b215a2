import type { Tokenizer } from '@iceformer/model-loader';

/** A text with a number hidden in it, and the question for the number. */
export interface PasskeyPrompt {
  /** Five digits. */
  key: string;
  /** Wanted prompt length in tokens; the prompt is at most one line of text longer. */
  length: number;
  /** Where the key stands: 0 at the beginning of the text, 1 at its end. */
  depth: number;
  tokens: Uint32Array;
}

const INTRODUCTION =
  'There is an important info hidden inside a lot of irrelevant text. Find it and memorize it. ' +
  'I will quiz you about the important information there.\n\n';
const QUESTION = '\n\nWhat is the pass key? The pass key is';
const needle = (key: string): string =>
  `The pass key is ${key}. Remember it. ${key} is the pass key.`;

/**
 * Makes `count` prompts, the lengths in turn, the depths of each length spread evenly. The text around the key is
 * consecutive lines of `document` from a random line on. The same seed gives the same prompts.
 */
export function makePrompts(
  tokenizer: Tokenizer,
  document: string,
  lengths: readonly number[],
  count: number,
  seed: number,
): PasskeyPrompt[] {
  const random = mulberry32(seed);
  const size = (text: string): number => tokenizer.encode(text, { addSpecialTokens: false }).length;
  const lines = document.split('\n');
  const sizes = lines.map((line) => size(`${line}\n`));
  const overhead = size(INTRODUCTION + needle('00000') + QUESTION);
  const total = sizes.reduce((sum, tokens) => sum + tokens, 0);
  return Array.from({ length: count }, (_, index) => {
    const length = lengths[index % lengths.length] as number;
    const ofLength = Math.ceil((count - (index % lengths.length)) / lengths.length);
    const depth = (Math.floor(index / lengths.length) + 0.5) / ofLength;
    const wanted = length - overhead;
    if (wanted > total) throw new Error(`the text has ${total} tokens, a prompt needs ${wanted}`);
    const key = String(10000 + Math.floor(random() * 90000));
    const first = firstLine(sizes, wanted, random);
    let end = first;
    for (let tokens = 0; tokens < wanted; end++) tokens += sizes[end] as number;
    const text = lines.slice(first, end);
    text.splice(Math.round(depth * text.length), 0, needle(key));
    const prompt = INTRODUCTION + text.join('\n') + QUESTION;
    return { key, length, depth, tokens: tokenizer.encode(prompt, { addSpecialTokens: false }) };
  });
}

/** A random line that at least `wanted` tokens follow, counted from its beginning. */
function firstLine(sizes: readonly number[], wanted: number, random: () => number): number {
  let last = sizes.length;
  for (let tokens = 0; tokens < wanted; ) tokens += sizes[--last] as number;
  return Math.floor(random() * (last + 1));
}

/** Numbers in [0, 1), the same for the same seed everywhere. */
function mulberry32(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}
