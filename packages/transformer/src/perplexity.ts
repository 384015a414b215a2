import { CallCancelled } from './call-cancelled.ts';
import { TransformerError } from './errors.ts';
import type { CallContext } from './protocol.ts';
import type { AttentionName } from './runtime-options.ts';
import type { Sequence } from './sequence.ts';

/** A measurement as the worker gets it. */
export interface PerplexityParams {
  tokens: Uint32Array;
  /** Window length in tokens. */
  context: number;
  /** Put in the place of each window's first token; null if the tokenizer adds none. */
  bosToken: number | null;
}

/** Sent after each window. */
export interface PerplexityProgress {
  /** Windows done. */
  done: number;
  /** Windows in all. */
  total: number;
  /** Perplexity of the windows done. */
  perplexity: number;
}

/** How well a model predicts a text. */
export interface PerplexityResult {
  /** exp of the mean negative log-likelihood of the scored tokens. */
  perplexity: number;
  /** Standard error of `perplexity`. */
  standardError: number;
  /** Tokens scored. */
  tokens: number;
  /** Window length in tokens. */
  context: number;
  /** Windows measured. */
  windows: number;
  /** How the model attended. */
  attention: AttentionName | 'plan';
  /** Mean share of attention that the keys read hold, 0 to 1. */
  retainedMass: number;
  /** Share of key tiles read of those a dense causal pass reads, 0 to 1. */
  tilesRead: number;
}

/** Rows of logits held at once: enough for the head's kernels, little memory at any vocabulary. */
const ROW_BLOCK = 32;

/**
 * Perplexity in llama-perplexity's convention: the text is cut into consecutive windows of
 * `context` tokens (a shorter rest is dropped), each window is a sequence of its own, and tokens in
 * its second half are scored, each given everything before it in the window. If the tokenizer adds
 * a beginning-of-text token, it takes the place of each window's first token.
 *
 * @param contextLength - most tokens a sequence may have.
 */
export function measurePerplexity(
  sequence: Sequence,
  contextLength: number,
  { tokens, context, bosToken }: PerplexityParams,
  call: CallContext<PerplexityProgress>,
): Omit<PerplexityResult, 'attention'> {
  checkWindow(tokens.length, context, contextLength);
  const { vocabSize, maxChunk } = sequence;
  const windows = Math.floor(tokens.length / context);
  const first = Math.floor(context / 2);
  const rows = new Uint32Array(ROW_BLOCK);
  const logits = new Float32Array(ROW_BLOCK * vocabSize); // [ROW_BLOCK, vocabSize]
  const cancelled = (): boolean => call.cancelled();

  let sum = 0;
  let squares = 0;
  let scored = 0;
  let retainedMass = 0;
  let tilesRead = 0;
  for (let window = 0; window < windows; window++) {
    const input = tokens.slice(window * context, (window + 1) * context);
    const targets = tokens.subarray(window * context, (window + 1) * context);
    if (bosToken !== null) input[0] = bosToken;
    sequence.rewind(new Uint32Array(0), context);
    // The last token predicts nothing inside the window, but belongs to it.
    for (let start = 0; start < context; start += maxChunk) {
      const chunk = input.subarray(start, start + maxChunk);
      if (!sequence.append(chunk, cancelled)) throw new CallCancelled();
      const end = Math.min(start + chunk.length, context - 1);
      for (let position = Math.max(start, first); position < end; position += ROW_BLOCK) {
        if (cancelled()) throw new CallCancelled();
        const count = Math.min(ROW_BLOCK, end - position);
        for (let row = 0; row < count; row++) rows[row] = position - start + row;
        sequence.logits(rows.subarray(0, count), logits.subarray(0, count * vocabSize));
        for (let row = 0; row < count; row++) {
          const target = targets[position + row + 1] as number;
          const scores = logits.subarray(row * vocabSize, (row + 1) * vocabSize);
          const loss = logSumExp(scores).normalizer - (scores[target] as number);
          sum += loss;
          squares += loss * loss;
        }
        scored += count;
      }
    }
    const report = sequence.report();
    retainedMass += report.retainedMass / windows;
    tilesRead += report.tilesRead / windows;
    call.emit({ done: window + 1, total: windows, perplexity: Math.exp(sum / scored) });
  }

  const mean = sum / scored;
  requireFiniteLoss(mean);
  const variance = Math.max(0, squares / scored - mean * mean);
  const perplexity = Math.exp(mean);
  const standardError = scored > 1 ? perplexity * Math.sqrt(variance / (scored - 1)) : 0;
  return { perplexity, standardError, tokens: scored, context, windows, retainedMass, tilesRead };
}

/** Throws ERR_NON_FINITE_LOGITS if the mean loss of a text is no number. */
export function requireFiniteLoss(mean: number): void {
  if (Number.isFinite(mean)) return;
  throw new TransformerError(
    'ERR_NON_FINITE_LOGITS',
    `the mean negative log-likelihood is ${mean}: the weights are damaged or overflow in this dtype`,
    { mean },
  );
}

/** Throws unless a text of `tokens` tokens has a window of `context` that fits the model. */
export function checkWindow(tokens: number, context: number, contextLength: number): void {
  if (!Number.isSafeInteger(context) || context < 4) {
    throw new TransformerError(
      'ERR_INVALID_ARGUMENT',
      `context must be a whole number of at least 4, got ${context}`,
      { name: 'context', value: context },
    );
  }
  if (context > contextLength) {
    throw new TransformerError(
      'ERR_PROMPT_TOO_LONG',
      `a window has ${context} tokens, the context holds ${contextLength}`,
      { promptTokens: context, contextLength },
    );
  }
  if (tokens < context) {
    throw new TransformerError(
      'ERR_TEXT_TOO_SHORT',
      `the text has ${tokens} tokens, one window needs ${context}`,
      { tokens, context },
    );
  }
}

/** log Σ exp of a row of logits, summed in double precision, and the token of the largest. */
export function logSumExp(row: Float32Array): { normalizer: number; top: number } {
  let largest = Number.NEGATIVE_INFINITY;
  let top = 0;
  for (let token = 0; token < row.length; token++) {
    const logit = row[token] as number;
    if (logit > largest) {
      largest = logit;
      top = token;
    }
  }
  let sum = 0;
  for (const logit of row) sum += Math.exp(logit - largest);
  return { normalizer: Math.log(sum) + largest, top };
}
