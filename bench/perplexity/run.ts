import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import process from 'node:process';
import { fileURLToPath } from 'node:url';
import { type PredictionScore, predictText } from '@iceformer/evaluation';
import { type Flags, type Options, runBench, toNumber, writeFigures } from '../command-line.ts';
import {
  corpusText,
  DEFAULT_MODEL,
  EVALUATION_OPTIONS,
  loadDense,
  modelFolder,
  sparseAttention,
} from '../named-model.ts';

const HELP = `Perplexity of a text with dense and with sparse attention, beside PyTorch's where it is known. Ends with 1
if sparse is above 1.02 times dense.

  --model NAME_OR_FOLDER  default ${DEFAULT_MODEL}
  --text FILE             default docs/corpus/genesis.txt
  --context N             window in tokens, default 8192; the second half is scored
  --decode N              score the last N tokens of each window, run one at a time as those of an answer are
  --windows N             default: all that the text fills
  --dtype f32|bf16|int8   default bf16
  --kv-dtype f32|bf16|int8  default: f32 with --dtype f32, else bf16
  --threads N             default: the runtime's
  --attention NAME        preset that stands for sparse, default sparse
  --plan FILE             attention plan that stands for sparse
  --json FILE             write the result
  --smoke                 one window of 256 tokens, to see that it works
`;

/** Sparse attention may cost this much. */
const LARGEST_RATIO = 1.02;

const OPTIONS = {
  ...EVALUATION_OPTIONS,
  text: { type: 'string', default: corpusText('genesis.txt') },
  context: { type: 'string' },
  decode: { type: 'string' },
  windows: { type: 'string' },
  'kv-dtype': { type: 'string' },
  json: { type: 'string' },
} satisfies Options;

async function main(flags: Flags<typeof OPTIONS>): Promise<void> {
  const context = toNumber(flags.context ?? (flags.smoke ? 256 : 8192));
  const limit = toNumber(flags.windows ?? (flags.smoke ? 1 : Number.POSITIVE_INFINITY));
  const text = readFileSync(flags.text, 'utf8');
  const model = await loadDense(await modelFolder(flags.model), {
    ...flags,
    ...(flags['kv-dtype'] ? { kvDtype: flags['kv-dtype'] } : {}),
  });
  const tokens = model.tokenizer.encode(text);
  const result = await predictText(
    model,
    tokens.slice(0, Math.min(limit * context, tokens.length)),
    [sparseAttention(flags)],
    {
      context,
      ...(flags.decode ? { decode: toNumber(flags.decode) } : {}),
      onProgress: (done, total) => process.stderr.write(`pass ${done} of ${total}\n`),
    },
  );
  await model.close();
  const [dense, sparse] = result.scores;
  if (!dense || !sparse) throw new Error('nothing was measured');
  const reference = referencePerplexity(text, context, result.windows);
  const plain = (value: number): string => value.toFixed(4);
  const percent = (value: number): string => `${(value * 100).toFixed(1)} %`;
  const row = ({
    attention,
    perplexity,
    ratio,
    agreement,
    retainedMass,
    tilesRead,
  }: PredictionScore): string =>
    `| ${attention} | ${plain(perplexity.value)} | ${plain(ratio.value)} (${plain(ratio.low)}–${plain(ratio.high)}) | ` +
    `${percent(agreement.value)} | ${percent(retainedMass)} | ${percent(tilesRead)} |`;
  const lines = [
    `${result.windows} windows of ${context} tokens, ${result.tokens} tokens scored`,
    '',
    '| attention | perplexity | × dense (95 %) | top-1 as dense | mass kept | tiles read |',
    '| --- | ---: | ---: | ---: | ---: | ---: |',
    row(dense),
    row(sparse),
    ...(reference
      ? [
          `| PyTorch float32 | ${plain(reference)} | ${plain(reference / dense.perplexity.value)} | | | |`,
        ]
      : []),
  ];
  process.stdout.write(`${lines.join('\n')}\n`);
  const pass = sparse.ratio.value <= LARGEST_RATIO;
  writeFigures(flags.json, { text: flags.text, ...result, pass, reference });
  if (!pass) process.exitCode = 1;
}

/** PyTorch's perplexity of the same windows of the default model; undefined if the fixture has no such text. */
function referencePerplexity(text: string, context: number, windows: number): number | undefined {
  const fixture = new URL(
    '../../reference/fixtures/smollm2-135m-instruct/perplexity.json',
    import.meta.url,
  );
  const { context: measured, documents } = JSON.parse(
    readFileSync(fileURLToPath(fixture), 'utf8'),
  ) as {
    context: number;
    documents: { sha256: string; windows: { negativeLogLikelihood: number; tokens: number }[] }[];
  };
  const sha256 = createHash('sha256').update(text).digest('hex');
  const document = documents.find((entry) => entry.sha256 === sha256);
  if (measured !== context || !document || document.windows.length < windows) return undefined;
  const scored = document.windows.slice(0, windows);
  const loss = scored.reduce((sum, window) => sum + window.negativeLogLikelihood, 0);
  return Math.exp(loss / scored.reduce((sum, window) => sum + window.tokens, 0));
}

await runBench(HELP, OPTIONS, main);
