import { mkdirSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import process from 'node:process';
import { cacheFolder } from '@iceformer/model-loader';
import { simdLevel } from '@iceformer/transformer';
import {
  type Flags,
  type Options,
  runBench,
  toNumber,
  toNumbers,
  writeFigures,
} from '../command-line.ts';
import { describeMachine, warnIfBusy } from '../model/machine.ts';
import type { EngineName } from './candidates.ts';
import { readDescription } from './data/dataset-files.ts';
import { datasetPlans, provide } from './datasets.ts';
import { type EngineProgram, engineProgram } from './engines.ts';
import { installPythonPeers, type PythonPeers } from './python-peers.ts';
import { type Failure, runRounds, type Sample } from './rounds.ts';
import { curvesOf } from './summary.ts';
import { toMarkdown } from './table.ts';

const HELP = `Nearest neighbours: @iceformer/knn-index beside faiss, hnswlib, usearch, hnswlib-node and DCI.

  --data A,B,...     of a4k, a16k, b, c; default all
  --peers A,B,...    engines: iceformer, faiss, hnswlib, usearch, usearch-npm, hnswlib-node, dci; default all
  --families A,B,... only kinds of index whose name begins so, for example "iceformer cluster,faiss flat"
  --rounds N         default 3
  --threads N,N,...  default 1,2
  --singles N        single queries timed one by one, default 500
  --work DIR         peers and data; default: knn-bench beside the models of the cache
  --dci DIR          folder with the package dciknn, built by yourself from github.com/ke-li/dci-knn
  --dci-python FILE  interpreter that it was built for
  --out FILE         write the table there too
  --json FILE        write all curves and samples
  --prepare          fetch the peers and make the data, measure nothing
  --smoke            a tiny set, ours only, no peers: to see that it works
`;

const OPTIONS = {
  data: { type: 'string' },
  peers: { type: 'string' },
  families: { type: 'string' },
  rounds: { type: 'string' },
  threads: { type: 'string' },
  singles: { type: 'string' },
  work: { type: 'string' },
  dci: { type: 'string' },
  'dci-python': { type: 'string' },
  out: { type: 'string' },
  json: { type: 'string' },
  prepare: { type: 'boolean', default: false },
} satisfies Options;

async function main(flags: Flags<typeof OPTIONS>): Promise<void> {
  const { smoke } = flags;
  const machine = describeMachine();
  if (!smoke) warnIfBusy(machine);
  const work = resolve(flags.work ?? join(cacheFolder(), '..', 'knn-bench'));
  const folder = join(work, 'data');
  mkdirSync(folder, { recursive: true });
  const names = (flags.data ?? (smoke ? 'smoke' : 'a4k,a16k,b,c')).split(',');
  const threads = toNumbers(flags.threads ?? '1,2');
  const rounds = toNumber(flags.rounds ?? (smoke ? 1 : 3));
  const singles = toNumber(flags.singles ?? (smoke ? 20 : 500));
  const python: PythonPeers = smoke ? { python: '', missing: {} } : installPythonPeers(work);

  const peers = flags.peers?.split(',');
  const families = flags.families?.split(',');
  const plans = names.map((name) => {
    const plan = datasetPlans.find((known) => known.name === name);
    if (!plan) throw new Error(`unknown dataset "${name}"`);
    const candidates = plan.candidates.filter(
      ({ engine, family }) =>
        (peers?.includes(engine) ?? true) &&
        (families?.some((prefix) => family.startsWith(prefix)) ?? true),
    );
    return { ...plan, rebuild: plan.buildCounts, candidates };
  });
  const programs = new Map<EngineName, EngineProgram>();
  const program = (engine: EngineName): EngineProgram => {
    const known = programs.get(engine);
    if (known) return known;
    const found = engineProgram(engine, work, python, {
      ...(flags.dci ? { folder: resolve(flags.dci) } : {}),
      ...(flags['dci-python'] ? { python: resolve(flags['dci-python']) } : {}),
    });
    programs.set(engine, found);
    return found;
  };
  for (const plan of plans) {
    await provide(plan, { folder, python: python.python, threads: machine.cores });
    for (const { engine } of plan.candidates) program(engine);
  }
  if (flags.prepare) return;

  const samples: Sample[] = [];
  const failures: Failure[] = [];
  await runRounds({
    folder,
    data: plans,
    rounds,
    // Most threads first: what is built once is built with all of them.
    threads: threads.toSorted((a, b) => b - a),
    singles,
    program: ({ engine }) => program(engine),
    onSample: (sample, { family, index }) => {
      samples.push(sample);
      const { buildSeconds = 0, points } = sample.result.runs[0] ?? { points: [] };
      const found = points.map((p) => `${p.recall.toFixed(3)} in ${p.seconds.toFixed(2)} s`);
      process.stderr.write(
        `round ${sample.round + 1} ${sample.data} ${family} ${JSON.stringify(index)}: build ${buildSeconds.toFixed(2)} s, ${found.join(', ')}\n`,
      );
    },
    onFailure: (failure) => {
      failures.push(failure);
      process.stderr.write(`${failure.data} ${failure.family}: ${failure.reason}\n`);
    },
  });
  const data = plans.map(({ name, buildCounts }) => ({
    ...readDescription(folder, name),
    buildCounts,
  }));
  const curves = plans.flatMap(({ name, candidates }, at) =>
    curvesOf(name, candidates, samples, data[at]?.queries ?? 0),
  );
  const report = { machine, simd: simdLevel(), rounds, threads, data, curves, failures };
  const table = toMarkdown(report);
  process.stdout.write(table);
  if (smoke && failures.length > 0) process.exitCode = 1;
  if (flags.out) writeFileSync(flags.out, table);
  writeFigures(flags.json, { ...report, samples });
}

await runBench(HELP, OPTIONS, main);
