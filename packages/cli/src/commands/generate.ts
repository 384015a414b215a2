import { Command, type CommandUnknownOpts } from '@commander-js/extra-typings';
import type { GenerateOptions, GenerationSummary, PrefillProgress } from '@iceformer/transformer';
import type { CommandContext, Start } from '../command-context.ts';
import { defined } from '../defined.ts';
import { readDocument } from '../document.ts';
import { type Engine, loadEngine } from '../engine.ts';
import { EXIT, usageError } from '../failure.ts';
import { exitCodeOf } from '../interruption.ts';
import { toJson } from '../json.ts';
import * as option from '../options.ts';
import { formatProfile } from '../profile.ts';
import { createProgress, type Progress } from '../progress.ts';
import { toInput } from '../prompt.ts';
import { formatGeneration } from '../summary.ts';
import { printable } from '../terminal.ts';

const HELP = `
Examples:
  $ iceformer generate --file book.txt --prompt "Who built the ark?"
  $ iceformer generate --file book.txt --prompt "Who built the ark?" --attention sparse
  $ cat notes.txt | iceformer generate --file - --prompt "Summarise these notes." --max-tokens 400
  $ iceformer generate --file long.txt --prompt "Who is Ruth?" --context 65536 --rope-scaling yarn
  $ iceformer generate --file story.txt --raw --temperature 0.8 --top-p 0.95 --seed 7
  $ iceformer generate --prompt "Name three rivers." --json | jq -r .text

The answer goes to standard output, progress and the summary to standard error.
A prompt that does not fit the context is an error: nothing is ever cut off silently.
Ctrl-C ends the run with the summary so far and exit code 130; a second Ctrl-C kills it.`;

function generateFlags() {
  return new Command('generate')
    .description('answer a prompt, usually about a document')
    .optionsGroup('Input:')
    .addOption(option.model())
    .addOption(option.file())
    .addOption(option.prompt())
    .addOption(option.raw())
    .optionsGroup('Attention and context:')
    .addOption(option.attention())
    .addOption(option.plan())
    .addOption(option.context("tokens of prompt and answer together (default: the model's window)"))
    .addOption(option.scaling())
    .optionsGroup('Answer:')
    .addOption(option.maxTokens())
    .addOption(option.temperature())
    .addOption(option.topK())
    .addOption(option.topP())
    .addOption(option.minP())
    .addOption(option.repetitionPenalty())
    .addOption(option.seed())
    .addOption(option.stop())
    .optionsGroup('Machine:')
    .addOption(option.threads())
    .addOption(option.dtype())
    .addOption(option.kvDtype())
    .optionsGroup('Output:')
    .addOption(option.json())
    .addOption(option.profile())
    .addOption(option.quiet())
    .addOption(option.noColor())
    .optionsGroup('Help:')
    .addHelpText('after', HELP);
}

type GenerateFlags = ReturnType<ReturnType<typeof generateFlags>['opts']>;

/** `iceformer generate`. */
export function generateCommand(start: Start): CommandUnknownOpts {
  return generateFlags().action((flags) => start(flags, (context) => generate(flags, context)));
}

async function generate(flags: GenerateFlags, context: CommandContext): Promise<number> {
  const { terminal, interruption } = context;
  const prompt = flags.prompt === '' ? undefined : flags.prompt;
  if (flags.file === undefined && prompt === undefined) {
    throw usageError('nothing to read: give --file, --prompt, or both');
  }
  const progress = createProgress(terminal);
  let engine: Engine | undefined;
  try {
    const { stdin } = terminal.streams;
    const document =
      flags.file === undefined
        ? undefined
        : await readDocument(flags.file, stdin, interruption.signal);
    engine = await loadEngine(flags, context, progress);
    const { attention, model } = engine;
    const { summary, prefill } = await answer(
      engine,
      {
        ...toInput(document, prompt, flags.raw ?? false),
        maxTokens: flags.maxTokens,
        temperature: flags.temperature,
        profile: flags.profile ?? false,
        ...defined({
          topK: flags.topK,
          topP: flags.topP,
          minP: flags.minP,
          repetitionPenalty: flags.repetitionPenalty,
          seed: flags.seed,
          stop: flags.stop,
        }),
      },
      context,
      progress,
    );
    if (terminal.json) {
      const { dtype, kvDtype, threads, contextLength } = model.info;
      await terminal.write(
        toJson({
          ...summary,
          processedTokens: prefill?.processed ?? 0,
          attention,
          model: flags.model,
          dtype,
          kvDtype,
          threads,
          context: contextLength,
        }),
      );
    } else {
      const { info } = model;
      // Where both are seen together, something must part them.
      if (terminal.interactive && terminal.streams.stdout.isTTY) terminal.note('');
      terminal.note(
        terminal.dim(formatGeneration(summary, info, attention, prefill, flags.maxTokens)),
      );
      if (summary.profile) terminal.note(terminal.dim(formatProfile(summary.profile)));
    }
    return interruption.cause === undefined ? EXIT.ok : exitCodeOf(interruption.cause);
  } finally {
    progress.end();
    await engine?.model.close();
  }
}

/** Streams the answer (unless one JSON object is wanted) and waits for its end. */
async function answer(
  { model }: Engine,
  options: GenerateOptions,
  { terminal, interruption }: CommandContext,
  progress: Progress,
): Promise<{ summary: GenerationSummary; prefill: PrefillProgress | undefined }> {
  let prefill: PrefillProgress | undefined;
  const generation = model.generate({
    ...options,
    signal: interruption.signal,
    onPrefill(now) {
      prefill = now;
      progress.update('reading', now.processed, now.total, 'tokens');
    },
  });
  let last = '';
  for await (const { text } of generation) {
    progress.end();
    if (text === '' || terminal.json) continue;
    await terminal.write(terminal.streams.stdout.isTTY ? printable(text) : text);
    last = text;
  }
  progress.end();
  const summary = await generation.summary;
  // Files and shells expect a text to end its last line.
  if (!terminal.json && last !== '' && !last.endsWith('\n')) await terminal.write('\n');
  return { summary, prefill };
}
