import { Command, type CommandUnknownOpts } from '@commander-js/extra-typings';
import type { TensorView } from '@iceformer/model-loader';
import type { DecoderConfig, MemoryEstimate } from '@iceformer/transformer';
import type { CommandContext, Start } from '../command-context.ts';
import { defined } from '../defined.ts';
import { EXIT } from '../failure.ts';
import {
  formatBytes,
  formatColumns,
  formatCount,
  formatCounted,
  formatParameters,
} from '../figures.ts';
import { toJson } from '../json.ts';
import { findModel } from '../model-folder.ts';
import * as option from '../options.ts';

const HELP = `
Only headers are read: it is quick for a model of any size, and says before a run whether the
memory will do.

Examples:
  $ iceformer inspect
  $ iceformer inspect --context 32768 --dtype f32
  $ iceformer inspect --model ./my-model --tensors
  $ iceformer inspect --context 8192 --json | jq .memory.dense.total`;

function inspectFlags() {
  return new Command('inspect')
    .description('show a model: config, tensors, memory needed')
    .optionsGroup('Input:')
    .addOption(option.model())
    .optionsGroup('What to show:')
    .addOption(option.context("tokens to reckon memory for (default: the model's window)"))
    .addOption(option.dtype())
    .addOption(option.kvDtype())
    .addOption(option.tensors())
    .optionsGroup('Output:')
    .addOption(option.json())
    .addOption(option.noColor())
    .optionsGroup('Help:')
    .addHelpText('after', HELP);
}

type InspectFlags = ReturnType<ReturnType<typeof inspectFlags>['opts']>;

/** `iceformer inspect`. */
export function inspectCommand(start: Start): CommandUnknownOpts {
  return inspectFlags().action((flags) => start(flags, (context) => inspect(flags, context)));
}

async function inspect(flags: InspectFlags, context: CommandContext): Promise<number> {
  const { terminal } = context;
  const packages = await context.loadPackages();
  const path = await findModel(flags.model, packages.loader);
  const folder = await packages.loader.openModel(path);
  await folder.close();
  const config = packages.transformer.readDecoderConfig(folder.config);
  const tensors = folder.tensors.names().map((name) => folder.tensors.get(name));
  const tokens = flags.context ?? config.rotary.maxPositions;
  const kvDtype = flags.kvDtype ?? (flags.dtype === 'f32' ? 'f32' : 'bf16');
  const estimate = (attention: 'dense' | 'sparse') =>
    packages.transformer.estimateMemory({
      model: path,
      dtype: flags.dtype,
      kvDtype,
      attention,
      context: tokens,
    });
  const memory = { dense: await estimate('dense'), sparse: await estimate('sparse') };
  const parameters = tensors.reduce((sum, tensor) => sum + elements(tensor), 0);
  if (terminal.json) {
    await terminal.write(
      toJson({
        model: flags.model,
        path,
        files: folder.tensors.files,
        parameters,
        decoder: describe(config),
        config: folder.config,
        dtypes: countDtypes(tensors),
        tensors: tensors.map(({ name, dtype, shape, byteLength }) => ({
          name,
          dtype,
          shape,
          bytes: byteLength,
        })),
        context: tokens,
        dtype: flags.dtype,
        kvDtype,
        memory,
      }),
    );
    return EXIT.ok;
  }
  const sections = [
    formatColumns([
      ['model', path],
      ['architecture', `${config.architecture} (${config.family})`],
      ['parameters', `${formatParameters(parameters)} (${formatCount(parameters)})`],
      ...describeRows(config),
    ]),
    `tensors: ${formatCount(tensors.length)} in ${formatCounted(folder.tensors.files.length, 'file')}\n${formatColumns(dtypeRows(tensors), '  ')}`,
    `memory for ${formatCounted(tokens, 'token')}, ${flags.dtype} weights, ${kvDtype} keys and values\n${formatMemory(memory)}`,
  ];
  if (flags.tensors) sections.push(formatColumns(tensors.map(tensorRow)));
  await terminal.write(`${sections.join('\n\n')}\n`);
  return EXIT.ok;
}

function elements({ shape }: TensorView): number {
  return shape.reduce((product, size) => product * size, 1);
}

function countDtypes(
  tensors: readonly TensorView[],
): Record<string, { tensors: number; parameters: number; bytes: number }> {
  const counts: Record<string, { tensors: number; parameters: number; bytes: number }> = {};
  for (const tensor of tensors) {
    const count = counts[tensor.dtype] ?? { tensors: 0, parameters: 0, bytes: 0 };
    counts[tensor.dtype] = count;
    count.tensors += 1;
    count.parameters += elements(tensor);
    count.bytes += tensor.byteLength;
  }
  return counts;
}

function dtypeRows(tensors: readonly TensorView[]): string[][] {
  return Object.entries(countDtypes(tensors)).map(([dtype, count]) => [
    dtype,
    formatCounted(count.tensors, 'tensor'),
    `${formatParameters(count.parameters)} parameters`,
    formatBytes(count.bytes),
  ]);
}

function tensorRow({ name, dtype, shape, byteLength }: TensorView): string[] {
  return [name, dtype, `[${shape.join(', ')}]`, formatBytes(byteLength)];
}

/** The config without its tensor names, which follow from the family. */
function describe(config: DecoderConfig): Omit<DecoderConfig, 'tensors'> {
  const { tensors: _, ...rest } = config;
  return rest;
}

function describeRows(config: DecoderConfig): string[][] {
  const { rotary, slidingWindows } = config;
  const { type, ...scaling } = rotary.scaling;
  const parameters = Object.entries(defined(scaling)).map(([name, value]) => `${name} ${value}`);
  const windowed = slidingWindows.filter((window) => window !== null);
  return [
    ['layers', formatCount(config.layers)],
    [
      'hidden size',
      `${formatCount(config.hiddenSize)}, MLP ${formatCount(config.intermediateSize)}`,
    ],
    [
      'heads',
      `${config.heads} for queries, ${config.kvHeads} for keys and values, ${config.headDim} dimensions each`,
    ],
    [
      'vocabulary',
      `${formatCounted(config.vocabSize, 'token')}${config.tensors.head === undefined ? ', head tied to the embedding' : ''}`,
    ],
    ['window', formatCounted(rotary.maxPositions, 'token')],
    [
      'RoPE',
      [
        `theta ${formatCount(rotary.theta)}`,
        ...(type === 'default' ? [] : [type, ...parameters]),
      ].join(', '),
    ],
    ...(windowed.length === 0
      ? []
      : [
          [
            'sliding',
            `${formatCounted(windowed[0] ?? 0, 'token')} in ${formatCounted(windowed.length, 'layer')}`,
          ],
        ]),
  ];
}

function formatMemory({
  dense,
  sparse,
}: {
  dense: MemoryEstimate;
  sparse: MemoryEstimate;
}): string {
  const row = (name: string, part: keyof MemoryEstimate) => [
    name,
    formatBytes(dense[part]),
    formatBytes(sparse[part]),
  ];
  return formatColumns(
    [
      ['', 'dense', 'sparse'],
      row('weights, packed', 'weights'),
      row('keys and values', 'cache'),
      row('scratch', 'scratch'),
      row('together', 'total'),
      row('free now', 'available'),
    ],
    '  ',
  );
}
