import { Command, type CommandUnknownOpts } from '@commander-js/extra-typings';
import type { CalibrationResult } from '@iceformer/evaluation';
import type { LayerPlan } from '@iceformer/sparse-attention';
import type { CommandContext, Start } from '../command-context.ts';
import { defined } from '../defined.ts';
import { readDocument } from '../document.ts';
import { type Engine, loadEngine } from '../engine.ts';
import { EXIT } from '../failure.ts';
import { formatColumns, formatCount, formatCounted, formatDuration } from '../figures.ts';
import { toJson } from '../json.ts';
import * as option from '../options.ts';
import { checkOutputFile, writeOutputFile } from '../output-file.ts';
import { createProgress } from '../progress.ts';

const HELP = `
Accuracy is the perplexity of dense attention over that of the plan: 0.99 allows a perplexity 1 %
higher (1 / 0.99). On one window of the text every layer is measured by itself, its loss and its time;
the allowed loss is spent where it buys most time; and the whole plan is verified on other windows of
the text: its accuracy is at least what was asked for with all of its 95 % range, or it is not taken.
The plan names the model, the text, the machine and what was reached. It is for this model only, and
as good as the text is like those it will be used on.

It takes minutes: about as many readings of a window as the model has layers, times five.

Examples:
  $ iceformer calibrate --file book.txt --accuracy 0.99 -o plan.json
  $ iceformer generate --file book.txt --prompt "Who built the ark?" --plan plan.json
  $ iceformer eval --file other-book.txt --plan plan.json`;

function calibrateFlags() {
  return new Command('calibrate')
    .description('make a plan for sparse attention that keeps a stated accuracy')
    .optionsGroup('Input:')
    .addOption(option.model())
    .addOption(option.file().makeOptionMandatory())
    .optionsGroup('Measurement:')
    .addOption(option.accuracy())
    .addOption(option.context("tokens of a window (default: 4096, or the model's window)"))
    .addOption(option.windows('windows to verify on at most').default(4))
    .addOption(option.perHead())
    .addOption(option.seed('repeat the ranges').default(1))
    .addOption(option.scaling())
    .optionsGroup('Machine:')
    .addOption(option.threads())
    .addOption(option.dtype())
    .addOption(option.kvDtype())
    .optionsGroup('Output:')
    .addOption(option.output().default('plan.json'))
    .addOption(option.json())
    .addOption(option.quiet())
    .addOption(option.noColor())
    .optionsGroup('Help:')
    .addHelpText('after', HELP);
}

type CalibrateFlags = ReturnType<ReturnType<typeof calibrateFlags>['opts']>;

/** `iceformer calibrate`. */
export function calibrateCommand(start: Start): CommandUnknownOpts {
  return calibrateFlags().action((flags) => start(flags, (context) => calibrate(flags, context)));
}

async function calibrate(flags: CalibrateFlags, context: CommandContext): Promise<number> {
  const { terminal, interruption } = context;
  const { signal } = interruption;
  await checkOutputFile(flags.output);
  const progress = createProgress(terminal);
  let engine: Engine | undefined;
  try {
    const text = await readDocument(flags.file, terminal.streams.stdin, signal);
    engine = await loadEngine({ ...flags, attention: 'dense' }, context, progress);
    const { evaluation } = await context.loadPackages();
    const begin = performance.now();
    const result = await evaluation.calibrate(engine.model, {
      text,
      accuracy: flags.accuracy,
      verifying: flags.windows,
      ...(flags.perHead && { perHead: true }),
      seed: flags.seed,
      signal,
      ...defined({ context: flags.context }),
      onProgress: ({ phase, done, total }) => progress.update(phase, done, total, 'steps'),
    });
    progress.end();
    await writeOutputFile(flags.output, `${JSON.stringify(result.plan, null, 2)}\n`);
    await terminal.write(
      terminal.json
        ? toJson({ ...result, output: flags.output })
        : `${formatCalibration(result, flags.output, performance.now() - begin)}\n`,
    );
    return EXIT.ok;
  } finally {
    progress.end();
    await engine?.model.close();
  }
}

/** Such as `tiles from 0.3 %` (of a block's mass on), `selected 0.9` (by mass target) or `window`. */
function formatStrategy(plan: LayerPlan): string {
  if (plan.strategy !== 'selected') return plan.strategy;
  return plan.minTileMass === undefined
    ? `selected ${plan.massTarget}`
    : `tiles from ${(100 * plan.minTileMass).toPrecision(2)} %`;
}

function formatCalibration(
  { plan: { layers, calibration }, verified }: CalibrationResult,
  output: string,
  timeMs: number,
): string {
  const { accuracy, time, context } = calibration;
  const counts = new Map<string, number>();
  for (const layer of layers) {
    const name = layer.heads === undefined ? formatStrategy(layer) : 'by head';
    counts.set(name, (counts.get(name) ?? 0) + 1);
  }
  const speedup = (dense: number, plan: number): string =>
    `${formatDuration(plan)} instead of ${formatDuration(dense)} (${(dense / plan).toFixed(2)} times as fast)`;
  return formatColumns([
    ['plan', `${output}, the best of ${verified.length} that were verified`],
    ['layers', [...counts].map(([name, count]) => `${count} ${name}`).join(', ')],
    [
      'accuracy',
      `${accuracy.reached.toFixed(4)} (95 %: ${accuracy.interval.map((value) => value.toFixed(4)).join(' to ')}), ${accuracy.wanted} was asked for`,
    ],
    [
      'verified',
      `${formatCounted(accuracy.tokens, 'token')} in windows of ${formatCount(context)}`,
    ],
    ['attention', speedup(time.denseAttentionMs, time.planAttentionMs)],
    ['reading', speedup(time.densePrefillMs, time.planPrefillMs)],
    ['time', formatDuration(timeMs)],
  ]);
}
