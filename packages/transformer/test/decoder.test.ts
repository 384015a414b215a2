import { describe, expect, test } from 'vitest';
import type { Attention, Layers } from '../src/decoder.ts';
import { Decoder } from '../src/decoder.ts';
import type { DecoderConfig } from '../src/decoder-config.ts';
import { readDecoderConfig } from '../src/families.ts';
import { ProfileClock } from '../src/profile.ts';
import { fillRotation, inverseFrequencies } from '../src/rotary.ts';

const config = (scaling: object | null = null): DecoderConfig =>
  readDecoderConfig({
    architectures: ['LlamaForCausalLM'],
    hidden_size: 16,
    intermediate_size: 8,
    num_hidden_layers: 2,
    num_attention_heads: 4,
    num_key_value_heads: 2,
    vocab_size: 32,
    max_position_embeddings: 8,
    rope_scaling: scaling,
  });

/** Records what the decoder asks of the native layers and of the cache, which skips some layers. */
function spies(skipped: readonly number[] = []) {
  const calls: unknown[][] = [];
  const layers: Layers = {
    embed: (tokens) => calls.push(['embed', ...tokens]),
    rotation: (cos, sin) => calls.push(['rotation', cos.slice(), sin.slice()]),
    project: (layer, q, k, v) => calls.push(['project', layer, q.length, k.length, v.length]),
    finish: (layer, attended) => calls.push(['finish', layer, attended?.length]),
    step: (tokens, cos, _sin, groups, reports, times) => {
      calls.push(['step', ...tokens, cos.length, ...groups, reports.length]);
      reports.fill(7);
      times.fill(1);
      return groups[0] !== 666n;
    },
    outputShare: 0.25,
    logits: (rows, out) => calls.push(['logits', [...rows], out.length]),
  };
  const attention: Attention = {
    skip: (layer, n) => {
      if (!skipped.includes(layer)) return false;
      calls.push(['skip', layer, n]);
      return true;
    },
    attend: (layer, q, k, v, out, n) =>
      calls.push(['attend', layer, q.length, k.length, v.length, out.length, n]),
    reserve: (tokens) => calls.push(['reserve', tokens]),
    truncate: (tokens) => calls.push(['truncate', tokens]),
    resetReport: () => calls.push(['resetReport']),
    report: () => ({ retainedMass: 1, tilesRead: 1, bytes: 5, layers: [] }),
  };
  return { calls, layers, attention };
}

interface Settings {
  scaling?: object;
  memory?: (tokens: number) => void;
  skipped?: number[];
}

function decode(settings: Settings = {}) {
  const { calls, layers, attention } = spies(settings.skipped);
  const { scaling, memory = () => undefined } = settings;
  const decoder = new Decoder(config(scaling ?? null), layers, attention, 4, memory);
  const take = (): unknown[][] => calls.splice(0);
  return { decoder, take };
}

const never = () => false;

describe('the decoder', () => {
  test('takes a chunk through every layer', () => {
    const { decoder, take } = decode();
    expect(decoder.append(Uint32Array.of(7, 8, 9), never)).toBe(true);
    const calls = take();
    expect(calls.filter(([name]) => name !== 'rotation')).toEqual([
      ['embed', 7, 8, 9],
      ['project', 0, 48, 24, 24],
      ['attend', 0, 48, 24, 24, 48, 3],
      ['finish', 0, 48],
      ['project', 1, 48, 24, 24],
      ['attend', 1, 48, 24, 24, 48, 3],
      ['finish', 1, 48],
    ]);
    decoder.lastLogits(new Float32Array(32));
    expect(take()).toEqual([['logits', [2], 32]]);
  });

  test('computes no queries, keys and values of a layer that the cache skips', () => {
    const { decoder, take } = decode({ skipped: [1] });
    expect(decoder.append(Uint32Array.of(7, 8, 9), never)).toBe(true);
    expect(take().filter(([name]) => name !== 'rotation')).toEqual([
      ['embed', 7, 8, 9],
      ['project', 0, 48, 24, 24],
      ['attend', 0, 48, 24, 24, 48, 3],
      ['finish', 0, 48],
      ['skip', 1, 3],
      ['finish', 1, undefined],
    ]);
  });

  test('rotates by the position in the sequence', () => {
    const { decoder, take } = decode();
    const rotations = () =>
      take()
        .filter(([name]) => name === 'rotation')
        .map(([, cos]) => cos);
    decoder.append(Uint32Array.of(1, 2, 3), never);
    decoder.append(Uint32Array.of(4), never);
    decoder.append(Uint32Array.of(5), never);
    const frequencies = inverseFrequencies(config().rotary);
    const table = (start: number, count: number) => {
      const cos = new Float32Array(count * 2);
      fillRotation(frequencies, start, count, cos, new Float32Array(count * 2));
      return cos;
    };
    expect(rotations()).toEqual([table(0, 3), table(3, 1), table(4, 1)]);
  });

  test('a cancelled chunk leaves nothing behind', () => {
    const { decoder, take } = decode();
    decoder.append(Uint32Array.of(1, 2), never);
    take();
    let asked = 0;
    expect(decoder.append(Uint32Array.of(3, 4), () => ++asked > 4)).toBe(false);
    expect(take().at(-1)).toEqual(['truncate', 2]);
    // The next chunk goes where the cancelled one would have gone.
    expect(decoder.rewind(Uint32Array.of(1, 2, 3, 4), 4)).toBe(2);
  });
});

describe('a single token', () => {
  /** A decoder whose cache gives these addresses, or none. */
  const stepping = (groups: bigint[] | undefined) => {
    const { calls, layers, attention } = spies();
    const entries = groups && BigUint64Array.from(groups);
    const cache: Attention = {
      ...attention,
      entries: (n, exactQueries) => {
        calls.push(['entries', n, exactQueries]);
        return entries;
      },
      entered: (n, reports) => calls.push(['entered', n, ...reports]),
    };
    const decoder = new Decoder(config(), layers, cache, 4, () => undefined);
    return { decoder, take: (): unknown[][] => calls.splice(0) };
  };

  test('goes through all layers in one call', () => {
    const { decoder, take } = stepping([11n, 12n]);
    let now = 0;
    const clock = new ProfileClock(() => now);
    now = 9;
    expect(decoder.append(Uint32Array.of(5), never, 0, clock)).toBe(true);
    expect(take()).toEqual([
      ['entries', 1, 0],
      ['step', 5, 2, 11n, 12n, 16],
      ['entered', 1, ...new Array(16).fill(7)],
    ]);
    const parts = { embed: 1, qkv: 1, attention: 1, output: 1, mlp: 1, rest: 4 };
    expect(clock.profile.prefill).toMatchObject(parts);
    decoder.lastLogits(new Float32Array(32));
    expect(take()).toEqual([['logits', [0], 32]]);
    expect(decoder.rewind(Uint32Array.of(5, 6), 2)).toBe(1);
    take();
    decoder.append(Uint32Array.of(1, 2), never);
    expect(take().map(([name]) => name)).not.toContain('step');
  });

  test('is not begun once the call is cancelled', () => {
    const { decoder, take } = stepping([11n, 12n]);
    expect(decoder.append(Uint32Array.of(5), () => true)).toBe(false);
    expect(take()).toEqual([['truncate', 0]]);
  });

  test('goes layer by layer where the cache has more to do, or could not', () => {
    for (const groups of [undefined, [666n, 1n]]) {
      const { decoder, take } = stepping(groups);
      expect(decoder.append(Uint32Array.of(5), never)).toBe(true);
      const names = take().map(([name]) => name);
      const layer = ['project', 'attend', 'finish'];
      const failed = groups === undefined ? [] : ['step', 'truncate'];
      const whole = ['entries', ...failed, 'embed', 'rotation', ...layer, ...layer];
      expect(names).toEqual(whole);
    }
  });
});

describe('a new sequence', () => {
  test('keeps the common beginning, but never the last token', () => {
    const { decoder, take } = decode();
    decoder.append(Uint32Array.of(1, 2, 3, 4), never);
    decoder.append(Uint32Array.of(5), never);
    take();
    expect(decoder.rewind(Uint32Array.of(1, 2, 3, 9), 6)).toBe(3);
    expect(take()).toEqual([['truncate', 3], ['resetReport'], ['reserve', 4]]);
    decoder.append(Uint32Array.of(9), never);
    expect(decoder.rewind(Uint32Array.of(1, 2, 3, 9), 6)).toBe(3);
    expect(decoder.rewind(Uint32Array.of(4, 4), 6)).toBe(0);
    expect(take()).toContainEqual(['truncate', 0]);
  });

  test('remembers more tokens than it had room for at first', () => {
    const { decoder } = decode();
    const tokens = Uint32Array.from({ length: 3000 }, (_, index) => index % 32);
    for (let start = 0; start < tokens.length; start += 4) {
      decoder.append(tokens.subarray(start, start + 4), never);
    }
    expect(decoder.rewind(tokens, 3000)).toBe(2999);
  });

  test('drops keys that were rotated for another length (dynamic scaling)', () => {
    const scaling = { rope_type: 'dynamic', factor: 2 };
    const { decoder } = decode({ scaling });
    decoder.rewind(Uint32Array.of(1, 2, 3), 8);
    decoder.append(Uint32Array.of(1, 2, 3), never);
    expect(decoder.rewind(Uint32Array.of(1, 2, 3, 4), 5)).toBe(3); // within the trained length
    expect(decoder.rewind(Uint32Array.of(1, 2, 3, 4), 20)).toBe(0);
    decoder.append(Uint32Array.of(1, 2, 3), never);
    expect(decoder.rewind(Uint32Array.of(1, 2, 3, 4), 20)).toBe(3);
    expect(decoder.rewind(Uint32Array.of(1, 2, 3, 4), 8)).toBe(0);
  });

  test('asks for memory before anything changes', () => {
    const refuse = (tokens: number): void => {
      if (tokens > 100) throw new Error('not enough');
    };
    const { decoder, take } = decode({ memory: refuse });
    decoder.append(Uint32Array.of(1, 2, 3), never);
    take();
    expect(() => decoder.rewind(Uint32Array.of(9), 101)).toThrow('not enough');
    expect(take()).toEqual([]);
    expect(decoder.rewind(Uint32Array.of(1, 2, 3, 4), 100)).toBe(3);
  });
});

test('the decoder tells a clock of every part of a chunk, in the order of the work', () => {
  const { decoder } = decode();
  const clock = new ProfileClock();
  const parts: string[] = [];
  clock.lap = (part) => parts.push(part);
  clock.split = (first, second, share) => parts.push(first, second, String(share));
  decoder.append(Uint32Array.of(7, 8), never, 0, clock);
  const layer = ['qkv', 'attention', 'output', 'mlp', '0.25'];
  expect(parts).toEqual(['embed', ...layer, ...layer]);
});
