import fc from 'fast-check';
import { expect, test } from 'vitest';
import { StopSequences } from '../src/stop-sequences.ts';

/** What a reader gets if `pieces` are pushed one after another. */
function stream(stops: string[], pieces: string[]): { shown: string[]; stopped: boolean } {
  const sequences = new StopSequences(stops);
  const shown: string[] = [];
  for (const piece of pieces) {
    const { text, stopped } = sequences.push(piece);
    shown.push(text);
    if (stopped) return { shown, stopped };
  }
  shown.push(sequences.flush());
  return { shown, stopped: false };
}

/** Cuts `text` at the given places. */
function cut(text: string, places: number[]): string[] {
  const borders = [
    0,
    ...places.map((place) => place % (text.length + 1)).sort((a, b) => a - b),
    text.length,
  ];
  return borders.slice(1).map((border, index) => text.slice(borders[index], border));
}

test('finds a stop sequence across pieces and shows none of it', () => {
  expect(stream(['<end>'], ['Hello', ' <', 'en', 'd> more'])).toEqual({
    shown: ['Hello', ' ', '', ''],
    stopped: true,
  });
});

test('shows what only looked like a stop sequence, as soon as that is certain', () => {
  expect(stream(['<end>'], ['a<e', 'nx', 'b'])).toEqual({
    shown: ['a', '<enx', 'b', ''],
    stopped: false,
  });
});

test('holds back the beginning of an overlapping stop sequence', () => {
  expect(stream(['aab'], ['aa', 'a', 'b'])).toEqual({ shown: ['', 'a', ''], stopped: true });
});

test('shows what is held back when no more comes', () => {
  expect(stream(['###'], ['x##'])).toEqual({ shown: ['x', '##'], stopped: false });
});

test('the first of several wins', () => {
  expect(stream(['world', 'lo'], ['hello world'])).toEqual({ shown: ['hel'], stopped: true });
});

const letters = fc.constantFrom('a', 'b', 'c', '€', '𝄞');
const words = (least: number, most: number) =>
  fc.array(letters, { minLength: least, maxLength: most }).map((list) => list.join(''));

test('however the text is cut, the reader sees it up to the first stop sequence to complete', () => {
  fc.assert(
    fc.property(
      words(0, 30),
      fc.array(words(1, 4), { maxLength: 3 }),
      fc.array(fc.nat(40), { maxLength: 12 }),
      (text, stops, places) => {
        // One character at a time tells which completes first.
        let end = -1;
        for (let length = 1; length <= text.length && end === -1; length++) {
          const starts = stops
            .filter((stop) => text.slice(0, length).endsWith(stop))
            .map((stop) => length - stop.length);
          if (starts.length > 0) end = Math.min(...starts);
        }
        const whole = stream(stops, [...text]);
        expect(whole.stopped).toBe(end !== -1);
        expect(whole.shown.join('')).toBe(end === -1 ? text : text.slice(0, end));
        // In larger pieces more than one may complete at once; then the one that begins first wins.
        const { shown, stopped } = stream(stops, cut(text, places));
        const seen = shown.join('');
        expect(stopped).toBe(end !== -1);
        expect(text.startsWith(seen)).toBe(true);
        for (const stop of stops) expect(seen).not.toContain(stop);
        if (!stopped) expect(seen).toBe(text);
      },
    ),
    { numRuns: 2000 },
  );
});

test('refuses an empty stop sequence', () => {
  expect(() => new StopSequences(['x', ''])).toThrow(
    expect.objectContaining({ code: 'ERR_INVALID_ARGUMENT' }),
  );
});
