import { writeFileSync } from 'node:fs';
import { datasetFile, readDescription, readNumbers } from './dataset-files.ts';

/** The truth of a small dataset of one set, by comparing everything in double precision. */
export function writeExactTruth(folder: string, name: string): void {
  const { dimensions, n, queries, truth } = readDescription(folder, name);
  const keys = readNumbers(folder, name, 'keys.f32');
  const rows = readNumbers(folder, name, 'queries.f32');
  const found = new Int32Array(queries * truth);
  for (let query = 0; query < queries; query++) {
    const scores = Float64Array.from({ length: n }, (_, key) => {
      let sum = 0;
      for (let at = 0; at < dimensions; at++) {
        sum += (keys[key * dimensions + at] as number) * (rows[query * dimensions + at] as number);
      }
      return sum;
    });
    const order = Array.from(scores.keys()).sort(
      (a, b) => (scores[b] as number) - (scores[a] as number) || a - b,
    );
    found.set(order.slice(0, truth), query * truth);
  }
  writeFileSync(datasetFile(folder, name, 'truth.i32'), found);
}
