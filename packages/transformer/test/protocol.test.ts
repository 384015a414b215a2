import { Worker } from 'node:worker_threads';
import { afterEach, describe, expect, test } from 'vitest';
import { TransformerError } from '../dist/errors.js';
import { WorkerClient } from '../dist/protocol.js';

interface TestCalls {
  echo: { params: unknown; event: never; result: unknown };
  count: { params: number; event: number; result: number };
  spin: { params: number; event: string; result: string };
  fail: { params: null; event: never; result: never };
  failNatively: { params: null; event: never; result: never };
  failPlainly: { params: null; event: never; result: never };
  floats: { params: number; event: never; result: Float32Array };
  crash: { params: null; event: never; result: never };
  exit: { params: null; event: never; result: never };
}

const clients: WorkerClient<TestCalls>[] = [];

function start(): WorkerClient<TestCalls> {
  const client = new WorkerClient<TestCalls>(
    new Worker(new URL('./fixtures/calls-worker.mjs', import.meta.url)),
  );
  clients.push(client);
  return client;
}

afterEach(async () => {
  await Promise.all(clients.splice(0).map((client) => client.terminate()));
});

/** What a promise was rejected with. */
const failure = (promise: Promise<unknown>): Promise<unknown> =>
  promise.then(
    () => expect.fail('was not rejected'),
    (error: unknown) => error,
  );

describe('a call', () => {
  test('carries typed arrays both ways', async () => {
    const client = start();
    const tokens = Uint32Array.of(1, 2, 4_000_000_000);
    expect(await client.call('echo', { tokens }).result).toEqual({ tokens });
    expect(await client.call('floats', 3).result).toEqual(Float32Array.of(1.5, 1.5, 1.5));
  });

  test('delivers its events in order, before its result', async () => {
    const events: number[] = [];
    const { result } = start().call('count', 100, { onEvent: (event) => events.push(event) });
    expect(await result).toBe(100);
    expect(events).toEqual(Array.from({ length: 100 }, (_, index) => index + 1));
  });

  test('waits for the call before it', async () => {
    const client = start();
    const order: string[] = [];
    const first = client.call('spin', 50).result.then(() => order.push('spin'));
    const second = client.call('echo', 1).result.then(() => order.push('echo'));
    await Promise.all([first, second]);
    expect(order).toEqual(['spin', 'echo']);
  });
});

describe('cancellation', () => {
  // The worker says that it is cancelled only if it sees it while it is busy; else it ends its minute with a result.
  test('reaches a worker that is busy and receives no messages', async () => {
    const controller = new AbortController();
    const reason = new Error('enough');
    const { result } = start().call('spin', 60_000, {
      signal: controller.signal,
      onEvent: () => setTimeout(() => controller.abort(reason), 20),
    });
    expect(await failure(result)).toBe(reason);
  });

  test('before the call', async () => {
    const signal = AbortSignal.abort();
    expect(await failure(start().call('spin', 60_000, { signal }).result)).toBe(signal.reason);
  });

  test('of everything under way, as close() does', async () => {
    const client = start();
    const { result } = client.call('spin', 60_000, { onEvent: () => client.cancelAll() });
    expect(await failure(result)).toMatchObject({ code: 'ERR_MODEL_CLOSED' });
  });

  test('leaves the next call alone', async () => {
    const client = start();
    const first = client.call('spin', 60_000);
    const second = client.call('echo', 'still here');
    first.cancel();
    await failure(first.result);
    expect(await second.result).toBe('still here');
  });
});

describe('an error', () => {
  test('crosses with class, code and details', async () => {
    const error = await failure(start().call('fail', null).result);
    expect(error).toBeInstanceOf(TransformerError);
    expect(error).toMatchObject({
      code: 'ERR_EMPTY_PROMPT',
      message: 'nothing there',
      details: { length: 0 },
    });
  });

  test('of native code becomes one of ours', async () => {
    const error = await failure(start().call('failNatively', null).result);
    expect(error).toBeInstanceOf(TransformerError);
    expect(error).toMatchObject({ code: 'ERR_SHAPE', message: 'bad shape' });
  });

  test('of any other kind keeps name, message and cause', async () => {
    const error = await failure(start().call('failPlainly', null).result);
    expect(error).toMatchObject({ name: 'RangeError', message: 'out of range' });
    expect((error as Error).cause).toBeInstanceOf(TransformerError);
    expect((error as Error).cause).toMatchObject({
      code: 'ERR_INVALID_TOKEN',
      details: { token: 9 },
    });
  });

  test('thrown by an event callback ends the call and comes out of it', async () => {
    const thrown = new Error('in the callback');
    const { result } = start().call('spin', 60_000, {
      onEvent() {
        throw thrown;
      },
    });
    expect(await failure(result)).toBe(thrown);
  });
});

describe('a worker that dies', () => {
  test('by an uncaught error rejects every waiting call, and later ones', async () => {
    const client = start();
    const calls = [client.call('crash', null).result, client.call('echo', 1).result];
    for (const error of await Promise.all(calls.map(failure))) {
      expect(error).toMatchObject({
        code: 'ERR_WORKER_CRASHED',
        message: 'the thread that runs the model failed: boom',
      });
    }
    expect(await failure(client.call('echo', 1).result)).toMatchObject({
      code: 'ERR_WORKER_CRASHED',
    });
  });

  test('by exiting does too', async () => {
    expect(await failure(start().call('exit', null).result)).toMatchObject({
      code: 'ERR_WORKER_CRASHED',
      details: { exitCode: 3 },
    });
  });
});

test('calls after terminate are refused', async () => {
  const client = start();
  await client.terminate();
  expect(await failure(client.call('echo', 1).result)).toMatchObject({ code: 'ERR_MODEL_CLOSED' });
});
