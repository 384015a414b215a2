/** Stable codes of {@link ModelLoaderError}; compare these, not messages. */
export type ModelLoaderErrorCode =
  // a model folder
  | 'ERR_MODEL_NOT_FOUND'
  | 'ERR_MODEL_UNREADABLE'
  | 'ERR_MODEL_CLOSED'
  | 'ERR_CONFIG_MISSING'
  | 'ERR_CONFIG_INVALID'
  | 'ERR_WEIGHTS_MISSING'
  | 'ERR_SHARD_MISSING'
  | 'ERR_SHARD_INDEX_INVALID'
  | 'ERR_SHARD_MISMATCH'
  // safetensors
  | 'ERR_SAFETENSORS_TRUNCATED'
  | 'ERR_SAFETENSORS_HEADER_TOO_LARGE'
  | 'ERR_SAFETENSORS_HEADER_INVALID'
  | 'ERR_SAFETENSORS_DUPLICATE_KEY'
  | 'ERR_SAFETENSORS_DTYPE'
  | 'ERR_SAFETENSORS_SHAPE'
  | 'ERR_SAFETENSORS_OFFSETS'
  | 'ERR_SAFETENSORS_OVERLAP'
  | 'ERR_SAFETENSORS_HOLE'
  | 'ERR_SAFETENSORS_SIZE_MISMATCH'
  // tensors
  | 'ERR_TENSOR_MISSING'
  | 'ERR_TENSOR_RANGE'
  | 'ERR_TENSOR_DTYPE'
  | 'ERR_TENSOR_TOO_LARGE'
  // tokenizer
  | 'ERR_TOKENIZER_MISSING'
  | 'ERR_TOKENIZER_INVALID'
  | 'ERR_TOKENIZER_UNSUPPORTED'
  | 'ERR_TOKENIZER_FAILED'
  | 'ERR_CHAT_TEMPLATE_MISSING'
  | 'ERR_CHAT_TEMPLATE_INVALID'
  // GGUF
  | 'ERR_GGUF_INVALID'
  | 'ERR_GGUF_VERSION'
  | 'ERR_GGUF_ARCHITECTURE'
  | 'ERR_GGUF_TENSOR_TYPE'
  | 'ERR_GGUF_TENSOR_NAME'
  | 'ERR_GGUF_TOKENIZER'
  | 'ERR_GGUF_PRE_TOKENIZER'
  | 'ERR_OUTPUT_EXISTS'
  | 'ERR_OUTPUT_FAILED'
  // named models
  | 'ERR_MODEL_UNKNOWN'
  | 'ERR_MODEL_OFFLINE'
  | 'ERR_SOURCE_UNREACHABLE'
  | 'ERR_SOURCE_NOT_FOUND'
  | 'ERR_SOURCE_DENIED'
  | 'ERR_SOURCE_FAILED'
  | 'ERR_HASH_MISMATCH'
  | 'ERR_PULL_FAILED';

/**
 * Every failure this package reports about a file, a model or a source.
 *
 * The message is one line and holds the offending values; `details` holds the same values for programs.
 */
export class ModelLoaderError extends Error {
  override readonly name = 'ModelLoaderError';
  /** Stable code, for example `ERR_TENSOR_MISSING`. */
  readonly code: ModelLoaderErrorCode;
  /** The values the message speaks of, for example `{ path, expected, found }`. */
  readonly details: Record<string, unknown>;

  constructor(
    code: ModelLoaderErrorCode,
    message: string,
    details: Record<string, unknown> = {},
    cause?: unknown,
  ) {
    super(message, cause === undefined ? undefined : { cause });
    this.code = code;
    this.details = details;
  }
}

/** What went wrong, in one line, whatever was thrown. */
export function reasonOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  // fetch() reports "fetch failed" and hides the reason in its cause.
  const cause = error.cause;
  const hidden =
    error.message === 'fetch failed' && cause instanceof Error
      ? cause.message || ((cause as NodeJS.ErrnoException).code ?? '')
      : '';
  return (hidden || error.message || error.name).split('\n', 1)[0] ?? error.name;
}

/** The `code` of a Node system error (`ENOENT`, …), or undefined. */
export function systemCode(error: unknown): string | undefined {
  const code = (error as { code?: unknown } | null)?.code;
  return typeof code === 'string' ? code : undefined;
}
