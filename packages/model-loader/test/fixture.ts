import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

/** Path of a committed fixture. */
export function fixturePath(name: string): string {
  return fileURLToPath(new URL(`fixtures/${name}`, import.meta.url));
}

/** A committed fixture in JSON. */
export function fixture<T>(name: string): T {
  return JSON.parse(readFileSync(fixturePath(name), 'utf8')) as T;
}

/** What the Rust tokenizers library gave for a text. */
export interface EncodedText {
  text: string;
  ids: number[];
  decoded: string;
}
