import type { AttentionFigure } from './attention-alone.ts';
import type { RunLevel } from './levels.ts';
import { type MachineLimits, type ModelSize, type Precision, roofline } from './limits.ts';
import type { Machine } from './machine.ts';
import type { PasskeyFigure } from './passkeys.ts';
import type { Engine, Failure, Sample } from './schedule.ts';

/** Medians of one engine at one length. */
export interface Row {
  engine: string;
  length: number;
  /** What the engine says of itself. */
  description: string;
  runs: number;
  prefillMs: number;
  prefillTokensPerSecond: number;
  decodeMsPerToken: number;
  peakRssBytes: number;
  /** Speed over that of the fastest engine at this length that is not ours. */
  prefillRatio?: number;
  decodeRatio?: number;
  /** The machine's least time for the work of dense attention over the time taken; ours only. */
  prefillShare?: number;
  decodeShare?: number;
  retainedMass?: number;
  tilesRead?: number;
  /** Generated tokens equal to those of dense attention, counted from the first until they part; of how many. */
  agreement?: [number, number];
}

/** Rows of the engines at every length for which there are samples. */
export function summarise(
  samples: readonly Sample[],
  engines: readonly Engine[],
  size: ModelSize,
  limits: MachineLimits | undefined,
): Row[] {
  const lengths = [...new Set(samples.map((sample) => sample.length))];
  return lengths.flatMap((length) => {
    const at = (engine: string): Sample[] =>
      samples.filter((sample) => sample.length === length && sample.engine === engine);
    const reference = at('iceformer dense')[0] ?? at('iceformer dense-f32')[0];
    const rows = engines.flatMap(({ name, options }) => {
      const runs = at(name);
      return runs.length > 0 ? [rowOf(runs, options, reference, size, limits)] : [];
    });
    const peers = rows.filter(({ engine }) => !isOurs(engine));
    if (peers.length === 0) return rows;
    const prefill = Math.min(...peers.map(({ prefillMs }) => prefillMs));
    const decode = Math.min(...peers.map(({ decodeMsPerToken }) => decodeMsPerToken));
    return rows.map((row) => ({
      ...row,
      prefillRatio: prefill / row.prefillMs,
      decodeRatio: decode / row.decodeMsPerToken,
    }));
  });
}

const isOurs = (engine: string): boolean => engine.startsWith('iceformer');

function rowOf(
  runs: readonly Sample[],
  { dtype, kvDtype }: Engine['options'],
  reference: Sample | undefined,
  size: ModelSize,
  limits: MachineLimits | undefined,
): Row {
  const first = runs[0] as Sample;
  const { engine, length, description, retainedMass, tilesRead } = first;
  const prefillMs = median(runs.map((sample) => sample.prefillMs));
  const decodeMsPerToken =
    median(runs.map((sample) => sample.decodeMs)) / (first.generated.length - 1);
  const limit =
    isOurs(engine) && limits
      ? roofline(size, limits, dtype as Precision, kvDtype as Precision, length)
      : undefined;
  return {
    engine,
    length,
    description,
    runs: runs.length,
    prefillMs,
    prefillTokensPerSecond: (length / prefillMs) * 1000,
    decodeMsPerToken,
    peakRssBytes: Math.max(...runs.map((sample) => sample.peakRssBytes)),
    ...(limit?.prefillMs === undefined ? {} : { prefillShare: limit.prefillMs / prefillMs }),
    ...(limit === undefined ? {} : { decodeShare: limit.decodeMs / decodeMsPerToken }),
    ...(retainedMass === undefined ? {} : { retainedMass }),
    ...(tilesRead === undefined ? {} : { tilesRead }),
    ...(reference ? { agreement: agreement(first.generated, reference.generated) } : {}),
  };
}

export interface Report {
  machine: Machine;
  level: RunLevel;
  threads: number;
  /** Rounds begun. */
  rounds: number;
  /** Tokens the model was trained on. */
  window: number;
  limits: MachineLimits | undefined;
  rows: readonly Row[];
  attention: readonly AttentionFigure[];
  passkeys: readonly PasskeyFigure[];
  failures: readonly Failure[];
}

const percent = (share?: number): string =>
  share === undefined ? '' : `${(share * 100).toFixed(1)} %`;

export function toMarkdown(report: Report): string {
  const { machine, limits, rows, attention, failures, rounds, window } = report;
  const simd = machine.cpuFlags
    .split(' ')
    .filter((flag) => /avx|amx|asimd|sve|f16c|fma|bf16/.test(flag));
  const memory = (machine.memoryBytes / 2 ** 30).toFixed(0);
  const lines = [
    `${machine.cpu}, ${machine.cores} cores, ${memory} GiB, ${machine.platform}, Node ${machine.node}, ${report.threads} threads.`,
    `CPU flags: ${simd.join(' ')}.`,
    ...(limits ? [limitsLine(limits)] : []),
    ...(report.level === 'native' ? [] : [restricted(report.level)]),
    '',
    '| prompt | engine | first token after | prefill tokens/s | × best peer | of the limit | decode ms/token | × best peer | of the limit | peak memory | mass kept | tiles read | same tokens as dense |',
    '| ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |',
    ...rows.map((row) =>
      [
        '',
        row.length,
        row.engine,
        `${(row.prefillMs / 1000).toFixed(2)} s`,
        row.prefillTokensPerSecond.toFixed(0),
        row.prefillRatio?.toFixed(2) ?? '',
        percent(row.prefillShare),
        row.decodeMsPerToken.toFixed(1),
        row.decodeRatio?.toFixed(2) ?? '',
        percent(row.decodeShare),
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
    `Medians of ${rounds} interleaved rounds, each measurement in a fresh process; peak memory is the largest. The best peer is the fastest engine that is not IceFormer. The limit is the time that the products of dense attention and of the linear layers take at the measured peak of the weights' type (attention in bf16 where they are int8), and for decode that of reading weights and cache once: sparse attention may pass it.`,
    ...(rows.some(({ length }) => length >= window)
      ? [
          `Past the model's ${window} tokens PyTorch and IceFormer stretch RoPE (YaRN); the interfaces of llama.cpp and OpenVINO GenAI used here have no setting for it, so theirs are plain positions: the same work, other tokens.`,
        ]
      : []),
    ...(attention.length > 0 ? attentionTable(attention) : []),
    ...(report.passkeys.length > 0 ? passkeyTable(report.passkeys) : []),
    '',
    ...[...new Set(rows.map(({ engine, description }) => `- ${engine}: ${description}`))],
    ...(failures.length > 0
      ? [
          '',
          'Not measured:',
          '',
          ...failures.map(
            ({ engine, length, reason }) =>
              `- ${engine}${length === undefined ? '' : ` at ${length}`}: ${reason}`,
          ),
        ]
      : []),
  ];
  return `${lines.join('\n')}\n`;
}

function limitsLine({ simd, threads, f32, bf16, int8, readGBs }: MachineLimits): string {
  const peaks = Object.entries({ f32, bf16, int8 }).map(
    ([name, peak]) => `${name} ${peak === null ? 'not measured' : peak.toFixed(0)}`,
  );
  return `Measured limits at ${simd}, ${threads} threads: ${peaks.join(', ')} (10⁹ operations/s), reading ${readGBs.toFixed(1)} GB/s.`;
}

function restricted(level: RunLevel): string {
  const name = {
    native: 'what the machine has',
    avx2: 'AVX2',
    'avx512-vnni': 'AVX-512 without bf16 and AMX',
    avx512: 'AVX-512 without AMX',
  }[level];
  return `**Held to ${name}**: IceFormer by ICEFORMER_SIMD; PyTorch by ATEN_CPU_CAPABILITY, ONEDNN_MAX_CPU_ISA and MKL_ENABLE_INSTRUCTIONS; OpenVINO by OV_CPU_MAX_ISA and ONEDNN_MAX_CPU_ISA; llama.cpp by taking away the builds of its kernels that need more.`;
}

function attentionTable(figures: readonly AttentionFigure[]): string[] {
  return [
    '',
    'Dense causal attention alone, one layer, 9 query and 3 key/value heads of 64 dimensions:',
    '',
    '| tokens | engine | ms | GFLOP/s | × PyTorch of that type |',
    '| ---: | --- | ---: | ---: | ---: |',
    ...figures.map((figure) => {
      const peer = figures.find(
        ({ engine, length, dtype }) =>
          engine.startsWith('torch') && length === figure.length && dtype === figure.dtype,
      );
      const ratio = peer ? (peer.ms / figure.ms).toFixed(2) : '';
      return `| ${figure.length} | ${figure.engine} | ${figure.ms.toFixed(1)} | ${figure.gigaflops.toFixed(0)} | ${ratio} |`;
    }),
  ];
}

function passkeyTable(figures: readonly PasskeyFigure[]): string[] {
  const lengths = [...new Set(figures.flatMap(({ found }) => found.map(({ length }) => length)))];
  return [
    '',
    'Pass keys found, of those hidden in prompts of so many tokens (see bench/README.md):',
    '',
    `| engine | ${lengths.join(' | ')} | all |`,
    `| --- | ${lengths.map(() => '---:').join(' | ')} | ---: |`,
    ...figures.map(({ engine, found }) => {
      const cell = (of: typeof found): string =>
        `${of.reduce((sum, f) => sum + f.found, 0)} of ${of.reduce((sum, f) => sum + f.prompts, 0)}`;
      const cells = lengths.map((length) => cell(found.filter((f) => f.length === length)));
      return `| ${engine} | ${cells.join(' | ')} | ${cell(found)} |`;
    }),
  ];
}

function agreement(tokens: readonly number[], reference: readonly number[]): [number, number] {
  const parted = tokens.findIndex((token, index) => token !== reference[index]);
  return [parted === -1 ? tokens.length : parted, reference.length];
}

export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  const upper = sorted[middle] as number;
  return sorted.length % 2 === 1 ? upper : ((sorted[middle - 1] as number) + upper) / 2;
}
