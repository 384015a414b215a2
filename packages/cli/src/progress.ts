import { SingleBar } from 'cli-progress';
import { formatBytes, formatCount, formatDuration } from './figures.ts';
import type { Terminal } from './terminal.ts';

/** Without a terminal: the first line after this time, so that short runs leave logs clean, */
const FIRST_LINE_MS = 1000;
/** and then one line at most this often, so that hours-long ones are never silent. */
const LINE_INTERVAL_MS = 10_000;
/** The widest bar, in characters. */
const BAR_WIDTH = 30;
/** What a line needs beside its bar. */
const TEXT_WIDTH = 60;

/** What is counted: decides how amounts are written. */
export type ProgressUnit = 'tokens' | 'windows' | 'bytes' | 'steps';

/**
 * Progress on stderr: a bar that wipes itself away where stderr is a terminal, otherwise a plain line
 * now and then.
 */
export interface Progress {
  /** Begins a phase (ending the one before), or moves it. */
  update(phase: string, done: number, total: number, unit: ProgressUnit): void;
  /** Ends the phase and clears the bar. */
  end(): void;
}

const silent: Progress = { update: () => undefined, end: () => undefined };

function amounts(done: number, total: number, unit: ProgressUnit): string {
  const write = unit === 'bytes' ? formatBytes : formatCount;
  const noun = unit === 'tokens' || unit === 'windows' ? ` ${unit}` : '';
  return `${write(done)} of ${write(total)}${noun}`;
}

function remaining(done: number, total: number, elapsedMs: number): string {
  // The first moments say nothing about the speed.
  if (done <= 0 || elapsedMs < 500) return '';
  const seconds = Math.round(((elapsedMs / done) * (total - done)) / 1000);
  if (seconds < 1) return '';
  return `about ${seconds < 60 ? `${seconds} s` : formatDuration(seconds * 1000)} left`;
}

class BarProgress implements Progress {
  readonly #stderr: NodeJS.WritableStream & { columns?: number };
  #bar: SingleBar | undefined;
  #phase = '';
  #startedAt = 0;

  constructor(stderr: NodeJS.WritableStream & { columns?: number }) {
    this.#stderr = stderr;
  }

  update(phase: string, done: number, total: number, unit: ProgressUnit): void {
    if (phase !== this.#phase || this.#bar === undefined) this.#start(phase, total);
    const elapsed = performance.now() - this.#startedAt;
    this.#bar?.update(done, {
      amounts: amounts(done, total, unit),
      left: remaining(done, total, elapsed),
    });
  }

  end(): void {
    this.#bar?.stop();
    this.#bar = undefined;
    this.#phase = '';
  }

  #start(phase: string, total: number): void {
    this.end();
    this.#phase = phase;
    this.#startedAt = performance.now();
    const room = (this.#stderr.columns ?? 80) - TEXT_WIDTH;
    this.#bar = new SingleBar({
      stream: this.#stderr,
      format: '{phase} {bar} {percentage}% {amounts} {left}',
      barsize: Math.max(5, Math.min(BAR_WIDTH, room)),
      barCompleteChar: '█',
      barIncompleteChar: '░',
      clearOnComplete: true,
      // The bar must leave nothing to restore when the process is killed, and signals are ours.
      hideCursor: false,
      linewrap: true,
      gracefulExit: false,
    });
    this.#bar.start(total, 0, { phase, amounts: '', left: '' });
  }
}

class LineProgress implements Progress {
  readonly #note: (line: string) => void;
  #phase = '';
  #startedAt = 0;
  #nextLineAt = 0;

  constructor(note: (line: string) => void) {
    this.#note = note;
  }

  update(phase: string, done: number, total: number, unit: ProgressUnit): void {
    const now = performance.now();
    if (phase !== this.#phase) {
      this.#phase = phase;
      this.#startedAt = now;
      this.#nextLineAt = now + FIRST_LINE_MS;
    }
    if (now < this.#nextLineAt || done >= total) return;
    this.#nextLineAt = now + LINE_INTERVAL_MS;
    const left = remaining(done, total, now - this.#startedAt);
    this.#note(`${phase}: ${amounts(done, total, unit)}${left === '' ? '' : `, ${left}`}`);
  }

  end(): void {
    this.#phase = '';
  }
}

/** The progress that suits the terminal. */
export function createProgress(terminal: Terminal): Progress {
  if (terminal.quiet) return silent;
  if (terminal.interactive) return new BarProgress(terminal.streams.stderr);
  return new LineProgress((line) => terminal.note(line));
}
