/** An error of this package: `code` is stable, `details` holds the offending values. */
export class AttentionError extends Error {
  readonly code: string;
  readonly details: Record<string, unknown>;

  constructor(code: string, message: string, details: Record<string, unknown> = {}) {
    super(message);
    this.name = 'AttentionError';
    this.code = code;
    this.details = details;
  }
}
