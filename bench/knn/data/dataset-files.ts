import {
  closeSync,
  mkdirSync,
  openSync,
  readFileSync,
  readSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';

/** `NAME.json`: vectors to index and queries for them. Several sets of the same size are indexed one by one. */
export interface DatasetDescription {
  name: string;
  /** Where the vectors come from. */
  what: string;
  dimensions: number;
  /** Vectors under `cosine` have length 1, so that both metrics rank alike. */
  metric: 'inner-product' | 'cosine';
  sets: number;
  /** Vectors per set. */
  n: number;
  /** Queries per set. */
  queries: number;
  /** Neighbours that recall is counted over. */
  k: number;
  /** True neighbours per query in `NAME.truth.i32`, at least `k`, nearest first. */
  truth: number;
}

/** A dataset in memory. */
export interface Dataset extends Omit<DatasetDescription, 'n' | 'queries' | 'truth'> {
  /** `[sets, n, dimensions]` */
  keys: Float32Array;
  /** `[sets, queries, dimensions]` */
  queries: Float32Array;
}

export type DatasetPart = 'json' | 'keys.f32' | 'queries.f32' | 'truth.i32';

export function datasetFile(folder: string, name: string, part: DatasetPart): string {
  return join(folder, `${name}.${part}`);
}

/** Writes everything but the truth, which another program computes. Numbers are little-endian. */
export function writeDataset(folder: string, { keys, queries, ...rest }: Dataset): void {
  mkdirSync(folder, { recursive: true });
  writeFileSync(datasetFile(folder, rest.name, 'keys.f32'), keys);
  writeFileSync(datasetFile(folder, rest.name, 'queries.f32'), queries);
  const description: DatasetDescription = {
    ...rest,
    n: keys.length / rest.sets / rest.dimensions,
    queries: queries.length / rest.sets / rest.dimensions,
    truth: rest.k < 64 ? 100 : rest.k,
  };
  writeFileSync(
    datasetFile(folder, rest.name, 'json'),
    `${JSON.stringify(description, null, 2)}\n`,
  );
}

export function readDescription(folder: string, name: string): DatasetDescription {
  return JSON.parse(readFileSync(datasetFile(folder, name, 'json'), 'utf8')) as DatasetDescription;
}

export function readNumbers(
  folder: string,
  name: string,
  part: 'keys.f32' | 'queries.f32',
): Float32Array {
  const path = datasetFile(folder, name, part);
  return readInto(path, new Float32Array(statSync(path).size / 4));
}

/** `[sets, queries, truth]` */
export function readTruth(folder: string, name: string): Int32Array {
  const path = datasetFile(folder, name, 'truth.i32');
  return readInto(path, new Int32Array(statSync(path).size / 4));
}

/** Reads without a second copy, which would be freed at some time while memory is measured. */
function readInto<T extends Float32Array | Int32Array>(path: string, array: T): T {
  const file = openSync(path, 'r');
  try {
    for (let done = 0; done < array.byteLength; ) {
      const length = Math.min(2 ** 30, array.byteLength - done);
      const read = readSync(file, array, done, length, done);
      if (read === 0) throw new Error(`${path} ended after ${done} bytes`);
      done += read;
    }
  } finally {
    closeSync(file);
  }
  return array;
}
