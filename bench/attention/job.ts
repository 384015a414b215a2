/** Queries, keys and values of one layer, little-endian f32; each file may hold more tokens than are asked for. */
export interface TensorFiles {
  /** `[tokens, heads, headDim]`, rotated */
  q: string;
  /** `[tokens, kvHeads, headDim]`, rotated */
  k: string;
  /** `[tokens, kvHeads, headDim]` */
  v: string;
}

/** Causal attention over the first tokens of some layers, measured by a fresh process of one engine. */
export interface AttentionJob {
  layers: TensorFiles[];
  /** Tokens. */
  n: number;
  heads: number;
  kvHeads: number;
  headDim: number;
  threads: number;
  /** Passes over each layer; the fastest counts. */
  passes: number;
  /** Tokens of the end that are attended to one by one afterwards, as in decode; 0: none. */
  decode: number;
  /** Query rows whose output is wanted. */
  rows: number[];
  /** Takes those outputs: `[layers, rows, heads measured, headDim]`, little-endian f32. */
  output: string;
  /** Settings of the one engine. */
  options: Record<string, unknown>;
}

/** What one layer took and read. */
export interface LayerFigure {
  /** All tokens: handing over keys and values, and attending. */
  ms: number;
  /** One token at the end of the sequence. */
  decodeMs?: number;
  /** Share of the softmax's mass that was computed exactly, where the engine says it. */
  retainedMass?: number;
  /** Share of the causal key tiles that were read, where the engine says it. */
  tilesRead?: number;
}

/** What a process prints, as JSON, on the last line of its stdout. */
export interface AttentionResult {
  layers: LayerFigure[];
  /** Query heads that were measured. Default: all. */
  heads?: number[];
  /** What the engine says of itself: version, SIMD level, settings. */
  engine: string;
}
