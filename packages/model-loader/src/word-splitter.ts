import { portablePreTokenizer } from './portable-pre-tokenizer.ts';
import { type LibraryPreTokenizer, library } from './tokenizers-library.ts';

/** One step of cutting: by a pattern whose matches and gaps are both pieces, or by the library. */
type Step = { pattern: RegExp } | { library: LibraryPreTokenizer };

/**
 * Cuts text into the words that the model sees one by one, as `pre_tokenizer` of tokenizer.json says.
 *
 * Words are visited as they are found, a piece at a time: a text of megabytes needs no list of its pieces for
 * each step.
 */
export class WordSplitter {
  /** Whether the words are to be written in GPT-2's byte alphabet before the model sees them. */
  readonly byteLevel: boolean;
  readonly #steps: readonly Step[];

  /** @throws {@link ModelLoaderError} `ERR_TOKENIZER_UNSUPPORTED`, or an error of the library. */
  constructor(preTokenizer: unknown) {
    const portable = portablePreTokenizer(preTokenizer) as {
      type?: unknown;
      pretokenizers?: unknown;
    } | null;
    const list = (
      portable === null
        ? []
        : portable.type === 'Sequence' && Array.isArray(portable.pretokenizers)
          ? portable.pretokenizers
          : [portable]
    ) as Record<'type' | 'behavior' | 'use_regex' | 'add_prefix_space', unknown>[];
    const last = list.at(-1);
    this.byteLevel =
      last?.type === 'ByteLevel' && last.use_regex === false && last.add_prefix_space !== true;
    this.#steps = (this.byteLevel ? list.slice(0, -1) : list).map((step): Step => {
      const isolated =
        step.type === 'Split' && String(step.behavior ?? '').toLowerCase() === 'isolated';
      // The library compiles the pattern: it translates the syntax of the Rust library's engine.
      const pattern = isolated ? new library.SplitPreTokenizer(step).pattern : null;
      return pattern === null
        ? { library: new library.SequencePreTokenizer({ type: 'Sequence', pretokenizers: [step] }) }
        : { pattern };
    });
  }

  /** Visits the words of a text in order. `atStart` says whether the text begins the whole input. */
  visit(text: string, atStart: boolean, visit: (word: string) => void): void {
    this.#cut(0, text, atStart ? 0 : 1, visit);
  }

  #cut(index: number, text: string, section: number, visit: (word: string) => void): void {
    const step = this.#steps[index];
    if (step === undefined) {
      visit(text);
      return;
    }
    if ('library' in step) {
      for (const piece of step.library.pre_tokenize(text, { section_index: section })) {
        this.#cut(index + 1, piece, section, visit);
      }
      return;
    }
    const { pattern } = step;
    let from = 0;
    let searchFrom = 0;
    for (;;) {
      pattern.lastIndex = searchFrom;
      const match = pattern.exec(text);
      if (match === null) break;
      const { index: start } = match;
      const word = match[0];
      if (from < start) this.#cut(index + 1, text.slice(from, start), section, visit);
      if (word !== '') this.#cut(index + 1, word, section, visit);
      from = start + word.length;
      // An empty match cuts without taking anything; the search goes on one character later.
      searchFrom = word === '' ? from + ((text.codePointAt(from) ?? 0) > 0xffff ? 2 : 1) : from;
      if (searchFrom > text.length) break;
    }
    if (from < text.length) this.#cut(index + 1, text.slice(from), section, visit);
  }
}
