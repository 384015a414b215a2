import { describe, expect, test } from 'vitest';
import { measurePerplexity } from '../src/perplexity.ts';
import type { Sequence } from '../src/sequence.ts';

const VOCAB = 5;

const ignore = () => undefined;

/** Logits that depend on position and token, so that a wrong row or target shows. */
function logit(position: number, input: number, token: number): number {
  return Math.fround(Math.sin(position * 1.7 + input * 0.9 + token * 2.3) * 3);
}

class KnownSequence implements Sequence {
  readonly vocabSize = VOCAB;
  readonly maxChunk: number;
  #tokens: number[] = [];
  #start = 0;

  constructor(maxChunk: number) {
    this.maxChunk = maxChunk;
  }
  rewind(): number {
    this.#tokens = [];
    return 0;
  }
  append(tokens: Uint32Array, cancelled: () => boolean): boolean {
    if (cancelled()) return false;
    this.#start = this.#tokens.length;
    this.#tokens.push(...tokens);
    return true;
  }
  logits(rows: Uint32Array, out: Float32Array): void {
    expect(out).toHaveLength(rows.length * VOCAB);
    rows.forEach((row, index) => {
      const position = this.#start + row;
      for (let token = 0; token < VOCAB; token++) {
        out[index * VOCAB + token] = logit(position, this.#tokens[position] as number, token);
      }
    });
  }
  lastLogits(): void {
    throw new Error('perplexity needs many rows');
  }
  report() {
    return { retainedMass: 0.5, tilesRead: 0.25, cacheBytes: 0 };
  }
}

/** The definition, written out. */
function expected(tokens: Uint32Array, context: number, bosToken: number | null) {
  const losses: number[] = [];
  for (let window = 0; window < Math.floor(tokens.length / context); window++) {
    for (let position = Math.floor(context / 2); position < context - 1; position++) {
      const input =
        position === 0 && bosToken !== null
          ? bosToken
          : (tokens[window * context + position] as number);
      const row = Array.from({ length: VOCAB }, (_, token) => logit(position, input, token));
      const sum = row.reduce((total, value) => total + Math.exp(value), 0);
      losses.push(
        Math.log(sum) - (row[tokens[window * context + position + 1] as number] as number),
      );
    }
  }
  const mean = losses.reduce((a, b) => a + b, 0) / losses.length;
  const variance = losses.reduce((sum, loss) => sum + (loss - mean) ** 2, 0) / losses.length;
  return {
    perplexity: Math.exp(mean),
    standardError: Math.exp(mean) * Math.sqrt(variance / (losses.length - 1)),
    tokens: losses.length,
  };
}

const text = (length: number) =>
  Uint32Array.from({ length }, (_, index) => (index * 7 + (index >> 2)) % VOCAB);

function measure(
  tokens: Uint32Array,
  context: number,
  maxChunk: number,
  bosToken: number | null = null,
) {
  const progress: { done: number; total: number; perplexity: number }[] = [];
  const result = measurePerplexity(
    new KnownSequence(maxChunk),
    1000,
    { tokens, context, bosToken },
    { cancelled: () => false, emit: (event) => progress.push(event) },
  );
  return { result, progress };
}

describe('perplexity', () => {
  test.each([
    [200, 200, 512],
    [200, 64, 512],
    [203, 50, 7],
    [101, 33, 16],
    [400, 200, 64],
    [12, 4, 1],
  ])('of %d tokens in windows of %d, chunks of %d', (length, context, maxChunk) => {
    const { result, progress } = measure(text(length), context, maxChunk);
    const { perplexity, standardError, tokens } = expected(text(length), context, null);
    expect(result.tokens).toBe(tokens);
    expect(result.perplexity).toBeCloseTo(perplexity, 9);
    expect(result.standardError).toBeCloseTo(standardError, 9);
    expect(result.windows).toBe(Math.floor(length / context));
    expect(result.retainedMass).toBeCloseTo(0.5);
    expect(result.tilesRead).toBeCloseTo(0.25);
    expect(progress).toHaveLength(result.windows);
    expect(progress.at(-1)).toEqual({
      done: result.windows,
      total: result.windows,
      perplexity: result.perplexity,
    });
  });

  test('puts the beginning-of-text token in the place of the first, and scores the text as it was', () => {
    const seen: number[][] = [];
    class Spy extends KnownSequence {
      override append(tokens: Uint32Array, cancelled: () => boolean): boolean {
        seen.push([...tokens]);
        return super.append(tokens, cancelled);
      }
    }
    const tokens = Uint32Array.of(1, 2, 3, 4, 4, 3, 2, 1);
    measurePerplexity(
      new Spy(10),
      10,
      { tokens, context: 4, bosToken: 0 },
      { cancelled: () => false, emit: ignore },
    );
    expect(seen).toEqual([
      [0, 2, 3, 4],
      [0, 3, 2, 1],
    ]);
  });

  test('ends when cancelled', () => {
    let asked = 0;
    const call = { cancelled: () => ++asked > 2, emit: ignore };
    const params = { tokens: text(100), context: 50, bosToken: null };
    expect(() => measurePerplexity(new KnownSequence(10), 1000, params, call)).toThrow(
      expect.objectContaining({ name: 'CallCancelled' }),
    );
  });

  test.each([
    ['ERR_TEXT_TOO_SHORT', 49, 50, /49 tokens.*50/],
    ['ERR_PROMPT_TOO_LONG', 5000, 2000, /2000 tokens.*1000/],
    ['ERR_INVALID_ARGUMENT', 100, 3, /at least 4, got 3/],
    ['ERR_INVALID_ARGUMENT', 100, 10.5, /10\.5/],
  ])('%s: %d tokens, windows of %d', (code, length, context, message) => {
    expect(() => measure(text(length), context, 16)).toThrow(
      expect.objectContaining({ code, message: expect.stringMatching(message) }),
    );
  });
});
