import { createHash } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import process from 'node:process';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { corpusText, loadWith, modelFolder } from '../named-model.ts';

const HELP = `Perplexity of a text with dense and with sparse attention, beside PyTorch's where it is known. Ends with 1
if sparse is above 1.02 times dense.

  --model NAME_OR_FOLDER  default smollm2-135m-instruct
  --text FILE             default docs/corpus/genesis.txt
  --context N             window in tokens, default 8192; the second half is scored
  --windows N             default: all that the text fills
  --dtype f32|bf16|int8   default bf16
  --threads N             default: the runtime's
  --plan FILE             attention plan that stands for sparse
  --json FILE             write the result
  --smoke                 one window of 256 tokens, to see that it works
`;

/** Sparse attention may cost this much. */
const LARGEST_RATIO = 1.02;

async function main(): Promise<void> {
  const { values: flags } = parseArgs({
    options: {
      model: { type: 'string', default: 'smollm2-135m-instruct' },
      text: { type: 'string', default: corpusText('genesis.txt') },
      context: { type: 'string' },
      windows: { type: 'string' },
      dtype: { type: 'string' },
      threads: { type: 'string' },
      plan: { type: 'string' },
      json: { type: 'string' },
      smoke: { type: 'boolean', default: false },
      help: { type: 'boolean', default: false },
    },
  });
  if (flags.help) {
    process.stdout.write(HELP);
    return;
  }
  const context = Number(flags.context ?? (flags.smoke ? 256 : 8192));
  const limit = Number(flags.windows ?? (flags.smoke ? 1 : Number.POSITIVE_INFINITY));
  const text = readFileSync(flags.text, 'utf8');
  const folder = await modelFolder(flags.model);
  const results = [];
  for (const attention of ['dense', 'sparse'] as const) {
    const model = await loadWith(folder, attention, flags);
    const tokens = model.tokenizer.encode(text);
    const result = await model.perplexity(
      tokens.slice(0, Math.min(limit * context, tokens.length)),
      {
        context,
        onProgress: ({ done, total, perplexity }) => {
          process.stderr.write(
            `${attention} window ${done} of ${total}: ${perplexity.toFixed(4)}\n`,
          );
        },
      },
    );
    await model.close();
    results.push({ ...result, attention });
  }
  const [dense, sparse] = results;
  if (!dense || !sparse) throw new Error('nothing was measured');
  const ratio = sparse.perplexity / dense.perplexity;
  const reference = referencePerplexity(text, context, dense.windows);
  const row = ({
    attention,
    perplexity,
    standardError,
    retainedMass,
    tilesRead,
  }: typeof dense): string =>
    `| ${attention} | ${perplexity.toFixed(4)} ± ${standardError.toFixed(4)} | ` +
    `${(perplexity / dense.perplexity).toFixed(4)} | ` +
    `${(retainedMass * 100).toFixed(1)} % | ${(tilesRead * 100).toFixed(1)} % |`;
  const lines = [
    `${dense.windows} windows of ${context} tokens, ${dense.tokens} tokens scored`,
    '',
    '| attention | perplexity | × dense | mass kept | tiles read |',
    '| --- | ---: | ---: | ---: | ---: |',
    row(dense),
    row(sparse),
    ...(reference
      ? [
          `| PyTorch float32 | ${reference.toFixed(4)} | ${(reference / dense.perplexity).toFixed(4)} | | |`,
        ]
      : []),
  ];
  process.stdout.write(`${lines.join('\n')}\n`);
  const pass = ratio <= LARGEST_RATIO;
  if (flags.json) {
    const report = { text: flags.text, context, dense, sparse, ratio, pass, reference };
    writeFileSync(flags.json, `${JSON.stringify(report, null, 2)}\n`);
  }
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

main().catch((error: unknown) => {
  process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`);
  process.exitCode = 1;
});
