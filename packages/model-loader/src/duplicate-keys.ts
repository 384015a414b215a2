/** What {@link scanJson} found in a text that is known to be valid JSON. */
export interface JsonScan {
  /** First key that appears twice in one object, if any. */
  duplicateKey?: string;
  /** First number that is not written as a plain integer (`1.5`, `1e3`, `-0`), if any. */
  notAnInteger?: string;
}

/**
 * Finds what `JSON.parse` hides: keys that appear twice in an object (it keeps the last), and numbers that
 * are not written as integers (it turns `1.0` into `1`). `text` must already have passed `JSON.parse`.
 */
export function scanJson(text: string): JsonScan {
  const found: JsonScan = {};
  // One set of keys per open object, null per open array.
  const open: (Set<string> | null)[] = [];
  let at = 0;
  while (at < text.length) {
    const character = text[at] as string;
    if (character === '{') open.push(new Set());
    else if (character === '[') open.push(null);
    else if (character === '}' || character === ']') open.pop();
    else if (character === '"') {
      const start = at;
      at++;
      while (text[at] !== '"') at += text[at] === '\\' ? 2 : 1;
      let next = at + 1;
      while (' \t\n\r'.includes(text[next] ?? '.')) next++;
      const keys = open.at(-1);
      // A string followed by a colon is a key.
      if (keys && text[next] === ':') {
        const key = JSON.parse(text.slice(start, at + 1)) as string;
        if (keys.has(key)) found.duplicateKey ??= key;
        keys.add(key);
      }
    } else if (character === '-' || (character >= '0' && character <= '9')) {
      let end = at + 1;
      while (/[-+.0-9eE]/.test(text[end] ?? ' ')) end++;
      const number = text.slice(at, end);
      if (!/^(0|-?[1-9][0-9]*)$/.test(number)) found.notAnInteger ??= number;
      at = end - 1;
    }
    at++;
  }
  return found;
}
