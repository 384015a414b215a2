//! The nearest candidates of one query.

use iceformer_simd::LANES;

use crate::ascending::{ascending, score_of};

/// A number that falls as the score grows, in its upper half, and what was scored in its lower half: sorting such
/// numbers puts the largest score first, equal ones in the order of slots.
#[inline]
pub(super) fn key(score: f32, slot: u32) -> u64 {
    u64::from(!ascending(score)) << 32 | u64::from(slot)
}

/// The score in a [`key`].
#[inline]
pub(super) fn score(key: u64) -> f32 {
    score_of(!((key >> 32) as u32))
}

/// Keeps the candidates of a query that may be among its k nearest.
///
/// Scores are products summed in `f32` in whatever order is fast; `margin` bounds how far the exact scores of two
/// candidates can be apart in the other direction. All that might be among the k nearest stay.
#[derive(Debug)]
pub(super) struct Nearest {
    k: usize,
    margin: f32,
    /// Candidates scored below cannot be among the nearest.
    floor: f32,
    keys: Vec<u64>,
    /// Candidates at which the k best are selected.
    full: usize,
}

impl Nearest {
    /// Scores below `floor` are not wanted; the margin is taken off already.
    pub fn new(k: usize, margin: f32, floor: f32) -> Self {
        Self { k, margin, floor, keys: Vec::new(), full: 0 }.with_room()
    }

    fn with_room(mut self) -> Self {
        // Twice k, so that selecting takes a few steps per candidate.
        self.full = self.k.saturating_mul(2).saturating_add(32);
        self
    }

    /// Raises the floor to a score that k of the candidates to come are known to reach.
    pub fn known(&mut self, score: f32) {
        self.floor = self.floor.max(score - self.margin);
    }

    /// Takes candidates and their scores.
    #[inline]
    pub fn offer(&mut self, slots: &[u32], scores: &[f32], allowed: impl Fn(u32) -> bool) {
        for (slots, scores) in slots.chunks(LANES).zip(scores.chunks(LANES)) {
            let mut better = 0_u32;
            if let Ok(scores) = <&[f32; LANES]>::try_from(scores) {
                for (i, score) in scores.iter().enumerate() {
                    better |= u32::from(*score >= self.floor) << i;
                }
            } else {
                for (i, score) in scores.iter().enumerate() {
                    better |= u32::from(*score >= self.floor) << i;
                }
            }
            if slots.len() < LANES {
                better &= (1 << slots.len()) - 1;
            }
            while better != 0 {
                let i = better.trailing_zeros() as usize;
                better &= better - 1;
                if allowed(slots[i]) {
                    self.keys.push(key(scores[i], slots[i]));
                }
            }
            if self.keys.len() >= self.full {
                self.select();
            }
        }
    }

    /// Drops what cannot be among the k nearest.
    fn select(&mut self) {
        if self.keys.len() <= self.k {
            return;
        }
        let (_, &mut last, _) = self.keys.select_nth_unstable(self.k - 1);
        self.floor = self.floor.max(score(last) - self.margin);
        let worst = key(self.floor, u32::MAX);
        // The first k stay in any case.
        let mut kept = self.k;
        for i in self.k..self.keys.len() {
            if self.keys[i] <= worst {
                self.keys[kept] = self.keys[i];
                kept += 1;
            }
        }
        self.keys.truncate(kept);
        self.full = self.full.max(kept * 2);
    }

    /// The slots that may be among the k nearest.
    pub fn slots(&mut self) -> impl Iterator<Item = u32> {
        self.select();
        self.keys.iter().map(|&key| key as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_order_scores_and_give_them_back() {
        let scores = [f32::NEG_INFINITY, -3.5, -1e-40, -0.0, 0.0, 1e-40, 2.0, f32::MAX, f32::INFINITY];
        for pair in scores.windows(2) {
            assert!(key(pair[1], 9) < key(pair[0], 9));
            assert_eq!(score(key(pair[0], 7)).to_bits(), pair[0].to_bits());
        }
        assert!(key(1.0, 3) < key(1.0, 4));
        assert_eq!(key(1.0, 3) as u32, 3);
    }

    #[test]
    fn near_ties_stay() {
        let mut nearest = Nearest::new(2, 0.5, f32::NEG_INFINITY);
        let scores: Vec<f32> = (0..200).map(|i| (i % 100) as f32 * 0.25).collect();
        let slots: Vec<u32> = (0..200).collect();
        nearest.offer(&slots, &scores, |slot| slot != 99);
        let mut found: Vec<u32> = nearest.slots().collect();
        found.sort_unstable();
        // The best allowed are 24.75 (199) and 24.5 (98, 198); 24.25 and 24.0 are within the margin of the second.
        assert_eq!(found, [96, 97, 98, 196, 197, 198, 199]);
    }
}
