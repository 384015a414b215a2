import { createHash } from 'node:crypto';
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { importGguf, ModelLoaderError, openModel } from '@iceformer/model-loader';
import { describe, expect, onTestFinished, test } from 'vitest';
import { openGguf } from '../src/gguf-file.ts';
import { type EncodedText, fixture, fixturePath } from './fixture.ts';
import { type GgufValue, ggufBytes, smallModel } from './gguf-bytes.ts';
import { temporaryFolder } from './temporary-folder.ts';

interface ExpectedTensor {
  shape: number[];
  sha256: string;
}

async function imported(name: string, options: Parameters<typeof importGguf>[2] = {}) {
  const folder = await importGguf(
    fixturePath(`${name}.gguf`),
    join(temporaryFolder(), name),
    options,
  );
  const model = await openModel(folder);
  onTestFinished(() => model.close());
  return model;
}

describe.each(['llama', 'smollm', 'qwen2', 'qwen3', 'gemma3'])('%s', (name) => {
  test('has the weights of the checkpoint it was made from', async () => {
    const model = await imported(name);
    const expected = fixture<Record<string, ExpectedTensor>>(`${name}.tensors.json`);
    expect(model.tensors.names().sort()).toEqual(Object.keys(expected));
    for (const [tensor, { shape, sha256 }] of Object.entries(expected)) {
      const view = model.tensors.get(tensor);
      expect(view.shape, tensor).toEqual(shape);
      const values = await view.readFloat32();
      const found = createHash('sha256').update(new Uint8Array(values.buffer)).digest('hex');
      expect(found, tensor).toBe(sha256);
    }
  });

  test('has the tokenizer it was made from', async () => {
    const tokenizer = await (await imported(name)).tokenizer();
    for (const { text, ids, decoded } of fixture<EncodedText[]>(`${name}.ids.json`)) {
      const found = [...tokenizer.encode(text, { addSpecialTokens: false })];
      expect(found, JSON.stringify(text)).toEqual(ids);
      expect(tokenizer.decode(ids), JSON.stringify(text)).toBe(decoded);
    }
    expect(
      tokenizer.applyChatTemplate([{ role: 'user', content: 'hi' }], { addGenerationPrompt: true }),
    ).toBe('<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n');
  });
});

describe('configuration', () => {
  const shared = {
    hidden_size: 32,
    intermediate_size: 256,
    num_hidden_layers: 2,
    num_attention_heads: 4,
    num_key_value_heads: 2,
    max_position_embeddings: 2048,
    rms_norm_eps: 1e-5,
    rope_theta: 10000,
    rope_scaling: null,
    tie_word_embeddings: true,
  };

  test('llama with biases, own head and SentencePiece', async () => {
    const { config, generationConfig } = await imported('llama');
    expect(config).toMatchObject({
      ...shared,
      model_type: 'llama',
      architectures: ['LlamaForCausalLM'],
      head_dim: 8,
      hidden_act: 'silu',
      attention_bias: true,
      mlp_bias: false,
      tie_word_embeddings: false,
      bos_token_id: 1,
      eos_token_id: 2,
      pad_token_id: null,
      // The dtype of the largest tensor, here the head.
      torch_dtype: 'float16',
    });
    expect(generationConfig).toEqual({ bos_token_id: 1, eos_token_id: 2 });
  });

  test('llama with the rope scaling of Llama 3', async () => {
    const { config } = await imported('smollm');
    expect(config).toMatchObject({
      ...shared,
      model_type: 'llama',
      head_dim: 16,
      rope_theta: 500000,
      rope_scaling: {
        rope_type: 'llama3',
        factor: 8,
        low_freq_factor: 1,
        high_freq_factor: 4,
        original_max_position_embeddings: 8192,
      },
      attention_bias: false,
      bos_token_id: 1,
      eos_token_id: 2,
      pad_token_id: 2,
    });
  });

  test('llama by its other names', async () => {
    const imports = async (change: (model: ReturnType<typeof smallModel>) => void) => {
      const model = smallModel();
      change(model);
      const folder = temporaryFolder();
      writeFileSync(join(folder, 'x.gguf'), ggufBytes([...model.entries], model.tensors));
      await importGguf(join(folder, 'x.gguf'), join(folder, 'out'));
      return (await openModel(join(folder, 'out'))).config;
    };
    expect(
      await imports(({ entries }) => entries.set('llama.attention.sliding_window', { u32: 16 })),
    ).toMatchObject({ model_type: 'mistral', sliding_window: 16 });
    expect(
      await imports(({ tensors }) => {
        for (const part of ['q', 'k', 'v']) {
          tensors.push({
            name: `blk.0.attn_${part}.bias`,
            dims: [8],
            type: 0,
            data: new Uint8Array(32),
          });
        }
      }),
    ).toMatchObject({ model_type: 'qwen2', architectures: ['Qwen2ForCausalLM'] });
    expect(await imports(() => undefined)).toMatchObject({
      model_type: 'llama',
      attention_bias: false,
    });
  });

  test('qwen2 with yarn', async () => {
    const { config } = await imported('qwen2');
    expect(config).toMatchObject({
      ...shared,
      model_type: 'qwen2',
      architectures: ['Qwen2ForCausalLM'],
      use_sliding_window: false,
      rope_scaling: { rope_type: 'yarn', factor: 4, original_max_position_embeddings: 512 },
    });
  });

  test('qwen3', async () => {
    const { config } = await imported('qwen3');
    expect(config).toMatchObject({
      ...shared,
      model_type: 'qwen3',
      architectures: ['Qwen3ForCausalLM'],
      head_dim: 32,
      torch_dtype: 'float16',
    });
  });

  test('gemma3', async () => {
    const { config } = await imported('gemma3');
    expect(config).toMatchObject({
      ...shared,
      model_type: 'gemma3_text',
      architectures: ['Gemma3ForCausalLM'],
      head_dim: 32,
      hidden_activation: 'gelu_pytorch_tanh',
      sliding_window: 512,
      query_pre_attn_scalar: 32,
      rope_local_base_freq: 10000,
      layer_types: ['sliding_attention', 'sliding_attention'],
    });
    expect(config).not.toHaveProperty('hidden_act');
    // GGUF names </s>; the turn ends earlier.
    expect(config['eos_token_id']).toHaveLength(2);
  });

  test('tokens around a text are those the file asks for', async () => {
    const llama = await (await imported('llama')).tokenizer();
    expect(llama.encode('a')[0]).toBe(1);
    expect(llama.bosTokenId).toBe(1);
    const smollm = await (await imported('smollm')).tokenizer();
    expect(smollm.encode('a')).toEqual(smollm.encode('a', { addSpecialTokens: false }));
  });
});

describe('element types', () => {
  test('are kept where they lose nothing', async () => {
    const { tensors } = await imported('llama');
    expect(tensors.get('model.embed_tokens.weight').dtype).toBe('F32');
    expect(tensors.get('lm_head.weight').dtype).toBe('F16');
    expect(tensors.get('model.layers.0.self_attn.o_proj.weight').dtype).toBe('BF16');
    expect(tensors.get('model.norm.weight').dtype).toBe('F32');
  });

  test.each(['F32', 'F16', 'BF16'] as const)('can be %s throughout', async (dtype) => {
    const { tensors, config } = await imported('llama', { dtype });
    for (const tensor of tensors) expect(tensor.dtype).toBe(dtype);
    expect(config['torch_dtype']).toBe({ F32: 'float32', F16: 'float16', BF16: 'bfloat16' }[dtype]);
    const exact = await imported('llama');
    const name = 'model.layers.1.mlp.down_proj.weight';
    const [rounded, values] = await Promise.all([
      tensors.get(name).readFloat32(),
      exact.tensors.get(name).readFloat32(),
    ]);
    const allowed = { F32: 0, F16: 2 ** -11, BF16: 2 ** -8 }[dtype];
    for (const [i, value] of values.entries()) {
      const error = Math.abs((rounded[i] as number) - value);
      if (error > Math.abs(value) * allowed + 2 ** -25) expect([i, error]).toEqual([i, 0]);
    }
  });
});

describe('the folder', () => {
  test('comes whole, reports progress, and holds further files', async () => {
    const parent = temporaryFolder();
    const seen: number[] = [];
    let total = 0;
    const folder = await importGguf(fixturePath('llama.gguf'), join(parent, 'out'), {
      extraFiles: { 'note.json': '{"a":1}' },
      onProgress: (progress) => {
        seen.push(progress.done);
        total = progress.total;
        expect(readdirSync(parent).every((name) => name.startsWith('.'))).toBe(true);
      },
    });
    expect(folder).toBe(join(parent, 'out'));
    expect(seen.at(-1)).toBe(total);
    expect([...seen].sort((a, b) => a - b)).toEqual(seen);
    expect(readdirSync(folder).sort()).toEqual([
      'config.json',
      'generation_config.json',
      'model.safetensors',
      'note.json',
      'tokenizer.json',
      'tokenizer_config.json',
    ]);
    expect(readdirSync(parent)).toEqual(['out']);
  });

  test('may exist when it is empty', async () => {
    const folder = temporaryFolder();
    await importGguf(fixturePath('llama.gguf'), folder);
    await expect(importGguf(fixturePath('llama.gguf'), folder)).rejects.toMatchObject({
      code: 'ERR_OUTPUT_EXISTS',
    });
    await expect(
      importGguf(fixturePath('llama.gguf'), join(folder, 'config.json')),
    ).rejects.toMatchObject({ code: 'ERR_OUTPUT_EXISTS' });
    await expect(
      importGguf(fixturePath('llama.gguf'), join(folder, 'config.json', 'sub')),
    ).rejects.toMatchObject({ name: 'ModelLoaderError' });
  });

  test('is not there after an abort', async () => {
    const parent = temporaryFolder();
    const controller = new AbortController();
    const running = importGguf(fixturePath('llama.gguf'), join(parent, 'out'), {
      signal: controller.signal,
      onProgress: ({ done, total }) => {
        if (done > total / 2) controller.abort(new Error('enough'));
      },
    });
    await expect(running).rejects.toThrow('enough');
    expect(readdirSync(parent)).toEqual([]);
  });
});

describe('tokenizers', () => {
  async function tokenizerOf(changes: [string, GgufValue | undefined][]) {
    const { entries, tensors } = smallModel();
    for (const [key, value] of changes) {
      if (value === undefined) entries.delete(key);
      else entries.set(key, value);
    }
    const folder = temporaryFolder();
    const path = join(folder, 'x.gguf');
    writeFileSync(path, ggufBytes([...entries], tensors));
    await importGguf(path, join(folder, 'out'));
    const model = await openModel(join(folder, 'out'));
    onTestFinished(() => model.close());
    return model.tokenizer();
  }

  test('leave out padding tokens and read merges', async () => {
    const tokenizer = await tokenizerOf([]);
    expect([...tokenizer.encode('ab<|end|>b')]).toEqual([3, 0, 2]);
    expect(tokenizer.tokenToId('[PAD4]')).toBeUndefined();
    expect(tokenizer.eosTokenIds).toEqual([0]);
  });

  test('end where a turn ends, when the file names only the end of text', async () => {
    const tokens = { texts: ['<s>', 'a', 'b', 'ab', '<|eot_id|>'] };
    const types = { i32s: [3, 1, 1, 1, 3] };
    expect(
      (
        await tokenizerOf([
          ['tokenizer.ggml.tokens', tokens],
          ['tokenizer.ggml.token_type', types],
        ])
      ).eosTokenIds,
    ).toEqual([0, 4]);
    expect(
      (
        await tokenizerOf([
          ['tokenizer.ggml.tokens', tokens],
          ['tokenizer.ggml.token_type', types],
          ['tokenizer.ggml.eot_token_id', { u32: 1 }],
        ])
      ).eosTokenIds,
    ).toEqual([0, 1]);
  });

  test('add what the file asks for, or what its pre-tokenizer is known to want', async () => {
    const bos: [string, GgufValue] = ['tokenizer.ggml.bos_token_id', { u32: 0 }];
    const encode = async (changes: [string, GgufValue][]) => [
      ...(await tokenizerOf([bos, ...changes])).encode('a'),
    ];
    expect(await encode([])).toEqual([1]);
    expect(await encode([['tokenizer.ggml.pre', { text: 'llama-bpe' }]])).toEqual([0, 1]);
    expect(await encode([['tokenizer.ggml.add_bos_token', { flag: true }]])).toEqual([0, 1]);
    expect(
      await encode([
        ['tokenizer.ggml.add_bos_token', { flag: true }],
        ['tokenizer.ggml.add_eos_token', { flag: true }],
      ]),
    ).toEqual([0, 1, 0]);
    expect(
      await encode([
        ['tokenizer.ggml.pre', { text: 'llama-bpe' }],
        ['tokenizer.ggml.add_bos_token', { flag: false }],
      ]),
    ).toEqual([1]);
    // A number past the last token means none.
    expect((await tokenizerOf([['tokenizer.ggml.bos_token_id', { u32: 99 }]])).bosTokenId).toBe(
      undefined,
    );
  });

  test('refuse what they cannot mean', async () => {
    const refused: [code: string, ...changes: [string, GgufValue | undefined][]][] = [
      ['ERR_GGUF_PRE_TOKENIZER', ['tokenizer.ggml.pre', { text: 'klingon' }]],
      ['ERR_GGUF_TOKENIZER', ['tokenizer.ggml.model', { text: 'bert' }]],
      ['ERR_GGUF_TOKENIZER', ['tokenizer.ggml.model', undefined]],
      ['ERR_GGUF_TOKENIZER', ['tokenizer.ggml.tokens', { texts: [] }]],
      ['ERR_GGUF_TOKENIZER', ['tokenizer.ggml.merges', undefined]],
      ['ERR_GGUF_TOKENIZER', ['tokenizer.ggml.token_type', { i32s: [1] }]],
      ['ERR_GGUF_TOKENIZER', ['tokenizer.ggml.model', { text: 'llama' }]],
      ['ERR_GGUF_TOKENIZER', ['tokenizer.ggml.tokens', { texts: ['a', 'a', 'b', 'ab', 'c'] }]],
      ['ERR_GGUF_INVALID', ['tokenizer.ggml.tokens', { i32s: [1, 2, 3, 4, 5] }]],
      ['ERR_GGUF_INVALID', ['tokenizer.ggml.pre', { u32: 5 }]],
    ];
    for (const [code, ...changes] of refused) {
      await expect(tokenizerOf(changes), JSON.stringify(changes)).rejects.toMatchObject({ code });
    }
  });
});

describe('refusing', () => {
  async function codeOf(bytes: Uint8Array): Promise<string> {
    const folder = temporaryFolder();
    const path = join(folder, 'bad.gguf');
    writeFileSync(path, bytes);
    const error: unknown = await importGguf(path, join(folder, 'out')).then(
      () => new ModelLoaderError('ERR_PULL_FAILED', 'it was imported'),
      (thrown: unknown) => thrown,
    );
    expect(error).toBeInstanceOf(ModelLoaderError);
    expect((error as Error).message).not.toContain('\n');
    expect(readdirSync(folder).filter((name) => name !== 'bad.gguf')).toEqual(
      (error as ModelLoaderError).code === 'ERR_PULL_FAILED' ? ['out'] : [],
    );
    return (error as ModelLoaderError).code;
  }

  function changed(...changes: [string, GgufValue | undefined][]): Uint8Array {
    const { entries, tensors } = smallModel();
    for (const [key, value] of changes) {
      if (value === undefined) entries.delete(key);
      else entries.set(key, value);
    }
    return ggufBytes([...entries], tensors);
  }

  test('a small model is imported', async () => {
    expect(await codeOf(changed())).toBe('ERR_PULL_FAILED');
  });

  test('what is no GGUF file of version 3', async () => {
    expect(await codeOf(Buffer.from('GGUX'))).toBe('ERR_GGUF_INVALID');
    expect(await codeOf(Buffer.alloc(0))).toBe('ERR_GGUF_INVALID');
    expect(await codeOf(Buffer.alloc(100, 'x'))).toBe('ERR_GGUF_INVALID');
    for (const version of [1, 2, 4, 3 << 24]) {
      const { entries, tensors } = smallModel();
      expect(await codeOf(ggufBytes([...entries], tensors, { version }))).toBe('ERR_GGUF_VERSION');
    }
    const folder = temporaryFolder();
    await expect(importGguf(join(folder, 'none'), join(folder, 'out'))).rejects.toMatchObject({
      code: 'ERR_MODEL_NOT_FOUND',
    });
    mkdirSync(join(folder, 'dir'));
    await expect(importGguf(join(folder, 'dir'), join(folder, 'out'))).rejects.toMatchObject({
      code: 'ERR_MODEL_UNREADABLE',
    });
  });

  test('models that are not supported', async () => {
    expect(await codeOf(changed(['general.architecture', { text: 'mamba' }]))).toBe(
      'ERR_GGUF_ARCHITECTURE',
    );
    expect(await codeOf(changed(['general.architecture', undefined]))).toBe(
      'ERR_GGUF_ARCHITECTURE',
    );
    expect(await codeOf(changed(['llama.expert_count', { u32: 8 }]))).toBe('ERR_GGUF_ARCHITECTURE');
    expect(await codeOf(changed(['llama.attention.head_count', { i32s: [2] }]))).toBe(
      'ERR_GGUF_ARCHITECTURE',
    );
    expect(await codeOf(changed(['llama.rope.scaling.type', { text: 'longrope' }]))).toBe(
      'ERR_GGUF_ARCHITECTURE',
    );
    expect(await codeOf(changed(['llama.rope.scaling.type', { text: 'yarn' }]))).toBe(
      'ERR_GGUF_ARCHITECTURE',
    );
  });

  test('numbers that do not fit', async () => {
    for (const change of [
      ['llama.block_count', undefined],
      ['llama.block_count', { u32: 0 }],
      ['llama.embedding_length', { text: '8' }],
      ['llama.attention.head_count', { u32: 3 }],
      ['llama.attention.head_count_kv', { u32: 0 }],
      ['llama.attention.layer_norm_rms_epsilon', { f32: Number.NaN }],
    ] as [string, GgufValue | undefined][]) {
      expect(await codeOf(changed(change)), JSON.stringify(change)).toBe('ERR_GGUF_INVALID');
    }
    expect(await codeOf(changed(['llama.block_count', { u32: 2 }]))).toBe('ERR_GGUF_TENSOR_NAME');
    expect(await codeOf(changed(['llama.block_count', { u32: 2 ** 32 - 1 }]))).toBe(
      'ERR_GGUF_TENSOR_NAME',
    );
    expect(await codeOf(changed(['split.count', { u32: 3 }]))).toBe('ERR_GGUF_INVALID');
    expect(await codeOf(changed(['llama.feed_forward_length', { u32: 17 }]))).toBe(
      'ERR_GGUF_INVALID',
    );
  });

  test('tensors that are missing, unknown, twice, of another type, or misplaced', async () => {
    const { entries, tensors } = smallModel();
    const list = [...entries];
    const first = tensors[0] as (typeof tensors)[0];
    expect(await codeOf(ggufBytes(list, tensors.slice(1)))).toBe('ERR_GGUF_TENSOR_NAME');
    expect(await codeOf(ggufBytes(list, [...tensors, { ...first, name: 'blk.7.x' }]))).toBe(
      'ERR_GGUF_TENSOR_NAME',
    );
    expect(await codeOf(ggufBytes(list, [...tensors, first]))).toBe('ERR_GGUF_INVALID');
    expect(await codeOf(ggufBytes(list, [{ ...first, type: 10 }, ...tensors.slice(1)]))).toBe(
      'ERR_GGUF_TENSOR_TYPE',
    );
    expect(await codeOf(ggufBytes(list, [{ ...first, type: 999 }, ...tensors.slice(1)]))).toBe(
      'ERR_GGUF_TENSOR_TYPE',
    );
    // Rows of 8 are no blocks of 32.
    expect(await codeOf(ggufBytes(list, [{ ...first, type: 2 }, ...tensors.slice(1)]))).toBe(
      'ERR_GGUF_INVALID',
    );
    expect(
      await codeOf(ggufBytes(list, [{ ...first, dims: [2 ** 32, 2 ** 32] }, ...tensors.slice(1)])),
    ).toBe('ERR_GGUF_INVALID');
    const offset = (change: (index: number, offset: number) => number) =>
      codeOf(ggufBytes(list, tensors, { offset: change }));
    expect(await offset((index, at) => (index === 3 ? at + 1 : at))).toBe('ERR_GGUF_INVALID');
    expect(await offset((index, at) => (index === 3 ? at - 32 : at))).toBe('ERR_GGUF_INVALID');
    expect(await offset((index, at) => (index === 3 ? 2 ** 40 : at))).toBe('ERR_GGUF_INVALID');
  });

  test('rope factors that config.json cannot say', async () => {
    const { entries, tensors } = smallModel();
    const factors = { name: 'rope_freqs.weight', dims: [2], type: 0 };
    const file = (values: number[]) =>
      ggufBytes(
        [...entries],
        [...tensors, { ...factors, data: new Uint8Array(Float32Array.from(values).buffer) }],
      );
    expect(await codeOf(file([1, 17]))).toBe('ERR_GGUF_ARCHITECTURE');
    expect(await codeOf(file([1, 1]))).toBe('ERR_PULL_FAILED');
  });

  test('keys that appear twice, and text that is not UTF-8', async () => {
    const { entries, tensors } = smallModel();
    const list = [...entries];
    const twice = ggufBytes([...list, ['general.architecture', { text: 'qwen2' }]], tensors);
    expect(await codeOf(twice)).toBe('ERR_GGUF_INVALID');
    const bytes = ggufBytes([...list, ['general.name', { text: 'QQQQ' }]], tensors);
    bytes[bytes.indexOf('QQQQ')] = 0xff;
    expect(await codeOf(bytes)).toBe('ERR_GGUF_INVALID');
  });

  test('every truncation', async () => {
    const bytes = changed();
    for (let length = 0; length < bytes.byteLength; length += length < 1200 ? 7 : 97) {
      expect(await codeOf(bytes.subarray(0, length)), `${length} bytes`).toBe('ERR_GGUF_INVALID');
    }
  });

  test('damaged heads are typed errors or add up', async () => {
    const bytes = changed();
    let imports = 0;
    // The head has about 1,300 bytes; one bit in each of them.
    for (let at = 0; at < 1300; at++) {
      const damaged = Buffer.from(bytes);
      damaged[at] = (damaged[at] as number) ^ (1 << (at % 8));
      if ((await codeOf(damaged)) === 'ERR_PULL_FAILED') imports++;
    }
    expect(imports).toBeGreaterThan(0);
    expect(imports).toBeLessThan(900);
  }, 120_000);
});

test('a text that the parser cuts at the end of a step is read whole', async () => {
  // The parser reads 2,000,000 bytes at a time and cuts the last text of a value that ends beyond them.
  const { entries, tensors } = smallModel();
  const before = ggufBytes([...entries]).byteLength;
  const words = Array.from({ length: 60_000 }, (_, i) => `a${i.toString().padStart(20, '0')}`);
  for (const short of [1, 2, 5]) {
    const list = [...words];
    const key = 'tokenizer.ggml.extra';
    const size = () => ggufBytes([...entries, [key, { texts: list }]]).byteLength;
    // Fill up so that the last text crosses byte 2,000,000 by `short` bytes.
    list.push('x'.repeat(2_000_000 - size() - 8 - 30), `éé${'z'.repeat(20)}`);
    const overshoot = size() - 2_000_000;
    list[list.length - 2] += 'x'.repeat(short + 32 - overshoot);
    const path = join(temporaryFolder(), 'cut.gguf');
    writeFileSync(path, ggufBytes([...entries, [key, { texts: list }]], tensors));
    const { metadata } = await openGguf(path);
    expect(metadata.texts(key)?.at(-1)).toBe(`éé${'z'.repeat(20)}`);
    expect(metadata.texts(key)?.length).toBe(list.length);
    expect(before).toBeLessThan(2_000_000);
    expect(readFileSync(path).byteLength).toBeGreaterThan(2_000_000);
  }
});
