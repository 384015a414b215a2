import { ModelLoaderError } from './model-loader-error.ts';

/** An entry of `pre_tokenizer` in tokenizer.json. */
interface PreTokenizerSpec {
  type?: unknown;
  pretokenizers?: unknown;
  individual_digits?: unknown;
  use_regex?: unknown;
  add_prefix_space?: unknown;
  prepend_scheme?: unknown;
  replacement?: unknown;
  split?: unknown;
  behavior?: unknown;
  invert?: unknown;
  pattern?: { String?: unknown; Regex?: unknown };
}

/** The words of GPT-2, as the Rust library cuts them. */
const GPT2_WORDS =
  "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

/** Punctuation of ASCII (also what Unicode calls symbols) and of Unicode. */
const PUNCTUATION = '[\\p{P}!-/:-@\\[-`{-~]';

/**
 * The pre-tokenizer of tokenizer.json in steps that the JavaScript library takes exactly as the Rust library, with
 * which models are trained. Left as they stand, these would differ:
 * - `Digits` knows only 0 to 9, in Rust all numeric characters of Unicode;
 * - the pattern built into `ByteLevel` uses JavaScript's `\s`, which differs in U+0085 and U+FEFF, and `Whitespace`
 *   its `\w`, which is ASCII; patterns that come from the file are translated;
 * - `Punctuation` always joins its characters, `Metaspace` never splits, and both have options for it.
 *
 * @throws {@link ModelLoaderError} `ERR_TOKENIZER_UNSUPPORTED` for what it would silently take as something else.
 */
export function portablePreTokenizer(spec: unknown): unknown {
  const step = spec as PreTokenizerSpec | null;
  switch (step?.type) {
    case 'Sequence':
      if (!Array.isArray(step.pretokenizers)) return spec;
      return sequence(...step.pretokenizers.map(portablePreTokenizer));
    case 'Digits':
      return isolated(step.individual_digits === true ? '\\p{N}' : '\\p{N}+');
    case 'Whitespace':
      return {
        type: 'Split',
        pattern: { Regex: '\\w+|[^\\w\\s]+' },
        behavior: 'Removed',
        invert: true,
      };
    case 'Punctuation': {
      const behavior = lower(step.behavior ?? 'Isolated');
      if (behavior === 'isolated') return isolated(PUNCTUATION);
      if (behavior === 'contiguous') return isolated(`${PUNCTUATION}+`);
      throw unsupported('Punctuation', step.behavior);
    }
    case 'Metaspace': {
      const replacement = typeof step.replacement === 'string' ? step.replacement : '▁';
      const scheme = step.prepend_scheme ?? (step.add_prefix_space === false ? 'never' : 'always');
      const metaspace = { type: 'Metaspace', replacement, prepend_scheme: scheme };
      return step.split === false
        ? metaspace
        : sequence(metaspace, isolated(mergedWithNext(replacement)));
    }
    case 'ByteLevel':
      // With a prefix space the words depend on it; no decoder-only model of today asks for one.
      if (step.use_regex === false || step.add_prefix_space === true) return spec;
      return sequence(isolated(GPT2_WORDS), { ...step, use_regex: false });
    case 'Split': {
      const behavior = lower(step.behavior);
      // Isolating the matches or what lies between them is the same.
      if (behavior === 'isolated') return { ...step, invert: false };
      if (behavior === 'removed') return spec;
      const literal = step.pattern?.String;
      if (step.invert !== true && typeof literal === 'string' && literal !== '') {
        if (behavior === 'mergedwithprevious') return isolated(mergedWithPrevious(literal));
        if (behavior === 'mergedwithnext') return isolated(mergedWithNext(literal));
      }
      throw unsupported('Split', step.behavior);
    }
    default:
      return spec;
  }
}

/** Pieces that begin at each occurrence of a text. */
function mergedWithNext(literal: string): string {
  const text = escaped(literal);
  return `${text}(?:(?!${text})[\\s\\S])*|(?:(?!${text})[\\s\\S])+`;
}

/** Pieces that end after each occurrence of a text. */
function mergedWithPrevious(literal: string): string {
  const text = escaped(literal);
  return `(?:(?!${text})[\\s\\S])*${text}|(?:(?!${text})[\\s\\S])+`;
}

function escaped(literal: string): string {
  return literal.replace(/[.*+?^${}()|[\]\\]/g, '\\$&');
}

function isolated(pattern: string): unknown {
  return { type: 'Split', pattern: { Regex: pattern }, behavior: 'Isolated', invert: false };
}

/** A sequence whose members that are sequences themselves are dissolved. */
function sequence(...steps: unknown[]): unknown {
  return {
    type: 'Sequence',
    pretokenizers: steps.flatMap((step) => {
      const inner = step as PreTokenizerSpec | null;
      return inner?.type === 'Sequence' && Array.isArray(inner.pretokenizers)
        ? inner.pretokenizers
        : [step];
    }),
  };
}

function lower(value: unknown): string {
  return String(value ?? '').toLowerCase();
}

function unsupported(type: string, behavior: unknown): ModelLoaderError {
  return new ModelLoaderError(
    'ERR_TOKENIZER_UNSUPPORTED',
    `tokenizer.json has a ${type} pre-tokenizer with the behavior ${JSON.stringify(behavior)}, which is not supported`,
    { type, behavior },
  );
}
