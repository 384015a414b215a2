//! The order in which keys settle into tiles: near keys become neighbours.
//!
//! Recursive balanced splits: a set is cut in two halves of equal size (in whole tiles) along the line
//! between two far points, the line is turned once towards the means of the halves, and both halves are
//! split again until one tile is left. Balanced, so that every tile is full; deterministic, so that the
//! same keys always settle the same way.

use iceformer_simd::Kernels;

/// Times that a split's direction is corrected by the means of its halves.
const REFINEMENTS: usize = 2;

/// The order of `points` (`[n][dimensions]`) such that each run of `leaf` is a tight group.
pub(crate) fn balanced_order(kernels: &Kernels, points: &[f32], dimensions: usize, leaf: usize) -> Vec<u32> {
    let n = points.len() / dimensions;
    let mut order: Vec<u32> = (0..n as u32).collect();
    let mut split = Split {
        kernels,
        points,
        dimensions,
        leaf,
        mean: vec![0.0; dimensions],
        direction: vec![0.0; dimensions],
        along: Vec::with_capacity(n),
        keyed: Vec::with_capacity(n),
    };
    split.arrange(&mut order);
    order
}

/// The direction of a cut is sought among about so many points of the set.
const SAMPLE: usize = 64;

struct Split<'a> {
    kernels: &'a Kernels,
    points: &'a [f32],
    dimensions: usize,
    /// Points that are not split further.
    leaf: usize,
    /// `[dimensions]`
    mean: Vec<f32>,
    /// `[dimensions]`
    direction: Vec<f32>,
    /// Projection, or squared distance, of each point of the set being split.
    along: Vec<f32>,
    /// The same points by their projection: its bits, in the order of the numbers, and behind them the point's number.
    keyed: Vec<u64>,
}

impl Split<'_> {
    fn arrange(&mut self, set: &mut [u32]) {
        if set.len() <= self.leaf {
            return;
        }
        let half = (set.len().div_ceil(self.leaf) / 2) * self.leaf;
        if set.len() > SAMPLE {
            let mut sample: Vec<u32> = set.iter().copied().step_by(set.len() / SAMPLE).collect();
            let middle = sample.len() / 2;
            self.aim(&mut sample, middle);
        } else {
            self.aim(set, half);
        }
        self.cut(set, half);
        let (left, right) = set.split_at_mut(half);
        self.arrange(left);
        self.arrange(right);
    }

    /// Finds the direction in which to cut: between two far points, turned towards the means of the halves.
    fn aim(&mut self, set: &mut [u32], half: usize) {
        self.first_direction(set);
        for _ in 0..REFINEMENTS {
            self.cut(set, half);
            self.direction_between_means(set, half);
        }
    }

    /// From the point farthest from the mean to the point farthest from that one.
    fn first_direction(&mut self, set: &[u32]) {
        self.kernels.mean_of_rows(self.points, set, &mut self.mean);
        let mut from = &self.mean[..];
        let ends = [(); 2].map(|()| {
            self.along.resize(set.len(), 0.0);
            self.kernels.squared_distances_of_rows(self.points, set, from, &mut self.along);
            // Of equally far ones the first by number, wherever it stands.
            let keyed = set.iter().zip(&self.along).map(|(&point, &x)| keyed(x, !point));
            let farthest = !(keyed.max().unwrap_or_default() as u32);
            from = &self.points[farthest as usize * self.dimensions..][..self.dimensions];
            from
        });
        for (d, (a, b)) in self.direction.iter_mut().zip(ends[1].iter().zip(ends[0])) {
            *d = a - b;
        }
    }

    fn direction_between_means(&mut self, set: &[u32], half: usize) {
        let (left, right) = set.split_at(half);
        self.kernels.mean_of_rows(self.points, left, &mut self.mean);
        self.kernels.mean_of_rows(self.points, right, &mut self.direction);
        for (d, m) in self.direction.iter_mut().zip(&self.mean) {
            *d -= m;
        }
    }

    /// Puts the `half` points of smallest projection first.
    fn cut(&mut self, set: &mut [u32], half: usize) {
        self.along.resize(set.len(), 0.0);
        self.kernels.dots_of_rows(self.points, set, &self.direction, &mut self.along);
        self.keyed.clear();
        self.keyed.extend(set.iter().zip(&self.along).map(|(&point, &x)| keyed(x, point)));
        self.keyed.select_nth_unstable(half);
        for (slot, &keyed) in set.iter_mut().zip(&self.keyed) {
            *slot = keyed as u32;
        }
    }
}

/// A number and what it belongs to, in the order of the numbers.
fn keyed(x: f32, of: u32) -> u64 {
    u64::from(ordered(x)) << 32 | u64::from(of)
}

/// Whole numbers in the order of numbers, as [`f32::total_cmp`] has it.
fn ordered(x: f32) -> u32 {
    let bits = x.to_bits();
    // Negative numbers fall with their magnitude and come before the others.
    bits ^ (((bits as i32 >> 31) as u32) | 1 << 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use iceformer_simd::LANES;

    #[test]
    fn a_permutation_that_keeps_groups_together() {
        // Eight groups of sixteen, dealt out in turn.
        let points: Vec<f32> = (0..128).flat_map(|i| [((i % 8) * 10) as f32, (i / 8) as f32 * 0.01, 1.0]).collect();
        let order = balanced_order(iceformer_simd::kernels(), &points, 3, LANES);
        let mut sorted = order.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..128).collect::<Vec<u32>>());
        for tile in order.chunks(LANES) {
            assert!(tile.iter().all(|i| i % 8 == tile[0] % 8), "{tile:?}");
        }
    }

    #[test]
    fn numbers_keep_their_order_as_whole_numbers() {
        let numbers = [f32::NEG_INFINITY, -3e38, -1.5, -1e-40, -0.0, 0.0, 1e-40, 1.5, 3e38, f32::INFINITY, f32::NAN];
        assert!(numbers.is_sorted_by(|&a, &b| ordered(a) < ordered(b)));
    }

    #[test]
    fn equal_points_and_odd_counts() {
        for n in [1, 15, 16, 17, 100] {
            let order = balanced_order(iceformer_simd::kernels(), &vec![1.0; n * 2], 2, LANES);
            let mut sorted = order;
            sorted.sort_unstable();
            assert_eq!(sorted, (0..n as u32).collect::<Vec<u32>>());
        }
    }
}
