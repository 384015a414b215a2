import { writeFileSync } from 'node:fs';
import process from 'node:process';
import { type ParseArgsConfig, parseArgs } from 'node:util';

/** Options of a command by name, as `parseArgs` of Node takes them. */
export type Options = NonNullable<ParseArgsConfig['options']>;

/** Options that every bench has. */
const COMMON = {
  smoke: { type: 'boolean', default: false },
  help: { type: 'boolean', default: false },
} as const satisfies Options;

/** What the user gave for a bench's own options and for those of all. */
export type Flags<Own extends Options> = ReturnType<
  typeof parseArgs<{ options: Own & typeof COMMON }>
>['values'];

/**
 * Runs a bench on the flags of the command line, or prints `help` where it is asked for. What `measure` throws, and a
 * flag that there is not, ends the process with 1 and its message on stderr.
 */
export async function runBench<Own extends Options>(
  help: string,
  options: Own,
  measure: (flags: Flags<Own>) => Promise<void>,
): Promise<void> {
  try {
    const { values } = parseArgs({ options: { ...options, ...COMMON } });
    if ('help' in values && values.help) process.stdout.write(help);
    else await measure(values as Flags<Own>);
  } catch (error) {
    process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`);
    process.exitCode = 1;
  }
}

/** The number that a flag gives. */
export function toNumber(given: string | number): number {
  const number = Number(given);
  if (Number.isNaN(number)) throw new Error(`${given} is not a number`);
  return number;
}

/** The numbers that a flag gives, between commas. */
export const toNumbers = (list: string): number[] => list.split(',').map(toNumber);

/** Writes figures to the file that the user named, if one was. */
export function writeFigures(file: string | undefined, figures: object): void {
  if (file) writeFileSync(file, `${JSON.stringify(figures, null, 2)}\n`);
}
