import type { Machine } from '../model/machine.ts';
import type { DatasetDescription } from './data/dataset-files.ts';
import type { Failure } from './rounds.ts';
import { bestAt, type Cost, type Curve } from './summary.ts';

export const TARGETS = [0.9, 0.95, 0.99];

/** One figure for each engine and recall. */
interface Question {
  title: string;
  cost: Cost;
  threads: number;
  show(seconds: number): string;
}

export interface Report {
  machine: Machine;
  simd: string;
  rounds: number;
  threads: readonly number[];
  /** Datasets whose indexes are thrown away after their queries, so that building counts. */
  data: readonly (DatasetDescription & { buildCounts: boolean })[];
  curves: readonly Curve[];
  failures: readonly Failure[];
}

export function toMarkdown(report: Report): string {
  const { machine, rounds, simd } = report;
  const flags = machine.cpuFlags.split(' ').filter((flag) => /avx|amx|asimd|sve|fma/.test(flag));
  const engines = [...new Set(report.curves.map(({ engine }) => engine))];
  const lines = [
    `${machine.cpu}, ${machine.cores} cores, ${(machine.memoryBytes / 2 ** 30).toFixed(0)} GiB, ${machine.platform}, Node ${machine.node}, load before ${machine.loadBefore.toFixed(1)}.`,
    `IceFormer's kernels: ${simd}. CPU flags: ${flags.join(' ')}.`,
    '',
    `Medians of ${rounds} interleaved rounds, each engine in a process of its own. Times at a recall are read off each engine's own curve between the two settings around it; the best of the kinds of index listed in bench/knn/candidates.ts counts. A dash: not reached by any setting tried.`,
    ...report.data.flatMap((about) => dataset(report, about)),
    '',
    ...engines.map((engine) => `- ${engine}`),
    ...missing(report.failures),
  ];
  return `${lines.join('\n')}\n`;
}

function dataset(report: Report, about: Report['data'][number]): string[] {
  const curves = report.curves.filter(({ data }) => data === about.name);
  const sets = about.sets > 1 ? `${about.sets} sets of ` : '';
  return [
    '',
    `## ${about.name}`,
    '',
    `${about.what}. ${sets}${about.n} vectors of ${about.dimensions} dimensions, ${about.queries} queries, recall@${about.k}.`,
    ...questions(report.threads, about.buildCounts).flatMap((question) => answer(question, curves)),
    ...building(curves, Math.max(...report.threads)),
  ];
}

function questions(threads: readonly number[], buildCounts: boolean): Question[] {
  const milliseconds = (seconds: number): string => (seconds * 1000).toFixed(seconds < 0.1 ? 1 : 0);
  const microseconds = (seconds: number): string => (seconds * 1e6).toFixed(0);
  const title = buildCounts
    ? 'Building and all queries, ms per set'
    : 'All queries in one call, ms';
  const all = threads.map(
    (count): Question => ({
      title: `${title}, ${count} thread${count > 1 ? 's' : ''}`,
      cost: buildCounts ? 'build+batch' : 'batch',
      threads: count,
      show: milliseconds,
    }),
  );
  const one = { threads: Math.min(...threads), show: microseconds };
  all.push({ ...one, title: 'One query at a time, median µs, 1 thread', cost: 'single' });
  all.push({
    ...one,
    title: 'One query at a time, 95th percentile µs, 1 thread',
    cost: 'single95',
  });
  return all;
}

/** The table for one question, and IceFormer's ratio to the best other engine. */
function answer({ title, cost, threads, show }: Question, all: readonly Curve[]): string[] {
  const curves = all.filter((curve) => curve.threads === threads);
  const families = [...new Set(curves.map(({ family }) => family))];
  const best = (of: (family: string) => boolean, target: number) =>
    bestAt(
      curves.filter(({ family }) => of(family)),
      cost,
      target,
    );
  const rows = families.map((family) => {
    const cells = TARGETS.map((target) => {
      const found = best((name) => name === family, target);
      return found ? show(found.seconds) : '–';
    });
    return `| ${family} | ${cells.join(' | ')} |`;
  });
  const ratio = (mine: (family: string) => boolean, other: (family: string) => boolean): string =>
    TARGETS.map((target) => {
      const ours = best(mine, target);
      const theirs = best(other, target);
      if (!ours || !theirs) return '–';
      const factor = (theirs.seconds / ours.seconds).toFixed(2);
      return `**${factor}** (${ours.curve.family.replace('iceformer ', '')} : ${theirs.curve.family})`;
    }).join(' | ');
  const isDci = (family: string): boolean => /dci/i.test(family);
  const dci = families.some((family) => isDci(family) && !isOurs(family))
    ? [
        `| **DCI (dciknn) / IceFormer's DCI** | ${ratio(
          (family) => isOurs(family) && isDci(family),
          (family) => !isOurs(family) && isDci(family),
        )} |`,
      ]
    : [];
  return [
    '',
    `### ${title}`,
    '',
    `| engine | ${TARGETS.map((target) => `recall ${target}`).join(' | ')} |`,
    `| --- | ${TARGETS.map(() => '---:').join(' | ')} |`,
    ...rows,
    `| **best peer / IceFormer** | ${ratio(isOurs, (family) => !isOurs(family))} |`,
    ...dci,
  ];
}

function building(all: readonly Curve[], threads: number): string[] {
  const curves = all.filter(({ buildSeconds }) => buildSeconds !== undefined);
  return [
    '',
    '### Building and memory',
    '',
    '| engine | index | threads | seconds per set | highest recall tried | bytes / raw vectors, as the engine says | as the process grew |',
    '| --- | --- | ---: | ---: | ---: | ---: | ---: |',
    ...curves
      .filter((curve) => curve.threads === threads)
      .map(({ family, index, buildSeconds = 0, points, bytesRatio, grownRatio, ...curve }) => {
        const kind = Object.entries(index).map(([name, value]) => `${name} ${value}`);
        const highest = Math.max(...points.map(({ recall }) => recall));
        const said = bytesRatio > 0 ? bytesRatio.toFixed(2) : '–';
        return `| ${family} | ${kind.join(', ')} | ${curve.threads} | ${buildSeconds.toPrecision(3)} | ${highest.toFixed(4)} | ${said} | ${grownRatio.toFixed(2)} |`;
      }),
  ];
}

function missing(failures: readonly Failure[]): string[] {
  if (failures.length === 0) return [];
  return [
    '',
    'Not measured:',
    '',
    ...failures.map(({ data, family, reason }) => `- ${data}, ${family}: ${reason}`),
  ];
}

const isOurs = (family: string): boolean => family.startsWith('iceformer');
