/**
 * Cuts long words where no token can lie across the cut.
 *
 * Between two characters that follow each other in no token of the vocabulary, neither a merge of BPE nor a
 * piece of Unigram can reach across. The model, run on the parts, therefore gives the tokens it gives for the
 * whole, and a text without word boundaries (a tokenizer that sees a document as one word) need not be one
 * huge problem.
 */
export class LongWordSplitter {
  /** Pairs of neighbouring UTF-16 code units inside tokens: first * 65536 + second. */
  readonly #pairs = new Set<number>();

  constructor(tokens: Iterable<string | undefined>) {
    for (const token of tokens) {
      if (token === undefined) continue;
      for (let i = 1; i < token.length; i++) {
        this.#pairs.add(token.charCodeAt(i - 1) * 65536 + token.charCodeAt(i));
      }
    }
  }

  /** The parts of a word, in order. */
  split(word: string): string[] {
    const parts: string[] = [];
    let start = 0;
    for (let i = 1; i < word.length; i++) {
      const before = word.charCodeAt(i - 1);
      // Never inside a surrogate pair: the halves of a character are no characters.
      if (before >= 0xd800 && before < 0xdc00) continue;
      if (!this.#pairs.has(before * 65536 + word.charCodeAt(i))) {
        parts.push(word.slice(start, i));
        start = i;
      }
    }
    parts.push(word.slice(start));
    return parts;
  }
}
