import { chmodSync, mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type ModelFolder, ModelLoaderError, openModel } from '@iceformer/model-loader';
import { describe, expect, onTestFinished, test } from 'vitest';
import { fixture } from './fixture.ts';
import { writeSafetensors } from './safetensors-file.ts';
import { temporaryFolder } from './temporary-folder.ts';

const { smollm } = fixture<Record<string, { tokenizer: object }>>('tokenizers.json');

/** A complete small folder, which tests then damage. */
function makeFolder(): string {
  const folder = temporaryFolder();
  writeFileSync(
    join(folder, 'config.json'),
    '{"model_type":"llama","hidden_size":2,"eos_token_id":2}',
  );
  writeFileSync(join(folder, 'generation_config.json'), '{"eos_token_id":[2,1]}');
  writeFileSync(join(folder, 'tokenizer.json'), JSON.stringify(smollm?.tokenizer));
  writeFileSync(
    join(folder, 'tokenizer_config.json'),
    '{"bos_token":"<|im_start|>","eos_token":{"content":"<|im_end|>"},"chat_template":"{{bos_token}}{{messages[0].content}}"}',
  );
  writeSafetensors(
    join(folder, 'model.safetensors'),
    {
      'model.norm.weight': { dtype: 'F32', shape: [2], data_offsets: [0, 8] },
      'lm_head.weight': { dtype: 'BF16', shape: [2, 2], data_offsets: [8, 16] },
    },
    new Uint8Array(16),
  );
  return folder;
}

async function opened(folder: string): Promise<ModelFolder> {
  const model = await openModel(folder);
  onTestFinished(() => model.close());
  return model;
}

async function codeOf(promise: Promise<unknown>): Promise<{ code: string; message: string }> {
  const error: unknown = await promise.catch((thrown: unknown) => thrown);
  expect(error).toBeInstanceOf(ModelLoaderError);
  const { code, message } = error as ModelLoaderError;
  expect(message).not.toContain('\n');
  return { code, message };
}

describe('opening', () => {
  test('gives config, weights and tokenizer', async () => {
    const folder = makeFolder();
    const model = await opened(folder);
    expect(model.path).toBe(folder);
    expect(model.config['hidden_size']).toBe(2);
    expect(model.generationConfig).toEqual({ eos_token_id: [2, 1] });
    expect(model.tensors.names().sort()).toEqual(['lm_head.weight', 'model.norm.weight']);
    expect(model.tensors.has('lm_head.weight')).toBe(true);
    expect(model.tensors.has('model.embed_tokens.weight')).toBe(false);
    expect([...model.tensors].map((tensor) => tensor.byteLength)).toEqual([8, 8]);
    expect(model.tensors.get('lm_head.weight').shape).toEqual([2, 2]);
    expect(() => model.tensors.get('nothing')).toThrow(
      expect.objectContaining({
        code: 'ERR_TENSOR_MISSING',
        details: { path: folder, tensor: 'nothing' },
      }),
    );
    const tokenizer = await model.tokenizer();
    expect(await model.tokenizer()).toBe(tokenizer);
    expect(tokenizer.eosTokenIds).toEqual([2, 1]);
    expect(tokenizer.bosTokenId).toBe(1);
    expect(tokenizer.applyChatTemplate([{ role: 'user', content: 'hi' }])).toBe('<|im_start|>hi');
  });

  test('takes the end of text from where it is said first', async () => {
    const folder = makeFolder();
    rmSync(join(folder, 'generation_config.json'));
    expect((await (await opened(folder)).tokenizer()).eosTokenIds).toEqual([2]);
    writeFileSync(join(folder, 'config.json'), '{"model_type":"llama","eos_token_id":null}');
    expect((await (await opened(folder)).tokenizer()).eosTokenIds).toEqual([2]);
    rmSync(join(folder, 'tokenizer_config.json'));
    const bare = await (await opened(folder)).tokenizer();
    expect(bare.eosTokenIds).toEqual([]);
    expect(bare.bosTokenId).toBeUndefined();
    expect(bare.hasChatTemplate).toBe(false);
  });

  test('prefers chat_template.jinja', async () => {
    const folder = makeFolder();
    writeFileSync(join(folder, 'chat_template.jinja'), 'file:{{messages[0].content}}');
    const tokenizer = await (await opened(folder)).tokenizer();
    expect(tokenizer.applyChatTemplate([{ role: 'user', content: 'x' }])).toBe('file:x');
  });

  test('can be closed twice, and gives no tokenizer then', async () => {
    const model = await openModel(makeFolder());
    await model.tokenizer();
    await model.close();
    await model.close();
    expect((await codeOf(model.tokenizer())).code).toBe('ERR_MODEL_CLOSED');
  });
});

describe('what is missing or broken', () => {
  test('a folder', async () => {
    const folder = temporaryFolder();
    expect(await codeOf(openModel(join(folder, 'none')))).toMatchObject({
      code: 'ERR_MODEL_NOT_FOUND',
      message: expect.stringContaining('none') as string,
    });
    writeFileSync(join(folder, 'model.gguf'), 'GGUF');
    expect(await codeOf(openModel(join(folder, 'model.gguf')))).toMatchObject({
      code: 'ERR_MODEL_NOT_FOUND',
      message: expect.stringContaining('importGguf') as string,
    });
    expect(await codeOf(openModel(folder))).toMatchObject({
      code: 'ERR_CONFIG_MISSING',
      message: expect.stringContaining('model.gguf') as string,
    });
  });

  test('a folder that cannot be read', async () => {
    const folder = makeFolder();
    rmSync(join(folder, 'config.json'));
    // A folder where a file should be is unreadable to every user, root included.
    mkdirSync(join(folder, 'config.json'));
    expect((await codeOf(openModel(folder))).code).toBe('ERR_MODEL_UNREADABLE');
    if (process.getuid?.() !== 0) {
      chmodSync(folder, 0o000);
      expect((await codeOf(openModel(folder))).code).toBe('ERR_MODEL_UNREADABLE');
      chmodSync(folder, 0o700);
    }
  });

  test.each(['config.json', 'generation_config.json'])('%s', async (name) => {
    for (const content of ['', '{"a":', '[]', 'null', '\u0000']) {
      const folder = makeFolder();
      writeFileSync(join(folder, name), content);
      expect(await codeOf(openModel(folder))).toMatchObject({
        code: 'ERR_CONFIG_INVALID',
        message: expect.stringContaining(name) as string,
      });
    }
  });

  test('tokenizer files', async () => {
    const folder = makeFolder();
    const tokenizerCode = async () => (await codeOf((await opened(folder)).tokenizer())).code;
    writeFileSync(join(folder, 'tokenizer_config.json'), '{');
    expect(await tokenizerCode()).toBe('ERR_TOKENIZER_INVALID');
    rmSync(join(folder, 'tokenizer_config.json'));
    for (const content of [
      '{"a"',
      '{}',
      '{"model":[]}',
      '{"model":{"type":"BPE"}}',
      '{"model":{"type":"BPE","vocab":{"a":0}}}',
      '{"model":{"type":"BPE","vocab":{"a":0},"merges":[]},"added_tokens":{}}',
      '{"model":{"type":"BPE","vocab":{"a":0},"merges":[]},"added_tokens":[{"content":"x"}]}',
      '{"model":{"type":"BPE","vocab":{"a":0},"merges":[]},"added_tokens":[null]}',
      '{"model":{"type":"BPE","vocab":{"a":0},"merges":[5]}}',
      '{"model":{"type":"BPE","vocab":{"a":0},"merges":[]},"pre_tokenizer":{"type":"Split","pattern":{"Regex":"("},"behavior":"Isolated"}}',
    ]) {
      writeFileSync(join(folder, 'tokenizer.json'), content);
      expect(await tokenizerCode(), content).toBe('ERR_TOKENIZER_INVALID');
    }
    for (const content of [
      '{"model":{"type":"BPE","vocab":{"a":0},"merges":[]},"normalizer":{"type":"Nonsense"}}',
      '{"model":{"type":"BPE","vocab":{"a":0},"merges":[]},"pre_tokenizer":{"type":"Nonsense"}}',
      '{"model":{"type":"BPE","vocab":{"a":0},"merges":[]},"pre_tokenizer":{"type":"Punctuation","behavior":"Removed"}}',
    ]) {
      writeFileSync(join(folder, 'tokenizer.json'), content);
      expect(await tokenizerCode(), content).toBe('ERR_TOKENIZER_UNSUPPORTED');
    }
    rmSync(join(folder, 'tokenizer.json'));
    expect(await tokenizerCode()).toBe('ERR_TOKENIZER_MISSING');
  });

  test('weights', async () => {
    const folder = makeFolder();
    rmSync(join(folder, 'model.safetensors'));
    writeFileSync(join(folder, 'pytorch_model.bin'), 'x');
    expect(await codeOf(openModel(folder))).toMatchObject({ code: 'ERR_WEIGHTS_MISSING' });
  });
});

describe('shards', () => {
  const one = { a: { dtype: 'F32', shape: [1], data_offsets: [0, 4] } };
  const two = { b: { dtype: 'F32', shape: [1], data_offsets: [0, 4] } };

  function makeShards(weightMap: unknown, shards: Record<string, object>): string {
    const folder = makeFolder();
    rmSync(join(folder, 'model.safetensors'));
    writeFileSync(
      join(folder, 'model.safetensors.index.json'),
      typeof weightMap === 'string'
        ? weightMap
        : JSON.stringify({ metadata: { total_size: 8 }, weight_map: weightMap }),
    );
    for (const [name, header] of Object.entries(shards)) {
      writeSafetensors(join(folder, name), header, Uint8Array.of(0, 0, 0x80, 0x3f));
    }
    return folder;
  }

  const S1 = 'model-00001-of-00002.safetensors';
  const S2 = 'model-00002-of-00002.safetensors';

  test('are one catalog', async () => {
    const model = await opened(makeShards({ a: S1, b: S2 }, { [S1]: one, [S2]: two }));
    expect(model.tensors.names()).toEqual(['a', 'b']);
    expect(model.tensors.files.map((file) => file.slice(-S1.length))).toEqual([S1, S2]);
    expect(await model.tensors.get('b').readFloat32()).toEqual(Float32Array.of(1));
    expect(model.tensors.get('b').path).toContain(S2);
  });

  const cases: [string, unknown, Record<string, object>, string, RegExp][] = [
    [
      'a shard is missing',
      { a: S1, b: S2 },
      { [S1]: one },
      'ERR_SHARD_MISSING',
      /lacks the shard model-00002/,
    ],
    [
      'a shard lacks a tensor',
      { a: S1, b: S1 },
      { [S1]: one },
      'ERR_SHARD_MISMATCH',
      /places tensor b/,
    ],
    [
      'a shard has a tensor more',
      { a: S1 },
      { [S1]: { ...one, b: { dtype: 'U8', shape: [0], data_offsets: [4, 4] } } },
      'ERR_SHARD_MISMATCH',
      /places it nowhere/,
    ],
    [
      'a tensor is in the wrong shard',
      { a: S2, b: S1 },
      { [S1]: one, [S2]: two },
      'ERR_SHARD_MISMATCH',
      /places it in/,
    ],
    [
      'two shards have a tensor',
      { a: S1, b: S2 },
      { [S1]: one, [S2]: one },
      'ERR_SHARD_MISMATCH',
      /holds tensor a/,
    ],
    [
      'a shard is outside',
      { a: '../x.safetensors' },
      {},
      'ERR_SHARD_INDEX_INVALID',
      /no safetensors file name/,
    ],
    ['a shard is no text', { a: 5 }, {}, 'ERR_SHARD_INDEX_INVALID', /places tensor a in 5/],
    ['there is no map', '{}', {}, 'ERR_SHARD_INDEX_INVALID', /no weight_map/],
    ['the map is a list', '{"weight_map":[]}', {}, 'ERR_SHARD_INDEX_INVALID', /no weight_map/],
    ['the index is no JSON', '{"weight_map":', {}, 'ERR_SHARD_INDEX_INVALID', /not JSON/],
    [
      'a tensor is listed twice',
      `{"weight_map":{"a":"${S1}","a":"${S1}"}}`,
      {},
      'ERR_SHARD_INDEX_INVALID',
      /"a" twice/,
    ],
  ];
  test.each(cases)('%s', async (_what, weightMap, shards, code, message) => {
    const found = await codeOf(openModel(makeShards(weightMap, shards)));
    expect(found).toMatchObject({ code, message: expect.stringMatching(message) as string });
  });
});
