/** One process of one engine: builds an index of one kind and searches it with several settings. */
export interface EngineJob {
  /** Folder of the datasets. */
  folder: string;
  /** Name of the dataset. */
  data: string;
  /** Search with so many threads, one after the other. */
  threads: number[];
  /** Build anew for each number of threads; otherwise once, with the first number. */
  rebuild: boolean;
  /** What kind of index, in the engine's own words. */
  index: Record<string, string | number | boolean>;
  /** What searches, in the engine's own words. */
  searches: Setting[];
  /** Only so many sets of the dataset. */
  sets?: number;
  /** Only every n-th query, so that so many remain of each set. */
  queries?: number;
  /** Single queries to time one by one at one thread; none if absent. */
  singles?: number;
  /** Where a peer lies that is not found by its name. */
  entry?: string;
}

export type Setting = Record<string, number | boolean>;

export interface EngineResult {
  /** Name, version, SIMD level as the engine says them. */
  engine: string;
  /** Bytes of all indexes as the engine counts them; 0 if it does not. */
  indexBytes: number;
  /** Growth of the process's resident memory by building. */
  grownBytes: number;
  /** Bytes of the vectors as f32. */
  rawBytes: number;
  /** Sets that were indexed, one after the other. */
  sets: number;
  /** Queries per set. */
  queries: number;
  runs: ThreadsResult[];
}

/** What was measured with one number of threads. Seconds are sums over the sets. */
export interface ThreadsResult {
  threads: number;
  /** Absent if the index of another run was searched. */
  buildSeconds?: number;
  points: Point[];
}

export interface Point {
  setting: Setting;
  seconds: number;
  /** Share of the true k nearest found, 0 to 1. */
  recall: number;
  /** Seconds of single queries. */
  single?: { median: number; p95: number };
}
