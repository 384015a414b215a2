//! The mass of tiles behind the sinks, estimated from their summaries.

use super::block::Block;
use super::scratch::Scratch;
use crate::tiles::Element;
use iceformer_simd::{Attend, LANES};
use std::f32::consts::LOG2_E;

/// The second-order term of an estimate may add at most this much (nats). A tile with one far key can hold much
/// more than its mean tells, so the cap is high; no row counts a tile for more than all of its mass.
const SPREAD_CAP: f32 = 16.0;

/// A tile stands for 2^this keys.
const TILE_BITS: f32 = 4.0;

/// Rows that follow each other share one second-order term, that of the mean of their squares: they are neighbours in the
/// text.
const SPREAD_ROWS: usize = 4;

impl<T: Element> Block<'_, T> {
    /// Fills `tail` (`[rows][width]`) with every row's weights of the first `settled` tiles as one key each (their mean,
    /// sixteen times), relative to 2 ^ `tops`, `inverses` with one over what each row weighs in all, and `masses` with
    /// the block's mean mass of every tile. Returns `width`.
    pub(super) fn estimate(&self, scratch: &mut Scratch<T>, settled: usize) -> usize {
        let rows = self.rows();
        let width = settled.next_multiple_of(LANES);
        self.square_queries(scratch);
        self.score(scratch, width);
        for scores in scratch.scores_of_means.at_least(rows * width).chunks_exact_mut(width) {
            scores[settled..].fill(Attend::<T>::NO_SCORE);
        }
        self.weigh(scratch, width);
        scratch.masses.truncate(settled);
        width
    }

    /// Fills `squared` with the means of the squares of each [`SPREAD_ROWS`] queries.
    fn square_queries(&self, scratch: &mut Scratch<T>) {
        let (d, _) = self.padded();
        scratch.squares.clear();
        for rows in scratch.scaled.chunks(SPREAD_ROWS * d) {
            let from = scratch.squares.len();
            scratch.squares.resize(from + d, 0.0);
            let (squares, share) = (&mut scratch.squares[from..], d as f32 / rows.len() as f32);
            for row in rows.chunks_exact(d) {
                for (square, x) in squares.iter_mut().zip(row) {
                    *square += share * x * x;
                }
            }
        }
        T::convert(self.kernels, &scratch.squares, scratch.squared.at_least(scratch.squares.len()));
    }

    /// Fills `scores_of_means` (`[rows][width]`) with the rows' scores of the means of the first `width` tiles, and
    /// `estimates` (`[rows / SPREAD_ROWS, rounded up][width]`) with half the variance of their scores (both base 2).
    fn score(&self, scratch: &mut Scratch<T>, width: usize) {
        let (rows, (d, _)) = (self.rows(), self.padded());
        let groups = rows.div_ceil(SPREAD_ROWS);
        let summaries = self.lane.summaries();
        scratch.list_panels(width, |panel| summaries.means(panel));
        // SAFETY: a panel of summaries is [d][16].
        unsafe {
            let scores = scratch.scores_of_means.at_least(rows * width);
            let queries = scratch.queries.at_least(rows * d);
            T::rows_by_panels(self.kernels, rows, d, queries, &scratch.panels, scores, width);
        }
        scratch.list_panels(width, |panel| summaries.variances(panel));
        // SAFETY: the same shapes.
        unsafe {
            let spreads = scratch.estimates.at_least(groups * width);
            let squared = scratch.squared.at_least(groups * d);
            T::rows_by_panels(self.kernels, groups, d, squared, &scratch.panels, spreads, width);
        }
    }

    /// Turns scores into weights: fills `tail`, `tops`, `inverses` and `masses`, see [`Block::estimate`].
    fn weigh(&self, scratch: &mut Scratch<T>, width: usize) {
        let rows = self.rows();
        let scores = scratch.scores_of_means.at_least(rows * width);
        let spreads = scratch.estimates.at_least(rows.div_ceil(SPREAD_ROWS) * width);
        let weights = scratch.tail.at_least(rows * width);
        scratch.masses.clear();
        scratch.masses.resize(width, 0.0);
        scratch.tops.clear();
        scratch.inverses.clear();
        let share = 1.0 / rows as f32;
        let groups = weights.chunks_mut(SPREAD_ROWS * width).zip(scores.chunks(SPREAD_ROWS * width));
        for ((weights, scores), spreads) in groups.zip(spreads.chunks_exact(width)) {
            let first = scratch.tops.len();
            for (weights, scores) in weights.chunks_exact_mut(width).zip(scores.chunks_exact(width)) {
                let row = scratch.tops.len();
                let largest = scratch.largest[row];
                let (top, far) = T::weigh(self.kernels, scores, TILE_BITS, largest, weights);
                let near = scratch.sum[row] * (largest - top).exp2();
                scratch.tops.push(top);
                scratch.inverses.push(1.0 / (far + near));
            }
            let inverses = &scratch.inverses[first..];
            let cap = SPREAD_CAP * LOG2_E;
            T::add_tile_masses(self.kernels, weights, width, inverses, spreads, cap, share, &mut scratch.masses);
        }
    }
}

impl<T: Element> Scratch<T> {
    /// Lists the panels of the first `width` summaries.
    pub(super) fn list_panels<'s>(&mut self, width: usize, panel: impl Fn(usize) -> &'s [T])
    where
        T: 's,
    {
        self.panels.clear();
        self.panels.extend((0..width / LANES).map(|number| panel(number).as_ptr()));
    }
}
