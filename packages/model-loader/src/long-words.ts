import type { LibraryModel } from './tokenizers-library.ts';

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

/** Keys of pairs: left id * 2^21 + right id. Vocabularies have less than 2^21 tokens. */
const PAIR = 2 ** 21;
/** Keys of the queue: rank * 2^31 + position. */
const RANK = 2 ** 31;

/**
 * BPE for words that cannot be cut: runs of one letter, of spaces or of base64. The library builds objects and
 * strings for each pair, 40 microseconds a character; this works on numbers. It is the algorithm of the Rust
 * library: of all neighbours that may be merged, always those of the lowest rank, the leftmost first.
 */
export class LongWordMerger {
  readonly #model: LibraryModel;
  readonly #idOfCharacter = new Map<string, readonly number[]>();
  /** Rank of a merge by the ids of its two sides. */
  readonly #ranks = new Map<number, number>();
  /** Id of what a merge makes, by rank. */
  readonly #merged: Int32Array;

  constructor(model: LibraryModel, merges: readonly (readonly [string, string])[]) {
    this.#model = model;
    const ids = model.tokens_to_ids;
    this.#merged = new Int32Array(merges.length).fill(-1);
    for (const [rank, [left, right]] of merges.entries()) {
      const merged = ids.get(left + right);
      const leftId = ids.get(left);
      const rightId = ids.get(right);
      if (merged === undefined || leftId === undefined || rightId === undefined) continue;
      this.#merged[rank] = merged;
      this.#ranks.set(leftId * PAIR + rightId, rank);
    }
  }

  /** Ids of a word. */
  encode(word: string): number[] {
    // Symbols in a doubly linked list; -1 ends it. A symbol that was merged into its left one has id -1.
    const symbols: number[] = [];
    for (const character of word) {
      for (const id of this.#idsOf(character)) {
        const { unk_token_id: unknown, fuse_unk: fuse } = this.#model;
        if (!(fuse && id === unknown && symbols.at(-1) === unknown)) symbols.push(id);
      }
    }
    const count = symbols.length;
    const ids = Int32Array.from(symbols);
    const next = Int32Array.from({ length: count }, (_, i) => (i + 1 < count ? i + 1 : -1));
    const previous = Int32Array.from({ length: count }, (_, i) => i - 1);
    const queue = new MinQueue(count);
    const offer = (at: number) => {
      const after = next[at] as number;
      if (after < 0) return;
      const rank = this.#ranks.get((ids[at] as number) * PAIR + (ids[after] as number));
      if (rank !== undefined) queue.push(rank * RANK + at);
    };
    for (let at = 0; at < count; at++) offer(at);
    for (let key = queue.pop(); key !== undefined; key = queue.pop()) {
      const at = key % RANK;
      const after = next[at] as number;
      if ((ids[at] as number) < 0 || after < 0) continue;
      const merged = this.#merged[(key - at) / RANK] as number;
      // The neighbours may have changed since this was queued.
      const now = this.#ranks.get((ids[at] as number) * PAIR + (ids[after] as number));
      if (now === undefined || this.#merged[now] !== merged) continue;
      ids[at] = merged;
      ids[after] = -1;
      const afterNext = next[after] as number;
      next[at] = afterNext;
      if (afterNext >= 0) previous[afterNext] = at;
      const before = previous[at] as number;
      if (before >= 0) offer(before);
      offer(at);
    }
    const result: number[] = [];
    for (let at = count > 0 ? 0 : -1; at >= 0; at = next[at] as number) {
      result.push(ids[at] as number);
    }
    return result;
  }

  /** A character is a token, or its bytes are, or it is unknown. */
  #idsOf(character: string): readonly number[] {
    const known = this.#idOfCharacter.get(character);
    if (known !== undefined) return known;
    const ids = this.#model
      .encode([character])
      .map((token) => this.#model.tokens_to_ids.get(token) ?? this.#model.unk_token_id)
      .filter((id) => id !== undefined);
    this.#idOfCharacter.set(character, ids);
    return ids;
  }
}

/** A heap of numbers, the smallest first. */
class MinQueue {
  #keys: Float64Array;
  #size = 0;

  constructor(capacity: number) {
    this.#keys = new Float64Array(Math.max(16, capacity));
  }

  push(key: number): void {
    if (this.#size === this.#keys.length) {
      const larger = new Float64Array(this.#size * 2);
      larger.set(this.#keys);
      this.#keys = larger;
    }
    const keys = this.#keys;
    let at = this.#size++;
    while (at > 0) {
      const parent = (at - 1) >> 1;
      const above = keys[parent] as number;
      if (above <= key) break;
      keys[at] = above;
      at = parent;
    }
    keys[at] = key;
  }

  pop(): number | undefined {
    if (this.#size === 0) return undefined;
    const keys = this.#keys;
    const top = keys[0];
    const key = keys[--this.#size] as number;
    let at = 0;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= this.#size) break;
      if (child + 1 < this.#size && (keys[child + 1] as number) < (keys[child] as number)) child++;
      if ((keys[child] as number) >= key) break;
      keys[at] = keys[child] as number;
      at = child;
    }
    keys[at] = key;
    return top;
  }
}
