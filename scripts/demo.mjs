import { build, install, MODEL } from './bootstrap.mjs';
import { iceformer, start } from './step.mjs';

const DOCUMENT = 'docs/corpus/esther.txt';
const QUESTION = 'What is the name of the palace where king Ahasuerus sat?';
/** Where the document says it: Esther 1, second verse. */
const PASSAGE =
  'when the king Ahasuerus sat on the throne of his kingdom, which was in Shushan the palace';
const FACT = 'Shushan';
/** Three books in a row, of which DOCUMENT is the last: four times the model's window. */
const WHOLE = 'docs/corpus/ezra-nehemiah-esther.txt';
const WHOLE_CONTEXT = 33_000;

start(async () => {
  await install();
  await build();
  await iceformer(['pull', MODEL]);

  console.log(`
Document  ${DOCUMENT}
Question  ${QUESTION}
The text  "${PASSAGE}"
`);
  const runs = [];
  for (const attention of ['dense', 'sparse']) runs.push([attention, await ask(attention)]);
  for (const [attention, run] of runs) {
    const verdict = run.text.includes(FACT) ? 'as the text says' : `the text says ${FACT}`;
    console.log(`${attention.padEnd(8)}  ${run.text.trim().replaceAll(/\s+/g, ' ')} (${verdict})`);
  }
  printTable(runs);
  console.log(`
The same question to the whole of ${WHOLE}, four times the model's window. It runs, in about
1.5 GB; but so small a model, so far past what it was trained on, often answers wrong:

  npx --yes pnpm@10 iceformer generate --file ${WHOLE} --prompt "${QUESTION}" \\
    --attention sparse --context ${WHOLE_CONTEXT} --rope-scaling yarn --max-tokens 40
`);
});

async function ask(attention) {
  const args = ['--model', MODEL, '--file', DOCUMENT, '--prompt', QUESTION];
  const limits = ['--attention', attention, '--max-tokens', '40', '--json'];
  console.log(`Reading with ${attention} attention…`);
  return JSON.parse(await iceformer(['generate', ...args, ...limits], { capture: true }));
}

function printTable(runs) {
  const seconds = (ms) => `${(ms / 1000).toFixed(2)} s`;
  const rows = {
    'prompt, tokens': (run) => String(run.promptTokens),
    'reading (prefill)': (run) => seconds(run.prefillMs),
    'answering, per token': (run) =>
      run.generatedTokens > 1 ? `${(run.decodeMs / run.generatedTokens).toFixed(1)} ms` : '–',
    'attention mass kept': (run) => `${(run.retainedMass * 100).toFixed(2)} %`,
    'key tiles read': (run) => `${(run.tilesRead * 100).toFixed(1)} %`,
    'peak memory': (run) => `${(run.peakRssBytes / 1e6).toFixed(0)} MB`,
    'SIMD level': (run) => run.simd,
  };
  console.log(`\n${''.padEnd(22)}${runs.map(([name]) => name.padStart(12)).join('')}`);
  for (const [title, cell] of Object.entries(rows)) {
    console.log(`${title.padEnd(22)}${runs.map(([, run]) => cell(run).padStart(12)).join('')}`);
  }
}
