import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import process from 'node:process';
import { fileURLToPath } from 'node:url';
import {
  type Candidate,
  headCandidates,
  passageCandidates,
  poolCandidates,
  smokeCandidates,
} from './candidates.ts';
import { makeHeads, makePool } from './data/attention-data.ts';
import { datasetFile, writeDataset } from './data/dataset-files.ts';
import { writeExactTruth } from './data/exact-truth.ts';
import { letterPairs } from './data/letter-pairs.ts';

const PASSAGES = 66_000;
const PASSAGE_QUERIES = 2_000;

/** Where things lie and what makes them. */
export interface DataPlace {
  /** Takes the datasets. */
  folder: string;
  python: string;
  threads: number;
}

/** A dataset by name. */
export interface DatasetPlan {
  name: string;
  /** An index serves its queries once, so that building it counts. */
  buildCounts: boolean;
  candidates: Candidate[];
  make(place: DataPlace): Promise<void> | void;
}

/** (a) at two lengths, (b), (c), and a small one that needs nothing but this repository. */
export const datasetPlans: readonly DatasetPlan[] = [
  {
    name: 'a4k',
    buildCounts: true,
    candidates: headCandidates(4096),
    make: ({ folder, threads }) => makeHeads(folder, 'a4k', 4096, threads),
  },
  {
    name: 'a16k',
    buildCounts: true,
    candidates: headCandidates(16_384),
    make: ({ folder, threads }) => makeHeads(folder, 'a16k', 16_384, threads),
  },
  {
    name: 'b',
    buildCounts: false,
    candidates: poolCandidates(),
    make: ({ folder, threads }) => makePool(folder, 'b', 16_384, threads),
  },
  {
    name: 'c',
    buildCounts: false,
    candidates: passageCandidates(),
    make: ({ folder, python, threads }) => {
      const passages = join(folder, 'passages.jsonl');
      if (!existsSync(passages)) {
        const corpus = fileURLToPath(new URL('../../../docs/corpus/', import.meta.url));
        run(python, ['passages.py', join(folder, 'packages'), corpus, passages, String(PASSAGES)]);
      }
      run(python, ['embed.py', passages, folder, 'c', String(PASSAGE_QUERIES), String(threads)]);
    },
  },
  {
    name: 'smoke',
    buildCounts: true,
    candidates: smokeCandidates(),
    make: ({ folder }) => {
      writeDataset(folder, letterPairs('smoke'));
      writeExactTruth(folder, 'smoke');
    },
  },
];

/** Makes what is missing of a dataset. */
export async function provide(plan: DatasetPlan, place: DataPlace): Promise<void> {
  const { folder, python } = place;
  if (!existsSync(datasetFile(folder, plan.name, 'json'))) {
    process.stderr.write(`making dataset ${plan.name}\n`);
    await plan.make(place);
  }
  if (!existsSync(datasetFile(folder, plan.name, 'truth.i32'))) {
    process.stderr.write(`finding the true neighbours of ${plan.name}\n`);
    run(python, ['truth.py', folder, plan.name]);
  }
}

/** Runs a script of `data/`. Python is not compiled to dist, so it is the one in the source folder. */
function run(python: string, [script, ...parameters]: [string, ...string[]]): void {
  const path = fileURLToPath(new URL(`../../knn/data/${script}`, import.meta.url));
  const { status, error } = spawnSync(python, [path, ...parameters], {
    stdio: ['ignore', 2, 'inherit'],
  });
  if (status !== 0) throw new Error(`${script} failed${error ? `: ${error.message}` : ''}`);
}
