//! What stands in for the tiles that were left out.

use super::block::Block;
use super::scratch::Scratch;
use crate::tiles::Element;
use iceformer_simd::LANES;

/// Weights this far (base 2) below the largest one no longer count.
const NEGLIGIBLE: f32 = 60.0;

impl<T: Element> Block<'_, T> {
    /// Adds what was left out: each tile as one key, its mean key plus log 16 with its mean value. (The second-order
    /// estimate serves selection only: where it is too high for one row, the tail would drown that row.) `width` is that
    /// of the weights, see [`Block::estimate`].
    /// Returns the sum over rows of the share of mass that was exact.
    pub(super) fn correct_tail(&self, scratch: &mut Scratch<T>, width: usize) -> f64 {
        let (rows, (_, dv)) = (self.rows(), self.padded());
        let weights = scratch.tail.at_least(rows * width);
        scratch.kept.clear();
        scratch.kept.resize(width, 1.0);
        for &tile in &scratch.ranking {
            scratch.kept[tile as usize] = 0.0;
        }
        let mut retained = 0.0;
        for (row, weights) in weights.chunks_exact_mut(width).enumerate() {
            // The keys read may have raised the largest score since the weights were computed.
            let above = scratch.largest[row] - scratch.tops[row];
            if above > NEGLIGIBLE {
                weights.fill(T::default());
                retained += 1.0;
                continue;
            }
            let far = T::keep_weights(self.kernels, &scratch.kept, weights);
            let factor = above.exp2();
            for x in &mut scratch.output[row * dv..][..dv] {
                *x *= factor;
            }
            let exact = scratch.sum[row] * factor;
            retained += f64::from(exact) / f64::from(exact + far);
            scratch.sum[row] = exact + far;
            scratch.largest[row] = scratch.tops[row];
        }
        let summaries = self.lane.summaries();
        scratch.list_panels(width, |panel| summaries.values(panel));
        // SAFETY: a panel's values are [dv / 16][16][16].
        unsafe {
            let weights = scratch.tail.at_least(rows * width);
            T::add_rows_by_panels(self.kernels, rows, weights, width, &scratch.panels, dv / LANES, &mut scratch.output);
        }
        retained
    }
}
