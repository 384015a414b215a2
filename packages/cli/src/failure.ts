/** Exit codes of the binary. 130 and 143 follow the shell's convention of 128 + the signal's number. */
export const EXIT = { ok: 0, failure: 1, usage: 2, interrupted: 130, terminated: 143 } as const;

/** An error that the person at the keyboard can act on: shown as one line, without a stack. */
export class CliError extends Error {
  override readonly name = 'CliError';
  readonly code: string;
  readonly details: Record<string, unknown>;
  readonly exitCode: number;

  /**
   * @param code stable, begins with `ERR_`
   * @param details the offending values, for `--json`
   * @param exitCode 1 unless the command line itself is wrong (2)
   */
  constructor(
    code: string,
    message: string,
    details: Record<string, unknown> = {},
    exitCode: number = EXIT.failure,
  ) {
    super(message);
    this.code = code;
    this.details = details;
    this.exitCode = exitCode;
  }
}

/** The command line asks for something that has no meaning: exit code 2. */
export function usageError(message: string, details: Record<string, unknown> = {}): CliError {
  return new CliError('ERR_USAGE', message, details, EXIT.usage);
}

/** What is printed about an error. */
export interface Failure {
  code: string;
  message: string;
  details: Record<string, unknown>;
  exitCode: number;
}

/** An error's class in any of the packages: a stable code and the offending values. */
interface PackageError extends Error {
  code: string;
  details: Record<string, unknown>;
}

function isPackageError(error: Error): error is PackageError {
  const { code, details } = error as Partial<PackageError>;
  // Node's own errors have ERR_ codes too, but no details: those are our bugs, not the user's.
  return (
    typeof code === 'string' &&
    code.startsWith('ERR_') &&
    typeof details === 'object' &&
    details !== null
  );
}

interface SystemError extends Error {
  code: string;
  syscall: string;
}

function isSystemError(error: Error): error is SystemError {
  const { code, syscall } = error as Partial<SystemError>;
  return typeof code === 'string' && typeof syscall === 'string';
}

function isOutOfMemory(error: Error): boolean {
  const code = (error as { code?: unknown }).code;
  return (
    code === 'ERR_WORKER_OUT_OF_MEMORY' ||
    code === 'ERR_MEMORY_ALLOCATION_FAILED' ||
    (error instanceof RangeError && /allocation failed/i.test(error.message))
  );
}

/** Control characters would break the promise of one line (and could drive a terminal). */
export function oneLine(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is removed
  return text.replace(/[\u0000-\u001f\u007f-\u009f\u2028\u2029]+/g, ' ').trim();
}

/** Turns anything thrown into what is printed about it. */
export function describeFailure(error: unknown): Failure {
  if (error instanceof Error) {
    if (isPackageError(error)) {
      const exitCode = error instanceof CliError ? error.exitCode : EXIT.failure;
      return {
        code: error.code,
        message: oneLine(error.message),
        details: error.details,
        exitCode,
      };
    }
    if (isOutOfMemory(error)) {
      return {
        code: 'ERR_NOT_ENOUGH_MEMORY',
        message: `the system refused to give more memory: ${oneLine(error.message)}`,
        details: {},
        exitCode: EXIT.failure,
      };
    }
    if (isSystemError(error)) {
      return {
        code: 'ERR_SYSTEM',
        message: oneLine(error.message),
        details: { errno: error.code, syscall: error.syscall },
        exitCode: EXIT.failure,
      };
    }
  }
  const message = error instanceof Error ? `${error.name}: ${error.message}` : String(error);
  return {
    code: 'ERR_INTERNAL',
    message: `${oneLine(message)} (a bug in iceformer; set ICEFORMER_DEBUG=1 to see where)`,
    details: {},
    exitCode: EXIT.failure,
  };
}

/** True for what a package throws when its `AbortSignal` fires. */
export function isAbort(error: unknown): boolean {
  if (!(error instanceof Error)) return false;
  const code = (error as { code?: unknown }).code;
  return error.name === 'AbortError' || code === 'ERR_ABORTED' || code === 'ABORT_ERR';
}
