// Entry of the thread behind Tokenizer.encodeAsync.
import { parentPort, workerData } from 'node:worker_threads';
import { ModelLoaderError, reasonOf } from './model-loader-error.ts';
import { TokenizerPipeline } from './tokenizer-pipeline.ts';

/** A text to encode. */
export interface WorkerRequest {
  /** Number of the call, repeated in the reply. */
  call: number;
  text: string;
  addSpecialTokens: boolean;
}

/** Its ids, or why there are none. */
export type WorkerReply =
  | { call: number; ids: Uint32Array }
  | { call: number; code: string | undefined; message: string };

const port = parentPort;
const files = workerData as {
  tokenizer: Record<string, unknown>;
  config: Record<string, unknown>;
} | null;

if (port !== null && files !== null) {
  let pipeline: TokenizerPipeline | undefined;
  port.on('message', ({ call, text, addSpecialTokens }: WorkerRequest) => {
    try {
      pipeline ??= new TokenizerPipeline(files.tokenizer, files.config);
      const ids = pipeline.encode(text, addSpecialTokens);
      port.postMessage({ call, ids } satisfies WorkerReply, [ids.buffer as ArrayBuffer]);
    } catch (error) {
      const code = error instanceof ModelLoaderError ? error.code : undefined;
      port.postMessage({ call, code, message: reasonOf(error) } satisfies WorkerReply);
    }
  });
}
