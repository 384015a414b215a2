import { createRequire } from 'node:module';
import { join } from 'node:path';
import process from 'node:process';
import type { EngineJob } from '../engine-job.ts';
import { type BuildIndex, measure } from './measure.ts';

/** The part of the package that is used; it is installed outside the workspace. */
interface HnswlibNode {
  HierarchicalNSW: new (space: string, dimensions: number) => HierarchicalNSW;
}

interface HierarchicalNSW {
  initIndex(size: number, m: number, efConstruction: number, seed: number): void;
  addPoint(point: number[], label: number): void;
  setEf(ef: number): void;
  searchKnn(query: number[], k: number): { neighbors: number[] };
}

const job = JSON.parse(process.argv[2] ?? '') as EngineJob;
const require = createRequire(join(job.entry ?? '', 'package.json'));
const { HierarchicalNSW: Graph } = require('hnswlib-node') as HnswlibNode;
const { version } = require('hnswlib-node/package.json') as { version: string };

/** Index: `M`, `efConstruction`. Searches: `ef`. One vector a call, one thread, plain arrays: it knows no other way. */
const build: BuildIndex = (keys, dimensions, { index: kind }) => {
  const count = keys.length / dimensions;
  const row = (array: Float32Array, at: number): number[] =>
    Array.from(array.subarray(at * dimensions, (at + 1) * dimensions));
  const index = new Graph('ip', dimensions);
  index.initIndex(count, kind['M'] as number, kind['efConstruction'] as number, 1);
  for (let id = 0; id < count; id++) index.addPoint(row(keys, id), id);
  return {
    search(queries, k, setting) {
      index.setEf(Math.max(k, setting['ef'] as number));
      const rows = queries.length / dimensions;
      const found = new Int32Array(rows * k).fill(-1);
      for (let query = 0; query < rows; query++) {
        found.set(index.searchKnn(row(queries, query), k).neighbors, query * k);
      }
      return found;
    },
    bytes: () => 0,
    close: () => undefined,
  };
};

measure(`hnswlib-node ${version}`, build);
