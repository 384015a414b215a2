import { readFileSync, writeFileSync } from 'node:fs';
import process from 'node:process';
import { parseArgs } from 'node:util';
import { evaluate } from '@iceformer/evaluation';
import { corpusText, loadDense, modelFolder, sparseAttention } from '../named-model.ts';

const HELP = `Pass keys hidden in real text, found with dense and with sparse attention. Ends with 1 if sparse finds
fewer than dense less one.

  --model NAME_OR_FOLDER  default smollm2-135m-instruct
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

async function main(): Promise<void> {
  const { values: flags } = parseArgs({
    options: {
      model: { type: 'string', default: 'smollm2-135m-instruct' },
      text: { type: 'string', default: corpusText('sqlite-file-format.txt') },
      lengths: { type: 'string' },
      count: { type: 'string' },
      seed: { type: 'string', default: '1' },
      dtype: { type: 'string' },
      threads: { type: 'string' },
      attention: { type: 'string' },
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
  const lengths = (flags.lengths ?? (flags.smoke ? '300' : '2000,4000,7500'))
    .split(',')
    .map(Number);
  const model = await loadDense(await modelFolder(flags.model), flags);
  const result = await evaluate(model, {
    text: readFileSync(flags.text, 'utf8'),
    attention: [sparseAttention(flags)],
    tasks: ['passkey'],
    lengths,
    prompts: Number(flags.count ?? (flags.smoke ? 2 : 20)),
    seed: Number(flags.seed),
    onProgress: ({ done, total }) => process.stderr.write(`${done} of ${total} answers\n`),
  });
  await model.close();
  if (flags.json) writeFileSync(flags.json, `${JSON.stringify(result, null, 2)}\n`);
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

main().catch((error: unknown) => {
  process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`);
  process.exitCode = 1;
});
