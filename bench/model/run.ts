import { readFileSync, writeFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import process from 'node:process';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { cacheFolder, openModel } from '@iceformer/model-loader';
import { corpusText, modelFolder } from '../named-model.ts';
import { fetchGguf } from './gguf.ts';
import { installLlamaPeer } from './llama-peer.ts';
import { describeMachine } from './machine.ts';
import { type Engine, runSchedule } from './schedule.ts';
import { summarise, toMarkdown } from './table.ts';

const HELP = `Whole-model prefill and decode of llama.cpp and IceFormer, side by side.

  --model NAME_OR_FOLDER  default smollm2-135m-instruct
  --gguf FILE             the same model for llama.cpp; default: the file the model is imported from
  --text FILE             default docs/corpus/genesis.txt
  --lengths N,N,...       prompt lengths in tokens; default 1024,2048,4096,8128
  --decode N              tokens generated at each length, default 64
  --rounds N              default 3
  --threads N             default: the cores of this machine
  --engines A,B,...       of llama.cpp, dense, sparse, dense-f32, torch-f32, torch-bf16; default the first three
  --llama-batch N         llama.cpp's batch size, default 512
  --python FILE           interpreter with torch and transformers; adds torch-f32 and torch-bf16
  --json FILE             write all samples
  --smoke                 tiny sizes, to see that it works
`;

async function main(): Promise<void> {
  const { values: flags } = parseArgs({
    options: {
      model: { type: 'string', default: 'smollm2-135m-instruct' },
      gguf: { type: 'string' },
      text: { type: 'string', default: corpusText('genesis.txt') },
      lengths: { type: 'string' },
      decode: { type: 'string' },
      rounds: { type: 'string' },
      threads: { type: 'string' },
      engines: { type: 'string' },
      'llama-batch': { type: 'string', default: '512' },
      python: { type: 'string' },
      json: { type: 'string' },
      smoke: { type: 'boolean', default: false },
      help: { type: 'boolean', default: false },
    },
  });
  if (flags.help) {
    process.stdout.write(HELP);
    return;
  }
  const machine = describeMachine();
  if (machine.loadBefore > 0.5 && !flags.smoke) {
    process.stderr.write(
      `load average ${machine.loadBefore.toFixed(1)}: other work runs here, do not trust figures\n`,
    );
  }
  const lengths = (flags.lengths ?? (flags.smoke ? '128,256' : '1024,2048,4096,8128'))
    .split(',')
    .map(Number);
  const decode = Number(flags.decode ?? (flags.smoke ? 4 : 64));
  const rounds = Number(flags.rounds ?? (flags.smoke ? 1 : 3));
  const threads = Number(flags.threads ?? machine.cores);
  const folder = await modelFolder(flags.model);
  const names = flags.engines?.split(',') ?? [
    'llama.cpp',
    'dense',
    'sparse',
    ...(flags.python ? ['torch-f32', 'torch-bf16'] : []),
  ];
  const engines = names.map((name) => describeEngine(name, folder, flags));

  const temporary = await mkdtemp(join(tmpdir(), 'iceformer-bench-'));
  try {
    const tokensFile = join(temporary, 'tokens');
    await writeTokens(folder, flags.text, tokensFile, Math.max(...lengths));
    const samples = await runSchedule(
      engines,
      lengths,
      rounds,
      { tokensFile, decode, threads },
      (sample) => {
        const speed = (sample.length / sample.prefillMs) * 1000;
        process.stderr.write(
          `round ${sample.round + 1} ${sample.length} tokens ${sample.engine}: ${speed.toFixed(0)} tokens/s\n`,
        );
      },
    );
    const rows = summarise(samples);
    process.stdout.write(toMarkdown(rows, samples, machine));
    if (flags.json) {
      writeFileSync(
        flags.json,
        `${JSON.stringify({ machine, threads, rows, samples }, null, 2)}\n`,
      );
    }
  } finally {
    await rm(temporary, { recursive: true, force: true });
  }
}

function describeEngine(
  name: string,
  folder: string,
  flags: { model: string; gguf?: string; 'llama-batch': string; python?: string },
): Engine {
  const script = (file: string): [string, string] => [
    process.execPath,
    fileURLToPath(new URL(`engines/${file}`, import.meta.url)),
  ];
  if (name === 'llama.cpp') {
    const peers = join(cacheFolder(), '..', 'peers');
    const model = flags.gguf ?? fetchGguf(flags.model, peers);
    const options = { entry: installLlamaPeer(peers), batch: Number(flags['llama-batch']) };
    return { name, command: script('llama.js'), model, options };
  }
  const [attention, dtype = 'bf16'] = name.split('-');
  if (attention === 'dense' || attention === 'sparse') {
    const options = { attention, dtype };
    return { name: `iceformer ${name}`, command: script('iceformer.js'), model: folder, options };
  }
  if (attention === 'torch' && flags.python) {
    // Python is not compiled to dist, so the script is the one in the source folder.
    const file = fileURLToPath(new URL('../../model/engines/torch_sdpa.py', import.meta.url));
    return { name, command: [flags.python, file], model: folder, options: { dtype } };
  }
  throw new Error(
    `unknown engine "${name}"${attention === 'torch' ? ': torch needs --python' : ''}`,
  );
}

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
  if (tokens.length < needed) {
    throw new Error(`${text} has ${tokens.length} tokens, the longest prompt ${needed}`);
  }
  writeFileSync(target, tokens);
}

main().catch((error: unknown) => {
  process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`);
  process.exitCode = 1;
});
