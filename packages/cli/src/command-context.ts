import type { Interruption } from './interruption.ts';
import type { Packages } from './packages.ts';
import type { OutputFlags, Terminal } from './terminal.ts';

/** What a command works with. */
export interface CommandContext {
  readonly terminal: Terminal;
  /** Loads native code at its first call, so that wrong usage and unreadable files are told at once. */
  readonly loadPackages: () => Promise<Packages>;
  readonly interruption: Interruption;
}

/** Runs the work of a parsed command; `work` returns the exit code. */
export type Start = (
  flags: OutputFlags,
  work: (context: CommandContext) => Promise<number>,
) => Promise<void>;
