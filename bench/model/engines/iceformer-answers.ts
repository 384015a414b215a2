import { readFileSync } from 'node:fs';
import process from 'node:process';
import { loadModel } from '@iceformer/transformer';
import { stretchedRope } from '../../stretched-rope.ts';
import { engineOptions } from '../iceformer-options.ts';
import type { AnswerJob } from '../passkeys.ts';

/** Answers all prompts greedily and prints the token ids. */
async function main(): Promise<void> {
  const job = JSON.parse(process.argv[2] ?? '') as AnswerJob;
  const prompts = JSON.parse(readFileSync(job.promptsFile, 'utf8')) as number[][];
  const { window, description, ...options } = engineOptions(job.options);
  const total = Math.max(...prompts.map(({ length }) => length)) + job.maxTokens;
  const model = await loadModel({
    ...options,
    model: job.model,
    threads: job.threads,
    context: total,
    ...stretchedRope(total, window),
  });
  const answers: number[][] = [];
  for (const prompt of prompts) {
    const answer: number[] = [];
    const greedy = { tokens: Uint32Array.from(prompt), maxTokens: job.maxTokens, temperature: 0 };
    for await (const { token } of model.generate(greedy)) answer.push(token);
    answers.push(answer);
  }
  await model.close();
  process.stdout.write(`${JSON.stringify({ answers, engine: description })}\n`);
}

main().catch((error: unknown) => {
  console.error(error);
  process.exitCode = 1;
});
