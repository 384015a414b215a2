import { ModelLoaderError } from './model-loader-error.ts';

/** An entry of `pre_tokenizer` in tokenizer.json. */
interface PreTokenizerSpec {
  type?: unknown;
  pretokenizers?: unknown;
  individual_digits?: unknown;
  use_regex?: unknown;
  add_prefix_space?: unknown;
  behavior?: unknown;
  invert?: unknown;
  pattern?: { String?: unknown; Regex?: unknown };
}

/** The words of GPT-2, as the tokenizers library in Rust cuts them. */
const GPT2_WORDS =
  "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

/**
 * The pre-tokenizer of tokenizer.json in steps that the JavaScript library takes exactly as the Rust library,
 * which made the model's training data:
 * - its `Digits` knows only 0 to 9, the other all numeric characters of Unicode;
 * - the built-in pattern of its `ByteLevel` uses JavaScript's `\s`, which differs in U+0085 and U+FEFF, while
 *   patterns it reads from the file are translated.
 *
 * @throws {@link ModelLoaderError} `ERR_TOKENIZER_UNSUPPORTED` for what it would silently take as something else.
 */
export function portablePreTokenizer(spec: unknown): unknown {
  const step = spec as PreTokenizerSpec | null;
  switch (step?.type) {
    case 'Sequence':
      if (!Array.isArray(step.pretokenizers)) return spec;
      return {
        type: 'Sequence',
        pretokenizers: step.pretokenizers.flatMap((inner) => {
          const portable = portablePreTokenizer(inner) as PreTokenizerSpec | null;
          return portable?.type === 'Sequence' && Array.isArray(portable.pretokenizers)
            ? portable.pretokenizers
            : [portable];
        }),
      };
    case 'Digits':
      return isolated(step.individual_digits === true ? '\\p{N}' : '\\p{N}+');
    case 'ByteLevel':
      // With a prefix space the words depend on it; no decoder-only model of today asks for one.
      if (step.use_regex === false || step.add_prefix_space === true) return spec;
      return {
        type: 'Sequence',
        pretokenizers: [isolated(GPT2_WORDS), { ...step, use_regex: false }],
      };
    case 'Split': {
      const behavior = String(step.behavior ?? '').toLowerCase();
      // Isolating the matches or what lies between them is the same.
      if (behavior === 'isolated') return { ...step, invert: false };
      if (behavior === 'removed') return spec;
      // The words end after (or begin at) each match, which a pattern can say as well.
      const literal = step.pattern?.String;
      if (step.invert !== true && typeof literal === 'string' && literal !== '') {
        const match = literal.replace(/[.*+?^${}()|[\]\\]/g, '\\$&');
        if (behavior === 'mergedwithprevious') {
          return isolated(`(?:(?!${match})[\\s\\S])*${match}|(?:(?!${match})[\\s\\S])+`);
        }
        if (behavior === 'mergedwithnext') {
          return isolated(`${match}(?:(?!${match})[\\s\\S])*|(?:(?!${match})[\\s\\S])+`);
        }
      }
      throw new ModelLoaderError(
        'ERR_TOKENIZER_UNSUPPORTED',
        `tokenizer.json has a Split pre-tokenizer with the behavior ${JSON.stringify(step.behavior)}, which is not supported`,
        { behavior: step.behavior },
      );
    }
    default:
      return spec;
  }
}

function isolated(pattern: string): unknown {
  return { type: 'Split', pattern: { Regex: pattern }, behavior: 'Isolated', invert: false };
}
