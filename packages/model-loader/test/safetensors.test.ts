import { closeSync, ftruncateSync, openSync, writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { type Dtype, dtypeBits, openSafetensors, SafetensorsWriter } from '@iceformer/model-loader';
import { describe, expect, test } from 'vitest';
import { safetensorsBytes, writeSafetensors } from './safetensors-file.ts';
import { temporaryFolder } from './temporary-folder.ts';

const DTYPES: Dtype[] = [
  'BOOL',
  'F4',
  'F6_E2M3',
  'F6_E3M2',
  'U8',
  'I8',
  'F8_E5M2',
  'F8_E4M3',
  'F8_E8M0',
  'F8_E4M3FNUZ',
  'F8_E5M2FNUZ',
  'I16',
  'U16',
  'F16',
  'BF16',
  'I32',
  'U32',
  'F32',
  'C64',
  'F64',
  'I64',
  'U64',
];

function open(header: unknown, data?: Uint8Array) {
  return openSafetensors(writeSafetensors(join(temporaryFolder(), 'a.safetensors'), header, data));
}

describe('reading', () => {
  test.each(DTYPES)('parses %s and reads its bytes', async (dtype) => {
    const bytes = (8 * dtypeBits(dtype)) / 8;
    const data = Uint8Array.from({ length: bytes }, (_, i) => i + 1);
    const { tensors } = await open({ t: { dtype, shape: [2, 4], data_offsets: [0, bytes] } }, data);
    const tensor = tensors.get('t');
    expect(tensor?.dtype).toBe(dtype);
    expect(tensor?.shape).toEqual([2, 4]);
    expect(tensor?.byteLength).toBe(bytes);
    expect(await tensor?.read()).toEqual(data);
    expect(await tensor?.read({ start: 1 })).toEqual(data.subarray(bytes / 2));
    expect(await tensor?.read({ end: 0 })).toEqual(new Uint8Array(0));
  });

  test('reads dtypes as floats, whole and by rows', async () => {
    const values = [1.5, -2, 0.25, 3, -0.5, 8];
    const sources: [Dtype, ArrayBufferView, number[]][] = [
      ['F32', Float32Array.from(values), values],
      ['F64', Float64Array.from(values), values],
      ['F16', Uint16Array.of(0x3e00, 0xc000, 0x3400, 0x4200, 0xb800, 0x4800), values],
      ['BF16', Uint16Array.of(0x3fc0, 0xc000, 0x3e80, 0x4040, 0xbf00, 0x4100), values],
      ['I8', Int8Array.of(1, -2, 3, -4, 127, -128), [1, -2, 3, -4, 127, -128]],
      ['U8', Uint8Array.of(1, 2, 3, 4, 255, 0), [1, 2, 3, 4, 255, 0]],
      ['BOOL', Uint8Array.of(1, 0, 0, 1, 1, 0), [1, 0, 0, 1, 1, 0]],
      ['I16', Int16Array.of(1, -2, 3, -4, 32767, -32768), [1, -2, 3, -4, 32767, -32768]],
      ['U16', Uint16Array.of(1, 2, 3, 4, 65535, 0), [1, 2, 3, 4, 65535, 0]],
      ['I32', Int32Array.of(1, -2, 3, -4, 1 << 20, -5), [1, -2, 3, -4, 1 << 20, -5]],
      ['U32', Uint32Array.of(1, 2, 3, 4, 1 << 20, 0), [1, 2, 3, 4, 1 << 20, 0]],
    ];
    for (const [dtype, source, expected] of sources) {
      const data = new Uint8Array(source.buffer);
      const header = { t: { dtype, shape: [3, 2], data_offsets: [0, data.byteLength] } };
      const tensor = (await open(header, data)).tensors.get('t');
      expect([...((await tensor?.readFloat32()) ?? [])], dtype).toEqual(expected);
      expect([...((await tensor?.readFloat32({ start: 1, end: 2 })) ?? [])], dtype).toEqual(
        expected.slice(2, 4),
      );
    }
  });

  test('converts tensors larger than its block', async () => {
    const elements = 1_500_001;
    const data = new Uint16Array(elements).map((_, i) => (i % 1000) + 0x3c00);
    const { tensors } = await open(
      { t: { dtype: 'F16', shape: [elements], data_offsets: [0, elements * 2] } },
      new Uint8Array(data.buffer),
    );
    const values = await tensors.get('t')?.readFloat32();
    expect(values?.length).toBe(elements);
    for (const i of [0, 524_287, 524_288, 1_048_576, elements - 1]) {
      expect(values?.[i]).toBe(1 + (i % 1000) / 1024);
    }
  });

  test('knows scalars, empty tensors, metadata and odd names', async () => {
    const { tensors, metadata } = await open(
      `{"__metadata__":{"format":"pt","__proto__":"x"},"s":{"dtype":"F32","shape":[],"data_offsets":[0,4]},
        "empty":{"dtype":"F32","shape":[0,7],"data_offsets":[4,4]},"__proto__":{"dtype":"U8","shape":[1],"data_offsets":[4,5]}}   `,
      new Uint8Array(5),
    );
    expect(Object.entries(metadata)).toEqual([
      ['format', 'pt'],
      ['__proto__', 'x'],
    ]);
    expect([...tensors.keys()].sort()).toEqual(['__proto__', 'empty', 's']);
    expect(await tensors.get('s')?.readFloat32()).toEqual(Float32Array.of(0));
    expect((await tensors.get('empty')?.readFloat32())?.length).toBe(0);
    await expect(tensors.get('s')?.read({ start: 0 })).rejects.toMatchObject({
      code: 'ERR_TENSOR_RANGE',
    });
  });

  test('reads parts of a file of more than 4 GiB, without reading the rest', async () => {
    const path = join(temporaryFolder(), 'large.safetensors');
    const rows = 3_000_000;
    const rowBytes = 512 * 4;
    const big = rows * rowBytes;
    const prefix = safetensorsBytes({
      big: { dtype: 'F32', shape: [rows, 512], data_offsets: [0, big] },
      last: { dtype: 'F32', shape: [2], data_offsets: [big, big + 8] },
    });
    const file = openSync(path, 'w');
    try {
      writeSync(file, prefix);
      // A sparse file: only what is written takes room.
      ftruncateSync(file, prefix.byteLength + big + 8);
      for (const row of [1_100_000, 2_200_000, rows - 1]) {
        writeSync(file, Float32Array.of(row), 0, 4, prefix.byteLength + row * rowBytes + 4);
      }
      writeSync(file, Float32Array.of(5, 6), 0, 8, prefix.byteLength + big);
    } finally {
      closeSync(file);
    }
    const { tensors, byteLength } = await openSafetensors(path);
    expect(byteLength).toBeGreaterThan(4 * 2 ** 30);
    expect(tensors.get('last')?.byteOffset).toBe(prefix.byteLength + big);
    expect(await tensors.get('last')?.readFloat32()).toEqual(Float32Array.of(5, 6));
    for (const row of [1_100_000, 2_200_000, rows - 1]) {
      const values = await tensors.get('big')?.readFloat32({ start: row, end: row + 1 });
      expect(values?.slice(0, 3)).toEqual(Float32Array.of(0, row, 0));
    }
    await expect(tensors.get('big')?.read()).rejects.toMatchObject({
      code: 'ERR_TENSOR_TOO_LARGE',
    });
  });

  test('says when a file became shorter after it was opened', async () => {
    const path = join(temporaryFolder(), 'a.safetensors');
    writeSafetensors(
      path,
      { t: { dtype: 'F32', shape: [4], data_offsets: [0, 16] } },
      new Uint8Array(16),
    );
    const { tensors } = await openSafetensors(path);
    writeFileSync(path, new Uint8Array(20));
    await expect(tensors.get('t')?.read()).rejects.toMatchObject({
      code: 'ERR_SAFETENSORS_TRUNCATED',
    });
  });

  test('refuses rows that are not there and dtypes that are no floats', async () => {
    const { tensors } = await open(
      {
        t: { dtype: 'F32', shape: [2, 2], data_offsets: [0, 16] },
        f: { dtype: 'F8_E4M3', shape: [4], data_offsets: [16, 20] },
        odd: { dtype: 'F4', shape: [2, 1], data_offsets: [20, 21] },
      },
      new Uint8Array(21),
    );
    for (const range of [
      { start: -1 },
      { end: 3 },
      { start: 2, end: 1 },
      { start: 0.5 },
      { start: Number.NaN },
    ]) {
      await expect(tensors.get('t')?.read(range)).rejects.toMatchObject({
        code: 'ERR_TENSOR_RANGE',
      });
    }
    await expect(tensors.get('f')?.readFloat32()).rejects.toMatchObject({
      code: 'ERR_TENSOR_DTYPE',
    });
    await expect(tensors.get('odd')?.read({ start: 1 })).rejects.toMatchObject({
      code: 'ERR_TENSOR_RANGE',
    });
  });
});

describe('refusing', () => {
  const entry = (change: object) => ({
    t: { dtype: 'F32', shape: [2], data_offsets: [0, 8], ...change },
  });
  const eight = new Uint8Array(8);
  const cases: [what: string, file: Buffer, code: string, message: RegExp][] = [
    ['an empty file', Buffer.alloc(0), 'ERR_SAFETENSORS_TRUNCATED', /has 0 bytes/],
    ['a file of 7 bytes', Buffer.alloc(7), 'ERR_SAFETENSORS_TRUNCATED', /has 7 bytes/],
    [
      'a header beyond the file',
      safetensorsBytes('{}', eight, 1000n),
      'ERR_SAFETENSORS_TRUNCATED',
      /header of 1000 bytes, the file has 18 bytes/,
    ],
    [
      'an absurd header',
      safetensorsBytes('{}', eight, 2n ** 63n),
      'ERR_SAFETENSORS_HEADER_TOO_LARGE',
      /9223372036854775808/,
    ],
    [
      'a header of just over 100 MB',
      safetensorsBytes('{}', eight, 100_000_001n),
      'ERR_SAFETENSORS_HEADER_TOO_LARGE',
      /100000001/,
    ],
    ['no header', safetensorsBytes('', eight), 'ERR_SAFETENSORS_HEADER_INVALID', /begin with/],
    ['no JSON', safetensorsBytes('{"a"'), 'ERR_SAFETENSORS_HEADER_INVALID', /is not JSON/],
    ['a list', safetensorsBytes('[]'), 'ERR_SAFETENSORS_HEADER_INVALID', /begin with/],
    ['spaces first', safetensorsBytes(' {}'), 'ERR_SAFETENSORS_HEADER_INVALID', /begin with/],
    [
      'a byte order mark',
      safetensorsBytes('\uFEFF{}'),
      'ERR_SAFETENSORS_HEADER_INVALID',
      /begin with/,
    ],
    [
      'bytes that are not UTF-8',
      Buffer.concat([safetensorsBytes('{}', undefined, 4n), Buffer.of(0xff, 0xfe)]),
      'ERR_SAFETENSORS_HEADER_INVALID',
      /not UTF-8/,
    ],
    [
      'a tensor twice',
      safetensorsBytes(
        '{"t":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"\\u0074":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}',
        new Uint8Array(1),
      ),
      'ERR_SAFETENSORS_DUPLICATE_KEY',
      /"t" twice/,
    ],
    [
      'a field twice',
      safetensorsBytes('{"t":{"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]}}', eight),
      'ERR_SAFETENSORS_DUPLICATE_KEY',
      /"dtype" twice/,
    ],
    [
      'an entry that is a number',
      safetensorsBytes('{"t":5}'),
      'ERR_SAFETENSORS_HEADER_INVALID',
      /t by/,
    ],
    [
      'metadata that is a list',
      safetensorsBytes('{"__metadata__":[]}'),
      'ERR_SAFETENSORS_HEADER_INVALID',
      /__metadata__/,
    ],
    [
      'metadata with numbers',
      safetensorsBytes('{"__metadata__":{"a":1}}'),
      'ERR_SAFETENSORS_HEADER_INVALID',
      /"a" that is not a string/,
    ],
    [
      'an unknown dtype',
      safetensorsBytes(entry({ dtype: 'F31' }), eight),
      'ERR_SAFETENSORS_DTYPE',
      /"F31"/,
    ],
    [
      'no dtype',
      safetensorsBytes(entry({ dtype: undefined }), eight),
      'ERR_SAFETENSORS_DTYPE',
      /undefined/,
    ],
    [
      'an inherited name as dtype',
      safetensorsBytes(entry({ dtype: 'toString' }), eight),
      'ERR_SAFETENSORS_DTYPE',
      /toString/,
    ],
    [
      'a fraction as size',
      safetensorsBytes('{"t":{"dtype":"F32","shape":[2.0],"data_offsets":[0,8]}}', eight),
      'ERR_SAFETENSORS_HEADER_INVALID',
      /2\.0/,
    ],
    [
      'an exponent as size',
      safetensorsBytes('{"t":{"dtype":"F32","shape":[2e0],"data_offsets":[0,8]}}', eight),
      'ERR_SAFETENSORS_HEADER_INVALID',
      /2e0/,
    ],
    [
      'a negative size',
      safetensorsBytes(entry({ shape: [-2] }), eight),
      'ERR_SAFETENSORS_SHAPE',
      /-2/,
    ],
    [
      'a size that is text',
      safetensorsBytes(entry({ shape: ['2'] }), eight),
      'ERR_SAFETENSORS_SHAPE',
      /"2"/,
    ],
    [
      'a size beyond 2^53',
      safetensorsBytes(
        '{"t":{"dtype":"U8","shape":[9007199254740993],"data_offsets":[0,8]}}',
        eight,
      ),
      'ERR_SAFETENSORS_SHAPE',
      /shape/,
    ],
    [
      'a shape that overflows',
      safetensorsBytes(entry({ shape: [2 ** 40, 2 ** 40] }), eight),
      'ERR_SAFETENSORS_SHAPE',
      /whole number of bytes/,
    ],
    [
      'a shape of half a byte',
      safetensorsBytes({ t: { dtype: 'F4', shape: [3], data_offsets: [0, 2] } }, new Uint8Array(2)),
      'ERR_SAFETENSORS_SHAPE',
      /F4/,
    ],
    ['no shape', safetensorsBytes(entry({ shape: 2 }), eight), 'ERR_SAFETENSORS_SHAPE', /shape 2/],
    [
      'one offset',
      safetensorsBytes(entry({ data_offsets: [8] }), eight),
      'ERR_SAFETENSORS_OFFSETS',
      /two whole numbers/,
    ],
    [
      'offsets that are null',
      safetensorsBytes(entry({ data_offsets: [0, null] }), eight),
      'ERR_SAFETENSORS_OFFSETS',
      /null/,
    ],
    [
      'offsets in reverse',
      safetensorsBytes(entry({ data_offsets: [8, 0] }), eight),
      'ERR_SAFETENSORS_OFFSETS',
      /ends at 0 before/,
    ],
    [
      'offsets beyond the file',
      safetensorsBytes(entry({ shape: [4], data_offsets: [0, 16] }), eight),
      'ERR_SAFETENSORS_OFFSETS',
      /truncated/,
    ],
    [
      'a size that does not fit',
      safetensorsBytes(entry({ shape: [1] }), eight),
      'ERR_SAFETENSORS_SIZE_MISMATCH',
      /takes 4 bytes, its offsets give 8/,
    ],
    [
      'tensors that overlap',
      safetensorsBytes(
        {
          a: { dtype: 'F32', shape: [2], data_offsets: [0, 8] },
          b: { dtype: 'F32', shape: [1], data_offsets: [4, 8] },
        },
        eight,
      ),
      'ERR_SAFETENSORS_OVERLAP',
      /tensor b begins at \d+, before a ends/,
    ],
    [
      'a hole',
      safetensorsBytes(
        {
          a: { dtype: 'U8', shape: [2], data_offsets: [0, 2] },
          b: { dtype: 'U8', shape: [2], data_offsets: [6, 8] },
        },
        eight,
      ),
      'ERR_SAFETENSORS_HOLE',
      /before tensor b/,
    ],
    [
      'a hole at the start',
      safetensorsBytes(entry({ shape: [1], data_offsets: [4, 8] }), eight),
      'ERR_SAFETENSORS_HOLE',
      /before tensor t/,
    ],
    [
      'bytes behind the last tensor',
      safetensorsBytes(entry({ shape: [1], data_offsets: [0, 4] }), eight),
      'ERR_SAFETENSORS_HOLE',
      /the end of the file/,
    ],
  ];

  test.each(cases)('%s', async (_what, bytes, code, message) => {
    const path = join(temporaryFolder(), 'bad.safetensors');
    writeFileSync(path, bytes);
    const error: unknown = await openSafetensors(path).catch((thrown: unknown) => thrown);
    expect(error).toMatchObject({ name: 'ModelLoaderError', code });
    expect((error as Error).message).toMatch(message);
    expect((error as Error).message).not.toContain('\n');
  });

  test('a file that is not there, and a folder', async () => {
    const folder = temporaryFolder();
    await expect(openSafetensors(join(folder, 'none'))).rejects.toMatchObject({
      code: 'ERR_MODEL_NOT_FOUND',
    });
    await expect(openSafetensors(folder)).rejects.toMatchObject({
      name: 'ModelLoaderError',
    });
  });
});

describe('writing', () => {
  test('writes what it reads, aligned to 64 bytes', async () => {
    const path = join(temporaryFolder(), 'w.safetensors');
    const writer = await SafetensorsWriter.create(path, [
      { name: 'a', dtype: 'F32', shape: [2, 3] },
      { name: 'b', dtype: 'BF16', shape: [1] },
    ]);
    await writer.write(new Uint8Array(Float32Array.of(1, 2, 3, 4).buffer));
    await writer.write(new Uint8Array(Float32Array.of(5, 6).buffer));
    await writer.write(Uint8Array.of(0x80, 0x3f));
    await writer.close();
    const { tensors, metadata } = await openSafetensors(path);
    expect(metadata).toEqual({ format: 'pt' });
    expect((tensors.get('a')?.byteOffset ?? 1) % 64).toBe(0);
    expect(await tensors.get('a')?.readFloat32()).toEqual(Float32Array.of(1, 2, 3, 4, 5, 6));
    expect(await tensors.get('b')?.readFloat32()).toEqual(Float32Array.of(1));
  });

  test('does not call a file finished that is not', async () => {
    const path = join(temporaryFolder(), 'w.safetensors');
    const writer = await SafetensorsWriter.create(path, [{ name: 'a', dtype: 'U8', shape: [2] }]);
    await writer.write(Uint8Array.of(1));
    await expect(writer.close()).rejects.toMatchObject({ code: 'ERR_OUTPUT_FAILED' });
  });
});
