import process from 'node:process';
import { pathToFileURL } from 'node:url';
import { runEngine, WARM_UP_TOKENS } from '../engine-process.ts';
import type { Job, JobResult } from '../job.ts';

// The part of node-llama-cpp used here. It is no dependency of the workspace, so its types are not at hand.
interface Peer {
  getLlama(options: object): Promise<{
    systemInfo: string;
    llamaCppRelease: { release: string };
    loadModel(options: object): Promise<{
      createContext(options: object): Promise<{
        flashAttention: boolean;
        batchSize: number;
        currentThreads: number;
        getSequence(): PeerSequence;
      }>;
    }>;
    dispose(): Promise<void>;
  }>;
}
interface PeerSequence {
  /** The first `next()` resolves after the whole prompt has been processed and a token sampled. */
  evaluate(tokens: number[], options: object): AsyncGenerator<number, unknown>;
  clearHistory(): Promise<void>;
}

async function measure(job: Job, tokens: Uint32Array): Promise<Omit<JobResult, 'peakRssBytes'>> {
  const entry = pathToFileURL(String(job.options['entry'])).href;
  const { getLlama } = (await import(entry)) as Peer;
  const llama = await getLlama({
    gpu: false,
    build: 'never',
    skipDownload: true,
    maxThreads: job.threads,
    logLevel: 'error',
  });
  const model = await llama.loadModel({ modelPath: job.model, gpuLayers: 0 });
  const context = await model.createContext({
    contextSize: job.length + job.decode,
    batchSize: Number(job.options['batch']),
    threads: job.threads,
    flashAttention: true,
    sequences: 1,
  });
  const sequence = context.getSequence();
  const greedy = { temperature: 0, yieldEogToken: true };

  const warmUp = sequence.evaluate([...tokens.subarray(-WARM_UP_TOKENS)], greedy);
  for (let step = 0; step < 3; step++) await warmUp.next();
  await warmUp.return(undefined);
  await sequence.clearHistory();

  const prompt = [...tokens.subarray(0, job.length)];
  const generated: number[] = [];
  const start = performance.now();
  let firstToken = start;
  for await (const token of sequence.evaluate(prompt, greedy)) {
    if (generated.length === 0) firstToken = performance.now();
    generated.push(token);
    if (generated.length === job.decode) break;
  }
  const end = performance.now();
  if (context.currentThreads !== job.threads) {
    throw new Error(`llama.cpp runs on ${context.currentThreads} threads, not ${job.threads}`);
  }
  const simd = llama.systemInfo
    .split('|')
    .map((part) => /(\S+) = 1/.exec(part)?.[1])
    .filter((name) => name !== undefined);
  const engine = [
    `llama.cpp ${llama.llamaCppRelease.release}`,
    `flash attention ${context.flashAttention ? 'on' : 'off'}`,
    `batch ${context.batchSize}`,
    simd.join(' '),
  ].join(', ');
  await llama.dispose();
  return { prefillMs: firstToken - start, decodeMs: end - firstToken, generated, engine };
}

runEngine(measure).catch((error: unknown) => {
  console.error(error);
  process.exitCode = 1;
});
