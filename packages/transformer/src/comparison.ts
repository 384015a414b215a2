import { CallCancelled } from './call-cancelled.ts';
import { checkWindow, logSumExp, requireFiniteLoss } from './perplexity.ts';
import type { CallContext } from './protocol.ts';
import type { AttentionChoice } from './runtime-options.ts';
import type { Sequence } from './sequence.ts';

/** A comparison as the worker gets it. */
export interface ComparisonParams {
  tokens: Uint32Array;
  /** Window length in tokens. */
  context: number;
  /** The ways to attend that are compared with dense. */
  attention: readonly AttentionChoice[];
  /** Positions scored in a window at most, evenly spread over its second half. */
  scored: number;
  /**
   * If above 0, so many of a window's last tokens are run one at a time, as an answer is, after all others were read
   * densely in every pass; their predictions are scored.
   */
  decode: number;
  /** Of these, positions at which whole distributions are compared. */
  divergences: number;
  /** Put in the place of each window's first token; null if the tokenizer adds none. */
  bosToken: number | null;
}

/** Sent after each pass over a window. */
export interface ComparisonProgress {
  /** Passes done. */
  done: number;
  /** Passes in all: windows times ways to attend, dense included. */
  total: number;
}

/** What one key/value head of a layer did in a pass, the mean of the windows. */
export interface ComparedHead {
  strategy: string;
  /** Mean share of attention that the keys read hold, 0 to 1; `null` where it is not known. */
  retainedMass: number | null;
  /** Share of key tiles read, 0 to 1. */
  tilesRead: number;
}

/** What one layer did in a pass, the mean of the windows; the time is the sum. */
export interface ComparedLayer extends ComparedHead {
  /** One entry for each key/value head, where the cache tells them apart. */
  heads?: ComparedHead[];
  /** Time in attention, cache and selection included. */
  attentionMs: number;
}

/** What one way to attend made of the text. */
export interface ComparedPass {
  /** Negative log-likelihood of each scored token, in nats. */
  losses: Float32Array;
  /** 1 where the likeliest next token is that of dense attention. */
  agreements: Uint8Array;
  /** Kullback-Leibler divergence of this pass's next-token distribution from dense attention's, in nats. */
  divergences: Float32Array;
  /** Mean share of attention that the keys read hold, 0 to 1. */
  retainedMass: number;
  /** Share of key tiles read of those a dense causal pass reads, 0 to 1. */
  tilesRead: number;
  /** Per layer, the mean of the windows; times are sums. */
  layers: ComparedLayer[];
  /** Time to read all windows, without logits. */
  prefillMs: number;
  /** Of these, in attention. */
  attentionMs: number;
}

/** The same windows of a text, read with dense attention and in other ways. */
export interface ComparisonResult {
  /** Window length in tokens. */
  context: number;
  /** Windows measured. */
  windows: number;
  /** Tokens scored, in all windows. */
  tokens: number;
  dense: ComparedPass;
  /** In the order of the ways asked for. */
  passes: ComparedPass[];
}

/** One way to attend: a sequence, and what its layers did. */
export interface MeasuredSequence {
  readonly sequence: Sequence;
  /** Since the last rewind. */
  layers(): ComparedLayer[];
  close(): void;
}

/** Rows of logits held at once, besides those of dense attention that are kept for comparison. */
const ROW_BLOCK = 32;

/** Dense attention's answer at the positions of one window. */
interface Reference {
  /** Likeliest token at each scored position. */
  top: Uint32Array;
  /** Logits at the compared positions, `[divergences, vocabSize]`. */
  logits: Float32Array;
  /** log Σ exp of each row of `logits`. */
  normalizers: Float64Array;
}

/**
 * Reads each window first with dense attention, then in every other way, and compares what they predict, token by
 * token. Windows and scoring are those of `measurePerplexity`.
 *
 * @param open - makes a sequence that attends this way; undefined is dense
 * @param contextLength - most tokens a sequence may have
 */
export function compareWithDense(
  open: (attention: AttentionChoice | undefined) => MeasuredSequence,
  contextLength: number,
  { tokens, context, attention, scored, decode, divergences, bosToken }: ComparisonParams,
  call: CallContext<ComparisonProgress>,
): ComparisonResult {
  checkWindow(tokens.length, context, contextLength);
  const windows = Math.floor(tokens.length / context);
  const firstScored = decode > 0 ? context - decode : Math.floor(context / 2);
  const positions = spread(firstScored, context - 1, scored);
  const compared = spread(0, positions.length, divergences);
  const empty = (): ComparedPass => ({
    losses: new Float32Array(windows * positions.length),
    agreements: new Uint8Array(windows * positions.length),
    divergences: new Float32Array(windows * compared.length),
    retainedMass: 0,
    tilesRead: 0,
    layers: [],
    prefillMs: 0,
    attentionMs: 0,
  });
  const dense = empty();
  const passes = attention.map(empty);
  const total = windows * (1 + passes.length);
  let done = 0;
  for (let window = 0; window < windows; window++) {
    const targets = tokens.subarray(window * context, (window + 1) * context);
    const input = targets.slice();
    if (bosToken !== null) input[0] = bosToken;
    const reference: Reference = {
      top: new Uint32Array(positions.length),
      logits: new Float32Array(0),
      normalizers: new Float64Array(compared.length),
    };
    const read = (choice: AttentionChoice | undefined, pass: ComparedPass): void => {
      const measured = open(choice);
      try {
        const { sequence } = measured;
        const { vocabSize } = sequence;
        const isDense = choice === undefined;
        if (isDense) reference.logits = new Float32Array(compared.length * vocabSize);
        let next = 0; // of the compared positions
        pass.prefillMs += readWindow(sequence, input, positions, decode, call, (index, row) => {
          const at = window * positions.length + index;
          const { top, normalizer } = logSumExp(row);
          const target = targets[(positions[index] as number) + 1] as number;
          pass.losses[at] = normalizer - (row[target] as number);
          if (isDense) reference.top[index] = top;
          pass.agreements[at] = top === reference.top[index] ? 1 : 0;
          if (compared[next] !== index) return;
          const kept = reference.logits.subarray(next * vocabSize, (next + 1) * vocabSize);
          if (isDense) {
            kept.set(row);
            reference.normalizers[next] = normalizer;
          } else {
            pass.divergences[window * compared.length + next] = divergence(
              kept,
              reference.normalizers[next] as number,
              row,
              normalizer,
            );
          }
          next++;
        });
        addReport(pass, sequence, measured.layers(), windows);
      } finally {
        measured.close();
      }
      done++;
      call.emit({ done, total });
    };
    read(undefined, dense);
    for (const [index, choice] of attention.entries()) read(choice, passes[index] as ComparedPass);
  }
  for (const { losses } of [dense, ...passes]) {
    requireFiniteLoss(losses.reduce((sum, loss) => sum + loss, 0) / losses.length);
  }
  return { context, windows, tokens: windows * positions.length, dense, passes };
}

/** At most `count` whole numbers from `start` to before `end`, evenly spread and ascending. */
function spread(start: number, end: number, count: number): Uint32Array {
  const all = Math.max(0, end - start);
  const taken = Math.min(count, all);
  return Uint32Array.from(
    { length: taken },
    (_, index) => start + Math.floor((index * all) / taken),
  );
}

/**
 * Reads one window and shows the logits at each position, in order.
 *
 * @param decode - so many of the last tokens run one at a time, the others densely; 0: all run in chunks, as the sequence
 *   attends
 * @param see - gets the position's number in `positions` and its logits, `[vocabSize]`, which are overwritten later
 * @returns milliseconds of reading, without logits
 */
function readWindow(
  sequence: Sequence,
  input: Uint32Array,
  positions: Uint32Array,
  decode: number,
  call: CallContext<ComparisonProgress>,
  see: (index: number, row: Float32Array) => void,
): number {
  const { vocabSize, maxChunk } = sequence;
  const rows = new Uint32Array(ROW_BLOCK);
  const logits = new Float32Array(ROW_BLOCK * vocabSize); // [ROW_BLOCK, vocabSize]
  const cancelled = (): boolean => call.cancelled();
  let readingMs = 0;
  let next = 0;
  sequence.rewind(new Uint32Array(0), input.length);
  const prompt = input.length - decode;
  let start = 0;
  while (start < input.length) {
    const end = start < prompt ? Math.min(start + maxChunk, prompt) : start + 1;
    const chunk = input.subarray(start, end);
    const exactQueries = decode > 0 && start < prompt ? chunk.length : 0;
    const begin = performance.now();
    if (!sequence.append(chunk, cancelled, exactQueries)) throw new CallCancelled();
    readingMs += performance.now() - begin;
    while (next < positions.length && (positions[next] as number) < start + chunk.length) {
      if (cancelled()) throw new CallCancelled();
      let count = 0;
      while (count < ROW_BLOCK && next + count < positions.length) {
        const row = (positions[next + count] as number) - start;
        if (row >= chunk.length) break;
        rows[count++] = row;
      }
      sequence.logits(rows.subarray(0, count), logits.subarray(0, count * vocabSize));
      for (let row = 0; row < count; row++) {
        see(next + row, logits.subarray(row * vocabSize, (row + 1) * vocabSize));
      }
      next += count;
    }
    start += chunk.length;
  }
  return readingMs;
}

/** Σ p (log p − log q), p and q the softmax of two rows of logits whose log Σ exp are known. */
function divergence(p: Float32Array, pSum: number, q: Float32Array, qSum: number): number {
  let sum = 0;
  for (let token = 0; token < p.length; token++) {
    const logP = (p[token] as number) - pSum;
    sum += Math.exp(logP) * (logP - (q[token] as number) + qSum);
  }
  // Rounding can leave a little less than nothing.
  return Math.max(0, sum);
}

function addReport(
  pass: ComparedPass,
  sequence: Sequence,
  layers: ComparedLayer[],
  windows: number,
): void {
  const report = sequence.report();
  pass.retainedMass += report.retainedMass / windows;
  pass.tilesRead += report.tilesRead / windows;
  const before = pass.layers;
  pass.layers = layers.map((layer, index) => {
    const sum = before[index];
    const { heads } = layer;
    return {
      ...added(sum, layer, windows),
      attentionMs: (sum?.attentionMs ?? 0) + layer.attentionMs,
      ...(heads && { heads: heads.map((head, at) => added(sum?.heads?.[at], head, windows)) }),
    };
  });
  pass.attentionMs += layers.reduce((sum, { attentionMs }) => sum + attentionMs, 0);
}

/** One window's share of a mean over all windows, added to the sum so far. */
function added(sum: ComparedHead | undefined, head: ComparedHead, windows: number): ComparedHead {
  const known = head.retainedMass !== null && sum?.retainedMass !== null;
  return {
    strategy: head.strategy,
    retainedMass: known ? (sum?.retainedMass ?? 0) + (head.retainedMass as number) / windows : null,
    tilesRead: (sum?.tilesRead ?? 0) + head.tilesRead / windows,
  };
}
