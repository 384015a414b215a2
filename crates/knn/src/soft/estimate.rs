//! The mass of tiles behind the sinks, estimated from their summaries.

use super::block::Block;
use super::scratch::{Buffer, CodedRows, Scratch};
use crate::element::Element;
use crate::summaries::{CHUNK_PANELS, CodePanels};
use iceformer_simd::{Attend, AttendCodes, Kernels, LANES};
use std::f32::consts::LOG2_E;
use std::ops::Range;

/// The second-order term of an estimate may add at most this much (nats). A tile with one far key can hold much
/// more than its mean tells, so the cap is high; no row counts a tile for more than all of its mass.
const SPREAD_CAP: f32 = 16.0;

/// A tile stands for 2^this keys.
const TILE_BITS: f32 = 4.0;

/// Rows that follow each other share one second-order term, that of the mean of their squares: they are neighbours in the
/// text.
const SPREAD_ROWS: usize = 4;

/// Tiles that are estimated at once: their scores stay in the second-level cache.
const CHUNK_TILES: usize = CHUNK_PANELS * LANES;

impl<T: Element> Block<'_, T> {
    /// Fills `weights` (`[rows][width]`, [`weight_stride`] apart) with every row's weights of the first `settled` tiles as
    /// one key each (their mean, sixteen times), relative to 2 ^ `tops`, `inverses` with one over what each row weighs in
    /// all, `masses` with the block's mean mass of every tile, and `mean_masses` with that of its mean. Returns `width`.
    pub(super) fn estimate<W: Element>(
        &self,
        scratch: &mut Scratch<T>,
        weights: &mut Buffer<W>,
        settled: usize,
    ) -> usize {
        let width = settled.next_multiple_of(LANES);
        let weights = weights.at_least(self.rows() * weight_stride(width));
        if !self.lane.store.coded() {
            self.quantize_queries(scratch);
        }
        self.square_queries(scratch);
        self.weigh(scratch, weights, settled, width);
        self.add_masses(scratch, weights, width);
        scratch.masses.truncate(settled);
        width
    }

    /// Fills `squares` with the means of the squares of each [`SPREAD_ROWS`] queries, and takes their codes.
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
        scratch.coded_squares.quantize(self.kernels, &scratch.squares, d, self.dimensions);
    }

    /// Scores the means of the first `settled` tiles and turns them into `weights`: fills these, `tops` and `inverses`, see
    /// [`Block::estimate`].
    fn weigh<W: Element>(&self, scratch: &mut Scratch<T>, weights: &mut [W], settled: usize, width: usize) {
        let rows = self.rows();
        let scores = scratch.estimates.at_least(rows * CHUNK_TILES);
        let stride = weight_stride(width);
        // What each row's far tiles weigh in all, for now.
        scratch.inverses.clear();
        scratch.inverses.resize(rows, 0.0);
        scratch.tops.clone_from(&scratch.largest);
        for (chunk, tiles) in chunks(width).enumerate() {
            let columns = tiles.len();
            multiply(
                self.kernels,
                self.dimensions,
                &scratch.coded,
                self.lane.summaries().means(chunk),
                scores,
                columns,
            );
            let whole = columns.min(settled - tiles.start);
            for (row, scores) in scores.chunks_exact_mut(columns).take(rows).enumerate() {
                scores[whole..].fill(Attend::<T>::NO_SCORE);
                let top = &mut scratch.tops[row];
                if *top <= Attend::<T>::NO_SCORE / 2.0 {
                    // The row has read nothing yet.
                    *top = self.kernels.largest(scores) + TILE_BITS;
                }
                let weights = &mut weights[row * stride..][tiles.clone()];
                scratch.inverses[row] += W::weigh(self.kernels, scores, *top - TILE_BITS, weights);
            }
        }
        for (row, inverse) in scratch.inverses.iter_mut().enumerate() {
            let near = scratch.sum[row] * (scratch.largest[row] - scratch.tops[row]).exp2();
            *inverse = 1.0 / (*inverse + near);
        }
    }

    /// Fills `masses` and `mean_masses` from the weights and the variances of the tiles' scores.
    fn add_masses<W: Element>(&self, scratch: &mut Scratch<T>, weights: &[W], width: usize) {
        let rows = self.rows();
        let spreads = scratch.estimates.at_least(rows.div_ceil(SPREAD_ROWS) * CHUNK_TILES);
        let stride = weight_stride(width);
        scratch.masses.clear();
        scratch.masses.resize(width, 0.0);
        scratch.mean_masses.clear();
        scratch.mean_masses.resize(width, 0.0);
        let (share, cap) = (1.0 / rows as f32, SPREAD_CAP * LOG2_E);
        for (chunk, tiles) in chunks(width).enumerate() {
            let variances = self.lane.summaries().variances(chunk);
            multiply(self.kernels, self.dimensions, &scratch.coded_squares, variances, spreads, tiles.len());
            let (masses, mean_masses) = (&mut scratch.masses[tiles.clone()], &mut scratch.mean_masses[tiles.clone()]);
            let groups = scratch.inverses.chunks(SPREAD_ROWS).zip(spreads.chunks_exact(tiles.len()));
            for (group, (inverses, spreads)) in groups.enumerate() {
                let weights = &weights[group * SPREAD_ROWS * stride + tiles.start..];
                W::add_tile_masses(self.kernels, weights, stride, inverses, spreads, cap, share, masses, mean_masses);
            }
        }
    }
}

/// Numbers from one row's weights to the next one's: in rows a power of two apart, sixteen weights of every row would share a
/// few sets of the caches.
pub(super) fn weight_stride(width: usize) -> usize {
    width + LANES
}

/// The tiles of each chunk of summaries, of `width` in all.
fn chunks(width: usize) -> impl Iterator<Item = Range<usize>> {
    (0..width).step_by(CHUNK_TILES).map(move |start| start..width.min(start + CHUNK_TILES))
}

/// Products of coded rows with the first `columns` summaries of a chunk, `[rows][columns]`; `columns` is a multiple of 16.
fn multiply(
    kernels: &Kernels,
    dimensions: usize,
    CodedRows { codes, scales, starts }: &CodedRows,
    panels: CodePanels<'_>,
    products: &mut [f32],
    columns: usize,
) {
    let (rows, width, count) = (scales.len(), AttendCodes::query_width(dimensions), columns / LANES);
    let quads = width / 4;
    let panel = width * LANES;
    assert!(codes.len() >= rows * width && starts.len() == rows && products.len() >= rows * columns);
    assert!(panels.codes.len() >= count * panel && panels.scales.len() >= columns);
    // SAFETY: the lengths are those of `rows` rows and `count` panels, with one scale for each row and column.
    unsafe {
        kernels.gemm_i8(
            rows,
            quads,
            quads,
            codes.as_ptr(),
            width,
            scales.as_ptr(),
            starts.as_ptr(),
            1,
            panels.codes.as_ptr(),
            panel,
            panels.scales.as_ptr(),
            LANES,
            count,
            products.as_mut_ptr(),
            columns,
            false,
        );
    }
}
