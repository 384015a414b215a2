//! Matrix products of row-major rows with packed panels on tiles, as [`crate::gemm`] does them on vectors.
//!
//! Two panels are the outer loop: while they stay in the first-level cache all rows pass, 32 at a time. Meanwhile the
//! next two panels are fetched, by each block of rows a share.

use super::Tiles;
use super::block::{self, Ahead, BLOCK_ROWS, Kind, Lengths, Operands, Pairs};
use super::tiles::{ROW_BYTES, TILE_ROWS};
use crate::gemm::{self, Same};
use crate::lanes::{Bf16, Lanes};

/// From this many rows on tiles are used. With fewer, vectors multiply a tile's worth of weights in less time than
/// reading it from memory takes, and need no configuration.
pub(crate) const FEWEST_ROWS: usize = 5;

/// Panels of a block.
const PANELS: usize = 2;

/// See [`crate::Kernels::gemm_bf16`].
///
/// # Safety
/// As there; AMX may be used and the CPU features of `L` are enabled.
#[inline(always)]
pub(crate) unsafe fn gemm_bf16<T: Tiles, L: Lanes>(
    m: usize,
    k: usize,
    a: *const u16, // [m][lda]
    lda: usize,
    b: *const u16, // [panels][panel_stride], of each [k / 2][16][2]
    panel_stride: usize,
    panels: usize,
    c: *mut f32, // [m][ldc]
    ldc: usize,
    accumulate: bool,
) {
    // SAFETY: the caller's promise.
    unsafe {
        if m < FEWEST_ROWS {
            return gemm::gemm::<L, Same<Bf16>>(m, k, a, lda, b, panel_stride, panels, c, ldc, accumulate);
        }
        let lengths = Lengths::of(k / 2);
        let product = Product {
            lengths,
            panels,
            panel_stride: panel_stride * size_of::<u16>(),
            a: a.cast(),
            a_stride: lda * size_of::<u16>(),
            b: b.cast(),
            c: c.cast(),
            c_stride: ldc * size_of::<f32>(),
            accumulate,
            beyond: m >= BLOCK_ROWS,
        };
        let whole = m / BLOCK_ROWS * BLOCK_ROWS;
        if whole > 0 {
            T::configure(&block::config(BLOCK_ROWS, lengths.rest));
            rows::<T, Pairs>(&product, 0, whole);
        }
        if whole < m {
            T::configure(&block::config(m - whole, lengths.rest));
            rows::<T, Pairs>(&product, whole, m);
        }
        T::release();
    }
}

/// A product in bytes.
struct Product {
    lengths: Lengths,
    panels: usize,
    /// `[panels][panel_stride]`, of each `[lines][64]`
    b: *const u8,
    panel_stride: usize,
    /// `[rows][a_stride]`
    a: *const u8,
    a_stride: usize,
    /// `[rows][c_stride]`
    c: *mut u8,
    c_stride: usize,
    accumulate: bool,
    /// True if what lies behind the last panel is worth fetching: with few rows threads share the panels, and it may be
    /// another thread's to read.
    beyond: bool,
}

/// Rows `first..end`, in blocks of the shape that the registers are configured for: all of 32 rows, or a single one of
/// at most as many.
///
/// # Safety
/// The product's pointers are valid for its shapes.
#[inline(always)]
unsafe fn rows<T: Tiles, K: Kind>(product: &Product, first: usize, end: usize) {
    let blocks = (end - first).div_ceil(BLOCK_ROWS);
    let two_rows = end - first > TILE_ROWS;
    let mut panel = 0;
    while panel < product.panels {
        let two_panels = product.panels - panel >= PANELS;
        let b = product.b.wrapping_add(panel * product.panel_stride);
        let next = product.beyond || panel + PANELS < product.panels;
        for index in 0..blocks {
            let row = first + index * BLOCK_ROWS;
            let ahead = if next {
                let share = |index| index * TILE_ROWS / blocks;
                Ahead { distance: PANELS * product.panel_stride, from: share(index), to: share(index + 1) }
            } else {
                Ahead::NONE
            };
            let operands = Operands {
                a: product.a.wrapping_add(row * product.a_stride),
                a_stride: product.a_stride,
                b: [b, b.wrapping_add(product.panel_stride)],
                c: product.c.wrapping_add(row * product.c_stride + panel * ROW_BYTES),
                c_stride: product.c_stride,
                accumulate: product.accumulate,
            };
            // SAFETY: the rows and panels of the block exist; the registers are configured for them.
            unsafe {
                block::multiply::<T, K>(&operands, product.lengths, product.lengths, two_rows, two_panels, ahead);
            }
        }
        panel += PANELS;
    }
}
