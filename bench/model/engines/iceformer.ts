import process from 'node:process';
import { loadModel, type WeightDtype } from '@iceformer/transformer';
import { runEngine, WARM_UP_TOKENS } from '../engine-process.ts';
import type { Job, JobResult } from '../job.ts';

async function measure(job: Job, tokens: Uint32Array): Promise<Omit<JobResult, 'peakRssBytes'>> {
  const attention = job.options['attention'] === 'sparse' ? 'sparse' : 'dense';
  const dtype = job.options['dtype'] as WeightDtype;
  const total = job.length + job.decode;
  const window = Number(job.options['window']);
  const model = await loadModel({
    model: job.model,
    attention,
    dtype,
    threads: job.threads,
    context: total,
    ...(total > window ? { ropeScaling: { type: 'yarn', factor: total / window } } : {}),
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
    engine: `iceformer ${attention}, ${dtype} weights, ${simd}`,
  };
}

runEngine(measure).catch((error: unknown) => {
  console.error(error);
  process.exitCode = 1;
});
