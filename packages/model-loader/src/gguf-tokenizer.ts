import type { GgufFile } from './gguf-file.ts';
import { byteLevelWords, GGUF_PRE_TOKENIZERS } from './gguf-pre-tokenizers.ts';
import { ModelLoaderError } from './model-loader-error.ts';

/** Types of tokens in GGUF. */
const NORMAL = 1;
const UNKNOWN = 2;
const CONTROL = 3;
const USER_DEFINED = 4;
const UNUSED = 5;
const BYTE = 6;

/** Tokens that end a turn; files from before `eot_token_id` existed name only the end of text. */
const END_OF_TURN: readonly string[] = [
  '<|im_end|>',
  '<|eot_id|>',
  '<|end|>',
  '<end_of_turn>',
  '<|end_of_turn|>',
  '<|endofturn|>',
  '<EOT>',
];

/** The tokenizer files for a GGUF file. */
export interface TokenizerPlan {
  /** tokenizer.json. */
  tokenizer: Record<string, unknown>;
  /** tokenizer_config.json, chat template included. */
  tokenizerConfig: Record<string, unknown>;
  /** Number of tokens. */
  vocabSize: number;
  /** Token ids for config.json and generation_config.json, those that exist. */
  ids: { bos?: number; eos?: number | number[]; pad?: number };
}

interface Vocabulary {
  path: string;
  tokens: string[];
  types: number[];
  scores: number[] | undefined;
}

/**
 * Rebuilds the tokenizer that a GGUF file carries.
 *
 * @throws {@link ModelLoaderError} `ERR_GGUF_TOKENIZER`, `ERR_GGUF_PRE_TOKENIZER`, `ERR_GGUF_INVALID`.
 */
export function planTokenizer(file: GgufFile, contextLength: number): TokenizerPlan {
  const { metadata, path } = file;
  const model = metadata.text('tokenizer.ggml.model');
  const tokens = metadata.texts('tokenizer.ggml.tokens');
  if (model === undefined || tokens === undefined || tokens.length === 0) {
    throw new ModelLoaderError('ERR_GGUF_TOKENIZER', `${path} carries no tokenizer`, { path });
  }
  const types = metadata.numbers('tokenizer.ggml.token_type') ?? tokens.map(() => NORMAL);
  const scores = metadata.numbers('tokenizer.ggml.scores');
  for (const [name, list] of [
    ['token_type', types],
    ['scores', scores],
  ] as const) {
    if (list !== undefined && list.length !== tokens.length) {
      throw new ModelLoaderError(
        'ERR_GGUF_TOKENIZER',
        `${path} has ${tokens.length} tokens and ${list.length} entries in tokenizer.ggml.${name}`,
        { path, tokens: tokens.length, entries: list.length },
      );
    }
  }
  const vocabulary: Vocabulary = { path, tokens, types, scores };
  const id = (name: string): number | undefined => {
    const value = metadata.integer(`tokenizer.ggml.${name}_token_id`);
    // Converters write ids past the end for "none".
    return value !== undefined && value < tokens.length ? value : undefined;
  };
  const bos = id('bos');
  const eos = id('eos');
  const unknown = id('unknown');
  const pad = id('padding');

  let tokenizer: Record<string, unknown>;
  let addBos: boolean;
  if (model === 'gpt2') {
    const pre = metadata.text('tokenizer.ggml.pre');
    const words = byteLevelWords(pre);
    if (words === undefined) {
      throw new ModelLoaderError(
        'ERR_GGUF_PRE_TOKENIZER',
        `${path} names the pre-tokenizer ${pre}, which is not known; known are ${GGUF_PRE_TOKENIZERS.join(', ')}`,
        { path, preTokenizer: pre },
      );
    }
    const merges = metadata.texts('tokenizer.ggml.merges');
    if (merges === undefined) {
      throw new ModelLoaderError(
        'ERR_GGUF_TOKENIZER',
        `${path} has a BPE tokenizer without merges`,
        {
          path,
        },
      );
    }
    addBos = metadata.flag('tokenizer.ggml.add_bos_token') ?? words.addBos;
    tokenizer = {
      normalizer: words.normalizer,
      pre_tokenizer: words.preTokenizer,
      decoder: { type: 'ByteLevel', add_prefix_space: true, trim_offsets: true, use_regex: true },
      model: {
        type: 'BPE',
        dropout: null,
        unk_token: null,
        continuing_subword_prefix: null,
        end_of_word_suffix: null,
        fuse_unk: false,
        byte_fallback: false,
        ignore_merges: words.ignoreMerges,
        vocab: vocabularyIds(vocabulary, (type) => type !== UNUSED),
        merges,
      },
    };
  } else if (model === 'llama') {
    addBos = metadata.flag('tokenizer.ggml.add_bos_token') ?? true;
    const addSpace = metadata.flag('tokenizer.ggml.add_space_prefix') ?? true;
    tokenizer = piecesTokenizer(vocabulary, unknown, addSpace);
  } else {
    throw new ModelLoaderError(
      'ERR_GGUF_TOKENIZER',
      `${path} has a tokenizer of the kind ${model}; supported are gpt2 (byte-level BPE) and llama (SentencePiece)`,
      { path, model },
    );
  }

  const addEos = metadata.flag('tokenizer.ggml.add_eos_token') ?? false;
  const added = addedTokens(vocabulary);
  const text = (at: number | undefined) => (at === undefined ? undefined : tokens[at]);
  const tokenizerConfig: Record<string, unknown> = {
    add_bos_token: addBos,
    add_eos_token: addEos,
    add_prefix_space: false,
    added_tokens_decoder: Object.fromEntries(
      added.map(({ id: at, ...rest }) => [String(at), rest]),
    ),
    ...definedOnly({
      bos_token: text(bos),
      eos_token: text(eos),
      unk_token: text(unknown),
      pad_token: text(pad),
    }),
    clean_up_tokenization_spaces: false,
    model_max_length: contextLength,
    tokenizer_class: 'PreTrainedTokenizerFast',
  };
  const chatTemplate = metadata.text('tokenizer.chat_template');
  if (chatTemplate !== undefined) tokenizerConfig['chat_template'] = chatTemplate;

  const ends = [eos, id('eot'), id('eom')].filter((end) => end !== undefined);
  if (id('eot') === undefined && eos !== undefined && !END_OF_TURN.includes(tokens[eos] ?? '')) {
    const turn = tokens.findIndex(
      (token, at) =>
        END_OF_TURN.includes(token) && (types[at] === CONTROL || types[at] === USER_DEFINED),
    );
    if (turn >= 0) ends.push(turn);
  }
  const uniqueEnds = [...new Set(ends)];
  return {
    tokenizer: {
      version: '1.0',
      truncation: null,
      padding: null,
      added_tokens: added,
      ...tokenizer,
      post_processor: postProcessor(
        addBos ? text(bos) : undefined,
        addEos ? text(eos) : undefined,
        vocabulary,
        model === 'gpt2',
      ),
    },
    tokenizerConfig,
    vocabSize: tokens.length,
    ids: definedOnly({
      bos,
      eos: uniqueEnds.length > 1 ? uniqueEnds : uniqueEnds[0],
      pad,
    }) as TokenizerPlan['ids'],
  };
}

function definedOnly(values: Record<string, unknown>): Record<string, unknown> {
  return Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined));
}

/** Tokens that are found in the text as they stand. */
function addedTokens({ tokens, types }: Vocabulary) {
  return tokens.flatMap((content, id) => {
    const type = types[id];
    if (type !== CONTROL && type !== USER_DEFINED && type !== UNKNOWN) return [];
    return [
      {
        id,
        content,
        single_word: false,
        lstrip: false,
        rstrip: false,
        normalized: false,
        special: type !== USER_DEFINED,
      },
    ];
  });
}

function vocabularyIds(
  { path, tokens, types }: Vocabulary,
  keep: (type: number) => boolean,
): Record<string, number> {
  const ids = new Map<string, number>();
  for (const [id, token] of tokens.entries()) {
    if (!keep(types[id] ?? NORMAL)) continue;
    const first = ids.get(token);
    if (first !== undefined) {
      throw new ModelLoaderError(
        'ERR_GGUF_TOKENIZER',
        `${path} has the token ${JSON.stringify(token)} twice, as ${first} and ${id}`,
        { path, token, ids: [first, id] },
      );
    }
    ids.set(token, id);
  }
  return Object.fromEntries(ids);
}

/**
 * A SentencePiece model. GGUF keeps scores where Hugging Face's BPE keeps merges: joining the neighbours whose
 * union has the best score is applying the merges in the order of the scores.
 */
function piecesTokenizer(
  vocabulary: Vocabulary,
  unknown: number | undefined,
  addSpace: boolean,
): Record<string, unknown> {
  const { path, tokens, scores } = vocabulary;
  if (scores === undefined) {
    throw new ModelLoaderError(
      'ERR_GGUF_TOKENIZER',
      `${path} has a SentencePiece tokenizer without scores`,
      { path },
    );
  }
  const unk = unknown ?? vocabulary.types.indexOf(UNKNOWN);
  const replaceSpaces = { type: 'Replace', pattern: { String: ' ' }, content: '▁' };
  const decoders: unknown[] = [
    { type: 'Replace', pattern: { String: '▁' }, content: ' ' },
    { type: 'ByteFallback' },
    { type: 'Fuse' },
  ];
  if (addSpace) decoders.push({ type: 'Strip', content: ' ', start: 1, stop: 0 });
  return {
    normalizer: addSpace
      ? { type: 'Sequence', normalizers: [{ type: 'Prepend', prepend: '▁' }, replaceSpaces] }
      : replaceSpaces,
    pre_tokenizer: null,
    decoder: { type: 'Sequence', decoders },
    model: {
      type: 'BPE',
      dropout: null,
      unk_token: unk >= 0 ? tokens[unk] : null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: true,
      byte_fallback: true,
      ignore_merges: false,
      vocab: vocabularyIds(vocabulary, () => true),
      merges: mergesFromScores(vocabulary, scores),
    },
  };
}

/** All pairs of pieces whose union is a piece, the best union first. */
function mergesFromScores({ tokens, types }: Vocabulary, scores: number[]): [string, string][] {
  const ids = new Map<string, number>();
  for (const [id, token] of tokens.entries()) {
    const type = types[id];
    if (type !== CONTROL && type !== UNKNOWN && type !== BYTE) ids.set(token, id);
  }
  const merges: { left: string; right: string; score: number; order: number }[] = [];
  for (const [token, id] of ids) {
    for (let cut = 1; cut < token.length; cut++) {
      const left = token.slice(0, cut);
      const right = token.slice(cut);
      if (ids.has(left) && ids.has(right)) {
        merges.push({ left, right, score: scores[id] ?? 0, order: id });
      }
    }
  }
  merges.sort((a, b) => b.score - a.score || a.order - b.order);
  return merges.map(({ left, right }) => [left, right]);
}

function postProcessor(
  bos: string | undefined,
  eos: string | undefined,
  { tokens }: Vocabulary,
  byteLevel: boolean,
): unknown {
  if (bos === undefined && eos === undefined) {
    return byteLevel
      ? { type: 'ByteLevel', add_prefix_space: true, trim_offsets: false, use_regex: true }
      : null;
  }
  const special = (token: string | undefined) =>
    token === undefined ? [] : [{ SpecialToken: { id: token, type_id: 0 } }];
  const pair = (token: string | undefined) =>
    token === undefined ? [] : [{ SpecialToken: { id: token, type_id: 1 } }];
  return {
    type: 'TemplateProcessing',
    single: [...special(bos), { Sequence: { id: 'A', type_id: 0 } }, ...special(eos)],
    pair: [
      ...special(bos),
      { Sequence: { id: 'A', type_id: 0 } },
      ...special(eos),
      ...pair(bos),
      { Sequence: { id: 'B', type_id: 1 } },
      ...pair(eos),
    ],
    special_tokens: Object.fromEntries(
      [bos, eos]
        .filter((token) => token !== undefined)
        .map((token) => [token, { id: token, ids: [tokens.indexOf(token)], tokens: [token] }]),
    ),
  };
}
