//! Matrix products in bytes on tiles, as [`crate::gemm_i8`] does them on vectors, equal to those to the bit.
//!
//! Tiles sum whole numbers; where a group of scales ends, a block's sums go through memory to be scaled by vectors,
//! while the tiles work on the next block (or on the same one's next group). Scaling takes about as long as a
//! product over 200 numbers: a scale for each row and column leaves the tiles busy, a scale for every 64 numbers does
//! not.

use super::Tiles;
use super::block::{self, Ahead, BLOCK_ROWS, Codes, Lengths, Operands};
use super::product::FEWEST_ROWS;
use super::tiles::{ROW_BYTES, TILE_ROWS};
use crate::LANES;
use crate::gemm_i8::{self, ByteProduct};
use crate::lanes::{Lanes, Quads};
use std::mem::MaybeUninit;

/// Panels of a block.
const PANELS: usize = 2;

/// Sums of a block, `[32][2 x 16]`.
#[repr(C, align(64))]
struct Sums([[MaybeUninit<i32>; PANELS * LANES]; BLOCK_ROWS]);

/// A block of C within one group of scales.
#[derive(Clone, Copy)]
struct Part {
    row: usize,
    rows: usize,
    panel: usize,
    panels: usize,
    group: usize,
}

/// See [`crate::Kernels::gemm_i8`].
///
/// # Safety
/// As there; AMX may be used and the CPU features of `L` and `Q` are enabled.
#[inline(always)]
pub(crate) unsafe fn gemm_i8<T: Tiles, L: Lanes, Q: Quads<L>>(x: &ByteProduct) {
    // SAFETY: the caller's promise.
    unsafe {
        if x.m < FEWEST_ROWS {
            return gemm_i8::gemm_i8::<L, Q>(x);
        }
        let whole = x.m / BLOCK_ROWS * BLOCK_ROWS;
        let shaped = Lengths::of(x.quads);
        if whole > 0 {
            T::configure(&block::config(BLOCK_ROWS, shaped.rest));
            rows::<T, L>(x, shaped, 0, whole);
        }
        if whole < x.m {
            T::configure(&block::config(x.m - whole, shaped.rest));
            rows::<T, L>(x, shaped, whole, x.m);
        }
        T::release();
    }
}

/// Rows `first..end`, in blocks of the shape that the registers are configured for: all of 32 rows, or a single one of
/// at most as many.
///
/// # Safety
/// The product's pointers are valid for its shapes.
#[inline(always)]
unsafe fn rows<T: Tiles, L: Lanes>(x: &ByteProduct, shaped: Lengths, first: usize, end: usize) {
    const EMPTY: Sums = Sums([[MaybeUninit::uninit(); PANELS * LANES]; BLOCK_ROWS]);
    let mut sums = [EMPTY; 2];
    // The part before, whose sums wait to be scaled.
    let mut before: Option<Part> = None;
    let mut turn = 0;
    // With few rows threads share the panels, and what lies behind these may be another thread's to read.
    let beyond = x.m >= BLOCK_ROWS;
    for panel in (0..x.panels).step_by(PANELS) {
        let panels = PANELS.min(x.panels - panel);
        let next = beyond || panel + PANELS < x.panels;
        for row in (first..end).step_by(BLOCK_ROWS) {
            let rows = BLOCK_ROWS.min(end - row);
            let ahead = if next && row == first {
                Ahead { distance: PANELS * x.panel_stride, from: 0, to: TILE_ROWS }
            } else {
                Ahead::NONE
            };
            for (group, quad) in (0..x.quads).step_by(x.group_quads).enumerate() {
                let b = x.b.wrapping_add(panel * x.panel_stride + quad * ROW_BYTES);
                let to = &mut sums[turn];
                let operands = Operands {
                    a: x.a.wrapping_add(row * x.lda + quad * size_of::<u32>()).cast(),
                    a_stride: x.lda,
                    b: [b, b.wrapping_add(x.panel_stride)],
                    c: to.0.as_mut_ptr().cast(),
                    c_stride: PANELS * ROW_BYTES,
                    accumulate: false,
                };
                let lengths = Lengths::of(x.group_quads.min(x.quads - quad));
                // SAFETY: the rows, panels and quads exist, and the registers are shaped for them: only the last
                // group can have a rest, that of all quads.
                unsafe {
                    block::multiply::<T, Codes>(&operands, lengths, shaped, rows > TILE_ROWS, panels == PANELS, ahead);
                    if let Some(before) = before.replace(Part { row, rows, panel, panels, group }) {
                        scale::<L>(x, before, &sums[1 - turn]);
                    }
                }
                turn = 1 - turn;
            }
        }
    }
    if let Some(before) = before {
        // SAFETY: as above.
        unsafe { scale::<L>(x, before, &sums[1 - turn]) };
    }
}

/// Adds a part's sums, scaled, to C.
///
/// # Safety
/// The part lies within the product, and its sums are written.
#[inline(always)]
unsafe fn scale<L: Lanes>(x: &ByteProduct, part: Part, sums: &Sums) {
    let Part { row, rows, panel, panels, group } = part;
    let add = x.accumulate || group > 0;
    for p in 0..panels {
        // SAFETY: the caller's promise.
        unsafe {
            let b_scales = L::load(x.b_scales.add((panel + p) * x.b_scale_stride + group * LANES));
            for r in 0..rows {
                let at = (row + r) * x.groups_stride + group;
                let sum = L::from_sums(sums.0[r].as_ptr().add(p * LANES).cast(), *x.a_starts.add(at));
                let scale = L::mul(b_scales, L::splat(*x.a_scales.add(at)));
                let to = x.c.add((row + r) * x.ldc + (panel + p) * LANES);
                let before = if add { L::load(to) } else { L::zero() };
                L::store(L::fused(sum, scale, before), to);
            }
        }
    }
}
