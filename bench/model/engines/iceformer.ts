import process from 'node:process';
import { loadModel } from '@iceformer/transformer';
import { stretchedRope } from '../../stretched-rope.ts';
import { runEngine, WARM_UP_TOKENS } from '../engine-process.ts';
import { engineOptions } from '../iceformer-options.ts';
import type { Job, JobResult } from '../job.ts';

async function measure(job: Job, tokens: Uint32Array): Promise<Omit<JobResult, 'peakRssBytes'>> {
  const { window, description, ...options } = engineOptions(job.options);
  const total = job.length + job.decode;
  const model = await loadModel({
    ...options,
    model: job.model,
    threads: job.threads,
    context: total,
    ...stretchedRope(total, window),
  });
  const greedy = { temperature: 0, ignoreEos: true };
  await model.generate({ ...greedy, tokens: tokens.slice(-WARM_UP_TOKENS), maxTokens: 3 }).summary;

  const generated: number[] = [];
  const tokensOfPrompt = tokens.slice(0, job.length);
  const start = performance.now();
  let firstToken = start;
  const generation = model.generate({ ...greedy, tokens: tokensOfPrompt, maxTokens: job.decode });
  for await (const { token } of generation) {
    if (generated.length === 0) firstToken = performance.now();
    generated.push(token);
  }
  const end = performance.now();
  const { retainedMass, tilesRead, simd } = await generation.summary;
  await model.close();
  return {
    prefillMs: firstToken - start,
    decodeMs: end - firstToken,
    generated,
    retainedMass,
    tilesRead,
    engine: `iceformer ${description}, ${simd}`,
  };
}

runEngine(measure).catch((error: unknown) => {
  console.error(error);
  process.exitCode = 1;
});
