import type { Machine } from './machine.ts';
import type { Sample } from './schedule.ts';

/** Medians of one engine at one length. */
export interface Row {
  engine: string;
  length: number;
  runs: number;
  prefillMs: number;
  prefillTokensPerSecond: number;
  decodeTokensPerSecond: number;
  peakRssBytes: number;
  /** Prefill speed over that of the first engine at the same length. */
  prefillRatio: number;
  retainedMass?: number;
  tilesRead?: number;
  /** Generated tokens equal to those of dense attention, counted from the first until they part; of how many. */
  agreement?: [number, number];
}

export function summarise(samples: readonly Sample[]): Row[] {
  const rows: Row[] = [];
  const lengths = [...new Set(samples.map((sample) => sample.length))];
  const engines = [...new Set(samples.filter((s) => s.round === 0).map((sample) => sample.engine))];
  for (const length of lengths) {
    const at = (engine: string): Sample[] =>
      samples.filter((sample) => sample.length === length && sample.engine === engine);
    const reference = at('iceformer dense')[0];
    const baseline = median(at(engines[0] as string).map((sample) => sample.prefillMs));
    for (const engine of engines) {
      const runs = at(engine);
      const first = runs[0] as Sample;
      const prefillMs = median(runs.map((sample) => sample.prefillMs));
      const decodeMs = median(runs.map((sample) => sample.decodeMs));
      rows.push({
        engine,
        length,
        runs: runs.length,
        prefillMs,
        prefillTokensPerSecond: (length / prefillMs) * 1000,
        decodeTokensPerSecond: ((first.generated.length - 1) / decodeMs) * 1000,
        peakRssBytes: Math.max(...runs.map((sample) => sample.peakRssBytes)),
        prefillRatio: baseline / prefillMs,
        ...(first.retainedMass === undefined ? {} : { retainedMass: first.retainedMass }),
        ...(first.tilesRead === undefined ? {} : { tilesRead: first.tilesRead }),
        ...(reference ? { agreement: agreement(first.generated, reference.generated) } : {}),
      });
    }
  }
  return rows;
}

export function toMarkdown(
  rows: readonly Row[],
  samples: readonly Sample[],
  machine: Machine,
): string {
  const simd = machine.cpuFlags
    .split(' ')
    .filter((flag) => /avx|amx|asimd|sve|f16c|fma|bf16/.test(flag));
  const memory = (machine.memoryBytes / 2 ** 30).toFixed(0);
  const baseline = rows[0]?.engine ?? '';
  const percent = (share?: number): string =>
    share === undefined ? '' : `${(share * 100).toFixed(1)} %`;
  const lines = [
    `${machine.cpu}, ${machine.cores} cores, ${memory} GiB, ${machine.platform}, Node ${machine.node}.`,
    `CPU flags: ${simd.join(' ')}.`,
    '',
    `| prompt | engine | prefill tokens/s | × ${baseline} | first token after | decode tokens/s | peak memory | mass kept | tiles read | same tokens as dense |`,
    '| ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |',
    ...rows.map((row) =>
      [
        '',
        row.length,
        row.engine,
        row.prefillTokensPerSecond.toFixed(0),
        row.prefillRatio.toFixed(2),
        `${(row.prefillMs / 1000).toFixed(2)} s`,
        row.decodeTokensPerSecond.toFixed(1),
        `${(row.peakRssBytes / 2 ** 20).toFixed(0)} MiB`,
        percent(row.retainedMass),
        percent(row.tilesRead),
        row.agreement ? row.agreement.join(' of ') : '',
        '',
      ]
        .join(' | ')
        .trim(),
    ),
    '',
    `Medians of ${rows[0]?.runs ?? 0} interleaved runs, each in a fresh process; peak memory is the largest.`,
    '',
    ...[...new Set(samples.map(({ engine, description }) => `- ${engine}: ${description}`))],
  ];
  return `${lines.join('\n')}\n`;
}

function agreement(tokens: readonly number[], reference: readonly number[]): [number, number] {
  const parted = tokens.findIndex((token, index) => token !== reference[index]);
  return [parted === -1 ? tokens.length : parted, reference.length];
}

function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  const upper = sorted[middle] as number;
  return sorted.length % 2 === 1 ? upper : ((sorted[middle - 1] as number) + upper) / 2;
}
