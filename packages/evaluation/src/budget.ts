/** One thing that can be done in one place, against doing it exactly. */
export interface Option {
  /** What it costs in accuracy: mean divergence, in nats. */
  loss: number;
  /** What it saves, in milliseconds. */
  gain: number;
}

/**
 * Spends an allowed loss where it buys most time: the knapsack in which every place takes one of its options or none.
 * Greedy: again and again the step with the most time for the loss it adds is taken, of those the budget still allows;
 * a place may step on to a better option. Losses are taken to add up.
 *
 * @param places - the options of each place
 * @returns for each place the number of the option it takes, -1 for none
 */
export function spendLoss(places: readonly (readonly Option[])[], budget: number): number[] {
  const taken = places.map(() => -1);
  let left = budget;
  for (;;) {
    let best: { place: number; option: number; loss: number; rate: number } | undefined;
    for (const [place, options] of places.entries()) {
      const now = options[taken[place] as number] ?? { loss: 0, gain: 0 };
      for (const [option, { loss, gain }] of options.entries()) {
        const [more, saved] = [loss - now.loss, gain - now.gain];
        if (saved <= 0 || more > left) continue;
        // What saves time and costs nothing goes first.
        const rate = more <= 0 ? Number.POSITIVE_INFINITY : saved / more;
        if (best === undefined || rate > best.rate) best = { place, option, loss: more, rate };
      }
    }
    if (best === undefined) return taken;
    taken[best.place] = best.option;
    left -= best.loss;
  }
}
