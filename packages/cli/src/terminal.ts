import { styleText } from 'node:util';

/** The process's three streams and its environment, replaceable in tests. */
export interface Streams {
  stdin: NodeJS.ReadableStream & { isTTY?: boolean };
  stdout: NodeJS.WritableStream & { isTTY?: boolean };
  stderr: NodeJS.WritableStream & { isTTY?: boolean; columns?: number };
  env: Readonly<Record<string, string | undefined>>;
}

/** The flags that say what is printed. */
export interface OutputFlags {
  readonly json?: boolean | undefined;
  readonly quiet?: boolean | undefined;
  readonly color?: boolean | undefined;
}

/** What a command may print, and how. */
export interface Terminal {
  readonly streams: Streams;
  /** One JSON object on stdout instead of text. */
  readonly json: boolean;
  /** Nothing on stderr but errors. */
  readonly quiet: boolean;
  /** A moving progress bar is possible: stderr is a terminal that can move its cursor. */
  readonly interactive: boolean;
  /** Grey, for what is less important. Plain if colours are off. */
  dim(text: string): string;
  /** Red, for errors. Plain if colours are off. */
  red(text: string): string;
  /** Waits where the reader is slow, so that output never piles up in memory. */
  write(text: string): Promise<void>;
  /** One line on stderr, unless quiet. */
  note(line: string): void;
}

/** Without the control characters (all but tab and line end) through which a text could drive a terminal. */
export function printable(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is removed
  return text.replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f]/g, '');
}

/**
 * Colours follow, in this order: `--no-color`, `NO_COLOR`, `FORCE_COLOR`, and whether stderr is a
 * terminal (only stderr is ever coloured).
 */
function wantsColour(streams: Streams, colour: boolean): boolean {
  const { env, stderr } = streams;
  if (!colour || (env['NO_COLOR'] ?? '') !== '') return false;
  if ((env['FORCE_COLOR'] ?? '') !== '') return env['FORCE_COLOR'] !== '0';
  return stderr.isTTY === true && env['TERM'] !== 'dumb';
}

export function createTerminal(streams: Streams, options: OutputFlags): Terminal {
  const colours = wantsColour(streams, options.color ?? true);
  const paint = (style: 'dim' | 'red') => (text: string) =>
    colours ? styleText(style, text, { validateStream: false }) : text;
  const quiet = options.quiet ?? false;
  return {
    streams,
    json: options.json ?? false,
    quiet,
    interactive: !quiet && streams.stderr.isTTY === true && streams.env['TERM'] !== 'dumb',
    dim: paint('dim'),
    red: paint('red'),
    async write(text) {
      if (text === '' || streams.stdout.write(text)) return;
      await new Promise<void>((resolve) => {
        const done = (): void => {
          streams.stdout.off('drain', done).off('close', done).off('error', done);
          resolve();
        };
        streams.stdout.on('drain', done).on('close', done).on('error', done);
      });
    },
    note(line) {
      if (!quiet) streams.stderr.write(`${line}\n`);
    },
  };
}
