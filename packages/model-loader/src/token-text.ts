import type { AddedToken } from './added-tokens.ts';

/** How tokens become text, as far as the decoder of tokenizer.json says. */
export type TokenTextRule =
  /** Each character of a token stands for one byte (GPT-2's alphabet). */
  | { kind: 'byte-level' }
  /** Tokens are text with replacements; `<0x0A>` is a byte; some spaces are cut off at the very start. */
  | {
      kind: 'pieces';
      replacements: readonly (readonly [string, string])[];
      byteTokens: boolean;
      stripStart: { content: string; count: number };
    };

/** One entry of the decoder of tokenizer.json. */
interface DecoderSpec {
  type?: unknown;
  decoders?: unknown;
  pattern?: { String?: unknown };
  content?: unknown;
  start?: unknown;
  stop?: unknown;
  replacement?: unknown;
  prepend_scheme?: unknown;
  add_prefix_space?: unknown;
}

/** Reads the rule from the decoder of tokenizer.json; undefined when the decoder is of another kind. */
export function tokenTextRule(decoder: unknown): TokenTextRule | undefined {
  const spec = decoder as DecoderSpec | null;
  const steps = spec?.type === 'Sequence' && Array.isArray(spec.decoders) ? spec.decoders : [spec];
  const replacements: [string, string][] = [];
  let byteTokens = false;
  let fused = false;
  let stripStart = { content: ' ', count: 0 };
  for (const step of steps as (DecoderSpec | null)[]) {
    switch (step?.type) {
      case 'ByteLevel':
        return steps.length === 1 ? { kind: 'byte-level' } : undefined;
      case 'Replace':
        if (fused || typeof step.pattern?.String !== 'string' || typeof step.content !== 'string') {
          return undefined;
        }
        replacements.push([step.pattern.String, step.content]);
        break;
      case 'ByteFallback':
        byteTokens = true;
        break;
      case 'Fuse':
        fused = true;
        break;
      case 'Strip':
        if (!fused || typeof step.content !== 'string' || (step.stop ?? 0) !== 0) return undefined;
        stripStart = { content: step.content, count: Number(step.start ?? 0) };
        break;
      case 'Metaspace': {
        const replacement = typeof step.replacement === 'string' ? step.replacement : '▁';
        replacements.push([replacement, ' ']);
        const scheme =
          step.prepend_scheme ?? (step.add_prefix_space === false ? 'never' : 'always');
        if (scheme !== 'never') stripStart = { content: ' ', count: 1 };
        break;
      }
      default:
        return undefined;
    }
  }
  return { kind: 'pieces', replacements, byteTokens, stripStart };
}

/** GPT-2's alphabet: a printable character for each of the 256 bytes. */
const CHARACTER_OF_BYTE: readonly string[] = (() => {
  let next = 256;
  return Array.from({ length: 256 }, (_, byte) => {
    const printable =
      (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
    return String.fromCharCode(printable ? byte : next++);
  });
})();
const BYTE_OF_CHARACTER: ReadonlyMap<string, number> = new Map(
  CHARACTER_OF_BYTE.map((character, byte) => [character, byte]),
);

/** A text's UTF-8 bytes in GPT-2's alphabet. */
export function byteAlphabet(text: string): string {
  let spelled = '';
  for (const byte of new TextEncoder().encode(text)) spelled += CHARACTER_OF_BYTE[byte];
  return spelled;
}

/** The bytes of tokens, and what is cut off a text that begins with them. */
export interface TokenByteSource {
  /** Characters to cut off at the very start of a decoded text. */
  readonly stripStart: { content: string; count: number };
  /** The UTF-8 bytes of a token; none for an id without a token. */
  of(id: number): Uint8Array;
}

/**
 * How ids become text and which of them end a generation, without what it takes to encode: a few hundred kB that can be
 * sent to another thread, where {@link readTokenTexts} makes a decoder of it.
 */
export interface TokenTexts {
  /** UTF-8 bytes of all tokens, one after the other. */
  bytes: Uint8Array;
  /** Where each token's begin, and the end of the last: `[vocabulary + 1]`. */
  offsets: Uint32Array;
  /** Characters cut off at the very start of a text. */
  stripStart: { content: string; count: number };
  /** Ids of control tokens. */
  specialTokenIds: number[];
  /** Ids that end a generation. */
  eosTokenIds: number[];
}

/** Packs the bytes of `count` tokens. */
export function packTokenBytes(
  source: TokenByteSource,
  count: number,
): Pick<TokenTexts, 'bytes' | 'offsets'> {
  const offsets = new Uint32Array(count + 1);
  let bytes = new Uint8Array(8 * count);
  for (let id = 0; id < count; id++) {
    const token = source.of(id);
    const start = offsets[id] as number;
    if (start + token.length > bytes.length) {
      const grown = new Uint8Array(2 * (start + token.length));
      grown.set(bytes);
      bytes = grown;
    }
    bytes.set(token, start);
    offsets[id + 1] = start + token.length;
  }
  return { bytes: bytes.slice(0, offsets[count] as number), offsets };
}

/** A decoder that takes tokens one by one, control tokens left out, from what `Tokenizer.tokenTexts` gave. */
export function readTokenTexts({
  bytes,
  offsets,
  stripStart,
  specialTokenIds,
}: TokenTexts): StreamingDecoder {
  const of = (id: number): Uint8Array => bytes.subarray(offsets[id] ?? 0, offsets[id + 1] ?? 0);
  return new StreamingDecoder({ stripStart, of }, new Set(specialTokenIds));
}

/** UTF-8 bytes of tokens by id, kept once computed. */
export class TokenBytes implements TokenByteSource {
  readonly #rule: TokenTextRule;
  readonly #tokens: readonly (string | undefined)[];
  readonly #added: ReadonlyMap<number, AddedToken>;
  readonly #known: (Uint8Array | undefined)[] = [];

  constructor(
    rule: TokenTextRule,
    tokens: readonly (string | undefined)[],
    added: ReadonlyMap<number, AddedToken>,
  ) {
    this.#rule = rule;
    this.#tokens = tokens;
    this.#added = added;
  }

  /** Characters to cut off at the very start of a decoded text. */
  get stripStart(): { content: string; count: number } {
    return this.#rule.kind === 'pieces' ? this.#rule.stripStart : { content: ' ', count: 0 };
  }

  /** The bytes of a token; none for an id without a token. */
  of(id: number): Uint8Array {
    const known = this.#known[id];
    if (known !== undefined) return known;
    const bytes = this.compute(id);
    this.#known[id] = bytes;
    return bytes;
  }

  /** What {@link of} gives, computed anew and not kept. */
  compute(id: number): Uint8Array {
    const token = this.#tokens[id];
    if (token === undefined) return new Uint8Array(0);
    const rule = this.#rule;
    if (rule.kind === 'byte-level') {
      if (this.#added.has(id)) return new TextEncoder().encode(token);
      const bytes = new Uint8Array(token.length);
      for (let i = 0; i < token.length; i++) {
        const byte = BYTE_OF_CHARACTER.get(token[i] as string);
        // A token outside the alphabet is taken as text.
        if (byte === undefined) return new TextEncoder().encode(token);
        bytes[i] = byte;
      }
      return bytes;
    }
    if (rule.byteTokens && /^<0x[0-9A-Fa-f]{2}>$/.test(token)) {
      return Uint8Array.of(Number.parseInt(token.slice(3, 5), 16));
    }
    let text = token;
    for (const [from, to] of rule.replacements) text = text.replaceAll(from, to);
    return new TextEncoder().encode(text);
  }
}

/**
 * Turns tokens into text as they come. What it returns, joined, is the decoded text; a character whose bytes
 * are spread over several tokens is held back until it is complete.
 */
export class StreamingDecoder {
  readonly #bytes: TokenByteSource;
  readonly #skip: ReadonlySet<number>;
  readonly #decoder = new TextDecoder('utf-8', { ignoreBOM: true });
  #strip: number;

  /** @internal Made by {@link Tokenizer.streamingDecoder}. */
  constructor(bytes: TokenByteSource, skip: ReadonlySet<number>) {
    this.#bytes = bytes;
    this.#skip = skip;
    this.#strip = bytes.stripStart.count;
  }

  /** Takes one token and returns the text that became complete, which may be empty. */
  push(id: number): string {
    if (this.#skip.has(id)) return '';
    return this.#trim(this.#decoder.decode(this.#bytes.of(id), { stream: true }));
  }

  /** Ends the text: bytes of a character that was never completed come out as U+FFFD. */
  end(): string {
    return this.#trim(this.#decoder.decode());
  }

  #trim(text: string): string {
    let rest = text;
    while (this.#strip > 0 && rest !== '') {
      if (!rest.startsWith(this.#bytes.stripStart.content)) {
        this.#strip = 0;
        break;
      }
      rest = rest.slice(this.#bytes.stripStart.content.length);
      this.#strip--;
    }
    return rest;
  }
}
