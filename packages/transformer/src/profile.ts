/** Parts of the work, in the order in which a chunk of tokens meets them. */
export const PROFILE_PARTS = [
  'embed',
  'qkv',
  'attention',
  'output',
  'mlp',
  'logits',
  'sampling',
  'rest',
] as const;

/**
 * A part of the work: `embed`, embedding and rotary tables; `qkv`, norm, products, rotation; `attention`, cache and
 * attention; `output`, output product, norm; `mlp`; `logits`, final norm and head; `sampling`; `rest`, text, events and
 * all other JavaScript. Output and MLP share one pass over the rows: its time is divided as the threads measured it.
 */
export type ProfilePart = (typeof PROFILE_PARTS)[number];

/** Milliseconds of every part; together they are the whole time. */
export type PhaseProfile = Record<ProfilePart, number>;

/** Where the time of a generation went. */
export interface GenerationProfile {
  /** The prompt, to its last logits: `prefillMs`. */
  prefill: PhaseProfile;
  /** Everything after: `decodeMs`. */
  decode: PhaseProfile;
}

/** A stopwatch that counts the time since the last look for a part: every millisecond counts once. */
export class ProfileClock {
  readonly profile: GenerationProfile = { prefill: nothing(), decode: nothing() };
  readonly #now: () => number;
  #phase: PhaseProfile = this.profile.prefill;
  #last: number;

  /** @param now - milliseconds of a clock that never goes back. */
  constructor(now: () => number = () => performance.now()) {
    this.#now = now;
    this.#last = now();
  }

  /** What was done since the last call was `part`. */
  lap(part: ProfilePart): void {
    const now = this.#now();
    this.#phase[part] += now - this.#last;
    this.#last = now;
  }

  /** What was done since the last call was `first` to a share of 0 to 1 of the time, and `second` to the rest. */
  split(first: ProfilePart, second: ProfilePart, share: number): void {
    const now = this.#now();
    const time = now - this.#last;
    this.#phase[first] += share * time;
    this.#phase[second] += (1 - share) * time;
    this.#last = now;
  }

  /** What was done since the last call took `times`, in milliseconds, for `parts`; what they leave was `rest`. */
  divide(parts: readonly ProfilePart[], times: Float64Array): void {
    const now = this.#now();
    let rest = now - this.#last;
    parts.forEach((part, index) => {
      const time = Math.min(times[index] ?? 0, rest);
      this.#phase[part] += time;
      rest -= time;
    });
    this.#phase.rest += rest;
    this.#last = now;
  }

  /** What comes now is decoding. */
  startDecode(): void {
    this.#phase = this.profile.decode;
  }
}

function nothing(): PhaseProfile {
  return { embed: 0, qkv: 0, attention: 0, output: 0, mlp: 0, logits: 0, sampling: 0, rest: 0 };
}
