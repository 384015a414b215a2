import { TransformerError } from './errors.ts';
import type { GenerationProfile } from './profile.ts';
import { ProfileClock } from './profile.ts';
import type { CallContext, GenerateEvent } from './protocol.ts';
import type { ResolvedSampling } from './sampler.ts';
import { Sampler } from './sampler.ts';
import type { AttentionReport, Sequence } from './sequence.ts';
import { StopSequences } from './stop-sequences.ts';

/** A generation as the worker gets it: everything resolved and checked. */
export interface GenerateParams {
  tokens: Uint32Array;
  /** At least 1. */
  maxTokens: number;
  sampling: ResolvedSampling;
  stop: readonly string[];
  ignoreEos: boolean;
  /** Measure where the time goes. */
  profile: boolean;
  /** When the caller asked, in milliseconds since the epoch. */
  startedAt: number;
}

/** Why a generation ended. */
export type StopReason =
  /** The model produced an end-of-text token. */
  | 'eos'
  /** A stop sequence was completed. */
  | 'stop'
  /** `maxTokens` were generated, or the context is full. */
  | 'length'
  /** The signal was aborted, the reader left its loop, or the model was closed. */
  | 'aborted';

/** What a generation did. Times are in milliseconds. */
export interface GenerationSummary {
  /** All text, without stop sequence; also text that was held back when an abort came. */
  text: string;
  /** Tokens of the prompt, special ones included. */
  promptTokens: number;
  /** Of the prompt, tokens reused from the call before. */
  cachedTokens: number;
  /** Includes the end-of-text token, if one was generated. */
  generatedTokens: number;
  /** From the beginning of the prompt's processing to its last logits. */
  prefillMs: number;
  /** From then to the end. */
  decodeMs: number;
  /** From the call of `generate`, tokenizing included, to the first token; 0 if there was none. */
  firstTokenMs: number;
  /** Tokens not cached, per second of `prefillMs`. */
  prefillTokensPerSecond: number;
  /** Tokens after the first, per second of `decodeMs`. */
  decodeTokensPerSecond: number;
  /** Mean share of attention that the keys read hold, 0 to 1; 1 for dense attention. */
  retainedMass: number;
  /** Share of key tiles read of those a dense causal pass reads, 0 to 1. */
  tilesRead: number;
  /** Memory of the keys and values. */
  cacheBytes: number;
  /** Most memory this process has ever had resident. */
  peakRssBytes: number;
  /** Seed used for sampling. */
  seed: number;
  /** Why it ended. */
  stopReason: StopReason;
  /** Instruction set of the kernels, for example `avx2`. */
  simd: string;
  /** Where the time went, if `profile` was asked for. */
  profile?: GenerationProfile;
}

/**
 * Turns tokens into text, whole characters at a time. A character whose last bytes never come is
 * dropped.
 */
export interface TextStream {
  push(token: number): string;
}

/** What a generation needs of the model besides its sequence. */
export interface GenerationModel {
  sequence: Sequence;
  text: TextStream;
  eosTokens: ReadonlySet<number>;
  /** Most tokens a sequence may have. */
  contextLength: number;
  simd: string;
}

/** Checks a prompt; throws ERR_EMPTY_PROMPT, ERR_PROMPT_TOO_LONG or ERR_INVALID_TOKEN with the numbers. */
export function checkPrompt(tokens: Uint32Array, contextLength: number, vocabSize: number): void {
  if (tokens.length === 0)
    throw new TransformerError('ERR_EMPTY_PROMPT', 'the prompt has no tokens');
  if (tokens.length > contextLength) {
    throw new TransformerError(
      'ERR_PROMPT_TOO_LONG',
      `the prompt has ${tokens.length} tokens, the context holds ${contextLength}`,
      { promptTokens: tokens.length, contextLength },
    );
  }
  const position = tokens.findIndex((token) => token >= vocabSize);
  if (position !== -1) {
    throw new TransformerError(
      'ERR_INVALID_TOKEN',
      `token ${tokens[position]} at position ${position} is outside the vocabulary of ${vocabSize}`,
      { token: tokens[position], position, vocabSize },
    );
  }
}

/**
 * Last tokens of a prompt that attend to every key even where attention is sparse: here stands the question, which
 * looks for single far keys, and a selection for a block of queries can miss those. The tokens of the answer select for
 * themselves, from estimates of every single key.
 */
const EXACT_QUESTION = 128;

/** Runs one generation to its end, emitting progress and one chunk for each token. */
export function generateTokens(
  model: GenerationModel,
  params: GenerateParams,
  context: CallContext<GenerateEvent>,
): GenerationSummary {
  const { sequence, text: textStream, eosTokens } = model;
  const { tokens, sampling } = params;
  checkPrompt(tokens, model.contextLength, sequence.vocabSize);
  // The last token generated is never fed back, so it needs no place in the context.
  const limit = Math.min(params.maxTokens, model.contextLength - tokens.length + 1);
  const stops = new StopSequences(params.stop);
  const sampler = new Sampler(sequence.vocabSize, sampling);
  for (const token of tokens) sampler.observe(token);
  const cancelled = (): boolean => context.cancelled();

  const prefillStart = performance.now();
  const clock = params.profile ? new ProfileClock() : undefined;
  const cached = sequence.rewind(tokens, tokens.length + limit - 1);
  const progress = (processed: number): void => {
    const timeMs = performance.now() - prefillStart;
    context.emit({
      kind: 'prefill',
      progress: { total: tokens.length, cached, processed, timeMs },
    });
  };
  progress(cached);
  let processed = cached;
  let stopReason: StopReason | undefined;
  while (processed < tokens.length) {
    const chunk = tokens.subarray(processed, processed + sequence.maxChunk);
    const question = Math.max(processed, tokens.length - EXACT_QUESTION);
    const exactQueries = Math.max(0, processed + chunk.length - question);
    clock?.lap('rest');
    if (!sequence.append(chunk, cancelled, exactQueries, clock)) {
      stopReason = 'aborted';
      break;
    }
    processed += chunk.length;
    progress(processed);
  }

  const logits = new Float32Array(sequence.vocabSize);
  clock?.lap('rest');
  if (stopReason === undefined) sequence.lastLogits(logits);
  clock?.lap('logits');
  clock?.startDecode();
  const decodeStart = performance.now();
  let firstTokenMs = 0;
  let generated = 0;
  let text = '';
  const next = new Uint32Array(1);
  while (stopReason === undefined) {
    const token = sampler.sample(logits);
    sampler.observe(token);
    clock?.lap('sampling');
    generated++;
    if (generated === 1)
      firstTokenMs = performance.timeOrigin + performance.now() - params.startedAt;
    const eos = !params.ignoreEos && eosTokens.has(token);
    const last = eos || generated === limit;
    const { text: certain, stopped } = eos
      ? { text: '', stopped: false }
      : stops.push(textStream.push(token));
    const piece = last && !stopped ? certain + stops.flush() : certain;
    text += piece;
    context.emit({ kind: 'token', chunk: { text: piece, token } });
    if (stopped) stopReason = 'stop';
    else if (eos) stopReason = 'eos';
    else if (last) stopReason = 'length';
    else {
      next[0] = token;
      clock?.lap('rest');
      if (sequence.append(next, cancelled, 0, clock)) {
        clock?.lap('rest');
        sequence.lastLogits(logits);
        clock?.lap('logits');
      } else stopReason = 'aborted';
    }
  }
  if (stopReason === 'aborted') text += stops.flush();

  const end = performance.now();
  clock?.lap('rest');
  const report = sequence.report();
  return {
    text,
    promptTokens: tokens.length,
    cachedTokens: cached,
    generatedTokens: generated,
    prefillMs: decodeStart - prefillStart,
    decodeMs: end - decodeStart,
    firstTokenMs,
    prefillTokensPerSecond: perSecond(processed - cached, decodeStart - prefillStart),
    decodeTokensPerSecond: perSecond(generated - 1, end - decodeStart),
    ...report,
    peakRssBytes: process.resourceUsage().maxRSS * 1024,
    seed: sampling.seed,
    stopReason,
    simd: model.simd,
    ...(clock && { profile: clock.profile }),
  };
}

/** Summary of a generation that was aborted before it reached the worker. */
export function unstartedSummary(simd: string, seed: number): GenerationSummary {
  const report: AttentionReport = { retainedMass: 1, tilesRead: 0, cacheBytes: 0 };
  return {
    text: '',
    promptTokens: 0,
    cachedTokens: 0,
    generatedTokens: 0,
    prefillMs: 0,
    decodeMs: 0,
    firstTokenMs: 0,
    prefillTokensPerSecond: 0,
    decodeTokensPerSecond: 0,
    ...report,
    peakRssBytes: process.resourceUsage().maxRSS * 1024,
    seed,
    stopReason: 'aborted',
    simd,
  };
}

function perSecond(count: number, ms: number): number {
  return count > 0 && ms > 0 ? (count * 1000) / ms : 0;
}
