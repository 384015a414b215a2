// What is used of @huggingface/tokenizers. Its type declarations import each other without file extensions, which
// TypeScript does not follow for ES modules in Node: every name in them is missing or `any`.
import * as untyped from '@huggingface/tokenizers';

/** The model of a tokenizer: from words to tokens. */
export interface LibraryModel {
  /** Tokens by id. */
  readonly vocab: (string | undefined)[];
  readonly tokens_to_ids: Map<string, number>;
  readonly unk_token_id: number | undefined;
  /** Whether unknown tokens in a row are one. */
  readonly fuse_unk: boolean;
  /** Merges of BPE in the order of their ranks; other models have none. */
  readonly merges?: readonly (readonly [string, string])[];
  /** Whether a word that is a token is taken as it is, whatever the merges make of it. */
  readonly ignore_merges?: boolean;
  /** Appended to the last character of a word, by models from before byte-level BPE. */
  readonly end_of_word_suffix?: string | null | undefined;
  /** Appended to all tokens of a word but the last, likewise. */
  readonly continuing_subword_suffix?: string | null;
  encode(words: string[]): string[];
}

/** A tokenizer, whose parts are used one by one. */
export interface LibraryTokenizer {
  readonly model: LibraryModel;
  readonly normalizer: { normalize(text: string): string } | null;
  readonly post_processor: {
    post_process(tokens: string[], pair: null, addSpecialTokens: boolean): { tokens: string[] };
  } | null;
  decode(
    ids: number[],
    options: { skip_special_tokens: boolean; clean_up_tokenization_spaces: boolean },
  ): string;
}

/** A step that cuts text. */
export interface LibraryPreTokenizer {
  pre_tokenize(text: string, options: { section_index: number }): string[];
}

interface Library {
  Tokenizer: new (
    tokenizer: Record<string, unknown>,
    config: Record<string, unknown>,
  ) => LibraryTokenizer;
  SequencePreTokenizer: new (config: Record<string, unknown>) => LibraryPreTokenizer;
  SplitPreTokenizer: new (
    config: Record<string, unknown>,
  ) => LibraryPreTokenizer & { readonly pattern: RegExp | null };
}

/** The library. */
export const library: Library = untyped as unknown as Library;
