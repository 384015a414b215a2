//! The order in which keys settle into tiles: near keys become neighbours.
//!
//! Recursive balanced splits: a set is cut in two halves of equal size (in whole tiles) along the line
//! between two far points, the line is turned once towards the means of the halves, and both halves are
//! split again until one tile is left. Balanced, so that every tile is full; deterministic, so that the
//! same keys always settle the same way. The means of tiles become neighbours in nodes of sixteen in the same way.

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
    /// Projection and number of each point of the set being split.
    keyed: Vec<(f32, u32)>,
}

impl<'a> Split<'a> {
    fn point(&self, index: u32) -> &'a [f32] {
        &self.points[index as usize * self.dimensions..][..self.dimensions]
    }

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
        mean_of(self.kernels, self.points, self.dimensions, set, &mut self.mean);
        let farthest = |from: &[f32]| {
            let distance = |&i: &u32| self.kernels.squared_distance(self.point(i), from);
            set.iter().copied().max_by(|a, b| distance(a).total_cmp(&distance(b)).then(b.cmp(a))).unwrap_or(set[0])
        };
        let one = farthest(&self.mean);
        let other = farthest(self.point(one));
        let (one, other) = (self.point(one), self.point(other));
        for (d, (a, b)) in self.direction.iter_mut().zip(other.iter().zip(one)) {
            *d = a - b;
        }
    }

    fn direction_between_means(&mut self, set: &[u32], half: usize) {
        let (left, right) = set.split_at(half);
        mean_of(self.kernels, self.points, self.dimensions, left, &mut self.mean);
        mean_of(self.kernels, self.points, self.dimensions, right, &mut self.direction);
        for (d, m) in self.direction.iter_mut().zip(&self.mean) {
            *d -= m;
        }
    }

    /// Puts the `half` points of smallest projection first.
    fn cut(&mut self, set: &mut [u32], half: usize) {
        self.keyed.clear();
        for &index in set.iter() {
            let projection = self.kernels.dot(self.point(index), &self.direction);
            self.keyed.push((projection, index));
        }
        self.keyed.select_nth_unstable_by(half, |a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        for (slot, keyed) in set.iter_mut().zip(&self.keyed) {
            *slot = keyed.1;
        }
    }
}

fn mean_of(kernels: &Kernels, points: &[f32], dimensions: usize, set: &[u32], mean: &mut [f32]) {
    mean.fill(0.0);
    let share = 1.0 / set.len() as f32;
    for &index in set {
        kernels.add_scaled(&points[index as usize * dimensions..][..dimensions], share, mean);
    }
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
    fn equal_points_and_odd_counts() {
        for n in [1, 15, 16, 17, 100] {
            let order = balanced_order(iceformer_simd::kernels(), &vec![1.0; n * 2], 2, LANES);
            let mut sorted = order;
            sorted.sort_unstable();
            assert_eq!(sorted, (0..n as u32).collect::<Vec<u32>>());
        }
    }
}
