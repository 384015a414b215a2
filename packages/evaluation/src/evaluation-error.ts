/** An error of this package: `code` is stable, `details` holds the offending values. */
export class EvaluationError extends Error {
  /** Always `EvaluationError`. */
  override readonly name = 'EvaluationError';
  /** Begins with `ERR_`. */
  readonly code: string;
  /** The values the message speaks of. */
  readonly details: Record<string, unknown>;

  constructor(code: string, message: string, details: Record<string, unknown> = {}) {
    super(message);
    this.code = code;
    this.details = details;
  }
}
