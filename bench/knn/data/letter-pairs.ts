import { readFileSync } from 'node:fs';
import { corpusText } from '../../named-model.ts';
import type { Dataset } from './dataset-files.ts';

/**
 * A small real dataset that needs no model and no download: how often pairs of letters occur in the lines of a text,
 * folded into 64 dimensions.
 */
export function letterPairs(name: string): Dataset {
  const dimensions = 64;
  const lines = readFileSync(corpusText('genesis.txt'), 'utf8')
    .split('\n')
    .filter((line) => line.length > 40);
  const vectors = lines.map((line) => {
    const counts = new Float32Array(dimensions);
    for (let at = 1; at < line.length; at++) {
      const bucket = (line.charCodeAt(at - 1) * 31 + line.charCodeAt(at) * 7) % dimensions;
      counts[bucket] = (counts[bucket] as number) + 1;
    }
    return counts;
  });
  const isQuery = (line: number): boolean => line % 4 === 0;
  const join = (wanted: boolean): Float32Array =>
    Float32Array.from(
      vectors.filter((_, line) => isQuery(line) === wanted).flatMap((vector) => [...vector]),
    );
  return {
    name,
    what: 'Pairs of letters in the lines of genesis.txt',
    dimensions,
    metric: 'inner-product',
    sets: 1,
    keys: join(false),
    queries: join(true),
    k: 10,
  };
}
