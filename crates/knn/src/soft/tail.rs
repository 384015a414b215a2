//! What stands in for the tiles that were left out.

use super::block::Block;
use super::estimate::weight_stride;
use super::scratch::Scratch;
use super::selection::Light;
use super::stand_in::{StandInWeights, StandIns};
use crate::element::Element;
use crate::summaries::CHUNK_PANELS;
use iceformer_simd::LANES;

/// Weights this far (base 2) below the largest one no longer count.
const NEGLIGIBLE: f32 = 60.0;

impl<T: Element> Block<'_, T> {
    /// Adds what was left out: each tile as one key, its mean key plus log 16 with its mean value. (The second-order
    /// estimate serves selection only: where it is too high for one row, the tail would drown that row.) Sixteen tiles that
    /// together stand in with little of the block's weight ([`Light::shares_values`]) count with their own weights, but share one mean
    /// value. `width` is that of the weights, see [`Block::estimate`]; `light` is what was left out.
    /// Returns the sum over rows of the share of mass that was exact.
    pub(super) fn correct_tail<S: StandIns<T>>(
        &self,
        scratch: &mut Scratch<T>,
        StandInWeights { single, shared }: &mut StandInWeights<S::Weight>,
        width: usize,
        light: Light,
    ) -> f64 {
        let (rows, (_, dv), panels) = (self.rows(), self.padded(), width / LANES);
        scratch.kept.clear();
        scratch.kept.resize(width, 1.0);
        for &tile in &scratch.ranking {
            scratch.kept[tile as usize] = 0.0;
        }
        let means = scratch.mean_masses.chunks_exact(LANES).zip(scratch.kept.chunks_exact(LANES));
        let unread = means.map(|(masses, kept)| masses.iter().zip(kept).map(|(mass, kept)| mass * kept).sum());
        self.part_panels(&mut scratch.fine, 0, unread, light.shares_values());
        let stride = weight_stride(width);
        let weights = single.at_least(rows * stride);
        let coarse_width = panels.next_multiple_of(LANES);
        let coarse_weights = shared.at_least(rows * coarse_width);
        scratch.coarse.clear();
        scratch.coarse.resize(coarse_width, 0.0);
        let mut retained = 0.0;
        let both = weights.chunks_exact_mut(stride).zip(coarse_weights.chunks_exact_mut(coarse_width));
        for (row, (weights, coarse_weights)) in both.enumerate() {
            let weights = &mut weights[..width];
            // The keys read may have raised the largest score since the weights were computed.
            let above = scratch.largest[row] - scratch.tops[row];
            if above > NEGLIGIBLE {
                weights.fill(S::Weight::default());
                coarse_weights.fill(S::Weight::default());
                retained += 1.0;
                continue;
            }
            let coarse = &mut scratch.coarse[..panels];
            let far = S::Weight::thin_weights(self.kernels, &scratch.kept, &scratch.fine, weights, coarse);
            S::Weight::convert(self.kernels, &scratch.coarse, coarse_weights);
            let factor = above.exp2();
            for x in &mut scratch.output[row * dv..][..dv] {
                *x *= factor;
            }
            let exact = scratch.sum[row] * factor;
            retained += f64::from(exact) / f64::from(exact + far);
            scratch.sum[row] = exact + far;
            scratch.largest[row] = scratch.tops[row];
        }
        self.add_mean_values::<S>(scratch, 0, (weights, stride), (coarse_weights, coarse_width));
        retained
    }

    /// Adds the mean values of what stands in: of panel `first` and those behind it, for which `fine` says whether their tiles
    /// do so one by one. `weights` are `[rows][stride]`, those of the fine panels; `coarse` are `[rows][stride]` from the first
    /// panel of the chunk on in which `first` lies.
    pub(super) fn add_mean_values<S: StandIns<T>>(
        &self,
        scratch: &mut Scratch<T>,
        first: usize,
        weights: (&[S::Weight], usize),
        coarse: (&[S::Weight], usize),
    ) {
        let (rows, (_, dv), summaries) = (self.rows(), self.padded(), self.lane.summaries());
        let mut add = |(weights, stride): (&[S::Weight], usize), list: &[*const T]| {
            // SAFETY: what is listed is [dv / 16][16][16].
            unsafe { S::add(self.kernels, rows, weights, stride, list, dv / LANES, &mut scratch.output) }
        };
        let fine = scratch.fine.iter().enumerate().filter(|&(_, &fine)| fine);
        scratch.panels.clear();
        scratch.panels.extend(fine.map(|(panel, _)| summaries.values(first + panel).as_ptr()));
        add(weights, &scratch.panels);
        if scratch.panels.len() < scratch.fine.len() {
            scratch.panels.clear();
            let chunks = first / CHUNK_PANELS..(first + scratch.fine.len()).div_ceil(CHUNK_PANELS);
            scratch.panels.extend(chunks.map(|chunk| summaries.coarse_values(chunk).as_ptr()));
            add(coarse, &scratch.panels);
        }
    }

    /// Fills `fine` with the panels, from `first` on, whose tiles stand in one by one: those that by `weights` stand in with more
    /// than `most`. (It is the weight with which a value enters that makes its error matter; what a tile might hold, by its
    /// spread, is ten times as much, and says no more.)
    pub(super) fn part_panels(
        &self,
        fine: &mut Vec<bool>,
        first: usize,
        weights: impl Iterator<Item = f32>,
        most: f32,
    ) {
        // The others have no common mean.
        let whole = self.lane.summarized_tiles() / LANES;
        fine.clear();
        fine.extend(weights.enumerate().map(|(panel, weight)| first + panel >= whole || weight > most));
    }
}
