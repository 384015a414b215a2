/** A tokenizer with one token per character, whose prompts can be read. */
export const characters = {
  encode: (text: string): Uint32Array =>
    Uint32Array.from([...text], (character) => character.codePointAt(0) as number),
};

/** The text of a prompt made with {@link characters}. */
export const textOf = (tokens: Uint32Array): string => String.fromCodePoint(...tokens);
