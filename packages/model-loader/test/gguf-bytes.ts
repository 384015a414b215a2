/** Numbers of value types in GGUF. */
const TYPES = { u8: 0, u32: 4, i32: 5, f32: 6, flag: 7, text: 8, list: 9, u64: 10 } as const;

/** A value with its type. */
export type GgufValue =
  | { u32: number }
  | { f32: number }
  | { flag: boolean }
  | { text: string }
  | { texts: string[] }
  | { i32s: number[] }
  | { f32s: number[] };

/** A tensor: sizes as GGUF lists them, innermost first. */
export interface GgufTensorBytes {
  name: string;
  dims: number[];
  type: number;
  data: Uint8Array;
}

/** Bytes of a GGUF file, written here so that tests can break each part. */
export function ggufBytes(
  entries: [string, GgufValue][],
  tensors: GgufTensorBytes[] = [],
  change: { version?: number; offset?: (index: number, offset: number) => number } = {},
): Buffer {
  const parts: Buffer[] = [];
  const u32 = (value: number) => {
    const bytes = Buffer.alloc(4);
    bytes.writeUInt32LE(value);
    parts.push(bytes);
  };
  const u64 = (value: number) => {
    const bytes = Buffer.alloc(8);
    bytes.writeBigUInt64LE(BigInt(value));
    parts.push(bytes);
  };
  const text = (value: string) => {
    const bytes = Buffer.from(value);
    u64(bytes.byteLength);
    parts.push(bytes);
  };
  parts.push(Buffer.from('GGUF'));
  u32(change.version ?? 3);
  u64(tensors.length);
  u64(entries.length);
  for (const [key, value] of entries) {
    text(key);
    if ('u32' in value) {
      u32(TYPES.u32);
      u32(value.u32);
    } else if ('f32' in value) {
      u32(TYPES.f32);
      parts.push(Buffer.from(Float32Array.of(value.f32).buffer));
    } else if ('flag' in value) {
      u32(TYPES.flag);
      parts.push(Buffer.of(value.flag ? 1 : 0));
    } else if ('text' in value) {
      u32(TYPES.text);
      text(value.text);
    } else {
      u32(TYPES.list);
      if ('texts' in value) {
        u32(TYPES.text);
        u64(value.texts.length);
        for (const item of value.texts) text(item);
      } else if ('i32s' in value) {
        u32(TYPES.i32);
        u64(value.i32s.length);
        parts.push(Buffer.from(Int32Array.from(value.i32s).buffer));
      } else {
        u32(TYPES.f32);
        u64(value.f32s.length);
        parts.push(Buffer.from(Float32Array.from(value.f32s).buffer));
      }
    }
  }
  let offset = 0;
  for (const [index, tensor] of tensors.entries()) {
    text(tensor.name);
    u32(tensor.dims.length);
    for (const size of tensor.dims) u64(size);
    u32(tensor.type);
    u64(change.offset?.(index, offset) ?? offset);
    offset += Math.ceil(tensor.data.byteLength / 32) * 32;
  }
  const head = Buffer.concat(parts);
  const padding = (length: number) => Buffer.alloc((32 - (length % 32)) % 32);
  const data = tensors.flatMap((tensor) => [tensor.data, padding(tensor.data.byteLength)]);
  return Buffer.concat([head, padding(head.byteLength), ...data]);
}

/** A small llama model in F32: everything a GGUF file needs, to be changed by tests. */
export function smallModel(): { entries: Map<string, GgufValue>; tensors: GgufTensorBytes[] } {
  const [hidden, inner, heads, vocab] = [8, 16, 2, 5];
  const entries = new Map<string, GgufValue>([
    ['general.architecture', { text: 'llama' }],
    ['llama.block_count', { u32: 1 }],
    ['llama.context_length', { u32: 64 }],
    ['llama.embedding_length', { u32: hidden }],
    ['llama.feed_forward_length', { u32: inner }],
    ['llama.attention.head_count', { u32: heads }],
    ['llama.attention.layer_norm_rms_epsilon', { f32: 1e-5 }],
    ['tokenizer.ggml.model', { text: 'gpt2' }],
    ['tokenizer.ggml.pre', { text: 'gpt-2' }],
    ['tokenizer.ggml.tokens', { texts: ['<|end|>', 'a', 'b', 'ab', '[PAD4]'] }],
    ['tokenizer.ggml.token_type', { i32s: [3, 1, 1, 1, 5] }],
    ['tokenizer.ggml.merges', { texts: ['a b'] }],
    ['tokenizer.ggml.eos_token_id', { u32: 0 }],
  ]);
  const tensor = (name: string, ...dims: number[]): GgufTensorBytes => {
    const count = dims.reduce((product, size) => product * size, 1);
    return {
      name,
      dims,
      type: 0,
      data: new Uint8Array(Float32Array.from({ length: count }, (_, i) => i).buffer),
    };
  };
  const tensors = [
    tensor('token_embd.weight', hidden, vocab),
    tensor('output_norm.weight', hidden),
    tensor('blk.0.attn_norm.weight', hidden),
    tensor('blk.0.attn_q.weight', hidden, hidden),
    tensor('blk.0.attn_k.weight', hidden, hidden),
    tensor('blk.0.attn_v.weight', hidden, hidden),
    tensor('blk.0.attn_output.weight', hidden, hidden),
    tensor('blk.0.ffn_norm.weight', hidden),
    tensor('blk.0.ffn_gate.weight', hidden, inner),
    tensor('blk.0.ffn_up.weight', hidden, inner),
    tensor('blk.0.ffn_down.weight', inner, hidden),
  ];
  return { entries, tensors };
}
