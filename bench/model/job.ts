/** One measurement, done by a fresh process of one engine. */
export interface Job {
  /** Model folder or GGUF file, whichever the engine reads. */
  model: string;
  /** Little-endian uint32 token ids; the prompt is the first `length` of them. */
  tokensFile: string;
  /** Prompt length in tokens. */
  length: number;
  /** Tokens to generate greedily after the prompt, the first one included; at least 2. */
  decode: number;
  threads: number;
  /** Settings of the one engine. */
  options: Record<string, string | number>;
}

/** What a process prints, as JSON, on the last line of its stdout. */
export interface JobResult {
  /** From handing over the prompt to having the first token. Loading the model is not in it. */
  prefillMs: number;
  /** For the `decode - 1` tokens after the first, each at the depth of the prompt. */
  decodeMs: number;
  /** Token ids generated. */
  generated: number[];
  /** Most memory the process ever held, the loaded model included. */
  peakRssBytes: number;
  /** What the engine says of itself: version, SIMD level, settings. */
  engine: string;
  /** Share of attention kept, for engines that leave some out. */
  retainedMass?: number;
  /** Share of the causal key tiles read, for engines that leave some out. */
  tilesRead?: number;
}
