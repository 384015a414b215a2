import { Command, type CommandUnknownOpts } from '@commander-js/extra-typings';
import type { PerplexityProgress, PerplexityResult } from '@iceformer/transformer';
import type { CommandContext, Start } from '../command-context.ts';
import { readDocument } from '../document.ts';
import { type Engine, loadEngine } from '../engine.ts';
import { EXIT, isAbort } from '../failure.ts';
import { formatColumns, formatCount, formatCounted, formatDuration } from '../figures.ts';
import { toJson } from '../json.ts';
import * as option from '../options.ts';
import { createProgress } from '../progress.ts';
import { formatAttention } from '../summary.ts';

const HELP = `
The text is cut into consecutive windows of --context tokens (a shorter rest is left out). Each is
read on its own and scored on its second half, as llama-perplexity does. Lower is better.

Examples:
  $ iceformer ppl --file book.txt
  $ iceformer ppl --file book.txt --context 8192 --attention sparse
  $ iceformer ppl --file book.txt --context 4096 --plan plan.json --json | jq .perplexity`;

function pplFlags() {
  return new Command('ppl')
    .description('measure how well a model predicts a text (perplexity)')
    .optionsGroup('Input:')
    .addOption(option.model())
    .addOption(option.file().makeOptionMandatory())
    .optionsGroup('Attention and context:')
    .addOption(option.attention())
    .addOption(option.plan())
    .addOption(option.context('tokens of a window').default(2048))
    .addOption(option.scaling())
    .optionsGroup('Machine:')
    .addOption(option.threads())
    .addOption(option.dtype())
    .addOption(option.kvDtype())
    .optionsGroup('Output:')
    .addOption(option.json())
    .addOption(option.quiet())
    .addOption(option.noColor())
    .optionsGroup('Help:')
    .addHelpText('after', HELP);
}

type PplFlags = ReturnType<ReturnType<typeof pplFlags>['opts']>;

/** `iceformer ppl`. */
export function pplCommand(start: Start): CommandUnknownOpts {
  return pplFlags().action((flags) => start(flags, (context) => ppl(flags, context)));
}

async function ppl(flags: PplFlags, context: CommandContext): Promise<number> {
  const { terminal, interruption } = context;
  const { signal } = interruption;
  const progress = createProgress(terminal);
  let engine: Engine | undefined;
  try {
    const text = await readDocument(flags.file, terminal.streams.stdin, signal);
    engine = await loadEngine(flags, context, progress);
    const { model, attention } = engine;
    const tokens = await model.tokenizer.encodeAsync(text, { signal });
    progress.update('scoring', 0, Math.floor(tokens.length / flags.context), 'windows');
    const begin = performance.now();
    let latest: PerplexityProgress | undefined;
    const result = await model
      .perplexity(tokens, {
        context: flags.context,
        signal,
        onProgress(now) {
          latest = now;
          progress.update('scoring', now.done, now.total, 'windows');
        },
      })
      .catch((error: unknown) => {
        progress.end();
        if (isAbort(error) && latest !== undefined) terminal.note(soFar(latest));
        throw error;
      });
    progress.end();
    const timeMs = performance.now() - begin;
    await terminal.write(
      terminal.json
        ? toJson({
            ...result,
            attention,
            model: flags.model,
            timeMs,
            peakRssBytes: process.resourceUsage().maxRSS * 1024,
            dtype: model.info.dtype,
            kvDtype: model.info.kvDtype,
            threads: model.info.threads,
            simd: model.info.simd,
          })
        : `${formatPerplexity(result, attention, timeMs)}\n`,
    );
    return EXIT.ok;
  } finally {
    progress.end();
    await engine?.model.close();
  }
}

function soFar({ done, total, perplexity }: PerplexityProgress): string {
  return `perplexity so far ${perplexity.toFixed(4)}, after ${done} of ${formatCounted(total, 'window')}`;
}

function formatPerplexity(result: PerplexityResult, attention: string, timeMs: number): string {
  const { perplexity, standardError, tokens, windows, context } = result;
  const scored = `${formatCounted(tokens, 'token')}, the second halves of ${formatCounted(windows, 'window')} of ${formatCount(context)}`;
  return formatColumns([
    ['perplexity', `${perplexity.toFixed(4)} ± ${standardError.toFixed(4)}`],
    ['scored', scored],
    ['attention', formatAttention(attention, result)],
    ['time', formatDuration(timeMs)],
  ]);
}
