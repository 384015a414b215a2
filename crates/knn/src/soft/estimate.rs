//! The mass of tiles behind the sinks, estimated from summaries on two levels: of all nodes, and of the tiles of those
//! nodes that matter.

use super::block::Block;
use super::scratch::Scratch;
use crate::tiles::Element;
use iceformer_simd::{Attend, LANES};
use std::f32::consts::LOG2_E;

/// The second-order term of a tile's estimate may add at most this much (nats). A tile with one far key can hold much
/// more than its mean tells, so the cap is high; no row counts a tile for more than all of its mass.
const SPREAD_CAP: f32 = 16.0;

/// A summary of a tile stands for 2^this keys, one of a node for 2^(twice this).
const TILE_BITS: f32 = 4.0;

/// Nodes that are not looked into hold at most this share of the mass that may be left out.
const CLOSED_SHARE: f32 = 0.1;

/// Fewer nodes than this are all looked into.
const FEWEST_NODES: usize = 16;

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
        let (rows, (d, _)) = (self.rows(), self.padded());
        let whole = settled / LANES;
        scratch.squares.clear();
        scratch.squares.extend(scratch.scaled.iter().map(|x| x * x));
        T::convert(self.kernels, &scratch.squares, scratch.squared.at_least(rows * d));
        scratch.opened.clear();
        scratch.opened.extend(0..settled.div_ceil(LANES) as u32);
        scratch.closed.clear();
        scratch.closed_mass = 0.0;
        if whole < FEWEST_NODES {
            return;
        }
        let width = whole.next_multiple_of(LANES);
        let nodes = self.lane.nodes();
        let scores = scratch.node_scores.at_least(rows * width);
        let spreads = scratch.estimates.at_least(rows * width);
        scratch.panels.clear();
        scratch.panels.extend((0..width / LANES).map(|panel| nodes.means(panel).as_ptr()));
        // SAFETY: a panel of nodes is [d][16].
        unsafe {
            let queries = scratch.queries.at_least(rows * d);
            T::rows_by_panels(self.kernels, rows, d, queries, &scratch.panels, scores, width);
        }
        scratch.panels.clear();
        scratch.panels.extend((0..width / LANES).map(|panel| nodes.variances(panel).as_ptr()));
        // SAFETY: the same shapes.
        unsafe {
            let squared = scratch.squared.at_least(rows * d);
            T::rows_by_panels(self.kernels, rows, d, squared, &scratch.panels, spreads, width);
        }
        scratch.masses.clear();
        scratch.masses.resize(whole, 0.0);
        let weights = scratch.means.at_least(width);
        for row in 0..rows {
            let (scores, spreads) = (&mut scores[row * width..][..width], &spreads[row * width..][..width]);
            let weights = &mut weights[..whole];
            weights.copy_from_slice(&scores[..whole]);
            let top = scratch.largest[row].max(self.kernels.largest(weights) + 2.0 * TILE_BITS);
            let far = self.kernels.exp2_shifted(weights, top - 2.0 * TILE_BITS);
            let near = scratch.sum[row] * (scratch.largest[row] - top).exp2();
            let (cap, inverse, share) = (SPREAD_CAP * LOG2_E, 1.0 / (far + near), 1.0 / rows as f32);
            self.kernels.add_tile_masses(weights, &spreads[..whole], cap, inverse, share, &mut scratch.masses);
            let (gain, most) = (NODE_GAIN * LOG2_E, top + ((far + near) * NODE_SHARE).log2());
            for (score, spread) in scores.iter_mut().zip(spreads) {
                *score = (*score + spread.min(gain) + 2.0 * TILE_BITS).min(most);
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
            let masses = &scratch.masses;
            scratch.ranking.clear();
            scratch.ranking.extend(0..whole as u32);
            scratch
                .ranking
                .sort_unstable_by(|&a, &b| masses[a as usize].total_cmp(&masses[b as usize]).then(a.cmp(&b)));
            let most_closed = whole.saturating_sub(least.div_ceil(LANES));
            for &node in &scratch.ranking[..most_closed] {
                let mass = masses[node as usize];
                if scratch.closed_mass + mass > left_out * CLOSED_SHARE {
                    break;
                }
                scratch.closed_mass += mass;
                scratch.closed[node as usize] = true;
            }
        }
        let closed = &scratch.closed;
        scratch.opened.retain(|&node| closed.get(node as usize) != Some(&true));
    }

    /// Fills `means` (`[rows][width]`) with every row's weights relative to 2 ^ `tops`, of the tiles of opened nodes as
    /// one key each (their mean, sixteen times) and behind them of the closed nodes, with the rows' sums in `far`, and
    /// `masses` with the block's mean mass of every tile of the opened nodes. Returns `width`.
    pub(super) fn estimate(&self, scratch: &mut Scratch<T>, settled: usize) -> usize {
        let (rows, (d, _)) = (self.rows(), self.padded());
        let opened = scratch.opened.len() * LANES;
        // The last opened node may be a part of one.
        let columns = opened - (settled.next_multiple_of(LANES) - settled);
        let nodes = scratch.closed.len();
        let width = opened + nodes;
        let summaries = self.lane.summaries();
        let means = scratch.means.at_least(rows * width);
        let spreads = scratch.estimates.at_least(rows * opened);
        scratch.panels.clear();
        scratch.panels.extend(scratch.opened.iter().map(|&node| summaries.means(node as usize).as_ptr()));
        // SAFETY: a panel of summaries is [d][16].
        unsafe {
            let queries = scratch.queries.at_least(rows * d);
            T::rows_by_panels(self.kernels, rows, d, queries, &scratch.panels, means, width);
        }
        scratch.panels.clear();
        scratch.panels.extend(scratch.opened.iter().map(|&node| summaries.variances(node as usize).as_ptr()));
        // SAFETY: the same shapes.
        unsafe {
            let squared = scratch.squared.at_least(rows * d);
            T::rows_by_panels(self.kernels, rows, d, squared, &scratch.panels, spreads, opened);
        }
        let node_scores = scratch.node_scores.at_least(rows * nodes);
        scratch.masses.clear();
        scratch.masses.resize(columns, 0.0);
        scratch.tops.clear();
        scratch.far.clear();
        for row in 0..rows {
            let means = &mut means[row * width..][..width];
            means[columns..opened].fill(Attend::<T>::NO_SCORE);
            let of_nodes = means[opened..].iter_mut().zip(&node_scores[row * nodes..][..nodes]);
            for ((mean, score), &closed) in of_nodes.zip(&scratch.closed) {
                *mean = if closed { score - TILE_BITS } else { Attend::<T>::NO_SCORE };
            }
            let top = scratch.largest[row].max(self.kernels.largest(means) + TILE_BITS);
            let far = self.kernels.exp2_shifted(means, top - TILE_BITS);
            let near = scratch.sum[row] * (scratch.largest[row] - top).exp2();
            let (cap, inverse, share) = (SPREAD_CAP * LOG2_E, 1.0 / (far + near), 1.0 / rows as f32);
            let spreads = &spreads[row * opened..][..columns];
            self.kernels.add_tile_masses(&means[..columns], spreads, cap, inverse, share, &mut scratch.masses);
            scratch.tops.push(top);
            scratch.far.push(far);
        }
        width
    }
}
