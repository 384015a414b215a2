import { readFileSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import process from 'node:process';
import type { EngineJob } from '../engine-job.ts';
import { type BuildIndex, measure } from './measure.ts';

/** The part of the package that is used; it is installed outside the workspace. */
interface Usearch {
  Index: new (options: Record<string, string | number | boolean>) => UsearchIndex;
}

interface UsearchIndex {
  add(keys: BigUint64Array, vectors: Float32Array, threads: number): void;
  search(vectors: Float32Array, k: number, threads: number): { keys: BigUint64Array };
  save(path: string): void;
  load(path: string): void;
}

const job = JSON.parse(process.argv[2] ?? '') as EngineJob;
const require = createRequire(join(job.entry ?? '', 'package.json'));
const { Index } = require('usearch') as Usearch;
// The package does not export its package.json.
const manifest = join(job.entry ?? '', 'node_modules', 'usearch', 'package.json');
const { version } = JSON.parse(readFileSync(manifest, 'utf8')) as { version: string };

/** Index: `M`, `efConstruction`. Searches: `ef`, which can only be set on an empty index: it is saved and loaded. */
const build: BuildIndex = (keys, dimensions, { index: kind }, threads) => {
  const file = join(tmpdir(), `usearch-npm-${process.pid}`);
  const options = {
    metric: 'ip',
    dimensions,
    quantization: 'f32',
    connectivity: kind['M'] as number,
    expansion_add: kind['efConstruction'] as number,
  };
  const index = new Index(options);
  const ids = BigUint64Array.from({ length: keys.length / dimensions }, (_, id) => BigInt(id));
  index.add(ids, keys, threads);
  let searched = index;
  let loaded = 0;
  return {
    search(queries, k, setting, now) {
      const ef = setting['ef'] as number;
      if (loaded !== ef) {
        index.save(file);
        searched = new Index({ ...options, expansion_search: ef });
        searched.load(file);
        loaded = ef;
      }
      return searched.search(queries, k, now).keys;
    },
    bytes: () => 0,
    close: () => rmSync(file, { force: true }),
  };
};

measure(`usearch ${version} (npm)`, build);
