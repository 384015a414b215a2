import { parentPort } from 'node:worker_threads';
import { TransformerError } from './errors.ts';
import type { RuntimeCalls } from './protocol.ts';
import { serve } from './protocol.ts';
import { Runtime } from './runtime.ts';

/*
 * Entry point of the thread that runs a model. Native calls block it, never the main thread; it
 * hears of a cancellation through shared memory.
 */

let runtime: Runtime | undefined;

function loaded(): Runtime {
  if (runtime === undefined) throw new TransformerError('ERR_MODEL_CLOSED', 'the model is closed');
  return runtime;
}

if (parentPort === null) {
  throw new TransformerError(
    'ERR_INVALID_ARGUMENT',
    'this module runs in a worker thread; call loadModel instead',
  );
}

serve<RuntimeCalls>(parentPort, {
  async load(params, context) {
    runtime = await Runtime.load(params, context);
    return runtime.info;
  },
  setTexts(texts) {
    loaded().setTexts(texts);
    return null;
  },
  generate: (params, context) => loaded().generate(params, context),
  logits: (params, context) => loaded().logits(params, context),
  perplexity: (params, context) => loaded().perplexity(params, context),
  compare: (params, context) => loaded().compare(params, context),
  setAttention: (choice) => loaded().setAttention(choice),
  close() {
    runtime?.close();
    runtime = undefined;
    return null;
  },
});
