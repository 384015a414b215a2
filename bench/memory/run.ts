import { writeFileSync } from 'node:fs';
import process from 'node:process';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { simdLevel, WEIGHT_DTYPES } from '@iceformer/transformer';
import { runJob } from '../job-process.ts';
import { modelSize } from '../model/limits.ts';
import { describeMachine } from '../model/machine.ts';
import { reasonOf } from '../model/schedule.ts';
import { median } from '../model/table.ts';
import { corpusText, modelFolder } from '../named-model.ts';
import type { MemoryJob, MemoryResult } from './job.ts';

const HELP = `Memory and loading: peak resident memory beside weights and cache, time from loading to the first token, and growth
over many calls. Ends with 1 where a limit is passed.

  --model NAME_OR_FOLDER  default smollm2-135m-instruct
  --text FILE             default docs/corpus/genesis.txt; repeated where it is too short
  --lengths N,N,...       prompt lengths whose peak is measured; default 32768
  --attention A,B         dense, sparse; default both
  --dtype A,B,...         of ${WEIGHT_DTYPES.join(', ')}; default bf16
  --loads N               times that the model is loaded, default 5; the first, which warms the files, does not count
  --calls N               generate calls, default 100
  --over MB               most that the peak may lie above weights and cache, default 200
  --ready S               longest time to the first token, default 1
  --growth MB             most growth from the calls after warming up to the last, default 4
  --threads N             default: the cores of this machine
  --json FILE             write all figures
  --smoke                 tiny sizes, to see that it works
`;

type Kind = MemoryJob['task']['kind'];
type Result<K extends Kind> = Extract<MemoryResult, { kind: K }>;

/** Calls at the beginning and at the end whose means are compared: whole rounds of prompt lengths. */
const WINDOW = 20;

async function main(): Promise<void> {
  const { values: flags } = parseArgs({
    options: {
      model: { type: 'string', default: 'smollm2-135m-instruct' },
      text: { type: 'string', default: corpusText('genesis.txt') },
      lengths: { type: 'string' },
      attention: { type: 'string', default: 'dense,sparse' },
      dtype: { type: 'string', default: 'bf16' },
      loads: { type: 'string' },
      calls: { type: 'string' },
      over: { type: 'string', default: '200' },
      ready: { type: 'string', default: '1' },
      growth: { type: 'string', default: '4' },
      threads: { type: 'string' },
      json: { type: 'string' },
      smoke: { type: 'boolean', default: false },
      help: { type: 'boolean', default: false },
    },
  });
  if (flags.help) {
    process.stdout.write(HELP);
    return;
  }
  const { smoke } = flags;
  const machine = describeMachine();
  const model = await modelFolder(flags.model);
  const { window } = modelSize(model);
  const threads = Number(flags.threads ?? machine.cores);
  const lengths = (flags.lengths ?? (smoke ? '256' : '32768')).split(',').map(Number);
  const loads = Number(flags.loads ?? (smoke ? 2 : 5));
  const calls = Number(flags.calls ?? (smoke ? 4 : 100));
  const lines = [
    `${machine.cpu}, ${machine.cores} cores, ${(machine.memoryBytes / 2 ** 30).toFixed(0)} GiB, ${machine.platform}, Node ${machine.node}, ${threads} threads, ${simdLevel()}, load before ${machine.loadBefore.toFixed(1)}. MB are 10⁶ bytes.`,
  ];
  const results: unknown[] = [];
  const failed: string[] = [];
  const judge = (ok: boolean, what: string): string => {
    if (!ok && !smoke) failed.push(what);
    return ok ? 'yes' : '**no**';
  };
  for (const dtype of WEIGHT_DTYPES.filter((known) => flags.dtype.split(',').includes(known))) {
    const measure = async <K extends Kind>(
      attention: MemoryJob['attention'],
      task: Extract<MemoryJob['task'], { kind: K }>,
    ): Promise<Result<K>> => {
      const job: MemoryJob = { model, dtype, attention, threads, task };
      const script = fileURLToPath(new URL('process.js', import.meta.url));
      const outcome = await runJob<Result<K>>([process.execPath, script], job);
      if (!('result' in outcome)) throw new Error(reasonOf(outcome));
      results.push({ dtype, attention, ...outcome.result });
      const { resident, ...figures } = { resident: [], ...outcome.result };
      process.stderr.write(`${dtype} ${attention} ${JSON.stringify(figures)}\n`);
      return outcome.result;
    };

    const ready: Result<'load'>[] = [];
    for (let load = 0; load < loads; load++) ready.push(await measure('dense', { kind: 'load' }));
    const warm = ready.slice(1);
    const first = median(warm.map(({ firstTokenMs }) => firstTokenMs)) / 1000;
    const loaded = median(warm.map(({ loadMs }) => loadMs)) / 1000;
    const inTime = judge(first < Number(flags.ready), `${dtype}: ready after ${first} s`);
    lines.push(
      '',
      `${dtype}: loaded after ${loaded.toFixed(2)} s, first token of a short prompt after ${first.toFixed(2)} s from a warm file cache (median of ${warm.length}); in ${flags.ready} s: ${inTime}.`,
      '',
      '| weights | attention | prompt | peak MB | weights MB | cache MB | above them MB | within limit | estimated MB | prefill |',
      '| --- | --- | ---: | ---: | ---: | ---: | ---: | --- | ---: | ---: |',
    );
    for (const attention of ['dense', 'sparse'] as const) {
      if (!flags.attention.split(',').includes(attention)) continue;
      for (const tokens of lengths) {
        const task = { kind: 'peak' as const, textFile: flags.text, tokens, window };
        const { promptTokens, peakRss, weights, cache, estimate, prefillMs } = await measure(
          attention,
          task,
        );
        const over = (peakRss - weights - cache) / 1e6;
        const within = judge(over <= Number(flags.over), `${dtype} ${attention}: ${over} MB above`);
        const cells = [peakRss, weights, cache].map((bytes) => (bytes / 1e6).toFixed(0));
        lines.push(
          `| ${dtype} | ${attention} | ${promptTokens} | ${cells.join(' | ')} | ${over.toFixed(0)} | ${within} | ${(estimate / 1e6).toFixed(0)} | ${(prefillMs / 1000).toFixed(1)} s |`,
        );
      }
    }
    const { resident } = await measure('dense', { kind: 'growth', textFile: flags.text, calls });
    const mean = (part: readonly number[]): number =>
      part.reduce((sum, bytes) => sum + bytes, 0) / part.length;
    const size = Math.min(WINDOW, resident.length >> 1);
    const before = mean(resident.slice(size, 2 * size)) / 1e6;
    const after = mean(resident.slice(-size)) / 1e6;
    const grown = after - before;
    const bounded = judge(grown <= Number(flags.growth), `${dtype}: grew by ${grown} MB`);
    lines.push(
      '',
      `${dtype}: resident after calls ${size + 1} to ${2 * size} of generate ${before.toFixed(1)} MB, after the last ${size} of ${calls} ${after.toFixed(1)} MB; grown by at most ${flags.growth} MB: ${bounded}.`,
    );
  }
  process.stdout.write(`${lines.join('\n')}\n`);
  if (flags.json) {
    writeFileSync(flags.json, `${JSON.stringify({ machine, results, failed }, null, 2)}\n`);
  }
  if (failed.length > 0) process.exitCode = 1;
}

main().catch((error: unknown) => {
  process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`);
  process.exitCode = 1;
});
