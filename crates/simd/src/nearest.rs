//! The best column of each row of a product: assigning vectors to centres.
//!
//! Not fused with the product: with 64 numbers a vector, this takes less than a tenth of the product's time.

#![allow(
    clippy::undocumented_unsafe_blocks,
    reason = "each function passes on its own contract: see SAFETY (all functions)"
)]

use crate::LANES;
use crate::lanes::Lanes;

/// Rows that are compared at once, so that one row's comparisons need not wait for each other.
const ROWS: usize = 4;

// SAFETY (all functions): the level's CPU features are enabled; lengths were checked in `kernels.rs`, and every
// access is below them.

/// M rows from `row`, see [`crate::Kernels::nearest_columns`].
#[inline(always)]
unsafe fn block<L: Lanes, const M: usize>(
    row: usize,
    n: usize,
    scores: &[f32], // [m][stride]
    stride: usize,
    offsets: &[f32], // [n] or empty
    first: u32,
    best: &mut [u32],        // [m]
    best_scores: &mut [f32], // [m]
) {
    unsafe {
        let from = scores.as_ptr().add(row * stride);
        let whole = n / LANES * LANES;
        let mut tops = [L::splat(f32::NEG_INFINITY); M];
        // Column numbers of the first lane, as bits: they are only copied.
        let mut starts = [L::zero(); M];
        let mut column = 0;
        while column < whole {
            let offset = if offsets.is_empty() { L::zero() } else { L::load(offsets.as_ptr().add(column)) };
            let start = L::splat(f32::from_bits(column as u32));
            for m in 0..M {
                let score = L::add(L::load(from.add(m * stride + column)), offset);
                (tops[m], starts[m]) = L::larger(tops[m], starts[m], score, start);
            }
            column += LANES;
        }
        for m in 0..M {
            let (mut lane_tops, mut lane_starts) = ([0.0; LANES], [0.0; LANES]);
            L::store(tops[m], lane_tops.as_mut_ptr());
            L::store(starts[m], lane_starts.as_mut_ptr());
            let (mut top, mut at) = (f32::NEG_INFINITY, 0);
            for lane in 0..LANES {
                let column = lane_starts[lane].to_bits() + lane as u32;
                if lane_tops[lane] > top || (lane_tops[lane] >= top && column < at) {
                    (top, at) = (lane_tops[lane], column);
                }
            }
            for column in whole..n {
                let score = *from.add(m * stride + column) + offsets.get(column).unwrap_or(&0.0);
                if score > top {
                    (top, at) = (score, column as u32);
                }
            }
            if top > best_scores[row + m] {
                best_scores[row + m] = top;
                best[row + m] = first + at;
            }
        }
    }
}

/// All rows.
#[inline(always)]
pub(crate) unsafe fn nearest_columns<L: Lanes>(
    n: usize,
    scores: &[f32],
    stride: usize,
    offsets: &[f32],
    first: u32,
    best: &mut [u32],
    best_scores: &mut [f32],
) {
    unsafe {
        let m = best.len();
        let mut row = 0;
        while row + ROWS <= m {
            block::<L, ROWS>(row, n, scores, stride, offsets, first, best, best_scores);
            row += ROWS;
        }
        while row < m {
            block::<L, 1>(row, n, scores, stride, offsets, first, best, best_scores);
            row += 1;
        }
    }
}
