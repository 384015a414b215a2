import type { TopLevelSpec } from 'vega-lite';
import { KINDS, type SummaryRow } from './summary.ts';

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
  const values = rows.flatMap(({ kind, read, ...row }) =>
    [
      { choice: 'selection', tail: 'means stand in', error: row.error },
      { choice: 'selection', tail: 'nothing stands in', error: row.errorWithout },
      { choice: 'oracle', tail: 'means stand in', error: row.oracleError },
      { choice: 'oracle', tail: 'nothing stands in', error: row.oracleErrorWithout },
    ]
      // A logarithm has no place for a loss of nothing.
      .filter(({ error }) => error > 0)
      .map((curve) => ({ kind, read, ...curve })),
  );
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
        color: { field: 'choice', ...kind, legend },
      },
    },
  };
}
