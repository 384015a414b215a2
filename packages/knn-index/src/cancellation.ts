import { shown } from './checks.ts';
import { asKnnIndexError, KnnIndexError } from './knn-index-error.ts';
import { NativeCancel } from './native.ts';

/**
 * Runs asynchronous work that a signal can stop, also while it runs on native threads.
 * @throws {@link KnnIndexError} `ERR_OPTION` for a signal that is none
 * @throws the signal's reason if that stopped the work
 */
export async function cancellable<T>(
  signal: AbortSignal | undefined,
  work: (cancel: NativeCancel) => Promise<T>,
): Promise<T> {
  if (signal !== undefined && typeof signal?.throwIfAborted !== 'function') {
    const message = `signal is ${shown(signal)}, it must be an AbortSignal`;
    throw new KnnIndexError('ERR_OPTION', message, { signal });
  }
  signal?.throwIfAborted();
  const cancel = new NativeCancel();
  const stop = () => cancel.cancel();
  signal?.addEventListener('abort', stop, { once: true });
  try {
    return await work(cancel);
  } catch (error) {
    const stopped = error instanceof KnnIndexError && error.code === 'ERR_CANCELLED';
    throw stopped && signal?.aborted ? signal.reason : error;
  } finally {
    signal?.removeEventListener('abort', stop);
  }
}

/** Awaits a native call; its errors come out as {@link KnnIndexError}. */
export async function settled<T>(call: () => Promise<T>): Promise<T> {
  try {
    return await call();
  } catch (error) {
    throw asKnnIndexError(error);
  }
}

/** Waits for `promise`, but no longer than until the signal is aborted. */
export async function orAborted(
  promise: Promise<unknown>,
  signal: AbortSignal | undefined,
): Promise<void> {
  if (signal === undefined) {
    await promise;
    return;
  }
  signal.throwIfAborted();
  let stop: () => void = () => undefined;
  const aborted = new Promise<never>((_, reject) => {
    stop = () => reject(signal.reason);
  });
  signal.addEventListener('abort', stop, { once: true });
  try {
    await Promise.race([promise, aborted]);
  } finally {
    signal.removeEventListener('abort', stop);
  }
}
