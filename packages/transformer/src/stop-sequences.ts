import { TransformerError } from './errors.ts';

/** What {@link StopSequences.push} lets through. */
export interface StopResult {
  /** Text that can no longer be part of a stop sequence. */
  text: string;
  /** Whether a stop sequence is complete; nothing may be pushed after that. */
  stopped: boolean;
}

/**
 * Finds stop sequences in text that arrives in pieces. Holds back as little as possible: the
 * longest end of the text that could still become a stop sequence.
 */
export class StopSequences {
  readonly #stops: readonly string[];
  #held = '';

  /** @throws TransformerError ERR_INVALID_ARGUMENT for an empty stop sequence. */
  constructor(stops: readonly string[]) {
    for (const stop of stops) {
      if (typeof stop !== 'string' || stop === '') {
        throw new TransformerError(
          'ERR_INVALID_ARGUMENT',
          `stop sequences must be non-empty strings, got ${JSON.stringify(stop)}`,
          { stop },
        );
      }
    }
    this.#stops = stops;
  }

  /** Takes the next piece of text. */
  push(piece: string): StopResult {
    if (this.#stops.length === 0) return { text: piece, stopped: false };
    const text = this.#held + piece;
    let start = -1;
    for (const stop of this.#stops) {
      const found = text.indexOf(stop);
      if (found !== -1 && (start === -1 || found < start)) start = found;
    }
    if (start !== -1) {
      this.#held = '';
      return { text: text.slice(0, start), stopped: true };
    }
    const safe = text.length - this.#overlap(text);
    this.#held = text.slice(safe);
    return { text: text.slice(0, safe), stopped: false };
  }

  /** The text held back, once no more will come. */
  flush(): string {
    const held = this.#held;
    this.#held = '';
    return held;
  }

  /** Length of the longest end of `text` that begins a stop sequence without completing it. */
  #overlap(text: string): number {
    let longest = 0;
    for (const stop of this.#stops) {
      for (let length = Math.min(stop.length - 1, text.length); length > longest; length--) {
        if (text.endsWith(stop.slice(0, length))) {
          longest = length;
          break;
        }
      }
    }
    return longest;
  }
}
