import type { EngineJob, Setting } from './engine-job.ts';

/** Programs that measure, one per library. */
export type EngineName =
  | 'iceformer'
  | 'faiss'
  | 'hnswlib'
  | 'usearch'
  | 'usearch-npm'
  | 'hnswlib-node'
  | 'dci';

/** One kind of index of one engine, with the searches to try on it. */
export interface Candidate {
  engine: EngineName;
  /** What the tables call it; candidates of one family form one curve, the best of them counts. */
  family: string;
  index: EngineJob['index'];
  searches: Setting[];
  /** Too slow to measure in every round, and no contender. */
  once?: boolean;
  /** Only so many sets and queries per set, scaled up. */
  sample?: { sets: number; queries: number };
  /** Only these numbers of threads. */
  threads?: number[];
}

const over = (name: string, values: readonly number[], rest: Setting = {}): Setting[] =>
  values.map((value) => ({ [name]: value, ...rest }));

/** nprobe and refine together: few lists refined little up to many refined much. */
const pairs = (probes: readonly number[], refines: readonly number[]): Setting[] =>
  probes.flatMap((nprobe) => refines.map((refine) => ({ nprobe, refine })));

const effort = over('effort', [0.01, 0.02, 0.04, 0.08, 0.15, 0.25, 0.4, 0.6]);

function ours(large: boolean): Candidate[] {
  const family = (algorithm: string, storage = 'f32'): string =>
    `iceformer ${algorithm}${storage === 'f32' ? '' : ` ${storage}`}`;
  const candidate = (algorithm: string, searches: Setting[], storage = 'f32'): Candidate => ({
    engine: 'iceformer',
    family: family(algorithm, storage),
    index: { algorithm, storage },
    searches,
  });
  return [
    candidate('exact', [{ recall: 0.99 }, { exact: true }]),
    candidate('cluster', large ? [...over('effort', [0.0025, 0.005]), ...effort] : effort),
    candidate(
      'graph',
      over(
        'effort',
        large ? [0.0003, 0.0006, 0.0012, 0.0025, 0.005, 0.01, 0.02] : [0.01, 0.03, 0.1],
      ),
    ),
  ];
}

const flat: Candidate = {
  engine: 'faiss',
  family: 'faiss flat',
  index: { factory: 'Flat' },
  searches: [{}],
};

/** (a): a small index for each head, thrown away after its queries. */
export function headCandidates(n: number): Candidate[] {
  const ef = over('ef', [64, 128, 256, 512, 1024]);
  const lists = n < 8192 ? [32, 64, 128] : [64, 128, 256];
  return sampleGraphs(15, 2048, [
    ...ours(false),
    {
      engine: 'iceformer',
      family: 'iceformer dci',
      index: { algorithm: 'dci' },
      searches: over('effort', [0.02, 0.05, 0.1, 0.2, 0.4]),
    },
    flat,
    ...lists.flatMap((count): Candidate[] =>
      // k-means of a few rounds costs a fraction and loses little: either may be the better bargain.
      [4, 10].map((iterations) => ({
        engine: 'faiss',
        family: 'faiss IVF',
        index: { factory: `IVF${count},Flat`, iterations },
        searches: over(
          'nprobe',
          [2, 4, 8, 16, 32].filter((nprobe) => nprobe <= count),
        ),
      })),
    ),
    {
      engine: 'faiss',
      family: 'faiss IVF SQ8',
      index: { factory: 'IVF64,SQ8', iterations: 4 },
      searches: over('nprobe', [8, 16, 32, 64]),
    },
    {
      engine: 'faiss',
      family: 'faiss PQ fast-scan',
      index: { factory: 'PQ32x4fs,RFlat', iterations: 4 },
      searches: over('refine', [2, 4, 8, 16]),
    },
    {
      engine: 'faiss',
      family: 'faiss IVF PQ fast-scan',
      index: { factory: 'IVF64,PQ32x4fs,RFlat', iterations: 4 },
      searches: pairs([8, 16, 32], [4, 8]),
    },
    {
      engine: 'faiss',
      family: 'faiss HNSW',
      index: { factory: 'HNSW16,Flat', efConstruction: 40 },
      searches: ef,
    },
    ...graphs({
      hnswlib: [16, 32].map((M) => ({ M, efConstruction: 100 })),
      efConstruction: 100,
      ef,
      npmEf: [128, 512],
    }),
    {
      engine: 'dci',
      family: 'DCI (dciknn)',
      index: { composite: 2, simple: 7, levels: 2 },
      searches: [50, 100].flatMap((fieldOfView) =>
        over('retrieve', [0.05, 0.2, 0.8], { fieldOfView }),
      ),
      once: true,
      sample: { sets: 3, queries: 256 },
    },
    {
      engine: 'dci',
      family: 'DCI (dciknn)',
      index: { composite: 2, simple: 4, levels: 3 },
      searches: [100, 200, 400, 800].flatMap((fieldOfView) => [{ retrieve: 0.8, fieldOfView }]),
      once: true,
      sample: { sets: 3, queries: 256 },
    },
  ]);
}

/** (b): a million vectors. */
export function poolCandidates(): Candidate[] {
  const ef = over('ef', [80, 320, 640, 1280, 2560, 5120]);
  const nprobe = over('nprobe', [16, 64, 128, 256, 512, 1024]);
  return sampleGraphs(1, 2048, [
    ...ours(true),
    flat,
    ...[1024, 4096].map(
      (lists): Candidate => ({
        engine: 'faiss',
        family: 'faiss IVF',
        index: { factory: `IVF${lists},Flat`, iterations: 10 },
        searches: nprobe,
      }),
    ),
    {
      engine: 'faiss',
      family: 'faiss IVF PQ fast-scan',
      index: { factory: 'IVF1024,PQ32x4fs,RFlat', iterations: 10 },
      searches: pairs([16, 64, 256], [16, 64]),
    },
    {
      engine: 'faiss',
      family: 'faiss IVF SQ8',
      index: { factory: 'IVF1024,SQ8', iterations: 10 },
      searches: nprobe,
    },
    {
      engine: 'faiss',
      family: 'faiss HNSW',
      index: { factory: 'HNSW16,Flat', efConstruction: 100 },
      searches: ef,
    },
    ...graphs({ ...LARGE_GRAPHS, ef }),
  ]);
}

/** (c): sentence embeddings. */
export function passageCandidates(): Candidate[] {
  const ef = over('ef', [10, 20, 40, 80, 160, 320]);
  const nprobe = over('nprobe', [2, 4, 8, 16, 32, 64, 128]);
  return [
    ...ours(true),
    flat,
    ...[128, 512].map(
      (lists): Candidate => ({
        engine: 'faiss',
        family: 'faiss IVF',
        index: { factory: `IVF${lists},Flat`, iterations: 10 },
        searches: nprobe,
      }),
    ),
    {
      engine: 'faiss',
      family: 'faiss PQ fast-scan',
      index: { factory: 'PQ192x4fs,RFlat', iterations: 10 },
      searches: over('refine', [1, 2, 4, 8, 16]),
    },
    {
      engine: 'faiss',
      family: 'faiss IVF PQ fast-scan',
      index: { factory: 'IVF256,PQ192x4fs,RFlat', iterations: 10 },
      searches: pairs([8, 16, 32, 64, 128], [2, 8]),
    },
    {
      engine: 'faiss',
      family: 'faiss IVF SQ8',
      index: { factory: 'IVF256,SQ8', iterations: 10 },
      searches: nprobe,
    },
    {
      engine: 'faiss',
      family: 'faiss HNSW',
      index: { factory: 'HNSW16,Flat', efConstruction: 100 },
      searches: ef,
    },
    ...graphs({ ...LARGE_GRAPHS, ef }),
    {
      engine: 'usearch',
      family: 'usearch i8',
      index: { M: 16, efConstruction: 128, dtype: 'i8', metric: 'cos' },
      searches: ef,
    },
  ];
}

/**
 * Graphs of others take each query by itself, so that fewer queries, spread over all, tell as much; all of them would
 * take hours at the efforts that high recall needs here.
 */
function sampleGraphs(sets: number, queries: number, candidates: Candidate[]): Candidate[] {
  const isGraph = ({ engine, searches }: Candidate): boolean =>
    engine !== 'iceformer' && searches.some((setting) => 'ef' in setting);
  return candidates.map((candidate) =>
    isGraph(candidate) ? { ...candidate, sample: { sets, queries } } : candidate,
  );
}

/** How the graphs of others are built and searched. */
interface GraphSettings {
  hnswlib: { M: number; efConstruction: number }[];
  /** Of both usearch. */
  efConstruction: number;
  ef: Setting[];
  /** The packages of npm are measured once. */
  npmEf: number[];
}

const LARGE_GRAPHS: Omit<GraphSettings, 'ef'> = {
  hnswlib: [100, 200].map((efConstruction) => ({ M: 16, efConstruction })),
  efConstruction: 128,
  npmEf: [40, 160],
};

function graphs({ hnswlib, efConstruction, ef, npmEf }: GraphSettings): Candidate[] {
  return [
    ...hnswlib.map(
      (index): Candidate => ({ engine: 'hnswlib', family: 'hnswlib', index, searches: ef }),
    ),
    ...['f32', 'bf16'].map(
      (dtype): Candidate => ({
        engine: 'usearch',
        family: `usearch ${dtype}`,
        index: { M: 16, efConstruction, dtype, metric: 'ip' },
        searches: ef,
      }),
    ),
    {
      engine: 'usearch-npm',
      family: 'usearch (npm)',
      index: { M: 16, efConstruction },
      searches: over('ef', npmEf),
      once: true,
    },
    {
      engine: 'hnswlib-node',
      family: 'hnswlib-node',
      index: { M: 16, efConstruction: 100 },
      searches: over('ef', npmEf),
      once: true,
    },
  ];
}

/** For a quick check that everything works: ours only. */
export function smokeCandidates(): Candidate[] {
  return ours(false)
    .filter(({ family }) => family !== 'iceformer graph')
    .map((candidate) => ({ ...candidate, sample: { sets: 1, queries: 512 } }));
}
