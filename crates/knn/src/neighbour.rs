//! One found vector, and the order of found vectors.

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

/// Sorts and cuts to the `k` nearest.
pub(crate) fn keep_nearest(neighbours: &mut Vec<Neighbour>, k: usize) {
    if neighbours.len() > k {
        neighbours.select_nth_unstable_by(k - 1, Neighbour::order);
        neighbours.truncate(k);
    }
    neighbours.sort_unstable_by(Neighbour::order);
}
