import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, join, resolve } from 'node:path';
import process from 'node:process';
import { cacheFolder } from '@iceformer/model-loader';
import { type PresetName, presetPlan, readPlan } from '@iceformer/sparse-attention';
import { simdLevel } from '@iceformer/transformer';
import {
  type Flags,
  type Options,
  runBench,
  toNumber,
  toNumbers,
  writeFigures,
} from '../command-line.ts';
import { levelEnvironment, runLevel } from '../model/levels.ts';
import { modelSize } from '../model/limits.ts';
import { describeMachine, warnIfBusy } from '../model/machine.ts';
import { DEFAULT_MODEL, modelFolder } from '../named-model.ts';
import { installPython } from '../python-environment.ts';
import { type Candidate, candidatesOf, ENGINES } from './candidates.ts';
import { exactRows, sampleRows } from './exact-rows.ts';
import { type Failure, runRounds, type Sample, type Stage } from './rounds.ts';
import { crossingsOf, equalErrors, growthOf, type Row, rowOf } from './summary.ts';
import { type Report, toMarkdown } from './table.ts';
import { provideTensors, TENSOR_KINDS, type TensorKind, type TensorSet } from './tensors.ts';

const HELP = `Attention alone on real queries, keys and values: dense and sparse, PyTorch's, and the original IceFormer code.

  --model NAME_OR_FOLDER  default ${DEFAULT_MODEL}
  --tensors A,B           model: its heads as they are; joined: pairs of them as 32 query and 8 key/value heads of 128
                          dimensions; default both
  --layers N,N,...        layers of the model that are measured; default three, spread over it
  --lengths N,N,...       tokens; default 2048,4096,8192,16384,32768,65536,131072
  --joined-limit N        longest length for joined; default 32768
  --engines A,B,...       of ${ENGINES.join(', ')}; default all
                          but those with keys and values of 8 bits
  --masses X,X,...        mass targets of sparse; default 0.8,0.9
  --presets A,B,...       presets, as more sparse rows; default accurate,balanced,fast
  --plan NAME=FILE        an attention plan as one more sparse row; may be given several times
  --dense-limit N         longest length for engines that read every key; default 32768
  --original FOLDER       the folder that holds the package mdci, built (see bench/README.md)
  --original-python FILE  the interpreter it was built for; default python3
  --original-k N,N,...    neighbours of the original; default 20,64,256
  --original-heads N      query heads it is measured on; default 2
  --original-limit N      longest length for it; default 16384
  --original-seconds N    after which it is given up; default 300
  --growth-from N         exponents are fitted from this length on; default 16384
  --decode N              tokens attended to one by one at the end, default 32
  --rounds N              default 3
  --threads N             default: the cores of this machine
  --level LEVEL           hold all engines to avx2, avx512-vnni (no bf16) or avx512 (no AMX); default native
  --python FILE           interpreter that has PyTorch and NumPy; default: an environment made for the bench
  --work DIR              peers and data; default: attention-bench beside the models of the cache
  --out FILE              write the tables there too, after every length
  --json FILE             write all figures and samples, after every length
  --prepare               fetch the peers and make the data, and measure nothing
  --smoke                 tiny sizes, ours only, no downloads: to see that it works
`;

const PYTHON_PACKAGES = ['numpy==2.4.6', 'torch==2.15.0'];

const OPTIONS = {
  model: { type: 'string', default: DEFAULT_MODEL },
  tensors: { type: 'string', default: 'model,joined' },
  layers: { type: 'string' },
  lengths: { type: 'string' },
  'joined-limit': { type: 'string', default: '32768' },
  engines: { type: 'string' },
  masses: { type: 'string' },
  presets: { type: 'string', default: 'accurate,balanced,fast' },
  plan: { type: 'string', multiple: true, default: [] },
  'dense-limit': { type: 'string', default: '32768' },
  original: { type: 'string' },
  'original-python': { type: 'string' },
  'original-k': { type: 'string', default: '20,64,256' },
  'original-heads': { type: 'string', default: '2' },
  'original-limit': { type: 'string', default: '16384' },
  'original-seconds': { type: 'string', default: '300' },
  'growth-from': { type: 'string', default: '16384' },
  decode: { type: 'string', default: '32' },
  rounds: { type: 'string' },
  threads: { type: 'string' },
  level: { type: 'string', default: 'native' },
  python: { type: 'string' },
  work: { type: 'string' },
  out: { type: 'string' },
  json: { type: 'string' },
  prepare: { type: 'boolean', default: false },
} satisfies Options;

async function main(flags: Flags<typeof OPTIONS>): Promise<void> {
  const { smoke } = flags;
  const machine = describeMachine();
  if (!smoke && !flags.prepare) warnIfBusy(machine);
  const level = runLevel(flags.level);
  const threads = toNumber(flags.threads ?? machine.cores);
  const rounds = toNumber(flags.rounds ?? (smoke ? 1 : 3));
  const decode = toNumber(flags.decode);
  const growthFrom = toNumber(flags['growth-from']);
  const originalHeads = toNumber(flags['original-heads']);
  const lengths = toNumbers(
    flags.lengths ?? (smoke ? '256,2048' : '2048,4096,8192,16384,32768,65536,131072'),
  );
  const kinds = TENSOR_KINDS.filter((kind) => flags.tensors.split(',').includes(kind));
  const jobs = kinds.flatMap((kind) =>
    lengths
      .filter((n) => kind === 'model' || n <= toNumber(flags['joined-limit']))
      .map((n) => ({ kind, n })),
  );
  const folder = await modelFolder(flags.model);
  // As if the model knew no more tokens, so that no more are run.
  const size = smoke ? { ...modelSize(folder), window: Math.max(...lengths) } : modelSize(folder);
  const layers = flags.layers
    ? toNumbers(flags.layers)
    : [1, 3, 5].map((part) => Math.floor((part * size.layers) / 6));
  const temporary = await mkdtemp(join(tmpdir(), 'iceformer-bench-'));
  const work = smoke
    ? temporary
    : resolve(flags.work ?? join(cacheFolder(), '..', 'attention-bench'));
  mkdirSync(work, { recursive: true });
  try {
    const failures: Failure[] = [];
    const candidates = findCandidates(
      flags.engines?.split(',') ??
        (smoke ? ['dense-f32', 'dense', 'sparse'] : ENGINES.filter((name) => !/kv8/.test(name))),
      {
        masses: toNumbers(flags.masses ?? (smoke ? '0.9,1' : '0.8,0.9')),
        plans: Object.fromEntries([
          ...(smoke || flags.presets === '' ? [] : flags.presets.split(',')).map((name) => [
            name,
            presetPlan(name as PresetName, size.layers),
          ]),
          ...flags.plan.map((given) => namedPlan(given, size.layers)),
        ]),
        denseLimit: toNumber(flags['dense-limit']),
        originalLimit: toNumber(flags['original-limit']),
        original: {
          ...(flags.original ? { folder: resolve(flags.original) } : {}),
          ...(flags['original-python'] ? { python: resolve(flags['original-python']) } : {}),
          neighbours: toNumbers(flags['original-k']),
          heads: originalHeads,
          seconds: toNumber(flags['original-seconds']),
        },
        torch: () => findTorch(work, flags.python),
      },
      failures,
    );
    const source = { folder, size, work: join(work, 'data'), threads: machine.cores };
    const stages: (() => Promise<Omit<Stage, 'exact'>>)[] = jobs.map(({ kind, n }) => async () => ({
      set: await provideTensors(kind, source, n, layers),
      n,
    }));
    if (flags.prepare) {
      for (const stage of stages) await stage();
      return;
    }
    const samples: Sample[] = [];
    const rows: Row[] = [];
    const sets = new Map<TensorKind, TensorSet>();
    const save = (): Report => {
      const report: Report = {
        machine,
        simd: simdLevel(),
        level,
        threads,
        rounds,
        sets: [...sets.values()],
        rows,
        growthFrom,
        growth: growthOf(rows, growthFrom),
        crossings: crossingsOf(rows, 'iceformer dense', (name) =>
          candidates.some((c) => c.name === name && !c.dense && c.neighbours === undefined),
        ),
        equal: equalErrors(samples, candidates),
        originalHeads,
        failures,
      };
      if (flags.out) writeFileSync(flags.out, toMarkdown(report));
      writeFigures(flags.json, { ...report, samples });
      return report;
    };
    for (const stage of stages) {
      const { set, n } = await stage();
      sets.set(set.kind, set);
      const neighbours = candidates.flatMap((candidate) => candidate.neighbours ?? []);
      const exact = exactRows(
        set,
        sampleRows(n),
        neighbours.toSorted((a, b) => a - b),
      );
      const here: Sample[] = [];
      await runRounds(
        {
          candidates,
          rounds,
          threads,
          decode,
          environment: levelEnvironment(level, simdLevel()),
          temporary,
          onSample(sample) {
            here.push(sample);
            const row = rowOf([sample], undefined);
            process.stderr.write(
              `round ${sample.round + 1} ${set.kind} ${n} tokens ${sample.candidate}: ${row?.ms.toFixed(1)} ms, error ${row?.error.toPrecision(2)}\n`,
            );
          },
          onFailure(failure) {
            failures.push(failure);
            process.stderr.write(`${failure.candidate} at ${n}: ${failure.reason}\n`);
          },
        },
        { set, n, exact },
      );
      samples.push(...here);
      for (const { name, neighbours: k } of candidates) {
        const mine = here.filter(({ candidate }) => candidate === name);
        const row = rowOf(mine, k === undefined ? undefined : exact.massOf.get(k));
        if (row) rows.push(row);
      }
      save();
    }
    process.stdout.write(toMarkdown(save()));
    if (smoke && failures.length > 0) process.exitCode = 1;
  } finally {
    await rm(temporary, { recursive: true, force: true });
  }
}

/** Rows of the engines that can be had; the others become failures. */
function findCandidates(
  names: readonly string[],
  settings: Parameters<typeof candidatesOf>[1],
  failures: Failure[],
): Candidate[] {
  return names.flatMap((name) => {
    const found = candidatesOf(name, settings);
    if (!('missing' in found)) return found;
    failures.push({ candidate: name, reason: found.missing });
    return [];
  });
}

/** `NAME=FILE`, or a file, which names itself. */
function namedPlan(given: string, layers: number): [string, ReturnType<typeof readPlan>] {
  const [, name, file = given] = /^([\w.-]+)=(.*)$/.exec(given) ?? [];
  return [
    name ?? basename(file, '.json'),
    readPlan(JSON.parse(readFileSync(file, 'utf8')), layers),
  ];
}

function findTorch(work: string, python?: string): { python: string } | { missing: string } {
  if (python) return { python: resolve(python) };
  const environment = installPython(work, PYTHON_PACKAGES);
  const reason = environment.missing['torch'] ?? environment.missing['numpy'];
  return reason ? { missing: `pip: ${reason}` } : { python: environment.python };
}

await runBench(HELP, OPTIONS, main);
