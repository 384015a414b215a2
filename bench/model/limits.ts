import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import process from 'node:process';
import { fileURLToPath } from 'node:url';

/** What the machine can do at most, from loops that do nothing else (crates/transformer/examples/machine_limits.rs). */
export interface MachineLimits {
  /** SIMD level they are for. */
  simd: string;
  threads: number;
  /** Bytes read from memory by all threads, in 10⁹ per second. */
  readGBs: number;
  /** Operations of all threads in 10⁹ per second, two for a multiply-add; null: not measured at this level. */
  f32: number | null;
  bf16: number | null;
  int8: number | null;
}

/** Measures the limits; builds what measures them. Undefined where there is no Rust. */
export function measureLimits(
  threads: number,
  environment: Record<string, string>,
): MachineLimits | undefined {
  const { status, stdout } = spawnSync(
    'cargo',
    [
      ...['run', '--quiet', '--release', '--locked', '-p', 'iceformer-transformer'],
      ...['--example', 'machine_limits', '--', String(threads)],
    ],
    {
      cwd: fileURLToPath(new URL('../../..', import.meta.url)),
      encoding: 'utf8',
      env: { ...process.env, ...environment },
    },
  );
  return status === 0 ? (JSON.parse(stdout) as MachineLimits) : undefined;
}

/** Sizes of a model that say how much work it is. */
export interface ModelSize {
  layers: number;
  /** Weights of the products of all layers. */
  layerWeights: number;
  /** Weights of the head. */
  headWeights: number;
  /** Query heads. */
  heads: number;
  /** Key/value heads. */
  kvHeads: number;
  /** Numbers per head. */
  headDim: number;
  /** Width of the queries: heads times their dimensions. */
  queryWidth: number;
  /** Width of the keys, and of the values. */
  keyWidth: number;
  /** Tokens it was trained on. */
  window: number;
}

/** Reads the sizes from a Llama-like config. */
export function modelSize(folder: string): ModelSize {
  const file = join(folder, 'config.json');
  if (!existsSync(file)) throw new Error(`${folder} has no config.json`);
  const config = JSON.parse(readFileSync(file, 'utf8')) as Record<string, number>;
  const of = (name: string): number => config[name] ?? 0;
  const hidden = of('hidden_size');
  const heads = of('num_attention_heads');
  const headDim = config['head_dim'] ?? hidden / heads;
  const kvHeads = config['num_key_value_heads'] ?? heads;
  const queryWidth = heads * headDim;
  const keyWidth = kvHeads * headDim;
  const layers = of('num_hidden_layers');
  return {
    layers,
    layerWeights: layers * hidden * (2 * queryWidth + 2 * keyWidth + 3 * of('intermediate_size')),
    headWeights: hidden * of('vocab_size'),
    heads,
    kvHeads,
    headDim,
    queryWidth,
    keyWidth,
    window: of('max_position_embeddings'),
  };
}

/** Type of the weights, of the products with them, and of the cache. */
export type Precision = 'f32' | 'bf16' | 'int8';

const BYTES: Record<Precision, number> = { f32: 4, bf16: 2, int8: 1 };

/** The least time in which a machine can do the work of dense attention: milliseconds, undefined where a peak is not known. */
export interface Roofline {
  /** All products at the peak of their type; attention in bf16 where weights are of 8 bits. */
  prefillMs: number | undefined;
  /** Weights and cache read once per token, at the bandwidth. */
  decodeMs: number;
}

/** The roofline of a prompt of `length` tokens, and of one token at that depth, with keys and values of a type. */
export function roofline(
  size: ModelSize,
  limits: MachineLimits,
  precision: Precision,
  cache: Precision,
  length: number,
): Roofline {
  const attentionType = precision === 'f32' ? 'f32' : 'bf16';
  const linear = 2 * (size.layerWeights * length + size.headWeights);
  // Scores and weighted sums, two operations each, over the triangle.
  const attention = 4 * size.layers * size.queryWidth * ((length * (length + 1)) / 2);
  const [products, sums] = [limits[precision], limits[attentionType]];
  const bytes =
    BYTES[precision] * (size.layerWeights + size.headWeights) +
    BYTES[cache] * 2 * size.layers * size.keyWidth * length;
  return {
    prefillMs:
      products === null || sums === null ? undefined : (linear / products + attention / sums) / 1e6,
    decodeMs: bytes / limits.readGBs / 1e6,
  };
}
