import type { GenerationSummary, ModelInfo, PrefillProgress } from '@iceformer/transformer';
import {
  formatBytes,
  formatColumns,
  formatCount,
  formatCounted,
  formatDuration,
  formatRate,
  formatShare,
} from './figures.ts';

/** Attention in one line, for people. */
export function formatAttention(
  name: string,
  { retainedMass, tilesRead }: { retainedMass: number; tilesRead: number },
): string {
  return `${name}, ${formatShare(retainedMass)} of the attention mass kept, ${formatShare(tilesRead)} of the key tiles read`;
}

/** What a generation did, in lines for people. `progress`: the last one reported. */
export function formatGeneration(
  summary: GenerationSummary,
  info: ModelInfo,
  attention: string,
  progress: PrefillProgress | undefined,
  maxTokens: number,
): string {
  const { peakRssBytes, cacheBytes, simd, tilesRead } = summary;
  return formatColumns([
    ['prompt', promptLine(summary, progress)],
    ['answer', answerLine(summary)],
    ...(tilesRead > 0 ? [['attention', formatAttention(attention, summary)]] : []),
    ['memory', `${formatBytes(peakRssBytes)} at most, keys and values ${formatBytes(cacheBytes)}`],
    ['machine', `${simd}, ${formatCounted(info.threads, 'thread')}, ${info.dtype} weights`],
    ['end', endLine(summary, maxTokens)],
  ]);
}

function endLine({ stopReason, generatedTokens }: GenerationSummary, maxTokens: number): string {
  switch (stopReason) {
    case 'eos':
      return 'the model ended its answer';
    case 'stop':
      return 'a --stop text came';
    case 'length':
      return generatedTokens < maxTokens
        ? 'the context is full (--context)'
        : `the answer reached --max-tokens ${maxTokens}`;
    case 'aborted':
      return 'stopped early';
  }
}

function promptLine(
  { promptTokens, prefillMs, prefillTokensPerSecond }: GenerationSummary,
  progress: PrefillProgress | undefined,
): string {
  if (promptTokens === 0) return 'not begun';
  const processed = progress?.processed ?? 0;
  // Stopped early: what was not read must not look as if it had been.
  const of = processed < promptTokens ? `${formatCount(processed)} of ` : '';
  const rate =
    prefillTokensPerSecond > 0 ? ` (${formatRate(prefillTokensPerSecond)} tokens/s)` : '';
  return `${of}${formatCounted(promptTokens, 'token')} in ${formatDuration(prefillMs)}${rate}`;
}

function answerLine({
  generatedTokens,
  decodeMs,
  decodeTokensPerSecond,
  firstTokenMs,
}: GenerationSummary): string {
  if (generatedTokens === 0) return 'none';
  const rate = decodeTokensPerSecond > 0 ? ` (${formatRate(decodeTokensPerSecond)} tokens/s)` : '';
  const tokens = formatCounted(generatedTokens, 'token');
  return `${tokens} in ${formatDuration(decodeMs)}${rate}, the first after ${formatDuration(firstTokenMs)}`;
}
