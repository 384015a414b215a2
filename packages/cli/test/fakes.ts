import type { GenerateOptions, GenerationSummary, LoadModelOptions } from '@iceformer/transformer';
import type { Packages } from '../src/packages.ts';

/** What the fake packages were asked for. */
export interface Calls {
  load: LoadModelOptions[];
  generate: GenerateOptions[];
  closed: number;
}

export interface FakeOptions {
  /** The pieces of the answer. */
  pieces?: string[];
  /** Called before each piece, for example to stop the run. */
  beforePiece?: (index: number) => void;
  /** Prompt tokens done when the run is stopped inside the prompt. */
  processed?: number;
  /** `max_position_embeddings` of the model. */
  window?: number;
  /** Replaces parts of the summary. */
  summary?: Partial<GenerationSummary>;
  /** Replaces single functions. */
  loader?: Partial<Packages['loader']>;
  transformer?: Partial<Packages['transformer']>;
  evaluation?: Partial<Packages['evaluation']>;
}

const PROMPT_TOKENS = 1000;

export const SUMMARY: GenerationSummary = {
  text: '',
  promptTokens: PROMPT_TOKENS,
  cachedTokens: 0,
  generatedTokens: 3,
  prefillMs: 2000,
  decodeMs: 100,
  firstTokenMs: 2010,
  prefillTokensPerSecond: 500,
  decodeTokensPerSecond: 20,
  retainedMass: 0.987,
  tilesRead: 0.213,
  cacheBytes: 12_000_000,
  peakRssBytes: 612_000_000,
  seed: 7,
  stopReason: 'eos',
  simd: 'avx2',
};

/** Packages that answer at once, and a record of what they were asked. */
export function fakePackages(options: FakeOptions = {}): { packages: Packages; calls: Calls } {
  const calls: Calls = { load: [], generate: [], closed: 0 };
  const rotary = { theta: 10_000, headDim: 64, maxPositions: options.window ?? 8192 };
  const packages = {
    evaluation: { ...options.evaluation },
    loader: {
      resolveModel: (name: string) => Promise.resolve(`/models/${name}`),
      openModel: (path: string) =>
        Promise.resolve({ path, config: {}, close: () => Promise.resolve() }),
      ...options.loader,
    },
    sparseAttention: {
      readPlan: (json: unknown) => json,
    },
    transformer: {
      readDecoderConfig: () => ({
        layers: 30,
        rotary: { ...rotary, scaling: { type: 'default' } },
      }),
      loadModel: (load: LoadModelOptions) => {
        calls.load.push(load);
        load.onProgress?.({ done: 1, total: 2 });
        return Promise.resolve({
          info: {
            layers: 30,
            threads: 2,
            dtype: load.dtype,
            kvDtype: 'int8',
            contextLength: 8192,
            simd: 'avx2',
          },
          generate: (request: GenerateOptions) => {
            calls.generate.push(request);
            return fakeGeneration(request, options);
          },
          close: () => {
            calls.closed++;
            return Promise.resolve();
          },
        });
      },
      ...options.transformer,
    },
  };
  // The fakes have only what the commands under test use.
  return { packages: packages as unknown as Packages, calls };
}

function fakeGeneration(request: GenerateOptions, options: FakeOptions) {
  const pieces = options.pieces ?? ['Noah', ' built', ' it.'];
  const processed = options.processed ?? PROMPT_TOKENS;
  let settle: (summary: GenerationSummary) => void = () => undefined;
  const summary = new Promise<GenerationSummary>((resolve) => {
    settle = resolve;
  });
  async function* stream() {
    request.onPrefill?.({ total: PROMPT_TOKENS, cached: 0, processed, timeMs: 1000 });
    let text = '';
    let generated = 0;
    for (const [index, piece] of pieces.entries()) {
      options.beforePiece?.(index);
      if (request.signal?.aborted) break;
      text += piece;
      generated++;
      yield await Promise.resolve({ text: piece, token: index });
    }
    const stopReason = request.signal?.aborted ? 'aborted' : 'eos';
    settle({ ...SUMMARY, ...options.summary, text, generatedTokens: generated, stopReason });
  }
  const chunks = stream();
  return Object.assign(chunks, { summary });
}
