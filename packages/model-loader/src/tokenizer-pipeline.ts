import { type AddedToken, AddedTokenFinder } from './added-tokens.ts';
import { LongWordMerger, LongWordSplitter } from './long-words.ts';
import { ModelLoaderError, reasonOf } from './model-loader-error.ts';
import { byteAlphabet } from './token-text.ts';
import { type LibraryModel, type LibraryTokenizer, library } from './tokenizers-library.ts';
import { WordSplitter } from './word-splitter.ts';

/** Words up to this length keep their ids for the next time they occur. */
const CACHED_WORD_LENGTH = 64;
/** Number of words whose ids are kept. */
const CACHED_WORDS = 100_000;
/** Words longer than this are cut, and parts longer than this merged by other means than the library's. */
const LONG_WORD_LENGTH = 256;

/** From text to ids: added tokens, normalizer, pre-tokenizer, model, as tokenizer.json has them. */
export class TokenizerPipeline {
  /** Tokens by id. */
  readonly tokens: readonly (string | undefined)[];
  /** Added tokens by id. */
  readonly added: ReadonlyMap<number, AddedToken>;
  readonly #library: LibraryTokenizer;
  readonly #model: LibraryModel;
  readonly #splitter: WordSplitter;
  readonly #raw: AddedTokenFinder;
  readonly #normalized: AddedTokenFinder;
  /** Ids the post-processor puts before and after a text. */
  readonly #before: readonly number[];
  readonly #after: readonly number[];
  readonly #words = new Map<string, readonly number[]>();
  #longWords: { splitter: LongWordSplitter; merger: LongWordMerger | undefined } | undefined;

  /** @throws {@link ModelLoaderError} `ERR_TOKENIZER_INVALID` or `ERR_TOKENIZER_UNSUPPORTED`. */
  constructor(tokenizer: Record<string, unknown>, config: Record<string, unknown>) {
    const { parts, splitter } = construct(tokenizer, config);
    this.#library = parts;
    this.#splitter = splitter;
    const { model, normalizer } = parts;
    this.#model = model;
    this.tokens = model.vocab;
    const added = readAddedTokens(tokenizer);
    this.added = new Map(added.map((token) => [token.id, token]));
    const inRaw = added.filter((token) => !token.normalized || normalizer === null);
    const inNormalized = added.filter((token) => token.normalized && normalizer !== null);
    this.#raw = new AddedTokenFinder(inRaw.map((token) => ({ text: token.content, token })));
    this.#normalized = new AddedTokenFinder(
      inNormalized.map((token) => ({
        text: normalizer?.normalize(token.content) ?? token.content,
        token,
      })),
    );

    // What the post-processor does is found out once, with a text that no token can be.
    const probe = '\0text';
    const framed = parts.post_processor?.post_process([probe], null, true).tokens ?? [probe];
    const at = framed.indexOf(probe);
    const idOf = (token: string) => {
      const id = model.tokens_to_ids.get(token);
      if (id === undefined) {
        throw new ModelLoaderError(
          'ERR_TOKENIZER_INVALID',
          `the post-processor of tokenizer.json adds ${JSON.stringify(token)}, which is not in the vocabulary`,
          { token },
        );
      }
      return id;
    };
    this.#before = framed.slice(0, at).map(idOf);
    this.#after = framed.slice(at + 1).map(idOf);
  }

  /** Id of a token, or undefined. */
  idOf(token: string): number | undefined {
    return this.#model.tokens_to_ids.get(token);
  }

  /** Ids of a text. */
  encode(text: string, addSpecialTokens: boolean): Uint32Array {
    const ids = new IdList(Math.max(64, text.length >> 1));
    if (addSpecialTokens) ids.pushAll(this.#before);
    for (const section of this.#raw.split(text)) {
      if ('id' in section) {
        ids.push(section.id);
        continue;
      }
      const normalizer = this.#library.normalizer;
      const normalized = normalizer === null ? section.text : normalizer.normalize(section.text);
      for (const part of this.#normalized.split(normalized)) {
        if ('id' in part) ids.push(part.id);
        else this.#encodePlain(part.text, section.start === 0 && part.start === 0, ids);
      }
    }
    if (addSpecialTokens) ids.pushAll(this.#after);
    return ids.take();
  }

  /** The library's decoder, for decoders this package has no rule for. */
  decodeWithLibrary(ids: number[], skipSpecialTokens: boolean): string {
    if (ids.length === 0) return '';
    return this.#library.decode(ids, {
      skip_special_tokens: skipSpecialTokens,
      clean_up_tokenization_spaces: false,
    });
  }

  #encodePlain(text: string, atStart: boolean, ids: IdList): void {
    this.#splitter.visit(text, atStart, (word) => ids.pushAll(this.#wordIds(word)));
  }

  #wordIds(word: string): readonly number[] {
    const known = this.#words.get(word);
    if (known !== undefined) return known;
    const spelled = this.#splitter.byteLevel ? byteAlphabet(word) : word;
    if (spelled.length > LONG_WORD_LENGTH) return this.#longWordIds(spelled);
    const ids = this.#modelIds(spelled);
    if (word.length <= CACHED_WORD_LENGTH) {
      // Starting anew is cheaper than ordering by use, and a text's own words are soon back.
      if (this.#words.size >= CACHED_WORDS) this.#words.clear();
      this.#words.set(word, ids);
    }
    return ids;
  }

  #longWordIds(word: string): readonly number[] {
    const model = this.#model;
    const whole = model.ignore_merges ? model.tokens_to_ids.get(word) : undefined;
    if (whole !== undefined) return [whole];
    this.#longWords ??= {
      splitter: new LongWordSplitter(this.tokens),
      merger:
        model.merges === undefined || model.end_of_word_suffix || model.continuing_subword_suffix
          ? undefined
          : new LongWordMerger(model, model.merges),
    };
    const { splitter, merger } = this.#longWords;
    const { unk_token_id: unknown, fuse_unk: fuse } = model;
    // Parts are often the words of a language (▁the), so they are worth remembering too.
    const known = new Map<string, readonly number[]>();
    const ids: number[] = [];
    for (const part of splitter.split(word)) {
      let partIds = known.get(part);
      if (partIds === undefined) {
        // A part is no word: that it is a token does not mean that the merges make it.
        const byMerges = part.length > LONG_WORD_LENGTH || model.ignore_merges;
        partIds = byMerges && merger ? merger.encode(part) : this.#modelIds(part);
        if (part.length <= CACHED_WORD_LENGTH && known.size < CACHED_WORDS)
          known.set(part, partIds);
      }
      for (const id of partIds) {
        // Unknown characters in a row are one unknown token, also across a cut.
        if (!(fuse && id === unknown && ids.at(-1) === unknown)) ids.push(id);
      }
    }
    return ids;
  }

  #modelIds(word: string): number[] {
    const { tokens_to_ids: idsByToken, unk_token_id: unknown, fuse_unk: fuse } = this.#model;
    const ids: number[] = [];
    for (const token of this.#model.encode([word])) {
      const id = idsByToken.get(token) ?? unknown;
      if (id !== undefined && !(fuse && id === unknown && ids.at(-1) === unknown)) ids.push(id);
    }
    return ids;
  }
}

/** A growing list of ids. */
class IdList {
  #ids: Uint32Array;
  #length = 0;

  constructor(capacity: number) {
    this.#ids = new Uint32Array(capacity);
  }

  push(id: number): void {
    if (this.#length === this.#ids.length) this.#grow();
    this.#ids[this.#length++] = id;
  }

  pushAll(ids: readonly number[]): void {
    for (const id of ids) this.push(id);
  }

  take(): Uint32Array {
    return this.#ids.slice(0, this.#length);
  }

  #grow(): void {
    const larger = new Uint32Array(this.#ids.length * 2);
    larger.set(this.#ids);
    this.#ids = larger;
  }
}

function construct(
  tokenizer: Record<string, unknown>,
  config: Record<string, unknown>,
): { parts: LibraryTokenizer; splitter: WordSplitter } {
  const model = tokenizer['model'] as Record<string, unknown> | null | undefined;
  if (typeof model !== 'object' || model === null || Array.isArray(model)) {
    throw new ModelLoaderError('ERR_TOKENIZER_INVALID', 'tokenizer.json has no model');
  }
  const vocab = model['vocab'];
  if (typeof vocab !== 'object' || vocab === null) {
    throw new ModelLoaderError('ERR_TOKENIZER_INVALID', 'tokenizer.json has no vocabulary');
  }
  if (model['type'] === 'BPE' && !Array.isArray(model['merges'])) {
    throw new ModelLoaderError(
      'ERR_TOKENIZER_INVALID',
      'tokenizer.json has a BPE model without merges',
    );
  }
  try {
    const splitter = new WordSplitter(tokenizer['pre_tokenizer'] ?? null);
    const parts = new library.Tokenizer(
      {
        decoder: null,
        post_processor: null,
        normalizer: null,
        ...tokenizer,
        added_tokens: tokenizer['added_tokens'] ?? [],
        // Cutting and added tokens are done here, so the library need not prepare for them.
        pre_tokenizer: null,
      },
      config,
    );
    return { parts, splitter };
  } catch (error) {
    if (error instanceof ModelLoaderError) throw error;
    const reason = reasonOf(error);
    const unsupported =
      /^Unknown (Normalizer|PreTokenizer|PostProcessor|Decoder|TokenizerModel)/.test(reason);
    throw new ModelLoaderError(
      unsupported ? 'ERR_TOKENIZER_UNSUPPORTED' : 'ERR_TOKENIZER_INVALID',
      `tokenizer.json cannot be used: ${reason}`,
      {},
      error,
    );
  }
}

function readAddedTokens(tokenizer: Record<string, unknown>): AddedToken[] {
  const list = tokenizer['added_tokens'] ?? [];
  if (!Array.isArray(list)) {
    throw new ModelLoaderError(
      'ERR_TOKENIZER_INVALID',
      'added_tokens of tokenizer.json is not a list',
    );
  }
  return list.map((entry: unknown): AddedToken => {
    const token = (entry ?? {}) as Partial<AddedToken>;
    if (!Number.isSafeInteger(token.id) || typeof token.content !== 'string') {
      throw new ModelLoaderError(
        'ERR_TOKENIZER_INVALID',
        `added_tokens of tokenizer.json holds ${JSON.stringify(entry)?.slice(0, 80)}, without id or content`,
      );
    }
    const special = token.special ?? false;
    return {
      id: token.id as number,
      content: token.content,
      special,
      normalized: token.normalized ?? !special,
      lstrip: token.lstrip ?? false,
      rstrip: token.rstrip ?? false,
      single_word: token.single_word ?? false,
    };
  });
}
