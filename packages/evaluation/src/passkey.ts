import { EvaluationError } from './evaluation-error.ts';
import {
  encodeRaw,
  type PromptSource,
  promptGrid,
  type RetrievalPrompt,
  startsWithNumber,
} from './retrieval-prompt.ts';
import { SeededRandom } from './seeded-random.ts';

const INTRODUCTION =
  'There is an important info hidden inside a lot of irrelevant text. Find it and memorize it. ' +
  'I will quiz you about the important information there.\n\n';
const QUESTION = '\n\nWhat is the pass key? The pass key is';
const needle = (key: string): string =>
  `The pass key is ${key}. Remember it. ${key} is the pass key.`;

/**
 * Pass keys (Mohtashami and Jaggi 2023): a five-digit number hidden in a text, and the question for it. The text around
 * it is consecutive lines of the source from a random line on. A prompt is at most one line longer than wanted.
 *
 * @throws {@link EvaluationError} `ERR_TEXT_TOO_SHORT` if the text does not fill a prompt
 */
export function passkeyPrompts(source: PromptSource): RetrievalPrompt[] {
  const { tokenizer, text: document, lengths, count, seed } = source;
  const random = new SeededRandom(seed);
  const size = (text: string): number => encodeRaw(tokenizer, text).length;
  const lines = document.split('\n');
  const sizes = lines.map((line) => size(`${line}\n`));
  const overhead = size(INTRODUCTION + needle('00000') + QUESTION);
  const total = sizes.reduce((sum, tokens) => sum + tokens, 0);
  return promptGrid(lengths, count).map(({ length, depth }) => {
    const wanted = Math.max(0, length - overhead);
    if (wanted > total) {
      throw new EvaluationError(
        'ERR_TEXT_TOO_SHORT',
        `the text has ${total} tokens, a pass-key prompt of ${length} needs ${wanted}`,
        { tokens: total, needed: wanted, length },
      );
    }
    const key = String(10000 + random.below(90000));
    const first = firstLine(sizes, wanted, random);
    let end = first;
    for (let tokens = 0; tokens < wanted; end++) tokens += sizes[end] as number;
    const text = lines.slice(first, end);
    text.splice(Math.round(depth * text.length), 0, needle(key));
    return {
      length,
      depth,
      expected: key,
      tokens: encodeRaw(tokenizer, INTRODUCTION + text.join('\n') + QUESTION),
      maxTokens: 10,
      accepts: (answer) => startsWithNumber(answer, key),
    };
  });
}

/** A random line that at least `wanted` tokens follow, counted from its beginning. */
function firstLine(sizes: readonly number[], wanted: number, random: SeededRandom): number {
  let last = sizes.length;
  for (let tokens = 0; tokens < wanted; ) tokens += sizes[--last] as number;
  return random.below(last + 1);
}
