import { readFileSync, writeFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import process from 'node:process';
import { cacheFolder, openModel } from '@iceformer/model-loader';
import { simdLevel } from '@iceformer/transformer';
import {
  type Flags,
  type Options,
  runBench,
  toNumber,
  toNumbers,
  writeFigures,
} from '../command-line.ts';
import { corpusText, DEFAULT_MODEL, modelFolder } from '../named-model.ts';
import { ATTENTION_ENGINES, measureAttention } from './attention-alone.ts';
import { ENGINES, EngineFinder } from './engines.ts';
import { levelEnvironment, runLevel } from './levels.ts';
import { measureLimits, modelSize } from './limits.ts';
import { describeMachine, warnIfBusy } from './machine.ts';
import { findPasskeys, type PasskeyFigure } from './passkeys.ts';
import { type Engine, type Failure, runSchedule, type Sample } from './schedule.ts';
import { type Report, summarise, toMarkdown } from './table.ts';

const HELP = `Whole-model prefill and decode of llama.cpp, OpenVINO GenAI, PyTorch and IceFormer, side by side.

  --model NAME_OR_FOLDER  default ${DEFAULT_MODEL}
  --gguf FILE             the same model for llama.cpp and OpenVINO; default: the file the model is imported from
  --text FILE             default docs/corpus/genesis.txt; repeated where it is too short
  --lengths N,N,...       prompt lengths in tokens; default 1024,2048,4096,8128,16384,32768
  --decode N              tokens generated at each length, default 64
  --rounds N              default 3
  --threads N             default: the cores of this machine
  --engines A,B,...       of ${ENGINES.join(', ')}; default all;
                          also sparse and plan, and ours with -f32 or -int8 weights and -kv8 for an int8 cache
  --level LEVEL           hold all engines to avx2, avx512-vnni (no bf16) or avx512 (no AMX); default native
  --plan FILE             the attention plan of the engine plan
  --passkeys N            pass keys hidden for each engine that can be asked (IceFormer, OpenVINO), default 24; 0: none
  --passkey-lengths N,... prompt lengths of those; default 2000,4000,7500
  --attention N,N,...     lengths of attention alone, beside PyTorch's; default 8192 where PyTorch is measured; 0: none
  --llama-batch N         llama.cpp's batch size, default 512
  --openvino-batch N      most tokens OpenVINO takes at once, default 512
  --python FILE           interpreter that has the peers' packages; default: an environment made for the bench
  --work DIR              peers; default: peers beside the models of the cache
  --out FILE              write the table there too, after every round
  --json FILE             write all figures and samples, after every round
  --prepare               fetch the peers and measure nothing
  --smoke                 tiny sizes, ours only, no downloads: to see that it works
`;

const OPTIONS = {
  model: { type: 'string', default: DEFAULT_MODEL },
  gguf: { type: 'string' },
  text: { type: 'string', default: corpusText('genesis.txt') },
  lengths: { type: 'string' },
  decode: { type: 'string' },
  rounds: { type: 'string' },
  threads: { type: 'string' },
  engines: { type: 'string' },
  level: { type: 'string', default: 'native' },
  attention: { type: 'string' },
  plan: { type: 'string' },
  passkeys: { type: 'string' },
  'passkey-lengths': { type: 'string', default: '2000,4000,7500' },
  'llama-batch': { type: 'string', default: '512' },
  'openvino-batch': { type: 'string', default: '512' },
  python: { type: 'string' },
  work: { type: 'string' },
  out: { type: 'string' },
  json: { type: 'string' },
  prepare: { type: 'boolean', default: false },
} satisfies Options;

async function main(flags: Flags<typeof OPTIONS>): Promise<void> {
  const { smoke } = flags;
  const machine = describeMachine();
  if (!smoke) warnIfBusy(machine);
  const level = runLevel(flags.level);
  const lengths = toNumbers(
    flags.lengths ?? (smoke ? '128,256' : '1024,2048,4096,8128,16384,32768'),
  );
  const decode = toNumber(flags.decode ?? (smoke ? 4 : 64));
  const rounds = toNumber(flags.rounds ?? (smoke ? 1 : 3));
  const threads = toNumber(flags.threads ?? machine.cores);
  const passkeyCount = toNumber(flags.passkeys ?? (smoke ? 2 : 24));
  const passkeyLengths = smoke ? [300] : toNumbers(flags['passkey-lengths']);
  const folder = await modelFolder(flags.model);
  const size = modelSize(folder);
  const failures: Failure[] = [];
  const engines = findEngines(
    flags.engines?.split(',') ?? (smoke ? ['dense-f32', 'dense', 'balanced'] : [...ENGINES]),
    new EngineFinder({
      model: flags.model,
      folder,
      size,
      work: resolve(flags.work ?? join(cacheFolder(), '..', 'peers')),
      llamaBatch: toNumber(flags['llama-batch']),
      openvinoBatch: toNumber(flags['openvino-batch']),
      level,
      ...(flags.gguf ? { gguf: resolve(flags.gguf) } : {}),
      ...(flags.python ? { python: resolve(flags.python) } : {}),
      ...(flags.plan ? { plan: resolve(flags.plan) } : {}),
    }),
    failures,
  );
  const environment = levelEnvironment(level, simdLevel());
  const limits = smoke ? undefined : measureLimits(threads, environment);
  if (flags.prepare) return;

  const samples: Sample[] = [];
  let passkeys: PasskeyFigure[] = [];
  const report = (done: number): Report => ({
    machine,
    level,
    threads,
    rounds: done,
    window: size.window,
    limits,
    rows: summarise(samples, engines, size, limits),
    attention,
    passkeys,
    failures,
  });
  const save = (done: number): void => {
    const current = report(done);
    if (flags.out) writeFileSync(flags.out, toMarkdown(current));
    writeFigures(flags.json, { ...current, samples });
  };
  const alone = engines.filter(({ name }) => name in ATTENTION_ENGINES);
  const attentionLengths = toNumbers(
    flags.attention ?? (alone.some(({ name }) => name.startsWith('torch')) ? '8192' : '0'),
  ).filter((length) => length > 0);
  const attention = await measureAttention(alone, attentionLengths, rounds, threads, environment);

  const temporary = await mkdtemp(join(tmpdir(), 'iceformer-bench-'));
  try {
    const tokensFile = join(temporary, 'tokens');
    await writeTokens(folder, flags.text, tokensFile, Math.max(...lengths));
    await runSchedule({
      engines,
      lengths,
      rounds,
      job: { tokensFile, decode, threads },
      environment,
      onSample(sample) {
        samples.push(sample);
        const speed = (sample.length / sample.prefillMs) * 1000;
        const perToken = sample.decodeMs / (sample.generated.length - 1);
        process.stderr.write(
          `round ${sample.round + 1} ${sample.length} tokens ${sample.engine}: first after ${(sample.prefillMs / 1000).toFixed(2)} s, ${speed.toFixed(0)} tokens/s, then ${perToken.toFixed(1)} ms per token\n`,
        );
        save(sample.round + 1);
      },
      onFailure(failure) {
        failures.push(failure);
        process.stderr.write(`${failure.engine} at ${failure.length}: ${failure.reason}\n`);
      },
    });
    if (passkeyCount > 0) {
      const settings = {
        folder,
        text: corpusText('sqlite-file-format.txt'),
        lengths: passkeyLengths,
        count: passkeyCount,
        threads,
        environment,
        temporary,
      };
      passkeys = await findPasskeys(engines, settings, (failure) => failures.push(failure));
    }
    save(rounds);
    process.stdout.write(toMarkdown(report(rounds)));
    if (smoke && failures.length > 0) process.exitCode = 1;
  } finally {
    await rm(temporary, { recursive: true, force: true });
  }
}

/** Engines that can be had; the others become failures. */
function findEngines(
  names: readonly string[],
  finder: EngineFinder,
  failures: Failure[],
): Engine[] {
  return names.flatMap((name) => {
    const found = finder.find(name);
    if (!('missing' in found)) return [found];
    failures.push({ engine: name, reason: found.missing });
    return [];
  });
}

/** The text's tokens, over and over until there are enough. */
async function writeTokens(
  folder: string,
  text: string,
  target: string,
  needed: number,
): Promise<void> {
  const model = await openModel(folder);
  const tokenizer = await model.tokenizer();
  const tokens = tokenizer.encode(readFileSync(text, 'utf8'), { addSpecialTokens: false });
  await model.close();
  const length = Math.max(tokens.length, needed);
  writeFileSync(
    target,
    Uint32Array.from({ length }, (_, index) => tokens[index % tokens.length] as number),
  );
}

await runBench(HELP, OPTIONS, main);
