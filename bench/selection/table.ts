import { nameOf } from './rule.ts';
import { KINDS, type LayerKind, type PlacedChoice, type SummaryRow } from './summary.ts';

export interface Report {
  model: string;
  texts: readonly string[];
  lengths: readonly number[];
  kinds: readonly { layer: number; kind: LayerKind }[];
  rows: readonly SummaryRow[];
  choices: readonly PlacedChoice[];
}

export function toMarkdown({ model, texts, lengths, kinds, rows }: Report): string {
  const head = [
    ['layers', 'rule', 'tiles read', 'mass left out', 'error'],
    ['… nothing stands in', 'oracle: mass left out', 'error', '… nothing stands in'],
    ['tiles the oracle needs'],
  ].flat();
  const lines = [
    `${model}, the last 64 queries of the first ${lengths.join(', ')} tokens of ${texts.join(', ')}; means over texts, layers and query heads.`,
    '',
    ...KINDS.map(({ kind, what }) => {
      const of = kinds.filter((layer) => layer.kind === kind).map(({ layer }) => layer);
      return `- ${kind}: sinks and the nearest tokens hold ${what} of the mass: ${of.length === 0 ? 'none' : `layers ${of.join(', ')}`}`;
    }),
    ...lengths.flatMap((length) => {
      const of = rows.filter((row) => row.length === length);
      return [
        '',
        `${length} tokens, of whose tiles ${percent(of[0]?.always ?? 0)} are always read:`,
        '',
        row(head),
        row(head.map((_, index) => (index < 2 ? '---' : '---:'))),
        ...of.map((one) =>
          row([
            one.kind,
            nameOf(one.rule),
            percent(one.read),
            percent(one.missed, 2),
            one.error.toFixed(4),
            one.errorWithout.toFixed(4),
            percent(one.oracleMissed, 2),
            one.oracleError.toFixed(4),
            one.oracleErrorWithout.toFixed(4),
            percent(one.oracleRead),
          ]),
        ),
      ];
    }),
    '',
    "Rule: a block of queries reads the tiles that it estimates to hold at least so much of its mass each, as the presets do, or the heaviest until so much is kept. Error: length of the difference from the exact output over its length. Tiles left out stand in by their means. The oracle reads, in each block, as many tiles of the same sixteen keys, those that hold most of the block's true mass. The last column: tiles that it needs to leave out no more mass.",
  ];
  return `${lines.join('\n')}\n`;
}

const row = (cells: readonly string[]): string => `| ${cells.join(' | ')} |`;

const percent = (share: number, digits = 1): string => `${(share * 100).toFixed(digits)} %`;
