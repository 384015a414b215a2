import type { TopLevelSpec } from 'vega-lite';
import { KINDS, type SummaryRow } from './summary.ts';

const BY_TILE_MASS = 'by tile mass';
const BY_MASS_TARGET = 'by mass target';
const ORACLE = 'oracle';
const MEANS = 'means stand in';
const NOTHING = 'nothing stands in';

/** Draws output error against tiles read, one panel for each kind of layer, at one length. */
export async function drawCurves(rows: readonly SummaryRow[], length: number): Promise<string> {
  const [{ compile }, { parse, View }] = await Promise.all([import('vega-lite'), import('vega')]);
  const { spec } = compile(curves(rows.filter((row) => row.length === length)));
  const view = new View(parse(spec), { renderer: 'none' });
  try {
    return `${await view.toSVG()}\n`;
  } finally {
    view.finalize();
  }
}

function curves(rows: readonly SummaryRow[]): TopLevelSpec {
  // A panel has room for one oracle, the one that reads as many tiles in each block as the rule of the presets does, and
  // the other rule is drawn only as it runs, with its stand-ins.
  const values = rows.flatMap(({ kind, read, rule, ...row }) => {
    const curves =
      rule.by === 'tile mass'
        ? [
            { choice: BY_TILE_MASS, tail: MEANS, error: row.error },
            { choice: BY_TILE_MASS, tail: NOTHING, error: row.errorWithout },
            { choice: ORACLE, tail: MEANS, error: row.oracleError },
            { choice: ORACLE, tail: NOTHING, error: row.oracleErrorWithout },
          ]
        : [{ choice: BY_MASS_TARGET, tail: MEANS, error: row.error }];
    // A logarithm has no place for a loss of nothing.
    return curves.filter(({ error }) => error > 0).map((curve) => ({ kind, read, ...curve }));
  });
  const legend = { symbolType: 'stroke', symbolStrokeWidth: 2, symbolSize: 400 } as const;
  const kind = { type: 'nominal', title: null, sort: null } as const;
  const kinds = [...KINDS.map((known) => known.kind), 'all'];
  return {
    background: 'white',
    config: { font: 'system-ui, sans-serif' },
    data: { values },
    facet: {
      field: 'kind',
      type: 'nominal',
      sort: kinds,
      title: 'layers by where their mass lies',
    },
    columns: 2,
    spec: {
      width: 300,
      height: 220,
      layer: [
        {
          mark: 'line',
          encoding: {
            strokeDash: {
              field: 'tail',
              ...kind,
              legend: { ...legend, symbolStrokeColor: '#444' },
            },
          },
        },
        { mark: { type: 'point', filled: true } },
      ],
      encoding: {
        x: {
          field: 'read',
          type: 'quantitative',
          title: 'key tiles read',
          scale: { type: 'log', nice: false },
          axis: { format: '.2~p', values: [0.02, 0.05, 0.1, 0.2, 0.5] },
        },
        y: {
          field: 'error',
          type: 'quantitative',
          title: 'relative output error',
          scale: { type: 'log', nice: false },
        },
        color: {
          field: 'choice',
          ...kind,
          legend,
          scale: {
            domain: [BY_TILE_MASS, BY_MASS_TARGET, ORACLE],
            range: ['#4c78a8', '#888888', '#f58518'],
          },
        },
      },
    },
  };
}
