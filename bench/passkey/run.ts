import { readFileSync, writeFileSync } from 'node:fs';
import process from 'node:process';
import { parseArgs } from 'node:util';
import type { Model } from '@iceformer/transformer';
import { corpusText, loadWith, modelFolder } from '../named-model.ts';
import { makePrompts, type PasskeyPrompt } from './prompts.ts';

const HELP = `Pass keys hidden in real text, found with dense and with sparse attention. Ends with 1 if sparse finds
fewer than dense less one.

  --model NAME_OR_FOLDER  default smollm2-135m-instruct
  --text FILE             default docs/corpus/sqlite-file-format.txt
  --lengths N,N,...       prompt lengths in tokens; default 2000,4000,7500
  --count N               prompts, default 20
  --seed N                default 1
  --dtype f32|bf16|int8   default bf16
  --threads N             default: the runtime's
  --plan FILE             attention plan that stands for sparse
  --json FILE             write every answer
  --smoke                 two short prompts, to see that it works
`;

/** What one kind of attention made of one prompt. */
interface Answer {
  attention: 'dense' | 'sparse';
  length: number;
  depth: number;
  promptTokens: number;
  key: string;
  text: string;
  found: boolean;
  retainedMass: number;
  tilesRead: number;
  prefillMs: number;
}

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
  const count = Number(flags.count ?? (flags.smoke ? 2 : 20));
  const document = readFileSync(flags.text, 'utf8');
  const folder = await modelFolder(flags.model);
  const answers: Answer[] = [];
  for (const attention of ['dense', 'sparse'] as const) {
    const model = await loadWith(folder, attention, flags);
    const prompts = makePrompts(model.tokenizer, document, lengths, count, Number(flags.seed));
    for (const prompt of prompts) {
      const answer = await ask(model, attention, prompt);
      answers.push(answer);
      process.stderr.write(
        `${attention} ${answer.promptTokens} tokens, depth ${prompt.depth.toFixed(2)}, key ${prompt.key}: ` +
          `${answer.found ? 'found' : 'missed'} ${JSON.stringify(answer.text)}\n`,
      );
    }
    await model.close();
  }
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
  const dense = found('dense');
  const sparse = found('sparse');
  const pass = sparse >= dense - 1;
  if (flags.json) {
    const report = {
      seed: Number(flags.seed),
      text: flags.text,
      count,
      dense,
      sparse,
      pass,
      answers,
    };
    writeFileSync(flags.json, `${JSON.stringify(report, null, 2)}\n`);
  }
  if (!pass) process.exitCode = 1;
}

/** The answer counts if the first digits in it are exactly the key. */
async function ask(
  model: Model,
  attention: Answer['attention'],
  { key, length, depth, tokens }: PasskeyPrompt,
): Promise<Answer> {
  const { summary } = model.generate({ tokens, maxTokens: 10, temperature: 0 });
  const { text, promptTokens, retainedMass, tilesRead, prefillMs } = await summary;
  const found = /\d+/.exec(text)?.[0] === key;
  return {
    attention,
    length,
    depth,
    promptTokens,
    key,
    text,
    found,
    retainedMass,
    tilesRead,
    prefillMs,
  };
}

main().catch((error: unknown) => {
  process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`);
  process.exitCode = 1;
});
