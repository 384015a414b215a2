import { TransformerError } from './errors.ts';
import { argmax as nativeArgmax } from './native.ts';
import { Random } from './random.ts';

/** How the next token is chosen from the logits. */
export interface SamplingOptions {
  /** Divides the logits; 0 takes the most likely token always. Default 0. */
  temperature?: number;
  /** Keep only the `topK` most likely tokens; 0 keeps all. Default 0. */
  topK?: number;
  /** Keep the fewest most likely tokens whose probabilities reach `topP`; 1 keeps all. Default 1. */
  topP?: number;
  /** Drop tokens less likely than `minP` times the most likely one; 0 drops none. Default 0. */
  minP?: number;
  /** Divides positive logits, multiplies negative ones, of tokens already in the text; 1 is off. Default 1. */
  repetitionPenalty?: number;
  /** Whole number; the same seed gives the same text. Default: a random one. */
  seed?: number;
}

/** {@link SamplingOptions} with nothing left out. */
export type ResolvedSampling = Required<SamplingOptions>;

/** Fills in defaults and checks ranges; throws ERR_INVALID_ARGUMENT with the value. */
export function resolveSampling(options: SamplingOptions): ResolvedSampling {
  const resolved: ResolvedSampling = {
    temperature: options.temperature ?? 0,
    topK: options.topK ?? 0,
    topP: options.topP ?? 1,
    minP: options.minP ?? 0,
    repetitionPenalty: options.repetitionPenalty ?? 1,
    seed: options.seed ?? Math.floor(Math.random() * 2 ** 32),
  };
  const check = (
    name: keyof ResolvedSampling,
    valid: (value: number) => boolean,
    expected: string,
  ): void => {
    const value: unknown = resolved[name];
    if (typeof value !== 'number' || !valid(value)) {
      throw new TransformerError(
        'ERR_INVALID_ARGUMENT',
        `${name} must be ${expected}, got ${String(value)}`,
        {
          name,
          value,
          expected,
        },
      );
    }
  };
  check(
    'temperature',
    (value) => value >= 0 && value < Number.POSITIVE_INFINITY,
    'a number of at least 0',
  );
  check(
    'topK',
    (value) => Number.isSafeInteger(value) && value >= 0,
    'a whole number of at least 0',
  );
  check('topP', (value) => value >= 0 && value <= 1, 'a number from 0 to 1');
  check('minP', (value) => value >= 0 && value <= 1, 'a number from 0 to 1');
  check(
    'repetitionPenalty',
    (value) => value > 0 && value < Number.POSITIVE_INFINITY,
    'a positive number',
  );
  check(
    'seed',
    (value) => Number.isSafeInteger(value) && value >= 0,
    'a whole number of at least 0',
  );
  return resolved;
}

/**
 * Chooses tokens. Steps and their order are those of Hugging Face transformers: repetition
 * penalty, temperature, top-k, top-p, min-p, draw. Nothing is allocated after construction.
 */
export class Sampler {
  readonly #options: ResolvedSampling;
  readonly #random: Random;
  /** Tokens already in the text, each once: the first `#seenCount` entries. `[vocabSize]` */
  readonly #seen: Uint32Array;
  /** 1 for each token in `#seen`. `[vocabSize]` */
  readonly #isSeen: Uint8Array;
  #seenCount = 0;
  /** Token ids; the first entries become a heap, then the candidates. `[vocabSize]` */
  readonly #candidates: Uint32Array;
  /** Unnormalised probability of each candidate. `[vocabSize]` */
  readonly #weights: Float64Array;

  constructor(vocabSize: number, options: ResolvedSampling) {
    this.#options = options;
    this.#random = new Random(options.seed);
    const penalised = options.repetitionPenalty !== 1;
    this.#seen = new Uint32Array(penalised ? vocabSize : 0);
    this.#isSeen = new Uint8Array(penalised ? vocabSize : 0);
    const sampled = options.temperature > 0;
    this.#candidates = new Uint32Array(sampled ? vocabSize : 0);
    this.#weights = new Float64Array(sampled ? vocabSize : 0);
  }

  /** Tells the repetition penalty that `token` is in the text (the prompt counts). */
  observe(token: number): void {
    if (token < this.#isSeen.length && this.#isSeen[token] === 0) {
      this.#isSeen[token] = 1;
      this.#seen[this.#seenCount++] = token;
    }
  }

  /**
   * The next token. Penalties are applied to `logits` in place.
   *
   * @param logits - `[vocabSize]`
   */
  sample(logits: Float32Array): number {
    const { temperature, topK, topP, minP, repetitionPenalty } = this.#options;
    for (let index = 0; index < this.#seenCount; index++) {
      const token = this.#seen[index] as number;
      const logit = logits[token] as number;
      logits[token] = logit < 0 ? logit * repetitionPenalty : logit / repetitionPenalty;
    }
    const best = argmax(logits);
    if (temperature === 0) return best;
    const top = logits[best] as number;

    const weights = this.#weights;
    const candidates = this.#candidates;
    let count = logits.length;
    const truncates = (topK > 0 && topK < count) || topP < 1;
    if (truncates) count = this.#sortTop(logits, top);
    else for (let token = 0; token < count; token++) candidates[token] = token;

    // min-p compares with the most likely token, so what earlier steps removed does not matter.
    let kept = 0;
    let total = 0;
    for (let index = 0; index < count; index++) {
      const token = candidates[index] as number;
      const weight = Math.exp(((logits[token] as number) - top) / temperature);
      if (weight < minP) continue;
      candidates[kept] = token;
      weights[kept++] = weight;
      total += weight;
    }
    let left = this.#random.next() * total;
    for (let index = 0; index < kept; index++) {
      left -= weights[index] as number;
      if (left < 0) return candidates[index] as number;
    }
    return candidates[kept - 1] as number; // rounding left a crumb
  }

  /** Puts the tokens that top-k and top-p keep at the front of `#candidates`, most likely first. Returns how many. */
  #sortTop(logits: Float32Array, top: number): number {
    const { temperature, topK, topP } = this.#options;
    const heap = this.#candidates;
    const size = logits.length;
    for (let token = 0; token < size; token++) heap[token] = token;
    for (let root = (size >>> 1) - 1; root >= 0; root--) siftDown(heap, root, size, logits);

    // Popping moves the largest to the end of the heap: sorted tokens grow from the back.
    const limit = topK > 0 ? Math.min(topK, size) : size;
    let mass = 0; // of what is sorted so far
    let total = 0; // of everything top-p sees
    if (topK === 0) {
      for (let token = 0; token < size; token++)
        total += Math.exp(((logits[token] as number) - top) / temperature);
    } else {
      // top-p works on the distribution that top-k left, whose sum is known only after top-k.
      let sorted = 0;
      let last = top;
      while (sorted < size) {
        const logit = logits[heap[0] as number] as number;
        if (sorted >= limit && logit !== last) break; // ties with the k-th stay, as in transformers
        popToBack(heap, size - sorted, logits);
        total += Math.exp((logit - top) / temperature);
        last = logit;
        sorted++;
      }
      return this.#cutByMass(logits, top, sorted, total);
    }
    let sorted = 0;
    while (sorted < size && (sorted === 0 || mass < topP * total)) {
      const logit = logits[heap[0] as number] as number;
      popToBack(heap, size - sorted, logits);
      mass += Math.exp((logit - top) / temperature);
      sorted++;
    }
    return this.#moveToFront(sorted);
  }

  /** Keeps of `sorted` tokens at the back those before which less than `topP` of `total` lies. */
  #cutByMass(logits: Float32Array, top: number, sorted: number, total: number): number {
    const { temperature, topP } = this.#options;
    const size = this.#candidates.length;
    let mass = 0;
    let kept = 0;
    while (kept < sorted && (kept === 0 || topP === 1 || mass < topP * total)) {
      const token = this.#candidates[size - 1 - kept] as number;
      mass += Math.exp(((logits[token] as number) - top) / temperature);
      kept++;
    }
    return this.#moveToFront(kept);
  }

  /** Copies the last `count` entries, in reverse, to the front; the rest is no longer needed. */
  #moveToFront(count: number): number {
    const list = this.#candidates;
    const size = list.length;
    for (let index = 0; index < count; index++) {
      const mirrored = size - 1 - index;
      if (mirrored < index) break;
      const front = list[index] as number;
      list[index] = list[mirrored] as number;
      list[mirrored] = front;
    }
    return count;
  }
}

/** Index of the largest value, the first one of equals. Throws ERR_NON_FINITE_LOGITS on NaN or infinity. */
export function argmax(logits: Float32Array): number {
  const best = nativeArgmax(logits);
  if (best === -1) {
    throw new TransformerError(
      'ERR_NON_FINITE_LOGITS',
      'the model computed logits that are not finite: the weights are damaged or overflow in this dtype',
    );
  }
  return best;
}

/** Whether token `a` comes before `b`: larger logit, then smaller id, so that order never depends on the heap. */
function precedes(a: number, b: number, logits: Float32Array): boolean {
  const first = logits[a] as number;
  const second = logits[b] as number;
  return first > second || (first === second && a < b);
}

function siftDown(heap: Uint32Array, root: number, size: number, logits: Float32Array): void {
  const token = heap[root] as number;
  let hole = root;
  for (;;) {
    let child = 2 * hole + 1;
    if (child >= size) break;
    if (child + 1 < size && precedes(heap[child + 1] as number, heap[child] as number, logits))
      child++;
    if (!precedes(heap[child] as number, token, logits)) break;
    heap[hole] = heap[child] as number;
    hole = child;
  }
  heap[hole] = token;
}

/** Swaps the root of a heap of `size` entries to its end and repairs the rest. */
function popToBack(heap: Uint32Array, size: number, logits: Float32Array): void {
  const token = heap[0] as number;
  heap[0] = heap[size - 1] as number;
  heap[size - 1] = token;
  if (size > 1) siftDown(heap, 0, size - 1, logits);
}
