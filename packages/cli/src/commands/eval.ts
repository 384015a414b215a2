import { Command, type CommandUnknownOpts } from '@commander-js/extra-typings';
import type {
  DocumentQuestion,
  Estimate,
  EvaluationResult,
  NamedAttention,
} from '@iceformer/evaluation';
import type { CommandContext, Start } from '../command-context.ts';
import { defined } from '../defined.ts';
import { readDocument } from '../document.ts';
import { type Engine, loadEngine } from '../engine.ts';
import { EXIT } from '../failure.ts';
import {
  formatColumns,
  formatCount,
  formatCounted,
  formatDuration,
  formatShare,
} from '../figures.ts';
import * as option from '../options.ts';
import { checkOutputFile, writeOutputFile } from '../output-file.ts';
import { readPlanFile } from '../plan-file.ts';
import { createProgress } from '../progress.ts';
import { readQuestionFile } from '../question-file.ts';

const HELP = `
Every way to attend is compared with dense attention on the same weights, text and prompts.

Tasks:
  prediction  perplexity of the text beside dense attention's, top-1 agreement, divergence
  passkey     a number hidden in the text
  lines       one of many numbered registers (LongEval's line retrieval)
  topics      the first topics of a conversation (LongEval's topic retrieval)
  questions   questions about the text: built in for docs/corpus, or your own (--questions)

Ranges hold the true value with a probability of 95 %.

Examples:
  $ iceformer eval --file book.txt
  $ iceformer eval --file book.txt --attention accurate,balanced,fast --tasks prediction --html report.html
  $ iceformer eval --file book.txt --plan plan.json --window 8192 --json result.json`;

function evalFlags() {
  return new Command('eval')
    .description('measure what sparse attention costs in accuracy')
    .optionsGroup('Input:')
    .addOption(option.model())
    .addOption(option.file().makeOptionMandatory())
    .addOption(option.questions())
    .optionsGroup('What is compared with dense attention:')
    .addOption(option.attentionList())
    .addOption(option.plan())
    .optionsGroup('What is measured:')
    .addOption(option.tasks())
    .addOption(option.window())
    .addOption(option.windows('windows of prediction at most').default(4))
    .addOption(option.lengths())
    .addOption(option.prompts())
    .addOption(option.seed('repeat prompts and ranges').default(1))
    .addOption(option.context("most tokens of prompt and answer (default: the model's window)"))
    .addOption(option.scaling())
    .optionsGroup('Machine:')
    .addOption(option.threads())
    .addOption(option.dtype())
    .addOption(option.kvDtype())
    .optionsGroup('Output:')
    .addOption(option.jsonFile())
    .addOption(option.html())
    .addOption(option.quiet())
    .addOption(option.noColor())
    .optionsGroup('Help:')
    .addHelpText('after', HELP);
}

type EvalFlags = ReturnType<ReturnType<typeof evalFlags>['opts']>;

/** `iceformer eval`. */
export function evalCommand(start: Start): CommandUnknownOpts {
  return evalFlags().action((flags) =>
    start({ ...flags, json: flags.json === true }, (context) => evaluate(flags, context)),
  );
}

async function evaluate(flags: EvalFlags, context: CommandContext): Promise<number> {
  const { terminal, interruption } = context;
  const { signal } = interruption;
  const jsonFile = typeof flags.json === 'string' ? flags.json : undefined;
  for (const path of [jsonFile, flags.html]) if (path !== undefined) await checkOutputFile(path);
  const progress = createProgress(terminal);
  let engine: Engine | undefined;
  try {
    const text = await readDocument(flags.file, terminal.streams.stdin, signal);
    let questions: DocumentQuestion[] | undefined;
    if (flags.questions !== undefined) questions = await readQuestionFile(flags.questions);
    engine = await loadEngine({ ...flags, attention: 'dense', plan: undefined }, context, progress);
    const { model } = engine;
    const packages = await context.loadPackages();
    const attention: NamedAttention[] = namedAttention(flags);
    if (flags.plan !== undefined) {
      const { readPlan } = packages.sparseAttention;
      const plan = await readPlanFile(flags.plan, model.info.layers, readPlan);
      attention.push({ name: 'plan', attention: plan });
    }
    const begin = performance.now();
    const result = await packages.evaluation.evaluate(model, {
      text,
      attention,
      windows: flags.windows,
      prompts: flags.prompts,
      seed: flags.seed,
      signal,
      ...defined({
        context: flags.window,
        tasks: flags.tasks,
        lengths: flags.lengths,
        questions,
      }),
      onProgress: ({ task, done, total }) => progress.update(task, done, total, 'steps'),
    });
    progress.end();
    if (jsonFile !== undefined) {
      await writeOutputFile(jsonFile, `${JSON.stringify(result, null, 2)}\n`);
    }
    if (flags.html !== undefined) {
      await writeOutputFile(flags.html, await packages.evaluation.renderReport(result));
    }
    await terminal.write(
      terminal.json
        ? `${JSON.stringify(result)}\n`
        : `${formatEvaluation(result)}\n\n${formatDuration(performance.now() - begin)}, ${engineLine(engine)}\n`,
    );
    return EXIT.ok;
  } finally {
    progress.end();
    await engine?.model.close();
  }
}

/** The presets asked for; without any, and without a plan, the three that select. */
function namedAttention({ attention, plan }: EvalFlags): NamedAttention[] {
  const names =
    attention ?? (plan === undefined ? (['accurate', 'balanced', 'fast'] as const) : []);
  return [...names].map((name) => ({ name, attention: name }));
}

function engineLine({ model: { info } }: Engine): string {
  return `${info.simd}, ${formatCounted(info.threads, 'thread')}, ${info.dtype} weights`;
}

function formatEvaluation({ prediction, retrieval }: EvaluationResult): string {
  const parts: string[] = [];
  const range = ({ low, high }: Estimate, write: (value: number) => string): string =>
    `${write(low)} to ${write(high)}`;
  if (prediction !== undefined) {
    const { windows, context, tokens, scores } = prediction;
    const four = (value: number): string => value.toFixed(4);
    parts.push(
      `prediction: ${formatCounted(tokens, 'token')}, the second halves of ${formatCounted(windows, 'window')} of ${formatCount(context)}`,
      formatColumns(
        [
          ['', 'perplexity', '× dense', '(95 %)', 'top-1', 'divergence', 'tiles', 'time'],
          ...scores.map(({ attention, perplexity, ratio, agreement, ...score }) => [
            attention,
            four(perplexity.value),
            four(ratio.value),
            range(ratio, four),
            formatShare(agreement.value),
            score.divergence.value.toFixed(5),
            formatShare(score.tilesRead),
            formatDuration(score.prefillMs / windows),
          ]),
        ],
        '  ',
      ),
    );
  }
  for (const [task, { scores }] of Object.entries(retrieval)) {
    parts.push(
      `${task}: ${formatCounted(scores[0]?.found.trials ?? 0, 'prompt')}`,
      formatColumns(
        [
          ['', 'found', '(95 %)', 'of what dense finds', '(95 %)', 'same answer (95 %)'],
          ...scores.map(({ attention, found, foundOfDense, agreement }) => [
            attention,
            `${found.hits} of ${found.trials}`,
            range(found, formatShare),
            `${foundOfDense.hits} of ${foundOfDense.trials}`,
            range(foundOfDense, formatShare),
            range(agreement, formatShare),
          ]),
        ],
        '  ',
      ),
    );
  }
  return parts.join('\n');
}
