import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import {
  CORPUS_QUESTIONS,
  documentQuestionPrompts,
  lineRetrievalPrompts,
  type PromptSource,
  passkeyPrompts,
  questionsAbout,
  type RetrievalPrompt,
  topicRetrievalPrompts,
} from '../src/index.ts';
import { characters, textOf } from './characters.ts';

const corpus = (name: string): string =>
  readFileSync(fileURLToPath(new URL(`../../../docs/corpus/${name}`, import.meta.url)), 'utf8');
const source: PromptSource = {
  tokenizer: characters,
  text: corpus('esther.txt'),
  lengths: [2000, 6000],
  count: 8,
  seed: 7,
};

describe.each<[string, (source: PromptSource) => RetrievalPrompt[], slack: number]>([
  ['pass keys', passkeyPrompts, 700],
  ['lines', lineRetrievalPrompts, 10],
  ['topics', topicRetrievalPrompts, 10],
  ['questions', (from) => documentQuestionPrompts(from), 0],
])('%s', (_name, make, slack) => {
  test('are the same for the same seed, and others for another', () => {
    const texts = (seed: number) => make({ ...source, seed }).map(({ tokens }) => textOf(tokens));
    expect(texts(7)).toEqual(texts(7));
    expect(texts(7)).not.toEqual(texts(8));
  });

  test('come in all lengths, are about as long as wanted and ask for what stands in them', () => {
    const prompts = make(source);
    expect(prompts.map(({ length }) => length)).toEqual([
      2000, 6000, 2000, 6000, 2000, 6000, 2000, 6000,
    ]);
    for (const { tokens, length, depth, expected, accepts } of prompts) {
      expect(tokens.length).toBeGreaterThan(length * 0.75);
      expect(tokens.length).toBeLessThanOrEqual(length + slack);
      expect(depth).toBeGreaterThanOrEqual(0);
      expect(depth).toBeLessThanOrEqual(1);
      expect(textOf(tokens).toLowerCase()).toContain(expected.toLowerCase());
      expect(accepts(` ${expected}.\n`)).toBe(true);
      expect(accepts('')).toBe(false);
      expect(accepts(`x${expected}x 1`)).toBe(/^\d/.test(expected));
    }
  });
});

test('pass keys are spread over the text', () => {
  const prompts = passkeyPrompts({ ...source, lengths: [6000], count: 4 });
  const places = prompts.map(({ tokens, expected }) => {
    const text = textOf(tokens);
    return text.indexOf(`The pass key is ${expected}`) / text.length;
  });
  expect(places).toEqual([...places].sort((a, b) => a - b));
  for (const [index, place] of places.entries()) {
    expect(Math.abs(place - (index + 0.5) / 4)).toBeLessThan(0.15);
  }
});

test('a pass key needs a text that fills the prompt', () => {
  expect(() => passkeyPrompts({ ...source, text: 'Short.' })).toThrow(
    expect.objectContaining({ code: 'ERR_TEXT_TOO_SHORT' }),
  );
});

test('the number of another line is wrong', () => {
  const [prompt] = lineRetrievalPrompts({ ...source, count: 1 });
  if (!prompt) return expect.fail('no prompt');
  const numbers = [...textOf(prompt.tokens).matchAll(/<(\d{5})>/g)].map((match) => match[1] ?? '');
  expect(numbers.length).toBeGreaterThan(20);
  expect(numbers.filter((number) => prompt.accepts(`${number}>.`))).toEqual([prompt.expected]);
});

describe('questions about the texts of docs/corpus', () => {
  const texts = [
    'genesis.txt',
    'esther.txt',
    'ezra-nehemiah-esther.txt',
    'sqlite-file-format.txt',
    'stb_ds.h.txt',
  ].map(corpus);

  test('each has its evidence in a text, and its answer near it', () => {
    for (const { question, answers, evidence } of CORPUS_QUESTIONS) {
      const text = texts.find((candidate) => candidate.includes(evidence));
      if (text === undefined) return expect.fail(`no evidence for: ${question}`);
      const at = text.indexOf(evidence);
      const around = text.slice(Math.max(0, at - 120), at + evidence.length + 120).toLowerCase();
      expect(answers.some((answer) => around.includes(answer.toLowerCase()))).toBe(true);
    }
    for (const text of texts) expect(questionsAbout(text).length).toBeGreaterThanOrEqual(4);
  });

  test('the excerpt holds the evidence about where it should', () => {
    const text = corpus('genesis.txt');
    const prompts = documentQuestionPrompts({ ...source, text, lengths: [5000], count: 8 });
    for (const { tokens, depth } of prompts) {
      const prompt = textOf(tokens);
      expect(questionsAbout(prompt)).not.toEqual([]);
      expect(prompt).toMatch(/Question: .*\nAnswer:$/);
      expect(depth).toBeLessThanOrEqual(1);
    }
    const depths = prompts.map(({ depth }) => depth);
    expect(Math.max(...depths) - Math.min(...depths)).toBeGreaterThan(0.4);
  });

  test('there are none about other texts', () => {
    expect(() => documentQuestionPrompts({ ...source, text: 'Nothing of the kind.' })).toThrow(
      expect.objectContaining({ code: 'ERR_NO_QUESTIONS' }),
    );
  });
});
