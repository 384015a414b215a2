import { readFileSync } from 'node:fs';
import process from 'node:process';
import { estimateMemory, loadModel, type Model } from '@iceformer/transformer';
import { stretchedRope } from '../stretched-rope.ts';
import type { MemoryJob, MemoryResult } from './job.ts';

/** Tokens generated behind the long prompt. */
const ANSWER = 16;

async function measure(job: MemoryJob): Promise<MemoryResult> {
  switch (job.task.kind) {
    case 'load':
      return await load(job);
    case 'peak':
      return await peak(job, job.task);
    case 'growth':
      return await growth(job, job.task);
  }
}

function open({ model, dtype, attention, threads }: MemoryJob, more = {}): Promise<Model> {
  return loadModel({ model, dtype, attention, threads, ...more });
}

async function load(job: MemoryJob): Promise<MemoryResult> {
  const start = performance.now();
  const model = await open(job);
  const loadMs = performance.now() - start;
  await model.generate({ text: 'In the beginning', maxTokens: 1, temperature: 0 }).summary;
  const firstTokenMs = performance.now() - start;
  await model.close();
  return { kind: 'load', loadMs, firstTokenMs };
}

async function peak(
  job: MemoryJob,
  { textFile, tokens, window }: Extract<MemoryJob['task'], { kind: 'peak' }>,
): Promise<MemoryResult> {
  const context = tokens + ANSWER;
  const stretched = stretchedRope(context, window);
  const { total } = await estimateMemory({
    model: job.model,
    dtype: job.dtype,
    attention: job.attention,
    context,
    ...stretched,
  });
  const model = await open(job, { context, ...stretched });
  const text = await cutToTokens(model, readFileSync(textFile, 'utf8'), tokens);
  const summary = await model.generate({
    text,
    maxTokens: ANSWER,
    temperature: 0,
    ignoreEos: true,
  }).summary;
  const weights = model.info.weightBytes;
  await model.close();
  return {
    kind: 'peak',
    promptTokens: summary.promptTokens,
    peakRss: summary.peakRssBytes,
    weights,
    cache: summary.cacheBytes,
    estimate: total,
    prefillMs: summary.prefillMs,
  };
}

/** As much of the text, over and over where it is too short, as makes at most so many tokens. */
async function cutToTokens(model: Model, text: string, tokens: number): Promise<string> {
  const count = async (part: string): Promise<number> =>
    (await model.tokenizer.encodeAsync(part)).length;
  const all = text.repeat(Math.ceil(tokens / (await count(text))));
  let length = all.length;
  for (let found = await count(all); found > tokens; found = await count(all.slice(0, length))) {
    length = Math.floor((length * tokens) / found) - 1;
  }
  return all.slice(0, length);
}

async function growth(
  job: MemoryJob,
  { textFile, calls }: Extract<MemoryJob['task'], { kind: 'growth' }>,
): Promise<MemoryResult> {
  const model = await open(job);
  const text = readFileSync(textFile, 'utf8');
  const resident: number[] = [];
  for (let call = 0; call < calls; call++) {
    // Every tenth prompt is long, and each begins elsewhere, so that nothing is reused.
    const length = call % 10 === 9 ? 6000 : 300 + 150 * (call % 10);
    const from = (call * 1777) % (text.length - length);
    const prompt = text.slice(from, from + length);
    await model.generate({ text: prompt, maxTokens: 8, temperature: 0, ignoreEos: true }).summary;
    resident.push(process.memoryUsage.rss());
  }
  await model.close();
  return { kind: 'growth', resident };
}

measure(JSON.parse(process.argv[2] ?? '') as MemoryJob)
  .then((result) => {
    process.stdout.write(`${JSON.stringify(result)}\n`);
  })
  .catch((error: unknown) => {
    console.error(error);
    process.exitCode = 1;
  });
