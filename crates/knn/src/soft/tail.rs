//! What stands in for the settled tiles that were left out.

use super::block::Block;
use super::scratch::Scratch;
use crate::lane::{SUMMARY_CHUNK, SummaryChunk};
use crate::tiles::{Element, Gemm};
use iceformer_simd::LANES;
use std::ops::Range;

/// Weights this far (base 2) below the largest one no longer count.
const NEGLIGIBLE: f32 = 60.0;

impl<T: Element> Block<'_, T> {
    /// Adds the tiles left out, each as one key: its mean key plus log 16, its mean value. (The second-order
    /// estimate serves selection only: where it is too high for one row, the tail would drown that row.)
    /// Returns the sum over rows of the share of mass that was exact.
    pub(super) fn correct_tail(&self, scratch: &mut Scratch<T>, settled: usize, width: usize) -> f64 {
        let (rows, (_, dv)) = (self.rows(), self.padded());
        if scratch.ranking.len() == settled {
            return rows as f64;
        }
        let means = scratch.means.at_least(rows * width);
        let mut retained = 0.0;
        for row in 0..rows {
            let means = &mut means[row * width..][..width];
            let mut far = scratch.far[row];
            for &tile in &scratch.ranking {
                far -= means[tile as usize];
                means[tile as usize] = 0.0;
            }
            means[settled..].fill(0.0);
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
        for (number, chunk) in self.lane.summaries().iter().take(settled.div_ceil(SUMMARY_CHUNK)).enumerate() {
            let first = number * SUMMARY_CHUNK;
            let tiles = (settled - first).min(SUMMARY_CHUNK).next_multiple_of(LANES);
            self.add_mean_values(chunk, 0..tiles, &tail[first..], width, &mut scratch.output);
        }
        retained
    }

    /// Adds the mean values of the tiles `tiles` of a chunk (numbers within it, even ones at the ends) to `output`
    /// (`[rows][value_dimensions, padded]`). `weights` is `[rows][stride]` and begins with the first of these tiles'.
    pub(super) fn add_mean_values(
        &self,
        chunk: &SummaryChunk<T>,
        tiles: Range<usize>,
        weights: &[T],
        stride: usize,
        output: &mut [f32],
    ) {
        let (rows, (_, dv)) = (self.rows(), self.padded());
        let product = Gemm {
            rows,
            k: tiles.len(),
            a: weights.as_ptr(),
            a_stride: stride,
            b: chunk.values[tiles.start * LANES..].as_ptr(),
            panel_stride: SUMMARY_CHUNK * LANES,
            panels: dv / LANES,
            c: output.as_mut_ptr(),
            c_stride: dv,
            accumulate: true,
        };
        assert!(tiles.end <= SUMMARY_CHUNK && output.len() >= rows * dv);
        assert!(weights.len() >= (rows - 1) * stride + tiles.len());
        // SAFETY: the lengths are checked above; a chunk's values are dv / 16 panels of [192][16], of which the rows
        // `tiles` are used (bf16 values lie in pairs of tiles, and `tiles` begins with an even one).
        unsafe { T::gemm(self.kernels, product) };
    }
}
