//! Keeping the k nearest while tiles stream by.
//!
//! Kernels score tiles fast but not exactly: the order of summation differs between SIMD levels, and
//! bf16 keys meet a query rounded to bf16. So a kernel's score is only a filter. Its error is bounded
//! (`error_bound`), everything that could still belong to the k nearest is kept, and those few are scored
//! again in one fixed order ([`crate::metric::exact_score`]). The result is therefore exact and the same
//! at every SIMD level, thread count and batch size, with equal scores ordered by insertion.

use std::cell::RefCell;
use std::cmp::Ordering;

/// A vector that may belong to the k nearest.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Candidate {
    /// The kernel's score, where larger is nearer: `q·k`, less half the squared length of the key for L2.
    pub scan: f32,
    /// Which segment the key is in.
    pub segment: u32,
    /// Where in the segment.
    pub position: u32,
}

/// One of the k nearest.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Neighbour {
    /// Exact score, negated for L2, so that larger is nearer.
    pub rank: f32,
    /// Number of vectors added before this one.
    pub ordinal: u64,
    /// Id of the vector.
    pub id: u64,
}

impl Neighbour {
    /// Nearest first, equal ones in the order of their insertion.
    pub fn order(&self, other: &Self) -> Ordering {
        other.rank.total_cmp(&self.rank).then(self.ordinal.cmp(&other.ordinal))
    }
}

/// The k nearest so far for one query.
pub(crate) struct TopK {
    k: usize,
    /// Bound on |kernel's score − exact score|, both as kernel scores.
    error_bound: f32,
    /// Kernel scores below this cannot belong to the k nearest. Only ever grows.
    threshold: f32,
    pending: Vec<Candidate>,
    capacity: usize,
    /// Exactly scored, nearest first, at most k.
    settled: Vec<Neighbour>,
}

impl TopK {
    /// Collects the `k` nearest with kernel scores that are off by at most `error_bound`.
    pub fn new(k: usize, error_bound: f32) -> Self {
        Self {
            k,
            error_bound,
            threshold: f32::NEG_INFINITY,
            pending: Vec::new(),
            capacity: 4 * k + 32,
            settled: Vec::new(),
        }
    }

    /// Kernel scores below this need not be offered.
    #[inline]
    pub fn threshold(&self) -> f32 {
        self.threshold
    }

    /// Takes a candidate; true when [`TopK::shrink`] must be called before the next one.
    #[inline]
    #[must_use]
    pub fn offer(&mut self, candidate: Candidate) -> bool {
        self.pending.push(candidate);
        self.pending.len() >= self.capacity
    }

    /// Drops candidates that cannot belong to the k nearest, and raises the threshold.
    ///
    /// `exact` scores one candidate exactly; `as_scan` turns a neighbour's rank into the kernel score an
    /// errorless kernel would have given it.
    pub fn shrink(&mut self, exact: impl Fn(Candidate) -> Neighbour, as_scan: impl Fn(f32) -> f32) {
        if self.pending.len() >= self.k {
            let kth = kth_largest(self.pending.iter().map(|candidate| candidate.scan), self.k);
            self.raise_to(kth);
            let threshold = self.threshold;
            self.pending.retain(|candidate| candidate.scan >= threshold);
        }
        if self.pending.len() > self.capacity / 4 * 3 {
            // Too many are too close together to be told apart by the kernel.
            self.settle(exact, as_scan);
        }
    }

    /// Raises the threshold, given that k keys have a kernel score of at least `kth`.
    pub fn raise_to(&mut self, kth: f32) {
        // Their exact scores are at least kth − bound; a candidate below kth − 2 bound has less.
        self.raise(kth - 2.0 * self.error_bound);
    }

    pub fn k(&self) -> usize {
        self.k
    }

    /// Scores what is pending exactly and keeps the k nearest.
    fn settle(&mut self, exact: impl Fn(Candidate) -> Neighbour, as_scan: impl Fn(f32) -> f32) {
        let bound = self.error_bound;
        self.settled.extend(self.pending.drain(..).map(|candidate| {
            let neighbour = exact(candidate);
            debug_assert!(
                (as_scan(neighbour.rank) - candidate.scan).abs() <= bound,
                "{candidate:?} {neighbour:?} {} {bound}",
                as_scan(neighbour.rank)
            );
            neighbour
        }));
        keep_nearest(&mut self.settled, self.k);
        if self.settled.len() == self.k {
            self.raise(as_scan(self.settled[self.k - 1].rank) - self.error_bound);
        }
    }

    fn raise(&mut self, threshold: f32) {
        self.threshold = self.threshold.max(threshold);
    }

    /// The k nearest of all candidates, nearest first.
    pub fn finish(mut self, exact: impl Fn(Candidate) -> Neighbour, as_scan: impl Fn(f32) -> f32) -> Vec<Neighbour> {
        self.shrink(&exact, &as_scan);
        self.settle(exact, as_scan);
        self.settled
    }

    /// The same set as [`TopK::finish`], in no particular order; only what the kernel could not tell apart
    /// is scored exactly. `exact` must give `segment << 32 | position` as the ordinal.
    pub fn choose(mut self, exact: impl Fn(Candidate) -> Neighbour) -> Vec<Candidate> {
        let candidate = |neighbour: &Neighbour| Candidate {
            scan: neighbour.rank,
            segment: (neighbour.ordinal >> 32) as u32,
            position: neighbour.ordinal as u32,
        };
        if !self.settled.is_empty() {
            self.settle(exact, |rank| rank);
            return self.settled.iter().map(candidate).collect();
        }
        if self.pending.len() > self.k {
            let kth = kth_largest(self.pending.iter().map(|candidate| candidate.scan), self.k);
            let (low, high) = (kth - 2.0 * self.error_bound, kth + 2.0 * self.error_bound);
            let mut close = Vec::new();
            self.pending.retain(|candidate| {
                if candidate.scan <= high && candidate.scan >= low {
                    let neighbour = exact(*candidate);
                    debug_assert!((neighbour.rank - candidate.scan).abs() <= self.error_bound);
                    close.push(neighbour);
                }
                candidate.scan > high
            });
            keep_nearest(&mut close, self.k - self.pending.len());
            self.pending.extend(close.iter().map(candidate));
        }
        self.pending
    }
}

/// The `k`th largest of at least `k` scores, none of which is NaN.
pub(crate) fn kth_largest(scores: impl Iterator<Item = f32>, k: usize) -> f32 {
    thread_local! {
        /// Kept from call to call: this runs for every query every few hundred keys.
        static KEYS: RefCell<Vec<u32>> = const { RefCell::new(Vec::new()) };
    }
    // Whole numbers in the order of the scores select several times faster than the candidates themselves.
    const SIGN: u32 = 1 << 31;
    KEYS.with_borrow_mut(|keys| {
        keys.clear();
        keys.extend(scores.map(f32::to_bits).map(|bits| if bits & SIGN == 0 { bits | SIGN } else { !bits }));
        let place = keys.len() - k;
        let (_, &mut key, _) = keys.select_nth_unstable(place);
        f32::from_bits(if key & SIGN == 0 { !key } else { key ^ SIGN })
    })
}

/// Sorts and cuts to the `k` nearest.
pub(crate) fn keep_nearest(neighbours: &mut Vec<Neighbour>, k: usize) {
    if neighbours.len() > k {
        neighbours.select_nth_unstable_by(k - 1, Neighbour::order);
        neighbours.truncate(k);
    }
    neighbours.sort_unstable_by(Neighbour::order);
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
}
