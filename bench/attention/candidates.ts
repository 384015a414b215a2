import { existsSync } from 'node:fs';
import { join } from 'node:path';
import process from 'node:process';
import { fileURLToPath } from 'node:url';
import {
  type AttentionCacheOptions,
  type AttentionPlan,
  exactPlan,
  type LayerPlan,
  selectedPlan,
} from '@iceformer/sparse-attention';
import type { TensorSet } from './tensors.ts';

/** An engine with its settings: one row of the table at each length. */
export interface Candidate {
  name: string;
  /** Program and arguments; the job is added as the last one. */
  command: [string, ...string[]];
  /** Longest sequence it is measured at. */
  limit: number;
  /** It reads every key. */
  dense: boolean;
  /** Its settings for a set. */
  options(set: TensorSet): Record<string, unknown>;
  /** Too slow for every round and layer: measured in the first round, on the middle layer, and given up after this. */
  slow?: { seconds: number };
  /** Of the original: neighbours for each query. */
  neighbours?: number;
}

/** Engines, in the order of the table. */
export const ENGINES = [
  'torch-f32',
  'torch-bf16',
  'original',
  'dense-f32',
  'dense',
  'dense-kv8',
  'sparse',
  'sparse-kv8',
] as const;

type Storage = NonNullable<AttentionCacheOptions['storage']>;

export interface CandidateSettings {
  /** Mass targets of `sparse`. */
  masses: readonly number[];
  /** Plans of `sparse`, by the name that the table gives them. */
  plans: Record<string, AttentionPlan>;
  /** Longest sequences of the engines that read every key, and of the original. */
  denseLimit: number;
  originalLimit: number;
  original: {
    /** Folder that holds the package `mdci`. */
    folder?: string;
    /** The interpreter it was built for. */
    python?: string;
    neighbours: readonly number[];
    /** Query heads that it is measured on. */
    heads: number;
    seconds: number;
  };
  /** Finds an interpreter with PyTorch when it is first asked for, or says why there is none. */
  torch(): { python: string } | { missing: string };
}

/** All rows of an engine, or why it cannot be had. */
export function candidatesOf(
  engine: string,
  settings: CandidateSettings,
): Candidate[] | { missing: string } {
  const { masses, plans, denseLimit, original } = settings;
  const exact = exactPlan(1).layers[0] as LayerPlan;
  switch (engine) {
    case 'torch-f32':
    case 'torch-bf16': {
      const found = settings.torch();
      if ('missing' in found) return found;
      const dtype = engine.slice('torch-'.length);
      return [
        {
          name: engine,
          command: [found.python, script('torch')],
          limit: denseLimit,
          dense: true,
          options: () => ({ dtype }),
        },
      ];
    }
    case 'original': {
      const { folder, python, neighbours, seconds } = original;
      if (!folder || !existsSync(join(folder, 'mdci'))) {
        return {
          missing:
            'on no registry: build MDCI of github.com/yuzhenmao/IceFormer as its README says and name the folder with --original',
        };
      }
      return neighbours.map((k) => ({
        name: `original, k = ${k}`,
        command: [python ?? 'python3', script('original')] as [string, string],
        limit: settings.originalLimit,
        dense: false,
        neighbours: k,
        slow: { seconds },
        options: ({ heads }) => ({ entry: folder, k, heads: spread(original.heads, heads) }),
      }));
    }
    case 'dense':
    case 'dense-f32':
    case 'dense-kv8': {
      const storage = ({ dense: 'bf16', 'dense-f32': 'f32', 'dense-kv8': 'i8' } as const)[engine];
      return [{ ...ours(engine, storage, () => exact), limit: denseLimit, dense: true }];
    }
    case 'sparse':
    case 'sparse-kv8': {
      const [storage, suffix] =
        engine === 'sparse' ? ['bf16' as const, ''] : ['i8' as const, ', kv8'];
      return [
        ...masses.map((massTarget) => {
          const [layer] = selectedPlan(1, { massTarget, exactLayers: 0 }).layers;
          return ours(`mass ${massTarget}${suffix}`, storage, () => layer as LayerPlan);
        }),
        ...Object.entries(plans).map(([name, { layers }]) =>
          // Of joined heads, which are no layer of the model, as its middle layer.
          ours(
            `${name}${suffix}`,
            storage,
            (number = layers.length >> 1) => layers[number] as LayerPlan,
          ),
        ),
      ];
    }
    default:
      throw new Error(`unknown engine "${engine}"; there are ${ENGINES.join(', ')}`);
  }
}

function ours(
  name: string,
  storage: Storage,
  layerPlan: (number?: number) => LayerPlan,
): Candidate {
  return {
    name: `iceformer ${name}`,
    command: [process.execPath, fileURLToPath(new URL('engines/iceformer.js', import.meta.url))],
    limit: Number.POSITIVE_INFINITY,
    dense: false,
    options: ({ layerNumbers }) => ({ storage, plan: layerNumbers.map(layerPlan) }),
  };
}

/** `count` of `total` heads, spread evenly. */
function spread(count: number, total: number): number[] {
  const picked = Math.min(count, total);
  return Array.from({ length: picked }, (_, index) => Math.floor(((index + 0.5) * total) / picked));
}

/** Python is not compiled to dist, so the script is the one in the source folder. */
const script = (engine: string): string =>
  fileURLToPath(new URL(`../../attention/engines/${engine}_engine.py`, import.meta.url));
