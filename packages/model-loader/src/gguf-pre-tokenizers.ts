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

/** Words by one pattern, then bytes. */
const words = (...patterns: string[]) => sequence(...patterns.map(split), byteLevel(false));

const CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";
const tail = (marks: string) => ` ?[^\\s\\p{L}\\p{N}]+${marks}|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+`;
const LLAMA3 = `${CONTRACTIONS}|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}|${tail('[\\r\\n]*')}`;
const QWEN2 = `${CONTRACTIONS}|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}|${tail('[\\r\\n]*')}`;
const CASED = (end: string) =>
  `[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+${end}` +
  `|[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*${end}`;

const NFC = { type: 'NFC' };
const GPT2: ByteLevelWords = {
  normalizer: null,
  preTokenizer: byteLevel(true),
  ignoreMerges: false,
  addBos: false,
};

/** Families of pre-tokenizers, each with the names GGUF has for it. */
const FAMILIES: readonly (readonly [names: readonly string[], words: ByteLevelWords])[] = [
  [['gpt-2', 'phi-2', 'mpt', 'olmo', 'jais', 'trillion', 'granite-docling', 'roberta-bpe'], GPT2],
  [
    ['smollm', 'starcoder', 'refact', 'command-r', 'codeshell', 'exaone', 'minerva-7b'],
    { ...GPT2, preTokenizer: sequence(digits, byteLevel(true)) },
  ],
  [
    ['llama3', 'llama-v3', 'llama-bpe', 'falcon3', 'falcon-h1', 'pixtral', 'midm-2.0', 'lfm2'],
    { normalizer: null, preTokenizer: words(LLAMA3), ignoreMerges: true, addBos: true },
  ],
  [['dbrx', 'smaug-bpe'], { ...GPT2, preTokenizer: words(LLAMA3) }],
  [['chatglm-bpe', 'glm4'], { ...GPT2, preTokenizer: words(LLAMA3) }],
  [
    ['qwen2', 'deepseek-r1-qwen', 'stablelm2', 'hunyuan', 'megrez', 'solar-open'],
    { ...GPT2, normalizer: NFC, preTokenizer: words(QWEN2) },
  ],
  [
    ['deepseek-llm'],
    {
      ...GPT2,
      preTokenizer: sequence(
        split('[\\r\\n]'),
        split(
          '\\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+',
        ),
        split('\\s?[!-/:-~！-／：-～‘-‟　-。]+'),
        split('\\s+$'),
        split('[一-龥ࠀ-一가-퟿]+'),
        split('\\p{N}+'),
        byteLevel(false),
      ),
      addBos: true,
    },
  ],
  [
    ['deepseek-coder'],
    {
      ...GPT2,
      preTokenizer: sequence(
        split('[\\r\\n]'),
        split('\\s?\\p{L}+'),
        split('\\s?\\p{P}+'),
        split('[一-龥ࠀ-一가-퟿]+'),
        digits,
        byteLevel(false),
      ),
      addBos: true,
    },
  ],
  [
    ['deepseek-v3', 'hunyuan-dense'],
    {
      ...GPT2,
      preTokenizer: words(
        '\\p{N}{1,3}',
        '[一-龥\\u3040-ゟ゠-ヿ]+',
        '[!"#$%&\'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+',
      ),
      addBos: true,
    },
  ],
  [
    ['tekken'],
    {
      normalizer: null,
      preTokenizer: words(`${CASED('')}|\\p{N}|${tail('[\\r\\n/]*')}`),
      ignoreMerges: true,
      addBos: true,
    },
  ],
  [
    ['gpt-4o', 'llama4'],
    { ...GPT2, preTokenizer: words(`${CASED(`${CONTRACTIONS}?`)}|\\p{N}{1,3}|${tail('[\\r\\n/]*')}`) },
  ],
  [
    ['seed-coder'],
    {
      ...GPT2,
      preTokenizer: words(
        `${CONTRACTIONS}|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1}| ?[^\\s\\p{L}\\p{N}\\r\\n]+|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+`,
      ),
    },
  ],
];

const BY_NAME: ReadonlyMap<string, ByteLevelWords> = new Map(
  FAMILIES.flatMap(([names, family]) => names.map((name) => [name, family] as const)),
);

/** Names of pre-tokenizers (`tokenizer.ggml.pre`) that can be imported. */
export const GGUF_PRE_TOKENIZERS: readonly string[] = [...BY_NAME.keys()];

/** The words for a `tokenizer.ggml.pre`; `default` and files without one are cut as GPT-2 cut them. */
export function byteLevelWords(name: string | undefined): ByteLevelWords | undefined {
  if (name === undefined || name === 'default') return GPT2;
  return BY_NAME.get(name);
}
