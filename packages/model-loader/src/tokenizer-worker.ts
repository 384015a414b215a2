// Entry of the thread behind Tokenizer.encodeAsync.
import { join } from 'node:path';
import { parentPort, workerData } from 'node:worker_threads';
import { readJsonIfPresent } from './json-file.ts';
import { ModelLoaderError, reasonOf } from './model-loader-error.ts';
import { TokenizerPipeline } from './tokenizer-pipeline.ts';

/** What the thread makes its tokenizer of: a folder with the files, or the parsed files. */
export type WorkerSource =
  | { folder: string }
  | { tokenizer: Record<string, unknown>; config: Record<string, unknown> };

/** A text to encode. */
export interface WorkerRequest {
  /** Number of the call, repeated in the reply. */
  call: number;
  /** The text. */
  text: string;
  /** As {@link EncodeOptions.addSpecialTokens}. */
  addSpecialTokens: boolean;
}

/** Its ids, or why there are none. */
export type WorkerReply =
  | { call: number; ids: Uint32Array }
  | { call: number; code: string | undefined; message: string };

async function makePipeline(source: WorkerSource): Promise<TokenizerPipeline> {
  if ('tokenizer' in source) return new TokenizerPipeline(source.tokenizer, source.config);
  const [tokenizer, config] = await Promise.all(
    ['tokenizer.json', 'tokenizer_config.json'].map((name) =>
      readJsonIfPresent(join(source.folder, name), 'ERR_TOKENIZER_INVALID'),
    ),
  );
  if (tokenizer === undefined) {
    throw new ModelLoaderError(
      'ERR_TOKENIZER_MISSING',
      `${source.folder} has no tokenizer.json any more`,
      { path: source.folder },
    );
  }
  return new TokenizerPipeline(tokenizer, config ?? {});
}

const port = parentPort;
if (port !== null) {
  let pipeline: Promise<TokenizerPipeline> | undefined;
  port.on('message', async ({ call, text, addSpecialTokens }: WorkerRequest) => {
    try {
      pipeline ??= makePipeline(workerData as WorkerSource);
      const ids = (await pipeline).encode(text, addSpecialTokens);
      port.postMessage({ call, ids } satisfies WorkerReply, [ids.buffer as ArrayBuffer]);
    } catch (error) {
      const code = error instanceof ModelLoaderError ? error.code : undefined;
      port.postMessage({ call, code, message: reasonOf(error) } satisfies WorkerReply);
    }
  });
}
