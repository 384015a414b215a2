//! The mass of tiles behind the sinks, estimated from summaries on two levels: of all nodes, and of the tiles of those
//! nodes that matter.

use super::block::Block;
use super::scratch::Scratch;
use super::selection::lightest;
use crate::summaries::Summaries;
use crate::tiles::Element;
use iceformer_simd::{Attend, LANES};
use std::f32::consts::LOG2_E;

/// The second-order term of a tile's estimate may add at most this much (nats). A tile with one far key can hold much
/// more than its mean tells, so the cap is high; no row counts a tile for more than all of its mass.
const SPREAD_CAP: f32 = 16.0;

/// A summary of a tile stands for 2^this keys, one of a node for 2^(twice this).
const TILE_BITS: f32 = 4.0;

/// Nodes that are not looked into hold at most this share of the mass that may be left out.
const CLOSED_SHARE: f32 = 0.2;

/// The numbers of a node's 256 keys vary together, so their scores vary more than the dimensions one by one say: by about
/// this factor. (Those of a tile, which are near each other, do so less.)
const NODE_SPREAD: f32 = 2.0;

/// Fewer nodes than this are all looked into.
const FEWEST_NODES: usize = 16;

/// Rows that follow each other share one second-order term, that of the mean of their squares: they are neighbours in the
/// text.
const SPREAD_ROWS: usize = 4;

/// A node that is not looked into stands in with the weight of its mean and the second-order term, which is right for
/// most rows of most nodes: it adds at most this much (nats), ...
const NODE_GAIN: f32 = 4.0;

/// ... and the weight is at most this share of what the row is known to weigh: where the term is too high for one row, it
/// must not drown that row.
const NODE_SHARE: f32 = 0.05;

impl<T: Element> Block<'_, T> {
    /// Chooses the nodes of the first `settled` tiles whose tiles are looked at one by one, into `opened`, rising: all
    /// but those that together hold a small share of the mass that may be left out, and the last one if it is not whole.
    /// `node_scores` takes the logarithm (base 2) of every row's weight of each node as a whole, and `closed` which of the
    /// nodes stay closed.
    pub(super) fn open_nodes(&self, scratch: &mut Scratch<T>, settled: usize, left_out: f32, least: usize) {
        let rows = self.rows();
        let whole = settled / LANES;
        self.square_queries(scratch);
        scratch.opened.clear();
        scratch.opened.extend(0..settled.div_ceil(LANES) as u32);
        scratch.closed.clear();
        scratch.closed_mass = 0.0;
        if whole < FEWEST_NODES {
            return;
        }
        let width = whole.next_multiple_of(LANES);
        scratch.list_summaries(self.lane.nodes(), 0..width / LANES);
        self.score(scratch, width);
        for scores in scratch.scores_of_means.at_least(rows * width).chunks_exact_mut(width) {
            scores[whole..].fill(Attend::<T>::NO_SCORE);
        }
        let bits = 2.0 * TILE_BITS;
        for spread in scratch.estimates.at_least(rows.div_ceil(SPREAD_ROWS) * width) {
            *spread *= NODE_SPREAD;
        }
        self.weigh(scratch, width, width, bits);
        scratch.masses.truncate(whole);
        let scores = scratch.scores_of_means.at_least(rows * width);
        let spreads = scratch.estimates.at_least(rows.div_ceil(SPREAD_ROWS) * width);
        let of_nodes = scratch.node_scores.at_least(rows * width);
        for (row, of_nodes) in of_nodes.chunks_exact_mut(width).enumerate() {
            let (scores, spreads) = (&scores[row * width..][..width], &spreads[row / SPREAD_ROWS * width..][..width]);
            let (gain, most) = (NODE_GAIN * LOG2_E, scratch.tops[row] - (scratch.inverses[row] / NODE_SHARE).log2());
            for ((of_node, score), spread) in of_nodes.iter_mut().zip(scores).zip(spreads) {
                *of_node = (score + spread.min(gain) + bits).min(most);
            }
        }
        scratch.closed.resize(width, false);
        if let Some(reused) = self.reused {
            // What is read again is looked into, and what has come since.
            scratch.closed[..reused.candidates.min(settled) / LANES].fill(true);
            for &tile in &reused.tiles {
                if let Some(closed) = scratch.closed.get_mut(tile as usize / LANES) {
                    *closed = false;
                }
            }
        } else {
            let most_closed = whole.saturating_sub(least.div_ceil(LANES));
            let (count, mass) = lightest(&scratch.masses, left_out * CLOSED_SHARE, most_closed, &mut scratch.by_mass);
            scratch.closed_mass = mass;
            for &node in &scratch.by_mass[..count] {
                scratch.closed[node.place()] = true;
            }
        }
        let closed = &scratch.closed;
        scratch.opened.retain(|&node| closed.get(node as usize) != Some(&true));
    }

    /// Fills `tail` (`[rows][width]`) with every row's weights relative to 2 ^ `tops`, of the tiles of opened nodes as
    /// one key each (their mean, sixteen times) and behind them of the closed nodes, and `masses` with the block's mean
    /// mass of every tile of the opened nodes. Returns `width`.
    pub(super) fn estimate(&self, scratch: &mut Scratch<T>, settled: usize) -> usize {
        let rows = self.rows();
        let opened = std::mem::take(&mut scratch.opened);
        scratch.list_summaries(self.lane.summaries(), opened.iter().map(|&node| node as usize));
        scratch.opened = opened;
        let opened = scratch.opened.len() * LANES;
        // The last opened node may be a part of one.
        let columns = opened - (settled.next_multiple_of(LANES) - settled);
        let nodes = scratch.closed.len();
        let width = opened + nodes;
        self.score(scratch, width);
        let scores = scratch.scores_of_means.at_least(rows * width);
        let node_scores = scratch.node_scores.at_least(rows * nodes);
        for (row, scores) in scores.chunks_exact_mut(width).enumerate() {
            scores[columns..opened].fill(Attend::<T>::NO_SCORE);
            let of_nodes = scores[opened..].iter_mut().zip(&node_scores[row * nodes..][..nodes]);
            for ((score, node_score), &closed) in of_nodes.zip(&scratch.closed) {
                *score = if closed { node_score - TILE_BITS } else { Attend::<T>::NO_SCORE };
            }
        }
        self.weigh(scratch, opened, width, TILE_BITS);
        scratch.masses.truncate(columns);
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

    /// Fills the first columns of `scores_of_means` (`[rows][stride]`) with the rows' scores of the means listed, and
    /// `estimates` (`[rows / SPREAD_ROWS, rounded up][columns]`) with half the variance of their scores (both base 2).
    fn score(&self, scratch: &mut Scratch<T>, stride: usize) {
        let (rows, (d, _)) = (self.rows(), self.padded());
        let (groups, columns) = (rows.div_ceil(SPREAD_ROWS), scratch.panels.len() * LANES);
        let scores = scratch.scores_of_means.at_least(rows * stride);
        let spreads = scratch.estimates.at_least(groups * columns);
        // SAFETY: a panel of summaries is [d][16].
        unsafe {
            let queries = scratch.queries.at_least(rows * d);
            T::rows_by_panels(self.kernels, rows, d, queries, &scratch.panels, scores, stride);
        }
        // SAFETY: the same shapes.
        unsafe {
            let squared = scratch.squared.at_least(groups * d);
            T::rows_by_panels(self.kernels, groups, d, squared, &scratch.variances, spreads, columns);
        }
    }

    /// Turns scores into weights: fills `tail` (`[rows][width]`) with 2 ^ (`bits` + scores - `tops`), `inverses` with one
    /// over what each row weighs in all, and `masses` with the block's mean mass of the first `columns`.
    fn weigh(&self, scratch: &mut Scratch<T>, columns: usize, width: usize, bits: f32) {
        let rows = self.rows();
        let scores = scratch.scores_of_means.at_least(rows * width);
        let spreads = scratch.estimates.at_least(rows.div_ceil(SPREAD_ROWS) * columns);
        let weights = scratch.tail.at_least(rows * width);
        scratch.masses.clear();
        scratch.masses.resize(columns, 0.0);
        scratch.tops.clear();
        scratch.inverses.clear();
        let share = 1.0 / rows as f32;
        let groups = weights.chunks_mut(SPREAD_ROWS * width).zip(scores.chunks(SPREAD_ROWS * width));
        for (group, (weights, scores)) in groups.enumerate() {
            let first = scratch.tops.len();
            for (weights, scores) in weights.chunks_exact_mut(width).zip(scores.chunks_exact(width)) {
                let row = scratch.tops.len();
                let largest = scratch.largest[row];
                let (top, far) = T::weigh(self.kernels, scores, bits, largest, weights);
                let near = scratch.sum[row] * (largest - top).exp2();
                scratch.tops.push(top);
                scratch.inverses.push(1.0 / (far + near));
            }
            let (inverses, spreads) = (&scratch.inverses[first..], &spreads[group * columns..][..columns]);
            let cap = SPREAD_CAP * LOG2_E;
            T::add_tile_masses(self.kernels, weights, width, inverses, spreads, cap, share, &mut scratch.masses);
        }
    }
}

impl<T: Element> Scratch<T> {
    /// Lists the panels of `summaries` that the next [`Block::score`] goes through.
    fn list_summaries(&mut self, summaries: &Summaries<T>, panels: impl Iterator<Item = usize> + Clone) {
        self.panels.clear();
        self.panels.extend(panels.clone().map(|panel| summaries.means(panel).as_ptr()));
        self.variances.clear();
        self.variances.extend(panels.map(|panel| summaries.variances(panel).as_ptr()));
    }
}
