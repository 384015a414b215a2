import process from 'node:process';
import { fileURLToPath } from 'node:url';
import { simdLevel, WEIGHT_DTYPES } from '@iceformer/transformer';
import {
  type Flags,
  type Options,
  runBench,
  toNumber,
  toNumbers,
  writeFigures,
} from '../command-line.ts';
import { runJob } from '../job-process.ts';
import { modelSize } from '../model/limits.ts';
import { describeMachine } from '../model/machine.ts';
import { reasonOf } from '../model/schedule.ts';
import { median } from '../model/table.ts';
import { corpusText, DEFAULT_MODEL, modelFolder } from '../named-model.ts';
import type { MemoryJob, MemoryResult } from './job.ts';

const HELP = `Memory and loading: peak resident memory beside weights and cache, time from loading to the first token, and growth
over many calls. Ends with 1 where a limit is passed.

  --model NAME_OR_FOLDER  default ${DEFAULT_MODEL}
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

const OPTIONS = {
  model: { type: 'string', default: DEFAULT_MODEL },
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
} satisfies Options;

async function main(flags: Flags<typeof OPTIONS>): Promise<void> {
  const { smoke } = flags;
  const machine = describeMachine();
  const model = await modelFolder(flags.model);
  const { window } = modelSize(model);
  const threads = toNumber(flags.threads ?? machine.cores);
  const lengths = toNumbers(flags.lengths ?? (smoke ? '256' : '32768'));
  const loads = toNumber(flags.loads ?? (smoke ? 2 : 5));
  const calls = toNumber(flags.calls ?? (smoke ? 4 : 100));
  const limits = {
    over: toNumber(flags.over),
    ready: toNumber(flags.ready),
    growth: toNumber(flags.growth),
  };
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
    const inTime = judge(first < limits.ready, `${dtype}: ready after ${first} s`);
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
        const within = judge(over <= limits.over, `${dtype} ${attention}: ${over} MB above`);
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
    const bounded = judge(grown <= limits.growth, `${dtype}: grew by ${grown} MB`);
    lines.push(
      '',
      `${dtype}: resident after calls ${size + 1} to ${2 * size} of generate ${before.toFixed(1)} MB, after the last ${size} of ${calls} ${after.toFixed(1)} MB; grown by at most ${flags.growth} MB: ${bounded}.`,
    );
  }
  process.stdout.write(`${lines.join('\n')}\n`);
  writeFigures(flags.json, { machine, results, failed });
  if (failed.length > 0) process.exitCode = 1;
}

await runBench(HELP, OPTIONS, main);
