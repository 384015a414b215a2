/** Machine-readable reasons of a {@link TransformerError}. Stable between versions. */
export type TransformerErrorCode =
  /** An argument has the wrong type or is out of range. */
  | 'ERR_INVALID_ARGUMENT'
  /** `config.json` lacks a value, or has one that makes no sense. */
  | 'ERR_INVALID_CONFIG'
  /** The checkpoint's architecture is not one this package runs. */
  | 'ERR_UNSUPPORTED_ARCHITECTURE'
  /** The architecture is supported, this feature of it is not (for example quantized weights). */
  | 'ERR_UNSUPPORTED_FEATURE'
  /** The prompt has no tokens. */
  | 'ERR_EMPTY_PROMPT'
  /** The prompt has more tokens than the context holds. */
  | 'ERR_PROMPT_TOO_LONG'
  /** A token id is outside the vocabulary. */
  | 'ERR_INVALID_TOKEN'
  /** The text has fewer tokens than one perplexity window. */
  | 'ERR_TEXT_TOO_SHORT'
  /** Weights, cache and working buffers would not fit into the memory that is free. */
  | 'ERR_NOT_ENOUGH_MEMORY'
  /** The model computed NaN or infinity: broken weights, or a kernel bug. */
  | 'ERR_NON_FINITE_LOGITS'
  /** The model was closed before or during the call. */
  | 'ERR_MODEL_CLOSED'
  /** The worker thread that runs the model died. */
  | 'ERR_WORKER_CRASHED';

/** Error of this package. `code` is for programs, `details` has the offending values. */
export class TransformerError extends Error {
  /** Always `TransformerError`. */
  override readonly name = 'TransformerError';
  /**
   * One of {@link TransformerErrorCode}, or the code of a native error that was passed on
   * (always beginning with `ERR_`).
   */
  readonly code: string;
  /** The values the message speaks of. */
  readonly details: Record<string, unknown>;

  constructor(
    code: TransformerErrorCode | (string & {}),
    message: string,
    details: Record<string, unknown> = {},
    options?: ErrorOptions,
  ) {
    super(message, options);
    this.code = code;
    this.details = details;
  }
}
