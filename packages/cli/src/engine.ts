import type { AttentionPlan } from '@iceformer/sparse-attention';
import type {
  AttentionName,
  LoadModelOptions,
  Model,
  RopeScaling,
  RotaryConfig,
} from '@iceformer/transformer';
import type { CommandContext } from './command-context.ts';
import { defined } from './defined.ts';
import { usageError } from './failure.ts';
import { formatCount } from './figures.ts';
import type { RopeScalingFlag } from './flags.ts';
import { findModel } from './model-folder.ts';
import { readPlanFile } from './plan-file.ts';
import type { Progress } from './progress.ts';

/** The flags that decide which model is loaded and how it runs. */
export interface EngineFlags {
  model: string;
  attention?: AttentionName | undefined;
  plan?: string | undefined;
  context?: number | undefined;
  ropeScaling?: RopeScalingFlag | undefined;
  threads?: number | undefined;
  dtype: 'f32' | 'bf16' | 'int8';
  kvDtype?: 'f32' | 'bf16' | 'int8' | undefined;
}

/** A loaded model, and how it attends. */
export interface Engine {
  readonly model: Model;
  /** As `--json` names it: `sparse` for a plan. */
  readonly attention: AttentionName;
}

/**
 * Finds the model, checks the flags against its config and loads it.
 *
 * @throws CliError `ERR_USAGE` for flags that contradict each other, `ERR_PLAN_UNREADABLE`;
 * else what the packages throw.
 */
export async function loadEngine(
  flags: EngineFlags,
  context: CommandContext,
  progress: Progress,
): Promise<Engine> {
  const { options, attention } = await resolveEngine(flags, context);
  const { loadModel } = (await context.loadPackages()).transformer;
  const model = await loadModel({
    ...options,
    signal: context.interruption.signal,
    onProgress: ({ done, total }) => progress.update('loading', done, total, 'steps'),
  });
  progress.end();
  const wanted = context.terminal.streams.env['ICEFORMER_SIMD'] || model.info.simd;
  if (wanted !== model.info.simd) {
    context.terminal.note(
      `note: ICEFORMER_SIMD=${wanted} is not a level of this CPU, ${model.info.simd} is used`,
    );
  }
  return { model, attention };
}

/** Turns flags into the runtime's options; reads headers, no weights. */
async function resolveEngine(
  flags: EngineFlags,
  { loadPackages, terminal }: CommandContext,
): Promise<{ options: LoadModelOptions; attention: AttentionName }> {
  if (flags.plan !== undefined && (flags.attention ?? 'sparse') !== 'sparse') {
    throw usageError(`--plan says how to attend, but --attention is ${flags.attention}`);
  }
  const packages = await loadPackages();
  const folder = await findModel(flags.model, packages.loader);
  const opened = await packages.loader.openModel(folder);
  await opened.close();
  const { layers, rotary } = packages.transformer.readDecoderConfig(opened.config);
  const ropeScaling = toRopeScaling(flags, rotary);
  const window = windowOf({ ...rotary, scaling: ropeScaling ?? rotary.scaling });
  if (flags.context !== undefined && flags.context > window) {
    terminal.note(
      `note: --context ${flags.context} is past the model's window of ${formatCount(window)} tokens; answers from beyond it make little sense without --rope-scaling`,
    );
  }
  let plan: AttentionPlan | undefined;
  if (flags.plan !== undefined) {
    plan = await readPlanFile(flags.plan, layers, packages.sparseAttention.readPlan);
  }
  const attention = plan === undefined ? (flags.attention ?? 'dense') : 'sparse';
  const options: LoadModelOptions = {
    model: folder,
    dtype: flags.dtype,
    attention: plan ?? attention,
    ...defined({
      kvDtype: flags.kvDtype,
      threads: flags.threads,
      context: flags.context,
      ropeScaling,
    }),
  };
  return { options, attention };
}

/** Tokens the model is meant for under a scaling. */
function windowOf({ maxPositions, scaling }: RotaryConfig): number {
  switch (scaling.type) {
    case 'default':
    case 'llama3': // its max_position_embeddings counts the factor already
      return maxPositions;
    case 'linear':
    case 'dynamic':
      return maxPositions * scaling.factor;
    case 'yarn':
      return (scaling.originalContext ?? maxPositions) * scaling.factor;
  }
}

/** The scaling asked for; without a factor, the one that makes `--context` the window. */
function toRopeScaling(
  { ropeScaling: flag, context }: EngineFlags,
  { maxPositions, scaling }: RotaryConfig,
): RopeScaling | undefined {
  if (flag === undefined) return undefined;
  if (flag.type === 'none') return { type: 'default' };
  const trained =
    scaling.type === 'yarn' ? (scaling.originalContext ?? maxPositions) : maxPositions;
  let { factor } = flag;
  if (factor === undefined) {
    if (context === undefined) {
      throw usageError(
        `--rope-scaling ${flag.type} needs to know how far: give --context, or a factor (${flag.type}:4)`,
      );
    }
    factor = Math.max(1, context / trained);
  }
  if (flag.type !== 'yarn') return { type: flag.type, factor };
  return { type: 'yarn', factor, originalContext: trained };
}
