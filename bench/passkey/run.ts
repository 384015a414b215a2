import { readFileSync } from 'node:fs';
import process from 'node:process';
import { evaluate } from '@iceformer/evaluation';
import {
  type Flags,
  type Options,
  runBench,
  toNumber,
  toNumbers,
  writeFigures,
} from '../command-line.ts';
import {
  corpusText,
  DEFAULT_MODEL,
  EVALUATION_OPTIONS,
  loadDense,
  modelFolder,
  sparseAttention,
} from '../named-model.ts';

const HELP = `Pass keys hidden in real text, found with dense and with sparse attention. Ends with 1 if sparse finds
fewer than dense less one.

  --model NAME_OR_FOLDER  default ${DEFAULT_MODEL}
  --text FILE             default docs/corpus/sqlite-file-format.txt
  --lengths N,N,...       prompt lengths in tokens; default 2000,4000,7500
  --count N               prompts, default 20
  --seed N                default 1
  --dtype f32|bf16|int8   default bf16
  --threads N             default: the runtime's
  --attention NAME        preset that stands for sparse, default sparse
  --plan FILE             attention plan that stands for sparse
  --json FILE             write every answer
  --smoke                 two short prompts, to see that it works
`;

const OPTIONS = {
  ...EVALUATION_OPTIONS,
  text: { type: 'string', default: corpusText('sqlite-file-format.txt') },
  lengths: { type: 'string' },
  count: { type: 'string' },
  seed: { type: 'string', default: '1' },
  json: { type: 'string' },
} satisfies Options;

async function main(flags: Flags<typeof OPTIONS>): Promise<void> {
  const lengths = toNumbers(flags.lengths ?? (flags.smoke ? '300' : '2000,4000,7500'));
  const model = await loadDense(await modelFolder(flags.model), flags);
  const result = await evaluate(model, {
    text: readFileSync(flags.text, 'utf8'),
    attention: [sparseAttention(flags)],
    tasks: ['passkey'],
    lengths,
    prompts: toNumber(flags.count ?? (flags.smoke ? 2 : 20)),
    seed: toNumber(flags.seed),
    onProgress: ({ done, total }) => process.stderr.write(`${done} of ${total} answers\n`),
  });
  await model.close();
  writeFigures(flags.json, result);
  const answers = result.retrieval.passkey?.answers ?? [];
  const found = (attention: string, length?: number): number =>
    answers.filter((a) => a.attention === attention && (!length || a.length === length) && a.found)
      .length;
  const lines = [
    '| prompt | prompts | dense finds | sparse finds |',
    '| ---: | ---: | ---: | ---: |',
    ...[...new Set(lengths), undefined].map((length) => {
      const prompts = answers.filter(
        (a) => a.attention === 'dense' && (!length || a.length === length),
      );
      return `| ${length ?? 'all'} | ${prompts.length} | ${found('dense', length)} | ${found('sparse', length)} |`;
    }),
  ];
  process.stdout.write(`${lines.join('\n')}\n`);
  if (found('sparse') < found('dense') - 1) process.exitCode = 1;
}

await runBench(HELP, OPTIONS, main);
