import { execFile } from 'node:child_process';
import process from 'node:process';
import { setImmediate as turn } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { Worker } from 'node:worker_threads';
import { ModelLoaderError, readTokenTexts, Tokenizer } from '@iceformer/model-loader';
import { describe, expect, onTestFinished, test, vi } from 'vitest';
import { AddedTokenFinder } from '../src/added-tokens.ts';
import { byteLevelWords, GGUF_PRE_TOKENIZERS } from '../src/gguf-pre-tokenizers.ts';
import { LongWordMerger, LongWordSplitter } from '../src/long-words.ts';
import { byteAlphabet } from '../src/token-text.ts';
import { library } from '../src/tokenizers-library.ts';
import { WordSplitter } from '../src/word-splitter.ts';
import { type EncodedText, fixture } from './fixture.ts';

interface Trained {
  tokenizer: Record<string, unknown>;
  cases: EncodedText[];
}

const TRAINED = fixture<Record<string, Trained>>('tokenizers.json');
const NAMES = Object.keys(TRAINED);

function tokenizerOf(name: string): Tokenizer {
  const tokenizer = new Tokenizer({ tokenizer: TRAINED[name]?.tokenizer ?? {} });
  onTestFinished(() => tokenizer.close());
  return tokenizer;
}

/** Whole numbers of 31 bits, the same for the same seed. */
function seededNumbers(seed: number): () => number {
  let state = seed;
  return () => {
    state = (Math.imul(state, 1103515245) + 12345) & 0x7fffffff;
    return state;
  };
}

/** Text with everything a tokenizer may trip over, as long as asked for. */
function mixedText(length: number): string {
  const parts = NAMES.flatMap((name) => TRAINED[name]?.cases.map((entry) => entry.text) ?? []);
  const next = seededNumbers(12345);
  let text = '';
  while (text.length < length) {
    const number = next();
    text += `${parts[number % parts.length]}${number % 3 === 0 ? '\n' : ' '}`;
  }
  return text;
}

/** Counts the characters that the library's model is given on this thread, from now to the end of the test. */
function workOfModel(): { characters: number } {
  const { model } = new library.Tokenizer(TRAINED['smollm']?.tokenizer ?? {}, {});
  const kind = Object.getPrototypeOf(model) as typeof model;
  const { encode } = kind;
  const work = { characters: 0 };
  kind.encode = function (this: typeof model, words) {
    for (const word of words) work.characters += word.length;
    return encode.call(this, words);
  };
  onTestFinished(() => {
    kind.encode = encode;
  });
  return work;
}

/** Whether ids are the same; `expect` takes seconds to compare as many as these. */
const same = (one: Uint32Array, other: Uint32Array): boolean =>
  Buffer.compare(
    new Uint8Array(one.buffer, one.byteOffset, one.byteLength),
    new Uint8Array(other.buffer, other.byteOffset, other.byteLength),
  ) === 0;

describe('words', () => {
  const { texts, words } = fixture<{ texts: string[]; words: Record<string, string[][]> }>(
    'words.json',
  );
  const specs = fixture<Record<string, unknown>>('pre-tokenizers.json');

  test('the fixture is of the pre-tokenizers as they are now', () => {
    for (const [name, spec] of Object.entries(specs)) {
      expect(JSON.parse(JSON.stringify(byteLevelWords(name)))).toEqual(spec);
    }
    for (const name of GGUF_PRE_TOKENIZERS) {
      expect(Object.values(specs)).toContainEqual(JSON.parse(JSON.stringify(byteLevelWords(name))));
    }
  });

  test.each(Object.keys(words))('%s cuts as the Rust library does', (name) => {
    const spec = byteLevelWords(name);
    const splitter = new WordSplitter(spec?.preTokenizer);
    expect(splitter.byteLevel).toBe(true);
    for (const [index, text] of texts.entries()) {
      const found: string[] = [];
      const normalized = spec?.normalizer === null ? text : text.normalize('NFC');
      splitter.visit(normalized, true, (word) => found.push(byteAlphabet(word)));
      expect(
        found.filter((word) => word !== ''),
        JSON.stringify(text),
      ).toEqual(words[name]?.[index]);
    }
  });
});

describe.each(NAMES)('%s', (name) => {
  test('gives the ids and the text of the Rust library', () => {
    const tokenizer = tokenizerOf(name);
    for (const { text, ids, decoded } of TRAINED[name]?.cases ?? []) {
      expect([...tokenizer.encode(text)], JSON.stringify(text)).toEqual(ids);
      expect(tokenizer.decode(ids), JSON.stringify(text)).toBe(decoded);
    }
  });

  test('streams the same text, in whole characters', () => {
    const tokenizer = tokenizerOf(name);
    for (const { ids, decoded } of TRAINED[name]?.cases ?? []) {
      const decoder = tokenizer.streamingDecoder();
      const parts = ids.map((id) => decoder.push(id));
      for (const part of parts) expect(part).not.toContain('\uFFFD');
      parts.push(decoder.end());
      expect(parts.join('')).toBe(decoded);
    }
  });

  test('encodes in a worker what it encodes here', async () => {
    const tokenizer = tokenizerOf(name);
    const texts = [...(TRAINED[name]?.cases.map((entry) => entry.text) ?? []), mixedText(50_000)];
    const found = await Promise.all(texts.map((text) => tokenizer.encodeAsync(text)));
    for (const [index, text] of texts.entries())
      expect(found[index]).toEqual(tokenizer.encode(text));
  });
});

describe('long texts', () => {
  test.each(['llama', 'gemma'])(
    '%s, which sees a text as one word, gives the ids of the uncut text',
    (name) => {
      const text = mixedText(30_000);
      const spec = TRAINED[name]?.tokenizer ?? {};
      const uncut = new library.Tokenizer(spec, {});
      const normalized = uncut.normalizer?.normalize(text.replaceAll(/<[^>]*>/g, '')) ?? '';
      const model = uncut.model;
      const expected = model.encode([normalized]).map((token) => model.tokens_to_ids.get(token));
      const found = tokenizerOf(name).encode(text.replaceAll(/<[^>]*>/g, ''));
      // The library keeps unknown tokens apart; these vocabularies have all bytes and so none.
      expect([...found]).toEqual(expected);
    },
  );

  test('cuts lie between characters that no token joins', () => {
    const splitter = new LongWordSplitter(['▁the', 'he', '▁▁', 'xy', '😀a', undefined]);
    expect(splitter.split('▁the▁▁thexyz')).toEqual(['▁the', '▁▁the', 'xy', 'z']);
    expect(splitter.split('t😀a😀')).toEqual(['t', '😀a', '😀']);
    expect(splitter.split('').join('')).toBe('');
  });

  test('words that cannot be cut are merged as the library merges them', () => {
    for (const name of NAMES) {
      const { model } = new library.Tokenizer(TRAINED[name]?.tokenizer ?? {}, {});
      const merger = new LongWordMerger(model, model.merges ?? []);
      const alphabet = model.vocab.filter((token) => token?.length === 1);
      const next = seededNumbers(99);
      const random = (limit: number) => (next() >> 8) % limit;
      for (let round = 0; round < 60; round++) {
        // From runs of one letter to all of the alphabet.
        const letters = Array.from(
          { length: 1 + (round % 12) },
          () => alphabet[random(alphabet.length)],
        );
        const word = Array.from(
          { length: 1 + random(400) },
          () => letters[random(letters.length)],
        ).join('');
        const expected = model.encode([word]).map((token) => model.tokens_to_ids.get(token));
        expect(merger.encode(word), word).toEqual(expected);
      }
      expect(merger.encode('')).toEqual([]);
    }
  });

  // Guards that long words are cut and merged by our own means: the library's take 40 microseconds a character. Ours take
  // seconds for these megabytes, and far too long for the test if they look through the whole word for each merge.
  test('a megabyte without a single boundary is one word of which the library sees little', () => {
    const work = workOfModel();
    for (const name of ['smollm', 'llama']) {
      const tokenizer = tokenizerOf(name);
      for (const unit of ['a', ' ', 'in', '=']) {
        const text = unit.repeat(1_000_000 / unit.length);
        work.characters = 0;
        const ids = tokenizer.encode(text);
        expect(work.characters, `${name} ${unit}`).toBeLessThan(1000);
        expect(tokenizer.decode(ids) === text, `${name} ${unit}`).toBe(true);
      }
    }
  }, 300_000);

  test('a part of a long word is not taken for a word', () => {
    // "abc" is a token that no merge makes: only the word "abc" is it.
    const long = 'z'.repeat(300);
    const tokenizer = new Tokenizer({
      tokenizer: {
        model: {
          type: 'BPE',
          ignore_merges: true,
          vocab: { a: 0, b: 1, c: 2, z: 3, ab: 4, abc: 5, [long]: 6 },
          merges: [['a', 'b']],
        },
      },
    });
    expect([...tokenizer.encode('abc')]).toEqual([5]);
    expect([...tokenizer.encode(long)]).toEqual([6]);
    expect([...tokenizer.encode(`${long}abc`)].slice(300)).toEqual([4, 2]);
  });

  test('unknown characters in a row are one token, cut or not', () => {
    const tokenizer = new Tokenizer({
      tokenizer: {
        model: {
          type: 'BPE',
          vocab: { '?': 0, a: 1, b: 2 },
          merges: [],
          unk_token: '?',
          fuse_unk: true,
        },
      },
    });
    expect([...tokenizer.encode('aéèb')]).toEqual([1, 0, 2]);
    expect([...tokenizer.encode(`${'a'.repeat(300)}éèb`)].slice(298)).toEqual([1, 1, 0, 2]);
  });

  // Guards that a text is gone through once. What the library's model is given is counted; all else takes seconds for these
  // megabytes, and minutes if the rest of the text is copied or searched again for each word: too long for the test.
  test('work grows with the length and not faster', () => {
    const work = workOfModel();
    const mixed = mixedText(1_000_000);
    // Special tokens cut the text into short sections; without them it is one.
    const plain = mixedText(6_000_000).replaceAll('<', '');
    for (const name of ['smollm', 'llama']) {
      for (const text of [mixed, plain]) {
        const short = tokenizerOf(name).encode(text.slice(0, 100_000));
        work.characters = 0;
        const long = tokenizerOf(name).encode(text);
        expect(work.characters, name).toBeGreaterThan(0);
        expect(work.characters, name).toBeLessThanOrEqual(Buffer.byteLength(text));
        // The cut may change the last word.
        const whole = short.length - 100;
        expect(same(long.subarray(0, whole), short.subarray(0, whole)), name).toBe(true);
      }
    }
  }, 60_000);
});

describe('special tokens', () => {
  const spec = TRAINED['smollm']?.tokenizer ?? {};
  const framed = {
    ...spec,
    post_processor: {
      type: 'TemplateProcessing',
      single: [
        { SpecialToken: { id: '<|im_start|>', type_id: 0 } },
        { Sequence: { id: 'A', type_id: 0 } },
        { SpecialToken: { id: '<|im_end|>', type_id: 0 } },
      ],
      pair: [],
      special_tokens: {},
    },
  };

  test('are added around a text, or not', () => {
    const tokenizer = new Tokenizer({ tokenizer: framed });
    const plain = [...tokenizer.encode('hello', { addSpecialTokens: false })];
    expect([...tokenizer.encode('hello')]).toEqual([1, ...plain, 2]);
    expect([...tokenizer.encode('')]).toEqual([1, 2]);
    expect([...tokenizerOf('smollm').encode('hello')]).toEqual(plain);
  });

  test('are left out of decoded text on demand', () => {
    const tokenizer = new Tokenizer({ tokenizer: framed });
    const ids = tokenizer.encode('a<|endoftext|>b');
    expect(tokenizer.decode(ids)).toBe('<|im_start|>a<|endoftext|>b<|im_end|>');
    expect(tokenizer.decode(ids, { skipSpecialTokens: true })).toBe('ab');
    expect(tokenizer.specialTokenIds).toEqual(new Set([0, 1, 2]));
    expect(tokenizer.tokenToId('<|im_end|>')).toBe(2);
    expect(tokenizer.idToToken(2)).toBe('<|im_end|>');
    expect(tokenizer.idToToken(1_000_000)).toBeUndefined();
    expect(tokenizer.decode([1_000_000, 1])).toBe('<|im_start|>');
  });

  test('a post-processor with an unknown token is refused', () => {
    const bad = structuredClone(framed);
    (bad.post_processor.single[0] as { SpecialToken: { id: string } }).SpecialToken.id = '<none>';
    expect(() => new Tokenizer({ tokenizer: bad })).toThrow(
      expect.objectContaining({ code: 'ERR_TOKENIZER_INVALID' }),
    );
  });

  test('are found the leftmost first, the longest of those, with their options', () => {
    const token = (id: number, content: string, options: object = {}) => ({
      text: content,
      token: {
        id,
        content,
        special: true,
        normalized: false,
        lstrip: false,
        rstrip: false,
        single_word: false,
        ...options,
      },
    });
    const finder = new AddedTokenFinder([
      token(1, '<a>'),
      token(2, '<a><b>'),
      token(3, '<mask>', { lstrip: true, rstrip: true }),
      token(4, 'word', { single_word: true }),
    ]);
    const split = (text: string) =>
      finder.split(text).map((section) => ('id' in section ? section.id : section.text));
    expect(split('x<a><b><a>y')).toEqual(['x', 2, 1, 'y']);
    expect(split('one  <mask> \n two')).toEqual(['one', 3, 'two']);
    expect(split('word sword words, word.')).toEqual([4, ' sword words, ', 4, '.']);
    expect(split('<<a>')).toEqual(['<', 1]);
    expect(split('')).toEqual([]);
  });
});

describe('streaming', () => {
  test('holds back a character until its last byte', () => {
    const tokenizer = tokenizerOf('llama');
    const bytes = [...Buffer.from('é😀')].map((byte) =>
      tokenizer.tokenToId(`<0x${byte.toString(16).toUpperCase()}>`),
    ) as number[];
    const decoder = tokenizer.streamingDecoder();
    expect(bytes.map((id) => decoder.push(id))).toEqual(['', 'é', '', '', '', '😀']);
    expect(decoder.end()).toBe('');
  });

  test('ends a character that never came with U+FFFD', () => {
    const tokenizer = tokenizerOf('llama');
    const decoder = tokenizer.streamingDecoder();
    expect(decoder.push(tokenizer.tokenToId('<0xF0>') as number)).toBe('');
    expect(decoder.end()).toBe('\uFFFD');
  });

  test('cuts the space before the first word, once', () => {
    const tokenizer = tokenizerOf('llama');
    const space = tokenizer.tokenToId('▁') as number;
    const decoder = tokenizer.streamingDecoder();
    expect([space, space, space].map((id) => decoder.push(id)).join('|')).toBe('| | ');
    const gemma = tokenizerOf('gemma');
    expect(gemma.decode([gemma.tokenToId('▁') as number])).toBe(' ');
  });

  test('is refused for tokenizers whose text needs what follows', () => {
    const tokenizer = new Tokenizer({
      tokenizer: {
        model: {
          type: 'WordPiece',
          vocab: { '[UNK]': 0, play: 1, '##ing': 2 },
          unk_token: '[UNK]',
          continuing_subword_prefix: '##',
        },
        decoder: { type: 'WordPiece', prefix: '##', cleanup: true },
      },
    });
    expect([...tokenizer.encode('playing')]).toEqual([1, 2]);
    expect(tokenizer.decode([1, 2])).toBe('playing');
    expect(tokenizer.decode([])).toBe('');
    expect(() => tokenizer.streamingDecoder()).toThrow(
      expect.objectContaining({ code: 'ERR_TOKENIZER_UNSUPPORTED' }),
    );
  });
});

describe('in a worker', () => {
  test('flags of the host do not reach the thread', async () => {
    const script = `
      import { Tokenizer } from '@iceformer/model-loader';
      const tokenizer = new Tokenizer({ tokenizer: ${JSON.stringify(TRAINED['smollm']?.tokenizer)} });
      console.log((await tokenizer.encodeAsync('one two')).length === tokenizer.encode('one two').length);
      await tokenizer.close();`;
    const run = promisify(execFile);
    const cwd = fileURLToPath(new URL('.', import.meta.url));
    const { stdout } = await run(process.execPath, ['--input-type=module', '-e', script], { cwd });
    expect(stdout.trim()).toBe('true');
  });

  test('a thread that waited in vain ends, and the next call starts another', async () => {
    const tokenizer = tokenizerOf('smollm');
    const ended = vi.spyOn(Worker.prototype, 'terminate');
    onTestFinished(() => ended.mockRestore());
    expect(await tokenizer.encodeAsync('first')).toEqual(tokenizer.encode('first'));
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
    try {
      expect(await tokenizer.encodeAsync('second')).toEqual(tokenizer.encode('second'));
      expect(ended).not.toHaveBeenCalled();
      await vi.runAllTimersAsync();
      expect(ended).toHaveBeenCalledOnce();
    } finally {
      vi.useRealTimers();
    }
    expect(await tokenizer.encodeAsync('third')).toEqual(tokenizer.encode('third'));
    await tokenizer.close();
  });

  test('the texts of tokens are enough for another thread to decode', () => {
    for (const name of Object.keys(TRAINED)) {
      const tokenizer = tokenizerOf(name);
      const texts = structuredClone(tokenizer.tokenTexts());
      const ids = [...tokenizer.encode(mixedText(2000)), tokenizer.vocabSize, ...texts.eosTokenIds];
      const decoders = [
        tokenizer.streamingDecoder({ skipSpecialTokens: true }),
        readTokenTexts(texts),
      ];
      const [expected, found] = decoders.map((decoder) =>
        [...ids.map((id) => decoder.push(id)), decoder.end()].join('|'),
      );
      expect(found).toBe(expected);
      expect(texts.eosTokenIds).toEqual(tokenizer.eosTokenIds);
    }
  });

  // Guards that an abort does not wait for the thread, which hears nothing while it is in the middle of a text, and that the
  // thread does not go on for nobody.
  test('an abort rejects at once with its reason and ends the thread, and the next call works', async () => {
    const terminate = vi.spyOn(Worker.prototype, 'terminate');
    onTestFinished(() => terminate.mockRestore());
    const tokenizer = tokenizerOf('smollm');
    await tokenizer.encodeAsync('warm');
    const controller = new AbortController();
    const pending = tokenizer.encodeAsync(mixedText(3_000_000), { signal: controller.signal });
    const other = new AbortController();
    other.abort(new Error('before'));
    await expect(tokenizer.encodeAsync('x', { signal: other.signal })).rejects.toThrow('before');
    expect(terminate).not.toHaveBeenCalled();
    controller.abort(new Error('stopped'));
    // Nothing that the thread says arrives before the event loop has turned.
    await expect(Promise.race([pending, turn()])).rejects.toThrow('stopped');
    expect(terminate).toHaveBeenCalledTimes(1);
    expect(await tokenizer.encodeAsync('again')).toEqual(tokenizer.encode('again'));
  });

  test('an abort does not disturb the others', async () => {
    const tokenizer = tokenizerOf('smollm');
    const controller = new AbortController();
    const first = tokenizer.encodeAsync(mixedText(500_000), { signal: controller.signal });
    const second = tokenizer.encodeAsync('second');
    controller.abort();
    await expect(first).rejects.toMatchObject({ name: 'AbortError' });
    expect(await second).toEqual(tokenizer.encode('second'));
  });

  // Guards that the calling thread encodes nothing itself.
  test('the event loop stays free', async () => {
    const work = workOfModel();
    const tokenizer = tokenizerOf('smollm');
    const text = mixedText(1_000_000);
    await tokenizer.encodeAsync('warm');
    let done = false;
    const pending = tokenizer.encodeAsync(text).finally(() => {
      done = true;
    });
    await turn();
    expect(done).toBe(false);
    const ids = await pending;
    expect(work.characters).toBe(0);
    expect(same(tokenizer.encode(text), ids)).toBe(true);
    expect(work.characters).toBeGreaterThan(0);
  });

  test('closing rejects what is under way, and can be followed by more', async () => {
    const tokenizer = tokenizerOf('smollm');
    const pending = tokenizer.encodeAsync(mixedText(2_000_000));
    const rejected = expect(pending).rejects.toMatchObject({ code: 'ERR_TOKENIZER_FAILED' });
    await tokenizer.close();
    await rejected;
    expect((await tokenizer.encodeAsync('x')).length).toBe(1);
  });
});

describe('chat templates', () => {
  const tokenizer = TRAINED['smollm']?.tokenizer ?? {};
  const chat = (template: unknown) =>
    new Tokenizer({
      tokenizer,
      tokenizerConfig: { chat_template: template, eos_token: '<|im_end|>' },
    });

  test('get messages, tokens, tools and variables', () => {
    const template =
      "{% for m in messages %}[{{ m['role'] }}] {{ m.content | trim }}{{ eos_token }}{% endfor %}" +
      '{% if tools %}{{ tools | length }}{% endif %}{% if think %}!{% endif %}{% if add_generation_prompt %}[assistant]{% endif %}';
    const messages = [
      { role: 'user', content: ' one ' },
      { role: 'assistant', content: 'two' },
    ];
    expect(chat(template).applyChatTemplate(messages)).toBe(
      '[user] one<|im_end|>[assistant] two<|im_end|>',
    );
    expect(
      chat(template).applyChatTemplate(messages.slice(0, 1), {
        addGenerationPrompt: true,
        tools: [{}, {}],
        variables: { think: true },
      }),
    ).toBe('[user] one<|im_end|>2![assistant]');
  });

  test('can be named in a list', () => {
    const list = [
      { name: 'tool_use', template: 'tools' },
      { name: 'default', template: 'plain' },
    ];
    expect(chat(list).applyChatTemplate([])).toBe('plain');
  });

  test('that are absent, broken or refuse are typed errors', () => {
    const code = (template: unknown) => {
      try {
        chat(template).applyChatTemplate([{ role: 'user', content: 'x' }]);
      } catch (error) {
        expect(error).toBeInstanceOf(ModelLoaderError);
        return (error as ModelLoaderError).code;
      }
      return 'none';
    };
    expect(code(undefined)).toBe('ERR_CHAT_TEMPLATE_MISSING');
    expect(code([{ name: 'other', template: 'x' }])).toBe('ERR_CHAT_TEMPLATE_MISSING');
    expect(code('{% for %}')).toBe('ERR_CHAT_TEMPLATE_INVALID');
    expect(code("{{ raise_exception('roles must alternate') }}")).toBe('ERR_CHAT_TEMPLATE_INVALID');
  });
});
