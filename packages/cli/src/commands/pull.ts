import { basename } from 'node:path';
import { Command, type CommandUnknownOpts } from '@commander-js/extra-typings';
import type { PullProgress } from '@iceformer/model-loader';
import type { CommandContext, Start } from '../command-context.ts';
import { defined } from '../defined.ts';
import { EXIT, usageError } from '../failure.ts';
import { formatBytes, formatColumns } from '../figures.ts';
import { toJson } from '../json.ts';
import * as option from '../options.ts';
import { createProgress, type Progress } from '../progress.ts';
import type { Terminal } from '../terminal.ts';

const HELP = `
The folder of the model is printed on standard output. A model that is there already is not
fetched again; an interrupted pull leaves nothing that loads, and goes on where it stopped.

Examples:
  $ iceformer pull
  $ iceformer pull ${option.DEFAULT_MODEL}
  $ iceformer pull --list
  $ iceformer pull --offline --json`;

function pullFlags() {
  return new Command('pull')
    .description('fetch a model, once')
    .argument('[name]', `one of those --list shows (default: ${option.DEFAULT_MODEL})`)
    .optionsGroup('What to do:')
    .addOption(option.list())
    .addOption(option.offline())
    .optionsGroup('Output:')
    .addOption(option.json())
    .addOption(option.quiet())
    .addOption(option.noColor())
    .optionsGroup('Help:')
    .addHelpText('after', HELP);
}

type PullFlags = ReturnType<ReturnType<typeof pullFlags>['opts']>;

/** `iceformer pull`. */
export function pullCommand(start: Start): CommandUnknownOpts {
  return pullFlags().action((name, flags) => start(flags, (context) => pull(name, flags, context)));
}

async function pull(
  name: string | undefined,
  flags: PullFlags,
  context: CommandContext,
): Promise<number> {
  if (flags.list) {
    if (name !== undefined) throw usageError(`--list takes no name, got ${name}`);
    return list(context);
  }
  const { terminal, interruption } = context;
  const { loader } = await context.loadPackages();
  const progress = createProgress(terminal);
  try {
    const model = name ?? option.DEFAULT_MODEL;
    const path = await loader.pull(model, {
      offline: flags.offline ?? false,
      signal: interruption.signal,
      onProgress: createPullReporter(terminal, progress),
    });
    progress.end();
    await terminal.write(terminal.json ? toJson({ model, path }) : `${path}\n`);
    return EXIT.ok;
  } finally {
    progress.end();
  }
}

/** Bars where the size is known; otherwise, and without a terminal, a line for each thing that begins. */
function createPullReporter(terminal: Terminal, progress: Progress): (now: PullProgress) => void {
  let lastLine = '';
  let failure: string | undefined;
  const note = (line: string): void => {
    if (line === lastLine) return;
    lastLine = line;
    progress.end();
    terminal.note(line);
  };
  return ({ phase, source, file, done, total, message }) => {
    if (phase === 'done') return;
    if (phase === 'failed') {
      // The last source's failure becomes the error; it is not told twice.
      failure = message;
      return;
    }
    if (failure !== undefined) note(failure);
    failure = undefined;
    const verb = phase === 'import' ? 'importing' : 'fetching';
    if (message !== undefined) note(message);
    else if (total === undefined || !terminal.interactive)
      note(`${verb} ${describe(file, source)}`);
    if (done !== undefined && total !== undefined) progress.update(verb, done, total, 'bytes');
  };
}

/** `model.gguf (wheel some-package 1.0)`. */
function describe(file: string | undefined, source: string | undefined): string {
  const name = basename(file ?? '');
  if (source === undefined || source.endsWith(name)) return source ?? name;
  return `${name} (${source})`;
}

async function list({ terminal, loadPackages }: CommandContext): Promise<number> {
  const { loader } = await loadPackages();
  const cached = new Map((await loader.listCachedModels()).map((model) => [model.name, model]));
  const models = loader.listModels().map(({ name, description, license, parameters }) => {
    const path = cached.get(name)?.path;
    const bytes = cached.get(name)?.bytes;
    cached.delete(name);
    return { name, description, license, parameters, ...defined({ path, bytes }) };
  });
  // Pulled as owner/name.
  const others = [...cached.values()].map(({ name, path, bytes }) => ({ name, path, bytes }));
  if (terminal.json) {
    await terminal.write(toJson({ models: [...models, ...others] }));
    return EXIT.ok;
  }
  const rows = [
    ...models.map((model) => [model.name, pulled(model.bytes), model.license, model.description]),
    ...others.map((model) => [model.name, pulled(model.bytes)]),
  ];
  await terminal.write(
    `${formatColumns(rows)}\nAny repository of the Hugging Face hub can be pulled as owner/name.\n`,
  );
  return EXIT.ok;
}

function pulled(bytes: number | undefined): string {
  return bytes === undefined ? '' : `pulled, ${formatBytes(bytes)}`;
}
