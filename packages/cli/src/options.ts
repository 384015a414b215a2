import { Option } from '@commander-js/extra-typings';
import type { EvaluationTask } from '@iceformer/evaluation';
import type { AttentionName } from '@iceformer/transformer';
import {
  collect,
  decimal,
  integer,
  list as listOf,
  nonEmpty,
  oneOf,
  ropeScaling,
} from './flags.ts';

/** Pulled by `iceformer pull`, used where `--model` is not given. */
export const DEFAULT_MODEL = 'smollm2-135m-instruct';

/** More than any model reads; positions are 32-bit numbers in the native code. */
const MAX_CONTEXT = 2 ** 31;

const positive = { min: 1, max: Number.MAX_SAFE_INTEGER };

// One function per flag, so that a flag means the same in every command that has it.

export const model = () =>
  new Option('-m, --model <name-or-folder>', 'a pulled model, or a folder in Hugging Face layout')
    .argParser(nonEmpty)
    .env('ICEFORMER_MODEL')
    .default(DEFAULT_MODEL);

export const file = () =>
  new Option('-f, --file <path>', 'the document, UTF-8 text; - reads standard input').argParser(
    nonEmpty,
  );

/** What `--attention` takes: presets, and two older names for the first two of them. */
const ATTENTION_NAMES = [
  'exact',
  'accurate',
  'balanced',
  'fast',
  'dense',
  'sparse',
] as const satisfies AttentionName[];

export const attention = () =>
  new Option(
    '-a, --attention <kind>',
    'exact (or dense) reads every key; accurate (or sparse), balanced and fast only those that matter, perplexity within about 0.5, 1 and 3 % (default: dense, or as --plan says)',
  )
    .choices(ATTENTION_NAMES)
    .env('ICEFORMER_ATTENTION');

export const plan = () =>
  new Option('--plan <file>', 'how each layer attends, a JSON file made for this model').argParser(
    nonEmpty,
  );

export const context = (description: string) =>
  new Option('-c, --context <tokens>', description)
    .argParser(integer({ min: 1, max: MAX_CONTEXT }))
    .env('ICEFORMER_CONTEXT');

export const scaling = () =>
  new Option(
    '--rope-scaling <kind[:factor]>',
    "none, linear, dynamic or yarn: read past the model's own window (default: as the model says; factor: as much as --context needs)",
  ).argParser(ropeScaling);

export const threads = () =>
  new Option('-t, --threads <count>', 'threads to compute with (default: all cores)')
    .argParser(integer({ min: 1, max: 1024 }))
    .env('ICEFORMER_THREADS');

export const dtype = () =>
  new Option('--dtype <type>', 'weights in memory: f32 is exact, bf16 faster, int8 fastest')
    .choices(['f32', 'bf16', 'int8'] as const)
    .env('ICEFORMER_DTYPE')
    .default('bf16' as const);

export const kvDtype = () =>
  new Option(
    '--kv-dtype <type>',
    'keys and values in memory: int8 takes half as much as bf16 (default: f32 with --dtype f32, else bf16)',
  )
    .choices(['f32', 'bf16', 'int8'] as const)
    .env('ICEFORMER_KV_DTYPE');

export const prompt = () =>
  new Option('-p, --prompt <text>', 'the question or instruction, put after the document');

export const maxTokens = () =>
  new Option('-n, --max-tokens <count>', 'longest answer')
    .argParser(integer(positive))
    .default(256);

export const temperature = () =>
  new Option('--temperature <t>', '0 always takes the likeliest token; higher is more varied')
    .argParser(decimal({ min: 0, max: 10 }))
    .default(0);

export const topK = () =>
  new Option('--top-k <count>', 'sample among so many likeliest tokens; 0: among all').argParser(
    integer({ min: 0, max: 1_000_000 }),
  );

export const topP = () =>
  new Option('--top-p <p>', 'sample among the likeliest tokens that make up this share').argParser(
    decimal({ min: 0, max: 1, aboveMin: true }),
  );

export const minP = () =>
  new Option(
    '--min-p <p>',
    "drop tokens below this share of the likeliest one's probability",
  ).argParser(decimal({ min: 0, max: 1 }));

export const repetitionPenalty = () =>
  new Option(
    '--repetition-penalty <factor>',
    'above 1: tokens seen before become less likely',
  ).argParser(decimal({ min: 0, max: 100, aboveMin: true }));

export const seed = (description = 'repeat a sampled answer (default: a new one each time)') =>
  new Option('--seed <number>', description).argParser(integer({ min: 0, max: 0xffff_ffff }));

export const stop = () =>
  new Option(
    '--stop <text>',
    'end the answer before this text; may be given several times',
  ).argParser(collect);

export const raw = () =>
  new Option('--raw', 'no chat template: the document followed by the prompt, as they are');

export const tensors = () => new Option('--tensors', 'list every tensor');

export const list = () => new Option('--list', 'show the models that can be pulled');

export const offline = () =>
  new Option('--offline', 'use no network: fail if the model is not here already');

export const profile = () =>
  new Option('--profile', 'show where the time went: milliseconds of each part of the work');

export const json = () => new Option('--json', 'print one JSON object on standard output');

export const quiet = () => new Option('-q, --quiet', 'no progress and no summary');

export const noColor = () => new Option('--no-color', 'no colours (also: NO_COLOR=1)');

export const attentionList = () =>
  new Option(
    '-a, --attention <kinds>',
    `some of ${ATTENTION_NAMES.join(', ')}, separated by commas (default: accurate,balanced,fast, or --plan alone)`,
  ).argParser(listOf(oneOf(ATTENTION_NAMES)));

/** What `--tasks` takes. */
const TASKS = [
  'prediction',
  'passkey',
  'lines',
  'topics',
  'questions',
] as const satisfies EvaluationTask[];

export const tasks = () =>
  new Option(
    '--tasks <names>',
    `some of ${TASKS.join(', ')}, separated by commas (default: all, questions if there are some about the text)`,
  ).argParser(listOf(oneOf(TASKS)));

export const lengths = () =>
  new Option(
    '--lengths <tokens>',
    "lengths of prompts, separated by commas (default: a quarter, half and nearly all of the model's window)",
  ).argParser(listOf(integer({ min: 1, max: MAX_CONTEXT })));

export const prompts = () =>
  new Option('--prompts <count>', 'prompts of each task that asks')
    .argParser(integer({ min: 1, max: 1_000_000 }))
    .default(20);

export const windows = (description: string) =>
  new Option('--windows <count>', description).argParser(integer(positive));

export const window = () =>
  new Option(
    '--window <tokens>',
    "tokens of a window of prediction, scored on its second half (default: 2048, or the model's window)",
  ).argParser(integer({ min: 4, max: MAX_CONTEXT }));

export const questions = () =>
  new Option(
    '--questions <file>',
    'your own questions about the text, a JSON list of {"question", "answers", "evidence"}',
  ).argParser(nonEmpty);

export const accuracy = () =>
  new Option('--accuracy <share>', "dense attention's perplexity over the plan's, at least")
    .argParser(decimal({ min: 0, max: 1, aboveMin: true }))
    .default(0.99);

export const perHead = () =>
  new Option(
    '--per-head',
    'choose for every key head by itself: finer, and as many times longer as a layer has key heads',
  );

export const output = () => new Option('-o, --output <file>', 'the plan').argParser(nonEmpty);

export const jsonFile = () =>
  new Option('--json [file]', 'write the result as JSON, or print it on standard output');

export const html = () =>
  new Option(
    '--html <file>',
    'write a report with plots, one page that needs no network',
  ).argParser(nonEmpty);
