/** A token that is found in the text before the model sees it, as `added_tokens` of tokenizer.json lists it. */
export interface AddedToken {
  /** Its id. */
  id: number;
  /** Its text. */
  content: string;
  /** Whether it is a control token, left out of decoded text on demand. */
  special: boolean;
  /** Whether it is looked for in the normalized text rather than in the raw text. */
  normalized: boolean;
  /** Whether whitespace before it belongs to it. */
  lstrip: boolean;
  /** Whether whitespace after it belongs to it. */
  rstrip: boolean;
  /** Whether it counts only between characters that are not part of words. */
  single_word: boolean;
}

/** A piece of a text: either plain text or the id of an added token. */
export type Section = { text: string; start: number } | { id: number };

/** Finds added tokens in a text: the leftmost first, of those the longest. */
export class AddedTokenFinder {
  /** Tokens by their first code unit, the longest first. */
  readonly #byFirst = new Map<string, { text: string; token: AddedToken }[]>();
  /** Matches any first code unit, to skip quickly over text that has none. */
  readonly #first: RegExp | undefined;

  /** `texts` are what to look for (the normalized contents, when the text is normalized). */
  constructor(tokens: readonly { text: string; token: AddedToken }[]) {
    for (const entry of tokens) {
      const first = entry.text[0];
      if (first === undefined) continue;
      const list = this.#byFirst.get(first);
      if (list === undefined) this.#byFirst.set(first, [entry]);
      else list.push(entry);
    }
    for (const list of this.#byFirst.values()) list.sort((a, b) => b.text.length - a.text.length);
    if (this.#byFirst.size > 0) {
      const units = [...this.#byFirst.keys()].map(
        (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`,
      );
      this.#first = new RegExp(`[${units.join('')}]`, 'g');
    }
  }

  /** Cuts a text into plain text and added tokens; empty pieces are left out. */
  split(text: string): Section[] {
    if (this.#first === undefined) return text === '' ? [] : [{ text, start: 0 }];
    const sections: Section[] = [];
    const search = this.#first;
    let plain = 0;
    search.lastIndex = 0;
    for (let hit = search.exec(text); hit !== null; hit = search.exec(text)) {
      const start = hit.index;
      const found = this.#byFirst
        .get(hit[0])
        ?.find((entry) => text.startsWith(entry.text, start) && fits(text, start, entry));
      if (found === undefined) continue;
      const { token } = found;
      let from = start;
      let to = start + found.text.length;
      if (token.lstrip) while (from > plain && isSpace(text[from - 1])) from--;
      if (token.rstrip) while (to < text.length && isSpace(text[to])) to++;
      if (from > plain) sections.push({ text: text.slice(plain, from), start: plain });
      sections.push({ id: token.id });
      plain = to;
      search.lastIndex = to;
    }
    if (plain < text.length) sections.push({ text: text.slice(plain), start: plain });
    return sections;
  }
}

function fits(text: string, start: number, entry: { text: string; token: AddedToken }): boolean {
  if (!entry.token.single_word) return true;
  const end = start + entry.text.length;
  const before = start === 0 ? '' : characterBefore(text, start);
  const after = end >= text.length ? '' : String.fromCodePoint(text.codePointAt(end) as number);
  return !isWord(before) && !isWord(after);
}

function characterBefore(text: string, at: number): string {
  const low = text.charCodeAt(at - 1);
  return low >= 0xdc00 && low < 0xe000 && at > 1 ? text.slice(at - 2, at) : text.slice(at - 1, at);
}

function isWord(character: string): boolean {
  return /^[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}]$/u.test(character);
}

function isSpace(unit: string | undefined): boolean {
  return unit !== undefined && /^\p{White_Space}$/u.test(unit);
}
