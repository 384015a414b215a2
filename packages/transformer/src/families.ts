import { ConfigReader } from './config-reader.ts';
import type { DecoderConfig } from './decoder-config.ts';
import { TransformerError } from './errors.ts';
import { llama } from './families/llama.ts';
import { mistral } from './families/mistral.ts';
import { qwen2 } from './families/qwen2.ts';
import { qwen3 } from './families/qwen3.ts';

const families = [llama, mistral, qwen2, qwen3];

/** Values of `architectures` in `config.json` that this package runs. */
export const supportedArchitectures: readonly string[] = families.flatMap(
  (family) => family.architectures,
);

/**
 * Reads a parsed `config.json`.
 *
 * @throws TransformerError ERR_UNSUPPORTED_ARCHITECTURE (lists the supported ones),
 * ERR_UNSUPPORTED_FEATURE or ERR_INVALID_CONFIG (both with key and value).
 */
export function readDecoderConfig(json: Record<string, unknown>): DecoderConfig {
  const config = new ConfigReader(json);
  const architecture = config.optionalTexts('architectures')?.[0];
  const modelType = config.has('model_type') ? config.text('model_type') : undefined;
  // A file without `architectures` still says what it is by its model_type.
  const family = families.find(({ architectures, modelType: type }) =>
    architecture === undefined
      ? type === modelType
      : (architectures as readonly string[]).includes(architecture),
  );
  if (family === undefined) {
    const found = architecture ?? modelType ?? 'none named';
    throw new TransformerError(
      'ERR_UNSUPPORTED_ARCHITECTURE',
      `unsupported architecture ${found}; supported are ${supportedArchitectures.join(', ')}`,
      { architecture, modelType, supported: supportedArchitectures },
    );
  }
  return family.read(config, architecture ?? family.architectures[0]);
}
