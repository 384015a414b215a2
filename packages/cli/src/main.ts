import { Command, CommanderError, type CommandUnknownOpts } from '@commander-js/extra-typings';
import type { Start } from './command-context.ts';
import { calibrateCommand } from './commands/calibrate.ts';
import { evalCommand } from './commands/eval.ts';
import { generateCommand } from './commands/generate.ts';
import { inspectCommand } from './commands/inspect.ts';
import { pplCommand } from './commands/ppl.ts';
import { pullCommand } from './commands/pull.ts';
import { describeFailure, EXIT, type Failure, isAbort, oneLine } from './failure.ts';
import { withHint } from './hints.ts';
import { exitCodeOf, type Interruption } from './interruption.ts';
import { toJson } from './json.ts';
import type { Packages } from './packages.ts';
import { createTerminal, type Streams, type Terminal } from './terminal.ts';

const COMMANDS = {
  pull: pullCommand,
  generate: generateCommand,
  inspect: inspectCommand,
  ppl: pplCommand,
  eval: evalCommand,
  calibrate: calibrateCommand,
};

const ENVIRONMENT = `
Environment:
  ICEFORMER_HOME          where pulled models are kept (default: iceformer in the XDG cache folder)
  ICEFORMER_MODEL, ICEFORMER_ATTENTION, ICEFORMER_CONTEXT, ICEFORMER_THREADS, ICEFORMER_DTYPE
                          defaults of the flags of those names
  ICEFORMER_SIMD          force a SIMD level: scalar, neon, avx2, avx2-vnni, avx512, avx512-vnni, avx512-fp16, avx512-bf16, amx
  ICEFORMER_DEBUG=1       show the stack of an internal error
  HF_TOKEN                access token for pulling from the Hugging Face hub
  NO_COLOR, FORCE_COLOR   colours off or on

Exit codes: 0 done, 1 failed, 2 wrong usage, 130 stopped by Ctrl-C.`;

const EXAMPLES = `
Examples:
  $ iceformer pull
  $ iceformer generate --file book.txt --prompt "Who built the ark?"
  $ iceformer generate --file book.txt --prompt "Who built the ark?" --attention sparse
  $ iceformer inspect --context 8192
  $ iceformer ppl --file book.txt --context 4096
  $ iceformer eval --file book.txt --html report.html
  $ iceformer calibrate --file book.txt --accuracy 0.99 -o plan.json`;

/** Everything the process gives the CLI, replaceable in tests. */
export interface Surroundings {
  readonly streams: Streams;
  readonly interruption: Interruption;
  /** Called only by what needs native code, which `--help` does not. */
  readonly loadPackages: () => Promise<Packages>;
  readonly version: string;
}

/**
 * Runs one command line.
 *
 * @param args the arguments after `iceformer`
 * @returns the exit code; errors are printed, never thrown
 */
export async function main(args: readonly string[], surroundings: Surroundings): Promise<number> {
  const { streams, interruption, loadPackages } = surroundings;
  let exitCode: number = EXIT.ok;
  const start: Start = async (flags, work) => {
    const terminal = createTerminal(streams, flags);
    exitCode = await work({ terminal, interruption, loadPackages });
  };
  try {
    const program = buildProgram(start, surroundings);
    if (args.length === 0) {
      streams.stderr.write(program.helpInformation());
      return EXIT.usage;
    }
    await program.parseAsync(args, { from: 'user' });
    return exitCode;
  } catch (error) {
    return report(error, args, surroundings);
  }
}

/** The whole command line: every command with its flags and help. */
export function buildProgram(start: Start, { streams, version }: Surroundings): CommandUnknownOpts {
  const program = new Command('iceformer')
    .description('Answers from long documents on a CPU.')
    .version(version, '-V, --version', 'print the version')
    .helpCommand('help [command]', 'print the help of a command')
    .addHelpText('after', `${EXAMPLES}\n${ENVIRONMENT}`);
  // Settings are inherited by commands added after this.
  program
    .exitOverride()
    .configureOutput({
      writeOut: (text) => streams.stdout.write(text),
      // Usage errors are printed by report(), in the same form as all others.
      writeErr: () => undefined,
    })
    .showSuggestionAfterError();
  for (const create of Object.values(COMMANDS)) {
    program.addCommand(create(start).copyInheritedSettings(program));
  }
  return program;
}

/** Prints an error the way the flags ask for, and gives the exit code. */
export function report(
  error: unknown,
  args: readonly string[],
  surroundings: Surroundings,
): number {
  const { streams, interruption } = surroundings;
  // Parsing may have failed, so the flags are looked for by hand.
  const terminal = createTerminal(streams, {
    json: args.includes('--json'),
    quiet: args.includes('--quiet') || args.includes('-q'),
    color: !args.includes('--no-color'),
  });
  if (error instanceof CommanderError) {
    if (error.exitCode === 0) return EXIT.ok; // --help, --version
    return printFailure(usageFailure(error, args), terminal);
  }
  if (interruption.cause !== undefined && isAbort(error)) {
    const exitCode = exitCodeOf(interruption.cause);
    if (exitCode === EXIT.ok) return exitCode;
    const message = `stopped by ${interruption.cause}`;
    return printFailure({ code: 'ERR_INTERRUPTED', message, details: {}, exitCode }, terminal);
  }
  const failure = withHint(describeFailure(error));
  if ((streams.env['ICEFORMER_DEBUG'] ?? '') !== '' && error instanceof Error) {
    streams.stderr.write(`${error.stack ?? error.message}\n`);
    if (error.cause !== undefined) streams.stderr.write(`caused by ${String(error.cause)}\n`);
  }
  return printFailure(failure, terminal);
}

function usageFailure(error: CommanderError, args: readonly string[]): Failure {
  const message = oneLine(error.message.replace(/^error: /, '')).replace(/\.$/, '');
  const command = Object.keys(COMMANDS).find((name) => name === args[0]);
  const help = command === undefined ? 'iceformer --help' : `iceformer ${command} --help`;
  return {
    code: 'ERR_USAGE',
    message: `${message} (${help} shows what there is)`,
    details: { reason: error.code },
    exitCode: EXIT.usage,
  };
}

function printFailure(failure: Failure, terminal: Terminal): number {
  const { code, message, details } = failure;
  terminal.streams.stderr.write(`${terminal.red('error')} ${code}: ${message}\n`);
  if (terminal.json) {
    terminal.streams.stdout.write(toJson({ error: { code, message, details } }));
  }
  return failure.exitCode;
}
