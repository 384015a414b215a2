import { setImmediate as nextTurn } from 'node:timers/promises';
import { isShared } from './checks.ts';
import { type IdKind, rawIds } from './id.ts';
import { KnnIndexError } from './knn-index-error.ts';

// Long arrays are copied for other threads in parts, one per turn of the event loop, so that copying 150 MB of queries
// (30 ms and more) does not hold up anything else. What fits in one part is copied before the call returns.

/** Bytes copied in one turn: about a millisecond, page faults included. */
const TURN_BYTES = 4 * 2 ** 20;
/** Ids read one by one in one turn: about a millisecond. */
const TURN_IDS = 2 ** 16;
/** Milliseconds of work of unknown length in one turn. */
const TURN_MS = 4;

/**
 * Runs `step` over parts of 0 to `length`, the first at once, every further one in a turn of its own.
 * @throws the signal's reason if it is aborted between turns
 */
async function inTurns(
  length: number,
  part: number,
  signal: AbortSignal | undefined,
  step: (start: number, end: number) => void,
): Promise<void> {
  for (let start = 0; start < length; start += part) {
    if (start > 0) {
      await nextTurn();
      signal?.throwIfAborted();
    }
    step(start, Math.min(start + part, length));
  }
}

/**
 * Runs `step` for every number below `count`, with a new turn whenever some milliseconds have passed.
 * @throws the signal's reason if it is aborted between turns
 */
export async function eachInTurns(
  count: number,
  signal: AbortSignal | undefined,
  step: (i: number) => void,
): Promise<void> {
  let start = performance.now();
  for (let i = 0; i < count; i++) {
    if (i % 64 === 63 && performance.now() - start > TURN_MS) {
      await nextTurn();
      signal?.throwIfAborted();
      start = performance.now();
    }
    step(i);
  }
}

/** Copies an array in turns; `push` takes the parts in order. */
export async function copyInTurns<
  A extends Float32Array | Float64Array | BigUint64Array | Uint8Array,
>(name: string, array: A, push: (part: A) => void, signal?: AbortSignal): Promise<void> {
  const { length } = array;
  const shared = isShared(array);
  await inTurns(length, TURN_BYTES / array.BYTES_PER_ELEMENT, signal, (start, end) => {
    if (array.length !== length) {
      throw changed(name, length, array.length);
    }
    push((shared ? array.slice(start, end) : array.subarray(start, end)) as A);
  });
}

/** Copies an array over another one of the same type and length, in turns. */
export async function moveInTurns<
  A extends Float32Array | Float64Array | BigUint64Array | Uint32Array,
>(name: string, from: A, to: A, signal?: AbortSignal): Promise<void> {
  await inTurns(from.length, TURN_BYTES / from.BYTES_PER_ELEMENT, signal, (start, end) => {
    if (to.length !== from.length) {
      throw changed(name, from.length, to.length);
    }
    (to as Float32Array).set(from.subarray(start, end) as Float32Array, start);
  });
}

/** Copies ids in turns; `push` takes the parts in order. */
export async function copyIdsInTurns(
  name: string,
  kind: IdKind,
  ids: ArrayLike<unknown>,
  push: (part: Float64Array | BigUint64Array) => void,
  signal?: AbortSignal,
): Promise<void> {
  const { length } = ids;
  await inTurns(length, TURN_IDS, signal, (start, end) => {
    if (ids.length !== length) {
      throw changed(name, length, ids.length);
    }
    push(rawIds(kind, ids, start, end));
  });
}

function changed(name: string, before: number, after: number): KnnIndexError {
  return new KnnIndexError(
    'ERR_ARRAY_TYPE',
    `${name} had ${before} elements and has ${after} while it is copied: leave it alone until the promise settles`,
    { what: name, before, after },
  );
}
