import { median } from '../model/table.ts';
import type { Candidate } from './candidates.ts';
import type { Sample } from './rounds.ts';
import type { TensorKind } from './tensors.ts';

/** Medians of one candidate on one set at one length, means over its layers. */
export interface Row {
  kind: TensorKind;
  n: number;
  candidate: string;
  /** What the engine says of itself. */
  engine: string;
  runs: number;
  /** One layer, all heads. */
  ms: number;
  decodeMs?: number;
  /** Relative L2, mean over layers and heads. */
  error: number;
  retainedMass?: number;
  tilesRead?: number;
  /** Share of the mass that so many keys can hold at most; of the original only. */
  massBound?: number;
}

const mean = (values: readonly number[]): number =>
  values.reduce((sum, value) => sum + value, 0) / values.length;

/** Mean over layers of the median over rounds; undefined unless every process says it. */
function figure(
  samples: readonly Sample[],
  of: (figures: Sample['figures'][number]) => number | undefined,
): number | undefined {
  const [first] = samples;
  if (!first) return undefined;
  const layers = first.figures.map((_, layer) =>
    samples.flatMap(({ figures }) => of(figures[layer] as Sample['figures'][number]) ?? []),
  );
  if (layers.some((values) => values.length < samples.length)) return undefined;
  return mean(layers.map(median));
}

export function rowOf(samples: readonly Sample[], massBound: number | undefined): Row | undefined {
  const [first] = samples;
  if (!first) return undefined;
  const { kind, n, candidate, engine } = first;
  const optional = {
    decodeMs: figure(samples, ({ decodeMs }) => decodeMs),
    retainedMass: figure(samples, ({ retainedMass }) => retainedMass),
    tilesRead: figure(samples, ({ tilesRead }) => tilesRead),
    massBound,
  };
  return {
    kind,
    n,
    candidate,
    engine,
    runs: samples.length,
    ms: figure(samples, ({ ms }) => ms) ?? Number.NaN,
    error: mean(samples.flatMap(({ errors }) => errors.flat())),
    ...Object.fromEntries(Object.entries(optional).filter(([, value]) => value !== undefined)),
  };
}

/** How time grows with length: the slope of log time over log length. */
export interface Growth {
  kind: TensorKind;
  candidate: string;
  exponent: number;
  /** Lengths that the line was fitted through. */
  lengths: number[];
}

/** Fewest lengths for a fit. */
const FIT_LENGTHS = 4;

/** Least-squares fits of those candidates that have at least four lengths from `from` on. */
export function growthOf(rows: readonly Row[], from: number): Growth[] {
  return groups(rows).flatMap(({ kind, candidate, rows: mine }) => {
    const points = mine
      .filter(({ n }) => n >= from)
      .map(({ n, ms }) => [Math.log(n), Math.log(ms)]);
    if (points.length < FIT_LENGTHS) return [];
    const meanX = mean(points.map(([x]) => x as number));
    const meanY = mean(points.map(([, y]) => y as number));
    let xy = 0;
    let xx = 0;
    for (const [x, y] of points as [number, number][]) {
      xy += (x - meanX) * (y - meanY);
      xx += (x - meanX) ** 2;
    }
    const lengths = mine.map(({ n }) => n).filter((n) => n >= from);
    return [{ kind, candidate, exponent: xy / xx, lengths }];
  });
}

/** Where a sparse candidate becomes faster than dense attention and stays so. */
export interface Crossing {
  kind: TensorKind;
  candidate: string;
  /** In tokens, read off between two lengths; undefined: it never does. */
  tokens?: number;
  /** It is faster at the shortest length already. */
  always: boolean;
}

/** Crossings with `reference`, at the lengths that both have. */
export function crossingsOf(
  rows: readonly Row[],
  reference: string,
  sparse: (candidate: string) => boolean,
): Crossing[] {
  return groups(rows).flatMap(({ kind, candidate, rows: mine }): Crossing[] => {
    if (!sparse(candidate)) return [];
    const ratios = mine.flatMap(({ n, ms }) => {
      const dense = rows.find((r) => r.kind === kind && r.n === n && r.candidate === reference);
      return dense ? [{ n, ratio: ms / dense.ms }] : [];
    });
    if (ratios.length === 0) return [];
    const slower = ratios.findLastIndex(({ ratio }) => ratio >= 1);
    const before = ratios[slower];
    const after = ratios[slower + 1];
    if (!before) return [{ kind, candidate, always: true }];
    if (!after) return [{ kind, candidate, always: false }];
    const share = Math.log(before.ratio) / Math.log(before.ratio / after.ratio);
    return [{ kind, candidate, always: false, tokens: before.n * (after.n / before.n) ** share }];
  });
}

/** The original at one setting, and ours that is at least as exact on the same layers and heads. */
export interface EqualError {
  kind: TensorKind;
  n: number;
  /** Neighbours of the original. */
  neighbours: number;
  error: number;
  ms: number;
  /** The fastest of ours with no larger error; absent if none is so exact. */
  ours?: { candidate: string; error: number; ms: number };
}

/** Compares every setting of the original with ours. */
export function equalErrors(
  samples: readonly Sample[],
  candidates: readonly Candidate[],
): EqualError[] {
  const originals = candidates.filter(({ neighbours }) => neighbours !== undefined);
  const compared = originals.flatMap(({ name, neighbours = 0 }) =>
    samples
      .filter(({ candidate }) => candidate === name)
      .map(({ kind, n, layers, heads, figures, errors }): EqualError => {
        const there = samples.filter((s) => s.kind === kind && s.n === n);
        const error = mean(errors.flat());
        const rivals = [...new Set(there.map(({ candidate }) => candidate))]
          .filter((candidate) => candidate.startsWith('iceformer'))
          .map((candidate) => {
            const mine = there.filter((s) => s.candidate === candidate);
            const ms = layers.map((layer) =>
              median(mine.map((s) => s.figures[s.layers.indexOf(layer)]?.ms ?? Number.NaN)),
            );
            const same = mine.flatMap((s) =>
              layers.flatMap((layer) =>
                heads.map((head) => s.errors[s.layers.indexOf(layer)]?.[s.heads.indexOf(head)]),
              ),
            );
            return { candidate, error: mean(same as number[]), ms: mean(ms) };
          })
          .filter((rival) => rival.error <= error)
          .sort((a, b) => a.ms - b.ms);
        const [ours] = rivals;
        return {
          kind,
          n,
          neighbours,
          error,
          ms: mean(figures.map((f) => f.ms)),
          ...(ours ? { ours } : {}),
        };
      }),
  );
  return compared.sort((a, b) => a.n - b.n || a.neighbours - b.neighbours);
}

function groups(rows: readonly Row[]): { kind: TensorKind; candidate: string; rows: Row[] }[] {
  const keys = [...new Set(rows.map(({ kind, candidate }) => JSON.stringify([kind, candidate])))];
  return keys.map((key) => {
    const [kind, candidate] = JSON.parse(key) as [TensorKind, string];
    const mine = rows
      .filter((row) => row.kind === kind && row.candidate === candidate)
      .sort((a, b) => a.n - b.n);
    return { kind, candidate, rows: mine };
  });
}
