import { InvalidArgumentError } from '@commander-js/extra-typings';

interface Range {
  min: number;
  max: number;
  /** The smallest allowed value itself is not allowed. */
  aboveMin?: boolean;
  belowMax?: boolean;
}

function describe({ min, max, aboveMin, belowMax }: Range): string {
  const low = aboveMin ? `above ${min}` : `at least ${min}`;
  const high = belowMax ? `below ${max}` : `at most ${max}`;
  return Number.isFinite(max) ? `${low} and ${high}` : low;
}

function inRange(value: number, range: Range): boolean {
  const low = range.aboveMin ? value > range.min : value >= range.min;
  const high = range.belowMax ? value < range.max : value <= range.max;
  return low && high;
}

/** A parser for whole numbers written in plain digits. */
export function integer(range: Range): (text: string) => number {
  return (text) => {
    const value = /^[+-]?\d+$/.test(text) ? Number(text) : Number.NaN;
    if (!Number.isSafeInteger(value) || !inRange(value, range)) {
      throw new InvalidArgumentError(`It must be a whole number, ${describe(range)}.`);
    }
    return value;
  };
}

/** A parser for decimal numbers; `NaN`, `Infinity` and hexadecimal are refused. */
export function decimal(range: Range): (text: string) => number {
  return (text) => {
    const value = /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(text) ? Number(text) : Number.NaN;
    if (!Number.isFinite(value) || !inRange(value, range)) {
      throw new InvalidArgumentError(`It must be a number, ${describe(range)}.`);
    }
    return value;
  };
}

/** A parser for text that must not be empty. */
export function nonEmpty(text: string): string {
  if (text.trim() === '') throw new InvalidArgumentError('It must not be empty.');
  return text;
}

/** Collects a flag that may be given several times. */
export function collect(text: string, previous: string[] | undefined): string[] {
  if (text === '') throw new InvalidArgumentError('It must not be empty.');
  return [...(previous ?? []), text];
}

/** `--rope-scaling`: the way, and how many times longer the window becomes. */
export interface RopeScalingFlag {
  type: 'none' | 'linear' | 'dynamic' | 'yarn';
  /** Absent: as much as `--context` needs. */
  factor?: number;
}

/** Parses `none`, `linear`, `dynamic`, `yarn`, the last three optionally with `:FACTOR`. */
export function ropeScaling(text: string): RopeScalingFlag {
  const match = /^(none|linear|dynamic|yarn)(?::(.*))?$/.exec(text);
  const type = match?.[1] as RopeScalingFlag['type'] | undefined;
  if (type === undefined) {
    throw new InvalidArgumentError(
      'It must be none, linear, dynamic or yarn, optionally with a factor (yarn:4).',
    );
  }
  const factorText = match?.[2];
  if (factorText === undefined) return { type };
  if (type === 'none') throw new InvalidArgumentError('none takes no factor.');
  const factor = /^\d+(\.\d+)?$/.test(factorText) ? Number(factorText) : Number.NaN;
  if (!(factor >= 1 && factor <= 1024)) {
    throw new InvalidArgumentError('The factor must be a number, at least 1 and at most 1024.');
  }
  return { type, factor };
}

/** A parser for one of several words. */
export function oneOf<Word extends string>(words: readonly Word[]): (text: string) => Word {
  return (text) => {
    const word = words.find((candidate) => candidate === text);
    if (word === undefined) {
      throw new InvalidArgumentError(`Allowed choices are ${words.join(', ')}.`);
    }
    return word;
  };
}

/** A parser for entries separated by commas. */
export function list<Entry>(parse: (text: string) => Entry): (text: string) => Entry[] {
  return (text) => text.split(',').map((entry) => parse(entry.trim()));
}
