/**
 * Which of a sequence's positions have a key in the cache: those that a padding mask leaves out have none.
 *
 * Masked keys are not stored, so they cost nothing and can never contribute; what remains is to say how many
 * stored keys lie before a position.
 */
export class KeptKeys {
  #positions = 0;
  /** Stored keys before each position, `[positions + 1]` at least; null while every position has a key. */
  #before: Uint32Array | null = null;

  /** Positions so far, masked ones included. */
  get positions(): number {
    return this.#positions;
  }

  /** True once a position had no key. */
  get masked(): boolean {
    return this.#before !== null;
  }

  /** Stored keys before `position`. */
  before(position: number): number {
    return this.#before === null ? position : (this.#before[position] ?? 0);
  }

  /** Adds n positions; `mask`, `[n]`, is 0 where one has no key. */
  append(n: number, mask?: Uint8Array): void {
    const start = this.#positions;
    this.#positions += n;
    if (
      this.#before === null &&
      (mask === undefined || mask.subarray(0, n).every((m) => m !== 0))
    ) {
      return;
    }
    const before = this.#room(start);
    for (let i = 0; i < n; i++) {
      before[start + i + 1] =
        (before[start + i] ?? 0) + (mask === undefined || mask[i] !== 0 ? 1 : 0);
    }
  }

  /** Forgets positions from number `positions` on. */
  truncate(positions: number): void {
    this.#positions = Math.min(this.#positions, positions);
    if (this.before(this.#positions) === this.#positions) {
      this.#before = null;
    }
  }

  /** Counts for all positions, of which the first `start + 1` are filled in. */
  #room(start: number): Uint32Array {
    if (this.#before !== null && this.#before.length > this.#positions) {
      return this.#before;
    }
    const grown = new Uint32Array(Math.max(2 * (start + 1), this.#positions + 1));
    if (this.#before === null) {
      for (let i = 0; i <= start; i++) grown[i] = i;
    } else {
      grown.set(this.#before.subarray(0, start + 1));
    }
    this.#before = grown;
    return grown;
  }
}
