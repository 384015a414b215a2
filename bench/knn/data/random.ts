/** Seeded numbers in [0, 1): mulberry32. */
export function seededRandom(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** `count` distinct whole numbers below `total`, ascending. Every subset is equally likely. */
export function sampleOf(total: number, count: number, random: () => number): Float64Array {
  const chosen = new Float64Array(count);
  let taken = 0;
  for (let number = 0; taken < count; number++) {
    if (random() * (total - number) < count - taken) chosen[taken++] = number;
  }
  return chosen;
}
