import type { TopLevelSpec } from 'vega-lite';
import type { EvaluationResult } from './evaluate.ts';

/** A plot of a report: what it shows, and how Vega-Lite draws it. */
export interface Chart {
  title: string;
  /** What there is to see, for people. */
  caption: string;
  spec: TopLevelSpec;
}

const SIZE = { width: 520, height: 300 };
const colour = {
  field: 'attention',
  type: 'nominal',
  title: null,
  sort: null,
} as const;

/** The plots that a result has figures for. */
export function chartsOf(result: EvaluationResult): Chart[] {
  return [
    ...accuracyAgainstBudget(result),
    ...timeAgainstLength(result),
    ...foundByTask(result),
    ...retrievalGrids(result),
    ...byLayer(result),
    ...byHead(result),
  ];
}

function accuracyAgainstBudget({ prediction }: EvaluationResult): Chart[] {
  if (prediction === undefined) return [];
  const values = prediction.scores.map(({ attention, ratio, tilesRead }) => ({
    attention,
    tiles: tilesRead,
    ratio: ratio.value,
    low: ratio.low,
    high: ratio.high,
  }));
  const x = { field: 'tiles', type: 'quantitative', axis: { format: '%' } } as const;
  return [
    {
      title: 'Accuracy against budget',
      caption:
        'Perplexity over that of dense attention, by the share of key tiles read. Bars: 95 %. Lower and further left is better.',
      spec: {
        ...SIZE,
        data: { values },
        encoding: { x: { ...x, title: 'key tiles read' }, color: colour },
        layer: [
          {
            mark: { type: 'rule' },
            encoding: {
              y: {
                field: 'low',
                type: 'quantitative',
                scale: { zero: false },
                title: 'perplexity, × dense',
              },
              y2: { field: 'high' },
            },
          },
          {
            mark: { type: 'point', filled: true, size: 80 },
            encoding: { y: { field: 'ratio', type: 'quantitative' } },
          },
        ],
      },
    },
  ];
}

function timeAgainstLength({ retrieval }: EvaluationResult): Chart[] {
  const values = Object.values(retrieval).flatMap(({ answers }) =>
    answers.map(({ attention, promptTokens, prefillMs }) => ({
      attention,
      tokens: promptTokens,
      seconds: prefillMs / 1000,
    })),
  );
  if (values.length === 0) return [];
  const x = { field: 'tokens', type: 'quantitative', title: 'tokens of the prompt' } as const;
  return [
    {
      title: 'Length against time',
      caption:
        'Time to read a prompt, of every prompt that was asked; where a prompt begins like the one before, less was read.',
      spec: {
        ...SIZE,
        data: { values },
        encoding: {
          x,
          y: { field: 'seconds', type: 'quantitative', title: 'seconds to read it' },
          color: colour,
        },
        layer: [
          { mark: { type: 'point', opacity: 0.5 } },
          {
            transform: [
              { bin: { maxbins: 12 }, field: 'tokens', as: 'bin' },
              {
                aggregate: [
                  { op: 'median', field: 'seconds', as: 'seconds' },
                  { op: 'mean', field: 'tokens', as: 'tokens' },
                ],
                groupby: ['attention', 'bin'],
              },
            ],
            mark: { type: 'line' },
          },
        ],
      },
    },
  ];
}

function foundByTask({ retrieval }: EvaluationResult): Chart[] {
  const values = Object.entries(retrieval).flatMap(([task, { scores }]) =>
    scores.map(({ attention, found }) => ({ task, attention, ...found })),
  );
  if (values.length === 0) return [];
  return [
    {
      title: 'Answers found',
      caption: 'Share of prompts answered right, by task. Bars: 95 %.',
      spec: {
        ...SIZE,
        data: { values },
        encoding: {
          x: { field: 'task', type: 'nominal', title: null, sort: null, axis: { labelAngle: 0 } },
          xOffset: { field: 'attention', sort: null },
          color: colour,
        },
        layer: [
          {
            mark: { type: 'bar', opacity: 0.6 },
            encoding: {
              y: {
                field: 'value',
                type: 'quantitative',
                scale: { domain: [0, 1] },
                axis: { format: '%' },
                title: 'found',
              },
            },
          },
          {
            mark: { type: 'rule' },
            encoding: { y: { field: 'low', type: 'quantitative' }, y2: { field: 'high' } },
          },
        ],
      },
    },
  ];
}

function retrievalGrids({ retrieval }: EvaluationResult): Chart[] {
  return Object.entries(retrieval).map(([task, { answers }]) => ({
    title: `Found by length and depth: ${task}`,
    caption:
      'Each cell is the share of its prompts that were answered right; depth 0 is the beginning of the text.',
    spec: {
      data: {
        values: answers.map(({ attention, length, depth, found }) => ({
          attention,
          length,
          depth: `${Math.min(4, Math.floor(depth * 5)) * 20} %`,
          found: found ? 1 : 0,
        })),
      },
      transform: [
        {
          aggregate: [{ op: 'mean', field: 'found', as: 'share' }],
          groupby: ['attention', 'length', 'depth'],
        },
      ],
      facet: { column: { field: 'attention', sort: null, title: null } },
      spec: {
        width: 150,
        height: 150,
        mark: { type: 'rect' },
        encoding: {
          x: { field: 'length', type: 'ordinal', title: 'tokens' },
          y: {
            field: 'depth',
            type: 'ordinal',
            sort: ['0 %', '20 %', '40 %', '60 %', '80 %'],
            title: 'depth from',
          },
          color: {
            field: 'share',
            type: 'quantitative',
            scale: { domain: [0, 1], scheme: 'redyellowgreen' },
            legend: { format: '%', title: 'found' },
          },
        },
      },
    },
  }));
}

function byLayer({ prediction }: EvaluationResult): Chart[] {
  if (prediction === undefined) return [];
  const values = prediction.scores.flatMap(({ attention, layers }) =>
    layers.map(({ retainedMass, tilesRead, attentionMs }, layer) => ({
      attention,
      layer,
      mass: retainedMass,
      tiles: tilesRead,
      milliseconds: attentionMs / prediction.windows,
    })),
  );
  const lines = (field: string, title: string, format?: string): TopLevelSpec => ({
    ...SIZE,
    data: { values },
    mark: { type: 'line', point: true },
    encoding: {
      x: { field: 'layer', type: 'quantitative', title: 'layer' },
      y: {
        field,
        type: 'quantitative',
        title,
        scale: { zero: field !== 'mass' },
        ...(format === undefined ? {} : { axis: { format } }),
      },
      color: colour,
    },
  });
  return [
    {
      title: 'Mass kept by layer',
      caption: 'Mean share of the attention whose keys were read.',
      spec: lines('mass', 'attention mass kept', '%'),
    },
    {
      title: 'Tiles read by layer',
      caption: 'Share of the tiles of 16 keys that dense attention reads.',
      spec: lines('tiles', 'key tiles read', '%'),
    },
    {
      title: 'Time in attention by layer',
      caption: `Reading one window of ${prediction.context} tokens.`,
      spec: lines('milliseconds', 'milliseconds'),
    },
  ];
}

function byHead({ prediction }: EvaluationResult): Chart[] {
  const values = (prediction?.scores ?? []).flatMap(({ attention, layers }) =>
    layers.flatMap(({ heads = [] }, layer) =>
      heads.map(({ retainedMass, tilesRead }, head) => ({
        attention,
        layer,
        head,
        mass: retainedMass,
        tiles: tilesRead,
      })),
    ),
  );
  if (values.length === 0) return [];
  const cells = (field: string, title: string): TopLevelSpec => ({
    data: { values },
    facet: { row: { field: 'attention', sort: null, title: null } },
    spec: {
      width: 520,
      height: { step: 18 },
      mark: { type: 'rect' },
      encoding: {
        x: { field: 'layer', type: 'ordinal', title: 'layer', axis: { labelAngle: 0 } },
        y: { field: 'head', type: 'ordinal', title: 'key head' },
        color: {
          field,
          type: 'quantitative',
          scale: { scheme: 'viridis' },
          legend: { format: '%', title },
        },
      },
    },
  });
  return [
    {
      title: 'Mass kept by layer and head',
      caption: 'Mean share of the attention whose keys were read, by key/value head.',
      spec: cells('mass', 'mass kept'),
    },
    {
      title: 'Tiles read by layer and head',
      caption: 'Share of the key tiles that were read, by key/value head.',
      spec: cells('tiles', 'tiles read'),
    },
  ];
}
