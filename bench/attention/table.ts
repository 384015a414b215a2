import type { RunLevel } from '../model/levels.ts';
import type { Machine } from '../model/machine.ts';
import type { Failure } from './rounds.ts';
import type { Crossing, EqualError, Growth, Row } from './summary.ts';
import type { TensorKind } from './tensors.ts';

export interface Report {
  machine: Machine;
  /** Level of our kernels in this run. */
  simd: string;
  level: RunLevel;
  threads: number;
  rounds: number;
  /** Each kind that was measured. */
  sets: readonly {
    kind: TensorKind;
    what: string;
    heads: number;
    kvHeads: number;
    headDim: number;
  }[];
  rows: readonly Row[];
  /** From this length on the exponents are fitted. */
  growthFrom: number;
  growth: readonly Growth[];
  crossings: readonly Crossing[];
  equal: readonly EqualError[];
  /** Query heads the original was measured on. */
  originalHeads: number;
  failures: readonly Failure[];
}

export function toMarkdown(report: Report): string {
  const { machine, sets, rows, failures, rounds } = report;
  const flags = machine.cpuFlags
    .split(' ')
    .filter((flag) => /avx|amx|asimd|sve|f16c|fma|bf16/.test(flag));
  const lines = [
    `${machine.cpu}, ${machine.cores} cores, ${(machine.memoryBytes / 2 ** 30).toFixed(0)} GiB, ${machine.platform}, Node ${machine.node}, ${report.threads} threads, load before ${machine.loadBefore.toFixed(1)}.`,
    `IceFormer's kernels: ${report.simd}${report.level === 'native' ? '' : ` (all engines held to ${report.level})`}. CPU flags: ${flags.join(' ')}.`,
    '',
    `Causal attention of one layer, mean over the layers measured; medians of ${rounds} interleaved rounds, each measurement in a fresh process. Time of ours is that of handing over keys and values, building the index and attending; decode is one token at the end of the sequence. Error: length of the difference from exact attention in double precision over the length of the exact output, on sampled rows, mean over layers and heads.`,
    ...sets.flatMap((set) => [
      '',
      `## ${set.heads} query and ${set.kvHeads} key/value heads of ${set.headDim} dimensions`,
      '',
      `${set.what}.`,
      '',
      ...mainTable(rows.filter(({ kind }) => kind === set.kind)),
      ...growthLines(report, set.kind),
      ...equalTable(report, set.kind),
    ]),
    '',
    ...[...new Set(rows.map(({ engine, candidate }) => `- ${candidate}: ${engine}`))],
    ...(failures.length === 0
      ? []
      : [
          '',
          'Not measured:',
          '',
          ...failures.map(
            ({ candidate, kind, n, reason }) =>
              `- ${candidate}${n === undefined ? '' : ` at ${n} (${kind})`}: ${reason}`,
          ),
        ]),
  ];
  return `${lines.join('\n')}\n`;
}

const percent = (share?: number): string =>
  share === undefined ? '' : `${(share * 100).toFixed(1)} %`;

/** Three figures that matter. */
const short = (value: number): string =>
  value >= 100 ? value.toFixed(0) : Number(value.toPrecision(3)).toString();

function mainTable(rows: readonly Row[]): string[] {
  const lengths = [...new Set(rows.map(({ n }) => n))].sort((a, b) => a - b);
  return [
    '| tokens | engine | ms | × our dense | × PyTorch f32 | × PyTorch bf16 | × original, k = 20 | decode ms | × our dense | error | mass kept | tiles read |',
    '| ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |',
    ...lengths.flatMap((length) => {
      const here = rows.filter(({ n }) => n === length);
      const of = (candidate: string): Row | undefined =>
        here.find((row) => row.candidate === candidate);
      const dense = of('iceformer dense') ?? of('iceformer dense-f32');
      return here.map((row) => {
        const over = (other: Row | undefined): string => (other ? short(other.ms / row.ms) : '');
        const decodeOver =
          dense?.decodeMs === undefined || row.decodeMs === undefined
            ? ''
            : short(dense.decodeMs / row.decodeMs);
        const mass =
          row.massBound === undefined
            ? percent(row.retainedMass)
            : `at most ${percent(row.massBound)}`;
        return `| ${[
          length,
          row.candidate,
          short(row.ms),
          over(dense),
          over(of('torch-f32')),
          over(of('torch-bf16')),
          over(of('original, k = 20')),
          row.decodeMs === undefined ? '' : short(row.decodeMs),
          decodeOver,
          row.error.toPrecision(2),
          mass,
          percent(row.tilesRead),
        ].join(' | ')} |`;
      });
    }),
  ];
}

function growthLines({ growth, growthFrom, crossings }: Report, kind: TensorKind): string[] {
  const fits = growth.filter((fit) => fit.kind === kind);
  const crossed = crossings.filter((crossing) => crossing.kind === kind);
  return [
    ...(fits.length > 0
      ? [
          '',
          `Growth from ${growthFrom} tokens on (time = constant × tokens^exponent, fitted through all lengths of an engine):`,
          '',
          '| engine | exponent | lengths |',
          '| --- | ---: | --- |',
          ...fits.map(
            ({ candidate, exponent, lengths }) =>
              `| ${candidate} | ${exponent.toFixed(2)} | ${lengths.join(', ')} |`,
          ),
        ]
      : []),
    ...(crossed.length > 0
      ? [
          '',
          'Faster than our dense attention, and from there on:',
          '',
          ...crossed.map(({ candidate, tokens, always }) => {
            const where = always
              ? 'at every length measured'
              : tokens === undefined
                ? 'at no length measured'
                : `from about ${Math.round(tokens)} tokens`;
            return `- ${candidate}: ${where}`;
          }),
        ]
      : []),
  ];
}

function equalTable({ equal, originalHeads }: Report, kind: TensorKind): string[] {
  const mine = equal.filter((comparison) => comparison.kind === kind);
  if (mine.length === 0) return [];
  return [
    '',
    `At equal output error: the original's time (of ${originalHeads} query heads of the middle layer, scaled to all), and the fastest of ours whose error on the same heads is no larger:`,
    '',
    '| tokens | k | error | original ms | ours | error | ms | times faster |',
    '| ---: | ---: | ---: | ---: | --- | ---: | ---: | ---: |',
    ...mine.map(({ n, neighbours, error, ms, ours }) => {
      const cells = ours
        ? [ours.candidate, ours.error.toPrecision(2), short(ours.ms), short(ms / ours.ms)]
        : ['none so exact', '', '', ''];
      return `| ${[n, neighbours, error.toPrecision(2), short(ms), ...cells].join(' | ')} |`;
    }),
  ];
}
