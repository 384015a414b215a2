import { describe, expect, test } from 'vitest';
import type { TokenChunk } from '../src/generation.ts';
import { TokenStream } from '../src/generation.ts';
import type { GenerateParams, GenerationSummary, TextStream } from '../src/generation-loop.ts';
import { generateTokens, unstartedSummary } from '../src/generation-loop.ts';
import { PROFILE_PARTS } from '../src/profile.ts';
import { resolveSampling } from '../src/sampler.ts';
import type { Sequence } from '../src/sequence.ts';

/** A model that says `script`, whatever it is told; cancels itself where asked to. */
class ScriptedSequence implements Sequence {
  readonly vocabSize = 256;
  readonly maxChunk = 4;
  readonly appended: number[][] = [];
  cached = 0;
  readonly #script: number[];
  #said = 0;

  constructor(script: number[]) {
    this.#script = script;
  }

  rewind(): number {
    return this.cached;
  }
  append(tokens: Uint32Array, cancelled: () => boolean): boolean {
    if (cancelled()) return false;
    this.appended.push([...tokens]);
    return true;
  }
  logits(): void {
    throw new Error('generation needs the last row only');
  }
  lastLogits(out: Float32Array): void {
    out.fill(0);
    out[this.#script[this.#said++] ?? 0] = 1;
  }
  report() {
    return { retainedMass: 0.9, tilesRead: 0.25, cacheBytes: 100 };
  }
}

/** Tokens are bytes of UTF-8. */
function byteText(): TextStream {
  const decoder = new TextDecoder();
  return { push: (token) => decoder.decode(Uint8Array.of(token), { stream: true }) };
}

const bytes = (text: string): number[] => [...Buffer.from(text)];

function run(
  script: number[],
  options: Partial<GenerateParams> & {
    contextLength?: number;
    cancelAfter?: number;
    cached?: number;
  } = {},
) {
  const sequence = new ScriptedSequence(script);
  sequence.cached = options.cached ?? 0;
  const chunks: TokenChunk[] = [];
  const progress: { total: number; cached: number; processed: number }[] = [];
  let asked = 0;
  const summary = generateTokens(
    {
      sequence,
      text: byteText(),
      eosTokens: new Set([255]),
      contextLength: options.contextLength ?? 1000,
      simd: 'scalar',
    },
    {
      tokens: Uint32Array.of(1, 2, 3, 4, 5, 6),
      maxTokens: 100,
      sampling: resolveSampling({ seed: 1 }),
      stop: [],
      ignoreEos: false,
      profile: false,
      startedAt: 0,
      ...options,
    },
    {
      cancelled: () => ++asked > (options.cancelAfter ?? Number.POSITIVE_INFINITY),
      emit(event) {
        if (event.kind === 'token') chunks.push(event.chunk);
        else progress.push(event.progress);
      },
    },
  );
  return { summary, chunks, progress, sequence, shown: chunks.map(({ text }) => text) };
}

describe('generation', () => {
  test('feeds the prompt in chunks, then token by token, and says how far it is', () => {
    const { summary, progress, sequence } = run([...bytes('hi'), 255]);
    expect(sequence.appended).toEqual([[1, 2, 3, 4], [5, 6], bytes('h'), bytes('i')]);
    expect(progress).toMatchObject([
      { total: 6, cached: 0, processed: 0 },
      { total: 6, cached: 0, processed: 4 },
      { total: 6, cached: 0, processed: 6 },
    ]);
    expect(summary).toMatchObject({
      text: 'hi',
      promptTokens: 6,
      cachedTokens: 0,
      generatedTokens: 3,
      stopReason: 'eos',
      retainedMass: 0.9,
      tilesRead: 0.25,
      cacheBytes: 100,
      seed: 1,
      simd: 'scalar',
    });
    expect(summary.peakRssBytes).toBeGreaterThan(1e6);
  });

  test('does not feed again what the cache holds', () => {
    const { sequence, progress, summary } = run([255], { cached: 5 });
    expect(sequence.appended).toEqual([[6]]);
    expect(progress[0]).toMatchObject({ total: 6, cached: 5, processed: 5 });
    expect(summary.cachedTokens).toBe(5);
  });

  test('shows whole characters only', () => {
    const { shown, summary } = run([...bytes('a€𝄞'), 255]);
    expect(shown).toEqual(['a', '', '', '€', '', '', '', '𝄞', '']);
    expect(summary.text).toBe('a€𝄞');
  });

  test('drops a character cut off by the length limit', () => {
    const { shown, summary } = run(bytes('a€'), { maxTokens: 3 });
    expect(shown).toEqual(['a', '', '']);
    expect(summary).toMatchObject({ text: 'a', stopReason: 'length', generatedTokens: 3 });
  });

  test('stops at a stop sequence that lies across tokens and characters', () => {
    const { shown, summary } = run(bytes('so €€! more'), { stop: ['€!', '€€€'] });
    expect(shown.join('')).toBe('so €');
    expect(summary).toMatchObject({ text: 'so €', stopReason: 'stop' });
    for (const text of shown) expect(text).not.toContain('!');
  });

  test('shows what was held back for a stop sequence that never came', () => {
    expect(run([...bytes('x#'), 255], { stop: ['##'] })).toMatchObject({
      shown: ['x', '', '#'],
      summary: { text: 'x#', stopReason: 'eos' },
    });
    expect(run(bytes('x#'), { stop: ['##'], maxTokens: 2 })).toMatchObject({
      shown: ['x', '#'],
      summary: { text: 'x#', stopReason: 'length' },
    });
  });

  test('goes on after end-of-text if told to', () => {
    const { summary } = run([255, ...bytes('ab')], { ignoreEos: true, maxTokens: 3 });
    expect(summary).toMatchObject({ generatedTokens: 3, stopReason: 'length' });
  });

  test('ends when the context is full, the last token needing no place in it', () => {
    const { summary, sequence } = run(bytes('abcdef'), { contextLength: 8 });
    expect(summary).toMatchObject({ generatedTokens: 3, stopReason: 'length', text: 'abc' });
    expect(sequence.appended.flat()).toHaveLength(8);
  });

  test('can be aborted inside the prompt', () => {
    const { summary, chunks, sequence } = run(bytes('abc'), { cancelAfter: 1 });
    expect(sequence.appended).toEqual([[1, 2, 3, 4]]);
    expect(chunks).toEqual([]);
    expect(summary).toMatchObject({
      stopReason: 'aborted',
      generatedTokens: 0,
      text: '',
      firstTokenMs: 0,
    });
  });

  test('can be aborted between tokens, and then tells the text held back too', () => {
    const { summary, shown } = run(bytes('ab#cd'), { cancelAfter: 4, stop: ['##'] });
    expect(shown).toEqual(['a', 'b', '']);
    expect(summary).toMatchObject({ stopReason: 'aborted', generatedTokens: 3, text: 'ab#' });
  });

  test.each([
    ['ERR_EMPTY_PROMPT', new Uint32Array(0), /no tokens/],
    ['ERR_PROMPT_TOO_LONG', new Uint32Array(9), /9 tokens.*holds 8/],
    ['ERR_INVALID_TOKEN', Uint32Array.of(1, 256), /256 at position 1.*256/],
  ])('refuses a prompt: %s', (code, tokens, message) => {
    expect(() => run([], { tokens, contextLength: 8 })).toThrow(
      expect.objectContaining({ code, message: expect.stringMatching(message) }),
    );
  });
});

describe('the stream a reader sees', () => {
  const summary: GenerationSummary = unstartedSummary('scalar', 0);

  /** A producer under the test's control. */
  function produce() {
    const producer = {} as {
      push(chunk: TokenChunk): void;
      finish(summary: GenerationSummary): void;
      fail(error: Error): void;
    };
    let cancelled = 0;
    const stream = new TokenStream(
      (push) =>
        new Promise((finish, fail) => {
          Object.assign(producer, { push, finish, fail });
        }),
      () => {
        cancelled++;
        producer.finish({ ...summary, stopReason: 'aborted' });
      },
    );
    return { ...producer, stream, cancelled: () => cancelled };
  }

  test('keeps what comes before anyone reads', async () => {
    const { stream, push, finish } = produce();
    for (let token = 0; token < 1000; token++) push({ text: `${token} `, token });
    finish(summary);
    await stream.summary;
    let text = '';
    for await (const chunk of stream) text += chunk.text;
    expect(text.split(' ')).toHaveLength(1001);
  });

  test('hands chunks to readers that wait, in order', async () => {
    const { stream, push, finish } = produce();
    const iterator = stream[Symbol.asyncIterator]();
    const waiting = [iterator.next(), iterator.next(), iterator.next()];
    push({ text: 'a', token: 1 });
    push({ text: 'b', token: 2 });
    finish(summary);
    expect(await Promise.all(waiting)).toEqual([
      { done: false, value: { text: 'a', token: 1 } },
      { done: false, value: { text: 'b', token: 2 } },
      { done: true, value: undefined },
    ]);
  });

  test('leaving the loop cancels, and the summary still comes', async () => {
    const { stream, push, cancelled } = produce();
    push({ text: 'a', token: 1 });
    push({ text: 'b', token: 2 });
    for await (const chunk of stream) {
      expect(chunk.text).toBe('a');
      break;
    }
    expect(cancelled()).toBe(1);
    expect(await stream.summary).toMatchObject({ stopReason: 'aborted' });
    // Late chunks of a producer that has not noticed yet go nowhere.
    push({ text: 'c', token: 3 });
    expect(await stream[Symbol.asyncIterator]().next()).toEqual({ done: true, value: undefined });
  });

  test('an error reaches the reader after the chunks before it, and the summary', async () => {
    const { stream, push, fail } = produce();
    push({ text: 'a', token: 1 });
    fail(new Error('gone'));
    const seen: string[] = [];
    await expect(async () => {
      for await (const chunk of stream) seen.push(chunk.text);
    }).rejects.toThrow('gone');
    expect(seen).toEqual(['a']);
    await expect(stream.summary).rejects.toThrow('gone');
  });
});

describe('a profile', () => {
  test('is there when asked for, with the time of both phases', () => {
    const { summary } = run(bytes('abc'), { maxTokens: 3, profile: true });
    for (const phase of [summary.profile?.prefill, summary.profile?.decode]) {
      expect(Object.keys(phase ?? {})).toEqual([...PROFILE_PARTS]);
      expect(Object.values(phase ?? {}).reduce((sum, ms) => sum + ms, 0)).toBeGreaterThan(0);
    }
    expect(summary.profile?.prefill.sampling).toBe(0);
  });

  test('is left out otherwise', () => {
    expect(run(bytes('abc')).summary).not.toHaveProperty('profile');
  });
});
