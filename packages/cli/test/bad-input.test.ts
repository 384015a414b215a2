import { cp, mkdtemp, readFile, rm, unlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type BinaryRun, ROOT, runBinary } from './binary.ts';

// Everything a user can get wrong, through the real binary and the real packages: one line with a
// code on standard error, nothing on standard output, exit code 1.

const TINY = join(ROOT, 'bench/reference/fixtures/tiny');
let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'iceformer-cli-'));
});
afterAll(() => rm(folder, { recursive: true }));

/** A copy of a tiny model to damage. */
async function copyOf(fixture: string): Promise<string> {
  const copy = await mkdtemp(join(folder, `${fixture}-`));
  await cp(join(TINY, fixture), copy, { recursive: true });
  return copy;
}

async function editJson(path: string, edit: (json: Record<string, unknown>) => void) {
  const json = JSON.parse(await readFile(path, 'utf8')) as Record<string, unknown>;
  edit(json);
  await writeFile(path, JSON.stringify(json));
}

type Header = Record<string, { dtype: string; shape: number[]; data_offsets: [number, number] }>;

/** Rewrites the header of a safetensors file: its text, or its parsed form. */
async function editHeader(
  model: string,
  edit: (header: Header) => string | undefined,
): Promise<void> {
  const path = join(model, 'model.safetensors');
  const bytes = await readFile(path);
  const length = Number(bytes.readBigUInt64LE());
  const header = JSON.parse(bytes.subarray(8, 8 + length).toString()) as Header;
  const text = edit(header) ?? JSON.stringify(header);
  const prefix = Buffer.alloc(8);
  prefix.writeBigUInt64LE(BigInt(Buffer.byteLength(text)));
  await writeFile(path, Buffer.concat([prefix, Buffer.from(text), bytes.subarray(8 + length)]));
}

function generate(model: string, ...flags: string[]): Promise<BinaryRun> {
  return runBinary(['generate', '--model', model, '--prompt', 'Hello', ...flags]);
}

function expectFailure(run: BinaryRun, code: RegExp, message: RegExp | string): void {
  expect(run.stderr).toMatch(/^error ERR_[A-Z_]+: [^\n]+\n$/);
  expect(run.stderr.split(' ')[1]).toMatch(code);
  expect(run.stderr).toMatch(message);
  expect(run).toMatchObject({ code: 1, stdout: '' });
}

test('the tiny model works as long as it is whole', async () => {
  const run = await generate(await copyOf('llama-bias'), '--max-tokens', '4', '--json');
  expect(run).toMatchObject({ code: 0, stderr: '' });
  expect(JSON.parse(run.stdout)).toMatchObject({
    generatedTokens: expect.any(Number),
    simd: expect.stringMatching(/^[a-z0-9-]+$/),
    peakRssBytes: expect.any(Number),
    retainedMass: 1,
  });
});

test('a model that was not pulled: how to get it', async () => {
  const env = { ICEFORMER_HOME: join(folder, 'empty-home') };
  const run = await runBinary(['generate', '--prompt', 'Hello'], { env });
  expectFailure(run, /^ERR_MODEL_NOT_FOUND:$/, /iceformer pull smollm2-135m-instruct\n$/);
});

test('a model that does not exist', async () => {
  expectFailure(await generate('./no/such/model'), /^ERR_MODEL_NOT_FOUND:$/, './no/such/model');
});

test('an empty folder', async () => {
  const model = await mkdtemp(join(folder, 'nothing-'));
  expectFailure(await generate(model), /^ERR_CONFIG_MISSING:$/, 'config.json');
});

test('an unsupported architecture: the supported ones are named', async () => {
  const model = await copyOf('llama-bias');
  await editJson(join(model, 'config.json'), (config) => {
    config['architectures'] = ['GPT2LMHeadModel'];
    config['model_type'] = 'gpt2';
  });
  const message = /GPT2LMHeadModel; supported are LlamaForCausalLM, .*Qwen3ForCausalLM/;
  expectFailure(await generate(model), /^ERR_UNSUPPORTED_ARCHITECTURE:$/, message);
  const inspected = await runBinary(['inspect', '--model', model]);
  expectFailure(inspected, /^ERR_UNSUPPORTED_ARCHITECTURE:$/, message);
});

test('a missing shard', async () => {
  const model = await copyOf('llama-bf16-shards');
  await unlink(join(model, 'model-00002-of-00003.safetensors'));
  const name = /model-00002-of-00003\.safetensors/;
  expectFailure(await generate(model), /^ERR_SHARD_MISSING:$/, name);
});

test('no tokenizer', async () => {
  const model = await copyOf('llama-bias');
  await unlink(join(model, 'tokenizer.json'));
  expectFailure(await generate(model), /^ERR_TOKENIZER_MISSING:$/, 'tokenizer.json');
});

test('no weights', async () => {
  const model = await copyOf('llama-bias');
  await unlink(join(model, 'model.safetensors'));
  expectFailure(await generate(model), /^ERR_WEIGHTS_MISSING:$/, 'model.safetensors');
});

test('a missing tensor', async () => {
  const model = await copyOf('llama-bias');
  await editHeader(model, (header) => {
    const found = header['model.norm.weight'];
    if (found !== undefined) header['model.other.weight'] = found;
    delete header['model.norm.weight'];
    return undefined;
  });
  expectFailure(await generate(model), /^ERR_TENSOR_MISSING:$/, 'model.norm.weight');
});

test('a tensor of another shape than the config says', async () => {
  const model = await copyOf('llama-bias');
  await editJson(join(model, 'config.json'), (config) => {
    config['intermediate_size'] = 96;
  });
  expectFailure(await generate(model), /^ERR_/, /(gate|up|down).*\b96\b/);
});

test.each<[string, RegExp, (model: string) => Promise<void>]>([
  [
    'an empty file',
    /^ERR_SAFETENSORS_/,
    (model) => writeFile(join(model, 'model.safetensors'), ''),
  ],
  [
    'a file cut in the middle',
    /^ERR_SAFETENSORS_/,
    async (model) => {
      const path = join(model, 'model.safetensors');
      const bytes = await readFile(path);
      await writeFile(path, bytes.subarray(0, bytes.length / 2));
    },
  ],
  [
    'a header longer than the file',
    /^ERR_SAFETENSORS_/,
    async (model) => {
      const path = join(model, 'model.safetensors');
      const bytes = await readFile(path);
      bytes.writeBigUInt64LE(50_000_000n);
      await writeFile(path, bytes);
    },
  ],
  [
    'a huge header',
    /^ERR_SAFETENSORS_/,
    async (model) => {
      const path = join(model, 'model.safetensors');
      const bytes = await readFile(path);
      bytes.writeBigUInt64LE(2n ** 62n);
      await writeFile(path, bytes);
    },
  ],
  [
    'a header that is not JSON',
    /^ERR_SAFETENSORS_/,
    (model) => editHeader(model, () => '{"model.norm.weight": '),
  ],
  [
    'two tensors of one name',
    /^ERR_SAFETENSORS_DUPLICATE_KEY:$/,
    (model) =>
      editHeader(model, (header) => {
        const text = JSON.stringify(header);
        const [name, tensor] = Object.entries(header)[0] ?? [];
        return `${text.slice(0, -1)},${JSON.stringify(name)}:${JSON.stringify(tensor)}}`;
      }),
  ],
  [
    'overlapping tensors',
    /^ERR_SAFETENSORS_/,
    (model) =>
      editHeader(model, (header) => {
        const norms = Object.values(header).filter(({ shape }) => shape?.length === 1);
        const [first, second] = norms;
        if (first !== undefined && second !== undefined) second.data_offsets = first.data_offsets;
        return undefined;
      }),
  ],
  [
    'offsets beyond the file',
    /^ERR_SAFETENSORS_/,
    (model) =>
      editHeader(model, (header) => {
        const tensor = header['model.norm.weight'];
        if (tensor !== undefined) tensor.data_offsets = [1e9, 1e9 + 4 * (tensor.shape[0] ?? 0)];
        return undefined;
      }),
  ],
  [
    'a shape that does not fit its bytes',
    /^ERR_SAFETENSORS_/,
    (model) =>
      editHeader(model, (header) => {
        const tensor = header['model.norm.weight'];
        if (tensor !== undefined) tensor.shape = [1];
        return undefined;
      }),
  ],
  [
    'an unknown data type',
    /^ERR_SAFETENSORS_/,
    (model) =>
      editHeader(model, (header) => {
        const tensor = header['model.norm.weight'];
        if (tensor !== undefined) tensor.dtype = 'F12';
        return undefined;
      }),
  ],
])('safetensors: %s', async (_name, code, damage) => {
  const model = await copyOf('llama-bias');
  await damage(model);
  expectFailure(await generate(model), code, 'model.safetensors');
});

test('a config that is not JSON', async () => {
  const model = await copyOf('llama-bias');
  await writeFile(join(model, 'config.json'), '{"hidden_size": ');
  expectFailure(await generate(model), /^ERR_CONFIG_INVALID:$/, 'config.json');
});

test('a prompt longer than the context: both numbers', async () => {
  const model = await copyOf('llama-bias');
  const args = ['generate', '--model', model, '--file', '-', '--raw'];
  const run = await runBinary(args, { stdin: 'a'.repeat(600) });
  expectFailure(run, /^ERR_PROMPT_TOO_LONG:$/, /600 tokens.* 512/);
});

test('a text shorter than one window of ppl: both numbers', async () => {
  const model = await copyOf('llama-bias');
  const args = ['ppl', '--model', model, '--file', '-', '--context', '256'];
  const run = await runBinary(args, { stdin: 'a'.repeat(100) });
  expectFailure(run, /^ERR_TEXT_TOO_SHORT:$/, /100 tokens.* 256/);
});

test('more memory than there is: estimated, with both numbers, before any work', async () => {
  const model = await copyOf('llama-bias');
  const args = ['generate', '--model', model, '--prompt', 'x', '--context', '2000000000'];
  const run = await runBinary([...args, '--max-tokens', '1999999999', '--rope-scaling', 'yarn']);
  expectFailure(run, /^ERR_NOT_ENOUGH_MEMORY:$/, /needs [\d.]+ .B .*, [\d.]+ .B free/);
});

/** A plan whose second layer is this one, with more fields of the plan. */
const planWith = (layer: object, more: object = {}): string =>
  JSON.stringify({ version: 1, layers: [{ strategy: 'exact' }, layer], ...more });

const selected = (massTarget: unknown): object => ({
  ...{ strategy: 'selected', massTarget, sinks: 16, recent: 64, batch: 64 },
});

/** As a calibration writes it, of a model that is not here. */
const calibration = {
  model: { fingerprint: 'f00dfeedf00dfeed', layers: 2, heads: 4, kvHeads: 2, headDim: 16 },
  text: { sha256: '00', tokens: 1 },
  context: 128,
  accuracy: { wanted: 0.99, reached: 0.99, interval: [0.98, 1], tokens: 1 },
  time: { densePrefillMs: 1, planPrefillMs: 1, denseAttentionMs: 1, planAttentionMs: 1 },
  machine: { simd: 'scalar', threads: 1, dtype: 'bf16', kvDtype: 'bf16' },
};

test.each<[string, string | undefined, RegExp, RegExp]>([
  ['no file', undefined, /^ERR_PLAN_UNREADABLE:$/, /no-file\.json cannot be read/],
  ['not JSON', '{', /^ERR_PLAN_UNREADABLE:$/, /not-JSON\.json is not JSON/],
  ['not an object', '[]', /^ERR_PLAN:$/, /must be a JSON object/],
  [
    'another version',
    '{"version":9,"layers":[]}',
    /^ERR_PLAN:$/,
    /version is 9, .* reads version 1/,
  ],
  [
    'another number of layers',
    '{"version":1,"layers":[{"strategy":"exact"},{"strategy":"exact"},{"strategy":"exact"}]}',
    /^ERR_PLAN_LAYERS:$/,
    /for 3 layers, the model has 2/,
  ],
  [
    'another number of heads',
    planWith({ strategy: 'exact', heads: [null, null, null, null, null] }),
    /^ERR_PLAN_HEADS:$/,
    /layer 1 .* 5 key\/value heads, the model has 2/,
  ],
  [
    'calibrated on another model',
    planWith(selected(0.9), { calibration }),
    /^ERR_PLAN_MODEL:$/,
    /f00dfeedf00d… \(2 layers, .* this one is [0-9a-f]{12}… \(2 layers/,
  ],
  ['a strategy nobody knows', planWith({ strategy: 'guess' }), /^ERR_PLAN_STRATEGY:$/, /"guess"/],
  [
    'a head of such',
    planWith({ strategy: 'exact', heads: ['guess', null] }),
    /^ERR_PLAN_STRATEGY:$/,
    /head 0 of layer 1 .*"guess"/,
  ],
  ...[0, -0.5, 1.5, '0.9', null].map((value): [string, string, RegExp, RegExp] => [
    `mass target ${JSON.stringify(value)}`,
    planWith(selected(value)),
    /^ERR_PLAN:$/,
    new RegExp(`layer 1 .* massTarget ${JSON.stringify(value)}, .* above 0 and at most 1`),
  ]),
  [
    'mass target too large for a number',
    planWith(selected(1)).replace('"massTarget":1', '"massTarget":1e999'),
    /^ERR_PLAN:$/,
    /layer 1 .* massTarget/,
  ],
  [
    'a layer that reuses a later one',
    planWith({ strategy: 'reuse', layer: 7 }),
    /^ERR_PLAN:$/,
    /layer 1 .* reuses layer 7/,
  ],
])('a plan: %s', async (name, text, code, message) => {
  const model = await copyOf('llama-bias');
  const path = join(folder, `${name.replaceAll(' ', '-')}.json`);
  if (text !== undefined) await writeFile(path, text);
  expectFailure(await generate(model, '--plan', path), code, message);
});

test.each(['dense', 'balanced'])('weights that are not finite, %s', async (attention) => {
  const model = await copyOf('llama-bias');
  const path = join(model, 'model.safetensors');
  const bytes = await readFile(path);
  const start = 8 + Number(bytes.readBigUInt64LE());
  const header = JSON.parse(bytes.subarray(8, start).toString()) as Header;
  const [from = 0] = header['model.layers.1.self_attn.k_proj.bias']?.data_offsets ?? [];
  bytes.fill(0xff, start + from, start + from + 4); // not a number, whatever the type
  await writeFile(path, bytes);
  const run = await generate(model, '--attention', attention, '--max-tokens', '2');
  expectFailure(run, /^ERR_NOT_FINITE:$/, /key 0 has NaN at position 0, .* weights are damaged/);
});

test('pull: a model of no known name', async () => {
  const run = await runBinary(['pull', 'no-such-model']);
  expectFailure(run, /^ERR_MODEL_UNKNOWN:$/, 'smollm2-135m-instruct');
});

test('pull: offline, and not here', async () => {
  const env = { ICEFORMER_HOME: join(folder, 'empty-home') };
  const run = await runBinary(['pull', '--offline'], { env });
  expectFailure(run, /^ERR_MODEL_OFFLINE:$/, 'smollm2-135m-instruct');
});
