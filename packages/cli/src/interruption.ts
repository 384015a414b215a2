import { EXIT } from './failure.ts';

/** Why the run is being stopped early. */
export type StopCause = 'SIGINT' | 'SIGTERM' | 'stdout closed';

/**
 * Stops a run early, once: the first Ctrl-C (or SIGTERM) fires the signal, so that the work in hand
 * ends and its summary is printed; the second one kills the process at once.
 */
export interface Interruption {
  readonly signal: AbortSignal;
  readonly cause: StopCause | undefined;
  stop(cause: StopCause): void;
}

export function createInterruption(): Interruption {
  const controller = new AbortController();
  let cause: StopCause | undefined;
  return {
    signal: controller.signal,
    get cause() {
      return cause;
    },
    stop(reason) {
      cause ??= reason;
      controller.abort();
    },
  };
}

/** 0 where the reader of a pipe has simply seen enough (`| head`). */
export function exitCodeOf(cause: StopCause): number {
  switch (cause) {
    case 'SIGINT':
      return EXIT.interrupted;
    case 'SIGTERM':
      return EXIT.terminated;
    case 'stdout closed':
      return EXIT.ok;
  }
}

/** Connects the process's signals. `onKill` puts the terminal in order before the process dies. */
export function listenToSignals(interruption: Interruption, onKill: () => void): void {
  for (const name of ['SIGINT', 'SIGTERM'] as const) {
    process.on(name, () => {
      if (interruption.cause === undefined) {
        interruption.stop(name);
        return;
      }
      onKill();
      // Without listeners the signal has its default effect again, which no busy thread can delay
      // (process.exit would wait for the worker's native call).
      process.removeAllListeners(name);
      process.kill(process.pid, name);
    });
  }
}
