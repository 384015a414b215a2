//! What stands in for the tiles that were left out.

use super::block::Block;
use super::scratch::Scratch;
use crate::tiles::Element;
use iceformer_simd::LANES;

/// Weights this far (base 2) below the largest one no longer count.
const NEGLIGIBLE: f32 = 60.0;

impl<T: Element> Block<'_, T> {
    /// Adds what was left out: each tile of an opened node as one key, its mean key plus log 16 with its mean value,
    /// and each closed node likewise. (The second-order estimate serves selection only: where it is too high for one row,
    /// the tail would drown that row.) `width` is that of the weights, see [`Block::estimate`].
    /// Returns the sum over rows of the share of mass that was exact.
    pub(super) fn correct_tail(&self, scratch: &mut Scratch<T>, width: usize) -> f64 {
        let (rows, (_, dv)) = (self.rows(), self.padded());
        let means = scratch.means.at_least(rows * width);
        let mut retained = 0.0;
        for row in 0..rows {
            let means = &mut means[row * width..][..width];
            let mut far = scratch.far[row];
            for &column in &scratch.columns {
                far -= means[column as usize];
                means[column as usize] = 0.0;
            }
            let far = far.max(0.0);
            // The keys read may have raised the largest score since the weights were computed.
            let above = scratch.largest[row] - scratch.tops[row];
            if above > NEGLIGIBLE {
                means.fill(0.0);
                retained += 1.0;
                continue;
            }
            let factor = above.exp2();
            for x in &mut scratch.output[row * dv..][..dv] {
                *x *= factor;
            }
            let exact = scratch.sum[row] * factor;
            retained += f64::from(exact) / f64::from(exact + far);
            scratch.sum[row] = exact + far;
            scratch.largest[row] = scratch.tops[row];
        }
        let tail = scratch.tail.at_least(rows * width);
        T::convert(self.kernels, means, tail);
        scratch.panels.clear();
        let summaries = self.lane.summaries();
        scratch.panels.extend(scratch.opened.iter().map(|&node| summaries.values(node as usize).as_ptr()));
        let nodes = self.lane.nodes();
        scratch.panels.extend((0..scratch.closed.len() / LANES).map(|panel| nodes.values(panel).as_ptr()));
        // SAFETY: a panel's values are [dv / 16][16][16].
        unsafe {
            T::add_rows_by_panels(self.kernels, rows, tail, width, &scratch.panels, dv / LANES, &mut scratch.output);
        }
        retained
    }
}
