import type { Choice } from './measurement.ts';
import { type Rule, sameRule } from './rule.ts';

/** One choice and where it was made. */
export interface PlacedChoice extends Choice {
  text: string;
  length: number;
  layer: number;
}

/** Where the mass of a layer lies, by its mean over texts, lengths and heads. */
export type LayerKind = 'near' | 'mixed' | 'far';

/** Kinds, and the least share of the mass that sinks and the nearest tokens hold. */
export const KINDS: readonly { kind: LayerKind; least: number; what: string }[] = [
  { kind: 'near', least: 0.85, what: 'at least 85 %' },
  { kind: 'mixed', least: 0.7, what: '70 to 85 %' },
  { kind: 'far', least: 0, what: 'less than 70 %' },
];

/** Means over texts, layers and heads. */
export interface SummaryRow {
  length: number;
  kind: LayerKind | 'all';
  rule: Rule;
  /** Shares of the tiles that the block sees. */
  always: number;
  read: number;
  oracleRead: number;
  /** Shares of the mass that were not read. */
  missed: number;
  oracleMissed: number;
  /** Relative output errors. */
  error: number;
  errorWithout: number;
  oracleError: number;
  oracleErrorWithout: number;
}

/** The kind of each layer. */
export function kindsOf(choices: readonly PlacedChoice[]): Map<number, LayerKind> {
  const layers = [...new Set(choices.map(({ layer }) => layer))];
  return new Map(
    layers.map((layer) => {
      const near = mean(choices.filter((choice) => choice.layer === layer).map((c) => c.near));
      return [layer, KINDS.find(({ least }) => near >= least)?.kind ?? 'far'];
    }),
  );
}

/** One row for each length, kind of layer and rule, and for all layers. */
export function summarize(
  choices: readonly PlacedChoice[],
  kinds: ReadonlyMap<number, LayerKind>,
  rules: readonly Rule[],
): SummaryRow[] {
  const lengths = [...new Set(choices.map(({ length }) => length))];
  const groups = [...KINDS.map(({ kind }) => kind), 'all'] as const;
  return lengths.flatMap((length) =>
    groups.flatMap((kind) =>
      rules.flatMap((rule): SummaryRow[] => {
        const of = choices.filter(
          (choice) =>
            choice.length === length &&
            sameRule(choice.rule, rule) &&
            (kind === 'all' || kinds.get(choice.layer) === kind),
        );
        if (of.length === 0) return [];
        const over = (figure: (choice: PlacedChoice) => number): number => mean(of.map(figure));
        return [
          {
            length,
            kind,
            rule,
            always: over(({ always, tiles }) => always / tiles),
            read: over(({ read, tiles }) => read / tiles),
            oracleRead: over(({ oracleTiles, tiles }) => oracleTiles / tiles),
            missed: over(({ lost }) => lost.missed),
            oracleMissed: over(({ oracle }) => oracle.missed),
            error: over(({ lost }) => lost.error),
            errorWithout: over(({ lost }) => lost.errorWithout),
            oracleError: over(({ oracle }) => oracle.error),
            oracleErrorWithout: over(({ oracle }) => oracle.errorWithout),
          },
        ];
      }),
    ),
  );
}

function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}
