import { writeFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { basename } from 'node:path';
import process from 'node:process';
import { type Flags, type Options, runBench, toNumber, toNumbers } from '../command-line.ts';
import { modelSize } from '../model/limits.ts';
import { corpusText, DEFAULT_MODEL, modelFolder } from '../named-model.ts';
import { captureText } from './captured-text.ts';
import { measureLayer } from './measurement.ts';
import { drawCurves } from './plot.ts';
import type { Rule } from './rule.ts';
import { kindsOf, type PlacedChoice, summarize } from './summary.ts';
import { type Report, toMarkdown } from './table.ts';
import { BLOCK, MOST_TOKENS } from './tiled-layer.ts';

const HELP = `How well tiles are selected, by the least mass of a tile (the rule of the presets) and by mass target: share of tiles
read against output error on real queries, keys and values, beside an oracle that knows the true mass of every tile.
Figures of accuracy only, so a busy machine does not matter.

  --model NAME_OR_FOLDER  default ${DEFAULT_MODEL}
  --text FILE             may be given several times; default three of docs/corpus
  --lengths N,N,...       tokens, multiples of ${BLOCK}, ${MOST_TOKENS} at most; default 4096,8192
  --layers N,N,...        default all
  --tile-masses X,X,...   least mass of a tile that is read; default 0.02,0.01,0.006,0.003,0.0015,0.0008,0.0004
  --masses X,X,...        mass targets, the other rule; default 0.8,0.9,0.95
  --threads N             default: the cores of this machine
  --out FILE              write the table there too
  --json FILE             write all figures, of every head
  --svg FILE              write the curves of the longest length
  --smoke                 tiny sizes: to see that it works
`;

const OPTIONS = {
  model: { type: 'string', default: DEFAULT_MODEL },
  text: { type: 'string', multiple: true },
  lengths: { type: 'string' },
  layers: { type: 'string' },
  'tile-masses': { type: 'string' },
  masses: { type: 'string' },
  threads: { type: 'string' },
  out: { type: 'string' },
  json: { type: 'string' },
  svg: { type: 'string' },
} satisfies Options;

async function main(flags: Flags<typeof OPTIONS>): Promise<void> {
  const { smoke } = flags;
  const names = ['genesis.txt', 'sqlite-file-format.txt', 'stb_ds.h.txt'].slice(0, smoke ? 1 : 3);
  const texts = flags.text ?? names.map(corpusText);
  const lengths = toNumbers(flags.lengths ?? (smoke ? '1024,1088' : '4096,8192'));
  for (const length of lengths) {
    if (!(length >= BLOCK && length <= MOST_TOKENS && length % BLOCK === 0)) {
      throw new Error(`a length is a multiple of ${BLOCK} up to ${MOST_TOKENS}, not ${length}`);
    }
  }
  const tileMasses = smoke ? '0.02,0.003' : '0.02,0.01,0.006,0.003,0.0015,0.0008,0.0004';
  const massTargets = smoke ? '0.9' : '0.8,0.9,0.95';
  const rules = [
    ...toNumbers(flags['tile-masses'] ?? tileMasses).map(
      (value): Rule => ({ by: 'tile mass', value }),
    ),
    ...toNumbers(flags.masses ?? massTargets).map((value): Rule => ({ by: 'mass target', value })),
  ];
  const folder = await modelFolder(flags.model);
  const size = modelSize(folder);
  const layers = flags.layers
    ? toNumbers(flags.layers)
    : Array.from({ length: smoke ? 2 : size.layers }, (_, layer) => layer);
  const wrong = layers.find((layer) => !(layer >= 0 && layer < size.layers));
  if (wrong !== undefined) throw new Error(`the model has ${size.layers} layers, none ${wrong}`);
  const threads = toNumber(flags.threads ?? availableParallelism());
  const choices: PlacedChoice[] = [];
  for (const path of texts) {
    const text = basename(path);
    process.stderr.write(`${text}: reading it\n`);
    const captured = await captureText(folder, size, path, lengths, layers, threads);
    for (const { layer, tensors, queries } of captured) {
      process.stderr.write(`${text}: layer ${layer}\n`);
      for (const [length, block] of queries) {
        const found = measureLayer(tensors, block, length, rules);
        choices.push(...found.map((choice) => ({ text, length, layer, ...choice })));
      }
    }
  }
  const kinds = kindsOf(choices);
  const rows = summarize(choices, kinds, rules);
  const report: Report = {
    model: flags.model,
    texts: texts.map((path) => basename(path)),
    lengths,
    kinds: [...kinds].map(([layer, kind]) => ({ layer, kind })),
    rows,
    choices,
  };
  const table = toMarkdown(report);
  process.stdout.write(table);
  if (flags.out) writeFileSync(flags.out, table);
  if (flags.json) writeFileSync(flags.json, `${JSON.stringify(report, null, 1)}\n`);
  // Drawn also where nobody keeps it, so that trying the bench tries all of it.
  const svg = await drawCurves(rows, Math.max(...lengths));
  if (flags.svg) writeFileSync(flags.svg, svg);
}

await runBench(HELP, OPTIONS, main);
