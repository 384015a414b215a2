//! One found vector, and the order of found vectors.

use std::cell::RefCell;
use std::cmp::Ordering;

use crate::ascending::ascending;

/// One found vector.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Neighbour {
    /// Larger is nearer: the exact score, negated for L2.
    pub rank: f32,
    /// Id of the vector.
    pub id: u64,
}

impl Neighbour {
    /// Nearest first, equal ones by id.
    #[inline]
    pub fn order(&self, other: &Self) -> Ordering {
        // One comparison without branches: lists of neighbours are sorted for every query.
        self.key().cmp(&other.key())
    }

    /// Small for near ones: the rank's bits in falling order, then the id.
    #[inline]
    fn key(&self) -> u128 {
        u128::from(!ascending(self.rank)) << 64 | u128::from(self.id)
    }
}

/// Lists up to this long are sorted as they are: packing them first costs more than it saves.
const SHORT: usize = 20;

/// Sorts and cuts to the `k` nearest.
pub(crate) fn keep_nearest(neighbours: &mut Vec<Neighbour>, k: usize) {
    thread_local! {
        /// Kept from call to call: lists are sorted for every query.
        static PACKED: RefCell<(Vec<u64>, Vec<Neighbour>)> = const { RefCell::new((Vec::new(), Vec::new())) };
    }
    if neighbours.len() <= SHORT || u32::try_from(neighbours.len()).is_err() {
        return keep_nearest_in_place(neighbours, k);
    }
    // Rank and place in one number sort several times faster than the neighbours; equal ranks are put right after.
    PACKED.with_borrow_mut(|(packed, sorted)| {
        packed.clear();
        packed.extend(
            neighbours
                .iter()
                .enumerate()
                .map(|(place, neighbour)| u64::from(!ascending(neighbour.rank)) << 32 | place as u64),
        );
        let rank = |packed: u64| packed >> 32;
        if packed.len() > k {
            let (_, &mut last, beyond) = packed.select_nth_unstable(k - 1);
            if beyond.iter().any(|&other| rank(other) == rank(last)) {
                // Which of the equal ones stay is for their ids to say.
                return keep_nearest_in_place(neighbours, k);
            }
            packed.truncate(k);
        }
        packed.sort_unstable();
        sorted.clear();
        sorted.extend(packed.iter().map(|&packed| neighbours[packed as u32 as usize]));
        if packed.windows(2).any(|pair| rank(pair[0]) == rank(pair[1])) {
            sorted.sort_unstable_by(Neighbour::order);
        }
        std::mem::swap(neighbours, sorted);
    });
}

fn keep_nearest_in_place(neighbours: &mut Vec<Neighbour>, k: usize) {
    if neighbours.len() > k {
        neighbours.select_nth_unstable_by(k - 1, Neighbour::order);
        neighbours.truncate(k);
    }
    neighbours.sort_unstable_by(Neighbour::order);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    #[test]
    fn long_lists_are_kept_as_short_ones_are() {
        let mut random = Random::new(7);
        for ranks in [2, 10, 1000, 1 << 20] {
            for length in [1, 20, 21, 64, 300] {
                let neighbour = |id| Neighbour { rank: random.below(ranks) as f32 - ranks as f32 / 2.0, id };
                let list: Vec<Neighbour> = (0..length).rev().map(neighbour).collect();
                for k in [1, 19, 64, 299, 1000] {
                    let (mut packed, mut plain) = (list.clone(), list.clone());
                    keep_nearest(&mut packed, k);
                    keep_nearest_in_place(&mut plain, k);
                    assert_eq!(packed, plain, "{ranks} {length} {k}");
                }
            }
        }
    }
}
