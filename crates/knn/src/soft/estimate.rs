//! The mass of settled tiles, estimated from their summaries.

use super::block::Block;
use super::scratch::Scratch;
use crate::lane::SUMMARY_CHUNK;
use crate::tiles::{Element, Gemm};
use iceformer_simd::LANES;
use std::f32::consts::LOG2_E;

/// The second-order term of a tile's estimate may add at most this much (nats). A tile with one far key can hold much
/// more than its mean tells, so the cap is high; no row counts a tile for more than all of its mass.
const SPREAD_CAP: f32 = 16.0;

impl<T: Element> Block<'_, T> {
    /// Fills `means` with every row's weights of the tiles as one key each (their mean, sixteen times), relative to
    /// 2 ^ `tops`, with the rows' sums in `far`, and `masses` with the block's mean mass of every tile.
    pub(super) fn estimate(&self, scratch: &mut Scratch<T>, settled: usize, width: usize) {
        let (rows, (d, _)) = (self.rows(), self.padded());
        scratch.squares.clear();
        scratch.squares.extend(scratch.scaled.iter().map(|x| x * x));
        T::convert(self.kernels, &scratch.squares, scratch.squared.at_least(rows * d));
        let means = scratch.means.at_least(rows * width);
        let estimates = scratch.estimates.at_least(rows * width);
        for (number, chunk) in self.lane.summaries().iter().take(settled.div_ceil(SUMMARY_CHUNK)).enumerate() {
            let first = number * SUMMARY_CHUNK;
            let panels = (settled - first).min(SUMMARY_CHUNK).div_ceil(LANES);
            let product = |a: &[T], b: &[T], c: *mut f32| Gemm {
                rows,
                k: d,
                a: a.as_ptr(),
                a_stride: d,
                b: b.as_ptr(),
                panel_stride: d * LANES,
                panels,
                c,
                c_stride: width,
                accumulate: false,
            };
            // SAFETY: queries are [rows][d], a chunk holds 12 panels of [d][16], both results have room for
            // all panels from `first` on (width is `settled` padded to 16).
            unsafe {
                let to = means.as_mut_ptr().add(first);
                T::gemm(self.kernels, product(scratch.queries.at_least(rows * d), &chunk.means, to));
                let to = estimates.as_mut_ptr().add(first);
                T::gemm(self.kernels, product(scratch.squared.at_least(rows * d), &chunk.variances, to));
            }
        }
        scratch.masses.clear();
        scratch.masses.resize(settled, 0.0);
        scratch.tops.clear();
        scratch.far.clear();
        for row in 0..rows {
            let means = &mut means[row * width..][..settled];
            let spreads = &estimates[row * width..][..settled];
            // A tile stands for sixteen keys: + log2(16).
            let top = scratch.largest[row].max(self.kernels.largest(means) + 4.0);
            let far = self.kernels.exp2_shifted(means, top - 4.0);
            let near = scratch.sum[row] * (scratch.largest[row] - top).exp2();
            let (cap, inverse, share) = (SPREAD_CAP * LOG2_E, 1.0 / (far + near), 1.0 / rows as f32);
            self.kernels.add_tile_masses(means, spreads, cap, inverse, share, &mut scratch.masses);
            scratch.tops.push(top);
            scratch.far.push(far);
        }
    }
}
