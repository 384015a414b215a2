//! The k nearest of one query while blocks stream by.
//!
//! A scan knows each score only to within a bound. A vector stays a candidate while its score, plus the bound,
//! reaches the k-th largest of the scores less the bound; the few that are left are ranked exactly. With the full
//! bound nothing is ever lost; searches that need not be exact take a fraction of it.

use std::cell::RefCell;

use crate::ascending::{ascending, score_of};
use crate::neighbour::{Neighbour, keep_nearest};

/// A vector that may belong to the k nearest.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Candidate {
    /// The score is at least this,
    pub low: f32,
    /// and at most this.
    pub high: f32,
    pub block: u32,
    pub position: u32,
}

/// Candidates for the k nearest of one query.
#[derive(Debug, Default)]
pub(crate) struct Nearest {
    k: usize,
    /// What cannot reach this score does not belong to the k nearest. Only grows.
    threshold: f32,
    candidates: Vec<Candidate>,
    capacity: usize,
    /// A threshold that was guessed, and has to be made good by k candidates.
    guess: f32,
    /// Numbers of the candidates that are ranked first.
    chosen: Vec<u32>,
}

impl Nearest {
    /// Starts anew for the `k` nearest with scores of at least `floor`; keeps its memory.
    pub fn reset(&mut self, k: usize, floor: f32) {
        self.k = k;
        self.threshold = floor;
        self.candidates.clear();
        self.capacity = k.saturating_mul(4).saturating_add(128).min(1 << 30);
        self.guess = f32::NEG_INFINITY;
    }

    /// Starts with a threshold that k vectors may reach; [`Nearest::is_sure`] tells afterwards whether they did.
    pub fn guess(&mut self, threshold: f32) {
        if threshold > self.threshold {
            (self.threshold, self.guess) = (threshold, threshold);
        }
    }

    /// True unless vectors were passed over for a guess that turned out too high.
    pub fn is_sure(&self) -> bool {
        self.guess == f32::NEG_INFINITY
            || self.threshold > self.guess
            || self.candidates.iter().filter(|candidate| candidate.low >= self.guess).nth(self.k - 1).is_some()
    }

    #[inline]
    pub fn threshold(&self) -> f32 {
        self.threshold
    }

    /// Takes over the candidates of another part of the same search.
    pub fn join(&mut self, other: Self) {
        self.threshold = self.threshold.max(other.threshold);
        self.candidates.extend(other.candidates);
    }

    #[inline]
    pub fn offer(&mut self, candidate: Candidate) {
        self.candidates.push(candidate);
    }

    /// Drops what cannot belong to the k nearest, if there is enough to make that worth while.
    #[inline]
    pub fn tidy(&mut self) {
        if self.candidates.len() >= self.capacity
            || (self.threshold == f32::NEG_INFINITY && self.candidates.len() >= self.k)
        {
            self.cut();
        }
    }

    fn cut(&mut self) {
        if self.candidates.len() < self.k {
            return;
        }
        let kth = kth_largest(self.candidates.iter().map(|candidate| candidate.low), self.k);
        if kth > self.threshold {
            self.threshold = kth;
        }
        let threshold = self.threshold;
        self.candidates.retain(|candidate| candidate.high >= threshold);
        // Many that cannot be told apart (equal vectors): look again when there are twice as many.
        self.capacity = self.capacity.max(self.candidates.len().saturating_mul(2));
    }

    /// The k nearest with ranks of at least `floor`, nearest first, into `found`. `rank` ranks a candidate
    /// exactly, and `score` turns a rank into the most that a scan could have scored it.
    pub fn finish(
        &mut self,
        floor: f32,
        rank: impl Fn(&Candidate) -> Neighbour,
        ahead: impl Fn(&Candidate),
        score: impl Fn(f32) -> f32,
        found: &mut Vec<Neighbour>,
    ) {
        found.clear();
        if self.candidates.len() <= self.k {
            found.extend(self.candidates.iter().map(rank));
            found.retain(|neighbour| neighbour.rank >= floor);
            found.sort_unstable_by(Neighbour::order);
            return;
        }
        // The most promising first: once k are ranked, most of the others cannot catch up.
        let worth = kth_largest(self.candidates.iter().map(|candidate| candidate.high), self.k);
        let chosen = select(&self.candidates, &mut self.chosen, |candidate| candidate.high >= worth);
        for &mut i in &mut *chosen {
            ahead(&self.candidates[i as usize]);
        }
        found.extend(chosen.iter().map(|&i| rank(&self.candidates[i as usize])));
        let mut worst = found.iter().fold(f32::INFINITY, |worst, neighbour| worst.min(neighbour.rank));
        let mut needed = score(worst);
        let rest =
            select(&self.candidates, &mut self.chosen, |candidate| candidate.high >= needed && candidate.high < worth);
        let high = |i: u32| self.candidates[i as usize].high;
        rest.sort_unstable_by(|&a, &b| high(b).total_cmp(&high(a)));
        for &mut i in rest {
            let candidate = &self.candidates[i as usize];
            if candidate.high < needed {
                break;
            }
            let neighbour = rank(candidate);
            if neighbour.rank >= worst {
                found.push(neighbour);
                if found.len() >= 2 * self.k + 16 {
                    keep_nearest(found, self.k);
                    worst = found[self.k - 1].rank;
                    needed = score(worst);
                }
            }
        }
        keep_nearest(found, self.k);
        found.retain(|neighbour| neighbour.rank >= floor);
    }
}

/// Numbers of the candidates that are `wanted`, written to `chosen`. Without branches: which of them are cannot be
/// predicted.
fn select<'a>(
    candidates: &[Candidate],
    chosen: &'a mut Vec<u32>,
    wanted: impl Fn(&Candidate) -> bool,
) -> &'a mut [u32] {
    chosen.resize(candidates.len(), 0);
    let mut count = 0;
    for (i, candidate) in candidates.iter().enumerate() {
        chosen[count] = i as u32;
        count += usize::from(wanted(candidate));
    }
    &mut chosen[..count]
}

/// The `k`th largest of at least `k` scores, none of which is NaN.
pub(crate) fn kth_largest(scores: impl Iterator<Item = f32>, k: usize) -> f32 {
    thread_local! {
        /// Kept from call to call: this runs for every query every few hundred keys.
        static KEYS: RefCell<Vec<u32>> = const { RefCell::new(Vec::new()) };
    }
    // Whole numbers in the order of the scores select several times faster than the candidates themselves.
    KEYS.with_borrow_mut(|keys| {
        keys.clear();
        keys.extend(scores.map(ascending));
        let place = keys.len() - k;
        let (_, &mut key, _) = keys.select_nth_unstable(place);
        score_of(key)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kth_largest_of_any_signs() {
        let scores = [3.0, -1.0, 0.0, -0.5, f32::NEG_INFINITY, 7.5, -1.0, 3.0];
        let mut sorted = scores;
        sorted.sort_by(|a, b| b.total_cmp(a));
        for (i, expected) in sorted.into_iter().enumerate() {
            assert_eq!(kth_largest(scores.into_iter(), i + 1).to_bits(), expected.to_bits());
        }
    }

    #[test]
    fn nothing_within_the_bound_is_lost() {
        // Scores are off by up to 0.5, in the direction that hurts most.
        let exact = |position: u32| ((position * 7919) % 1000) as f32 / 10.0;
        for k in [1, 3, 10, 2000] {
            let mut nearest = Nearest::default();
            nearest.reset(k, f32::NEG_INFINITY);
            for position in 0..1000 {
                let scanned = exact(position) + if position % 2 == 0 { 0.5 } else { -0.5 };
                if scanned + 0.5 >= nearest.threshold() {
                    nearest.offer(Candidate { low: scanned - 0.5, high: scanned + 0.5, block: 0, position });
                }
                nearest.tidy();
            }
            let mut found = Vec::new();
            let rank =
                |candidate: &Candidate| Neighbour { rank: exact(candidate.position), id: candidate.position.into() };
            nearest.finish(f32::NEG_INFINITY, rank, |_| {}, |rank| rank, &mut found);
            let mut expected: Vec<_> = (0..1000).map(|i| Neighbour { rank: exact(i), id: i.into() }).collect();
            keep_nearest(&mut expected, k);
            assert_eq!(found, expected);
        }
    }
}
