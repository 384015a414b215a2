/** How a byte-level BPE model of GGUF cuts text into words, as tokenizer.json says it. */
export interface ByteLevelWords {
  /** The `normalizer` of tokenizer.json. */
  normalizer: unknown;
  /** The `pre_tokenizer` of tokenizer.json. */
  preTokenizer: unknown;
  /** Whether a word that is a token is taken as it is, merges or not. */
  ignoreMerges: boolean;
  /** Whether a beginning-of-text token is added when the file does not say. */
  addBos: boolean;
}

const byteLevel = (useRegex: boolean) => ({
  type: 'ByteLevel',
  add_prefix_space: false,
  trim_offsets: true,
  use_regex: useRegex,
});
const split = (pattern: string) => ({
  type: 'Split',
  pattern: { Regex: pattern },
  behavior: 'Isolated',
  invert: false,
});
const sequence = (...pretokenizers: unknown[]) => ({ type: 'Sequence', pretokenizers });
const digits = { type: 'Digits', individual_digits: true };

/** Words by patterns, each applied to the pieces of the one before, then bytes. */
const words = (...patterns: string[]) => sequence(...patterns.map(split), byteLevel(false));

const plain = (preTokenizer: unknown): ByteLevelWords => ({
  normalizer: null,
  preTokenizer,
  ignoreMerges: false,
  addBos: false,
});

const CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";
const GPT2 = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
/** Marks with what may follow them, line ends, spaces: the second half of most patterns since GPT-4. */
const rest = (marks: string) => ` ?[^\\s\\p{L}\\p{N}]+${marks}|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+`;
/** Words with an optional leading mark, and numbers. */
const lettersAndNumbers = (numbers: string) =>
  `${CONTRACTIONS}|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|${numbers}|${rest('[\\r\\n]*')}`;
/** Words that also end where capitals begin. */
const cased = (end: string) =>
  `[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+${end}` +
  `|[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*${end}`;

/** Families of pre-tokenizers, each with the names that llama.cpp writes for it into `tokenizer.ggml.pre`. */
const FAMILIES: readonly (readonly [names: readonly string[], words: ByteLevelWords])[] = [
  // What llama.cpp takes when the converter knew no better.
  [['default'], plain(words('[\\p{P}\\$\\+<=>\\^~\\|]+', GPT2, '\\p{N}+', '[0-9][0-9][0-9]'))],
  [
    [
      'gpt-2',
      'phi-2',
      'mpt',
      'olmo',
      'jais',
      'trillion',
      'granite-docling',
      'gigachat',
      'a.x-4.0',
      'mellum',
      'exaone4',
    ],
    plain(byteLevel(true)),
  ],
  [
    ['smollm', 'starcoder', 'refact', 'command-r', 'codeshell', 'exaone', 'minerva-7b', 'mellum2'],
    plain(sequence(digits, byteLevel(true))),
  ],
  [
    ['llama-bpe', 'llama3', 'llama-v3', 'falcon3', 'falcon-h1', 'pixtral', 'midm-2.0', 'lfm2'],
    { ...plain(words(lettersAndNumbers('\\p{N}{1,3}'))), ignoreMerges: true, addBos: true },
  ],
  [['dbrx', 'smaug-bpe', 'glm4', 'chatglm-bpe'], plain(words(lettersAndNumbers('\\p{N}{1,3}')))],
  [
    ['qwen2', 'deepseek-r1-qwen', 'kormo', 'megrez'],
    { ...plain(words(lettersAndNumbers('\\p{N}'))), normalizer: { type: 'NFC' } },
  ],
  [['stablelm2', 'hunyuan', 'solar-open', 'grok-2'], plain(words(lettersAndNumbers('\\p{N}')))],
  [
    ['deepseek-llm'],
    plain(
      words(
        '[\\r\\n]',
        '\\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-\\u1F7Dᾀ-ᾴᾶ-ᾼ\\u1FBEῂ-ῄῆ-ῌῐ-\\u1FD3ῖ-\\u1FDBῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤ\\u2126ℨ\\u212A-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+',
        '\\s?[!-/:-~！-／：-～‘-‟　-。]+',
        '\\s+$',
        '[一-龥ࠀ-一가-퟿]+',
        '\\p{N}+',
      ),
    ),
  ],
  [
    ['deepseek-coder'],
    plain(words('[\\r\\n]', '\\s?\\p{L}+', '\\s?\\p{P}+', '[一-龥ࠀ-一가-퟿]+', '\\p{N}')),
  ],
  [
    ['deepseek-v3', 'hunyuan-dense', 'joyai-llm'],
    plain(
      words(
        '\\p{N}{1,3}',
        '[一-龥\\u3040-ゟ゠-ヿ]+',
        '[!"#$%&\'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+',
      ),
    ),
  ],
  [['falcon'], plain(words('[\\p{P}\\$\\+<=>\\^~\\|`]+', GPT2, '[0-9][0-9][0-9]'))],
  [
    ['tekken'],
    {
      ...plain(words(`${cased('')}|\\p{N}|${rest('[\\r\\n/]*')}`)),
      ignoreMerges: true,
      addBos: true,
    },
  ],
  [
    ['gpt-4o', 'llama4', 'kanana2'],
    plain(words(`${cased(`${CONTRACTIONS}?`)}|\\p{N}{1,3}|${rest('[\\r\\n/]*')}`)),
  ],
  [
    ['seed-coder'],
    plain(
      words(
        `${CONTRACTIONS}|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1}| ?[^\\s\\p{L}\\p{N}\\r\\n]+|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+`,
      ),
    ),
  ],
  [
    ['bailingmoe', 'bailingmoe2'],
    plain(
      words(
        "'(?i:[sdmt]|ll|ve|re)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]|\\s+(?!\\S)|\\s+",
      ),
    ),
  ],
  [['poro-chat', 'bloom', 'gpt3-finnish'], plain(words(' ?[^(\\s|.,!?…。，、।۔،)]+'))],
  [['viking'], plain(words(' ?[^(\\s|.,!?…。，、।۔،)]+', '\\p{N}'))],
];

const BY_NAME: ReadonlyMap<string, ByteLevelWords> = new Map(
  FAMILIES.flatMap(([names, family]) => names.map((name) => [name, family] as const)),
);

/** Names of pre-tokenizers (`tokenizer.ggml.pre`) that can be imported. */
export const GGUF_PRE_TOKENIZERS: readonly string[] = [...BY_NAME.keys()];

/** The words for a `tokenizer.ggml.pre`; a file without one is read as llama.cpp does, with its default. */
export function byteLevelWords(name: string | undefined): ByteLevelWords | undefined {
  return BY_NAME.get(name ?? 'default');
}
