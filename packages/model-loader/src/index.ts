export type { AddedToken } from './added-tokens.ts';
export type { ChatMessage, ChatTemplateOptions } from './chat-template.ts';
export type { Dtype } from './dtype.ts';
export { dtypeBits } from './dtype.ts';
export { modelFingerprint } from './fingerprint.ts';
export { type ImportGgufOptions, type ImportProgress, importGguf } from './import-gguf.ts';
export {
  type CachedModel,
  cacheFolder,
  listCachedModels,
  type PullRecord,
  removeCachedModel,
  resolveModel,
} from './model-cache.ts';
export { type ModelFolder, openModel } from './model-folder.ts';
export { ModelLoaderError, type ModelLoaderErrorCode } from './model-loader-error.ts';
export {
  DEFAULT_MODEL,
  type HubSource,
  listModels,
  type ModelSource,
  type NamedModel,
  type WheelSource,
} from './model-registry.ts';
export { type PullOptions, type PullProgress, pull } from './pull.ts';
export { openSafetensors, type SafetensorsFile } from './safetensors.ts';
export { SafetensorsWriter, type TensorSpec } from './safetensors-writer.ts';
export { openTensorCatalog, TensorCatalog } from './tensor-catalog.ts';
export { type RowRange, TensorView } from './tensor-view.ts';
export { readTokenTexts, StreamingDecoder, type TokenTexts } from './token-text.ts';
export {
  type DecodeOptions,
  type EncodeAsyncOptions,
  type EncodeOptions,
  Tokenizer,
  type TokenizerFiles,
} from './tokenizer.ts';
