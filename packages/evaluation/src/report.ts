import { type Chart, chartsOf } from './charts.ts';
import type { Estimate } from './confidence.ts';
import type { EvaluationResult } from './evaluate.ts';

const STYLE = `
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { padding: .25rem .75rem; border-bottom: 1px solid #ddd; text-align: right; }
th:first-child, td:first-child { text-align: left; }
figure { margin: 2rem 0; } figure svg { max-width: 100%; height: auto; }
figcaption { color: #555; } small, code { color: #555; }`;

/**
 * A result as one HTML page with plots as SVG inside: it needs no network and no script. The plots are drawn by
 * Vega-Lite, which is loaded here and not before.
 */
export async function renderReport(result: EvaluationResult): Promise<string> {
  const figures: string[] = [];
  for (const chart of chartsOf(result)) figures.push(await renderFigure(chart));
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>What sparse attention costs</title>
<style>${STYLE}</style>
</head>
<body>
<h1>What sparse attention costs</h1>
${renderSource(result)}
${renderPrediction(result)}
${renderRetrieval(result)}
${figures.join('\n')}
</body>
</html>
`;
}

async function renderFigure({ title, caption, spec }: Chart): Promise<string> {
  const [{ compile }, { parse, View }] = await Promise.all([import('vega-lite'), import('vega')]);
  const { spec: compiled } = compile({
    background: 'white',
    config: { font: 'system-ui, sans-serif' },
    ...spec,
  });
  const view = new View(parse(compiled), { renderer: 'none' });
  try {
    const svg = await view.toSVG();
    return `<figure>\n<h2>${escapeMarkup(title)}</h2>\n${svg}\n<figcaption>${escapeMarkup(caption)}</figcaption>\n</figure>`;
  } finally {
    view.finalize();
  }
}

function renderSource({ model, text, machine, seed }: EvaluationResult): string {
  const rows = [
    [
      'model',
      `${model.architecture}, ${model.layers} layers, ${model.heads} query and ${model.kvHeads} key heads of ${model.headDim}, ${model.dtype} weights, ${model.kvDtype} keys and values`,
    ],
    ['fingerprint', model.fingerprint],
    ['text', `${text.tokens} tokens`],
    ['its SHA-256', text.sha256],
    ['machine', `${machine.cpu}, ${machine.simd}, ${machine.threads} threads`],
    ['seed', String(seed)],
  ];
  return table([], rows);
}

function renderPrediction({ prediction }: EvaluationResult): string {
  if (prediction === undefined) return '';
  const { windows, context, tokens, scores } = prediction;
  const four = (value: number): string => value.toFixed(4);
  const head = [
    'attention',
    'perplexity',
    '× dense',
    'top-1 as dense',
    'divergence',
    'mass kept',
    'tiles read',
    'reading',
  ];
  const rows = scores.map((score) => [
    score.attention,
    four(score.perplexity.value),
    range(score.ratio, four),
    range(score.agreement, percent),
    range(score.divergence, (value) => value.toFixed(5)),
    percent(score.retainedMass),
    percent(score.tilesRead),
    `${(score.prefillMs / windows).toFixed(0)} ms`,
  ]);
  return `<h2>Prediction</h2>
<p>${tokens} tokens scored, the second halves of ${windows} windows of ${context}. In parentheses: 95 %.</p>
${table(head, rows)}`;
}

function renderRetrieval({ retrieval }: EvaluationResult): string {
  const rows = Object.entries(retrieval).flatMap(([task, { scores }]) =>
    scores.map(({ attention, found, foundOfDense, agreement }) => [
      task,
      attention,
      `${found.hits} of ${found.trials}`,
      range(found, percent),
      `${foundOfDense.hits} of ${foundOfDense.trials}`,
      range(foundOfDense, percent),
      range(agreement, percent),
    ]),
  );
  if (rows.length === 0) return '';
  const head = [
    'task',
    'attention',
    'found',
    'share (95 %)',
    'of what dense finds',
    'share (95 %)',
    'same answer as dense (95 %)',
  ];
  return `<h2>Retrieval</h2>\n${table(head, rows)}`;
}

function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[], kind: 'th' | 'td'): string =>
    `<tr>${cells.map((cell) => `<${kind}>${escapeMarkup(cell)}</${kind}>`).join('')}</tr>`;
  const header = head.length > 0 ? `<thead>${line(head, 'th')}</thead>\n` : '';
  return `<table>\n${header}<tbody>\n${rows.map((row) => line(row, 'td')).join('\n')}\n</tbody>\n</table>`;
}

const percent = (share: number): string => `${(share * 100).toFixed(1)} %`;

function range({ value, low, high }: Estimate, write: (value: number) => string): string {
  return `${write(value)} (${write(low)}–${write(high)})`;
}

/** Names come from whoever measured: they are text, never markup. */
function escapeMarkup(text: string): string {
  const entities: Record<string, string> = {
    '&': '&amp;',
    '<': '&lt;',
    '>': '&gt;',
    '"': '&quot;',
    "'": '&#39;',
  };
  return text.replace(/[&<>"']/g, (character) => entities[character] as string);
}
