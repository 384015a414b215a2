//! Matrix products of row-major rows with packed panels: `C[m][16 x panels] = A[m][k] x B`.
//!
//! A register tile of ROWS x PANELS accumulators walks along k once; panels are the outer loop, so
//! that one group of panels (ROWS x 16 columns x k) stays in the nearest cache while all rows pass. While the
//! first rows pass one group, the next group is prefetched: with few rows the product waits for memory.

use crate::LANES;
use crate::lanes::{Lanes, Product};
use crate::prefetch::{prefetch, steps_in_line};
use crate::register_tile::{panels_by_three, rows_in_one_tile, rows_in_tiles, whole_groups};
use std::marker::PhantomData;

/// From this many rows on a product prefetches beyond the panels it was given.
const BEYOND_ROWS: usize = 32;

/// How one step along k adds to a register tile.
pub(crate) trait Step<L: Lanes> {
    /// Type of the rows' numbers.
    type Row: Copy;
    /// Type of the panels' numbers.
    type Column: Copy;
    /// Numbers along k that one step consumes.
    const STEP: usize;
    /// True if a step with a single row takes so many instructions per cache line that the CPU does not look far
    /// enough ahead by itself. Where it does, prefetching costs more than it gains.
    const LONG: bool;

    /// # Safety
    /// `a` is valid for M rows of STEP numbers, each panel for STEP x 16; the level's CPU features are enabled.
    unsafe fn add<const M: usize, const P: usize>(
        sums: &mut [[L::F; P]; M],
        a: *const Self::Row,
        lda: usize,
        b: [*const Self::Column; P],
    );
}

/// A step that also serves attention, where the weights of the softmax are rows too.
pub(crate) trait Weigh<L: Lanes>: Step<L> {
    /// 2^x precise enough for weights that meet values of this type.
    const ROUGH: bool;

    /// Stores sixteen weights.
    ///
    /// # Safety
    /// `to` is valid for sixteen numbers; the level's CPU features are enabled.
    unsafe fn narrow(x: L::F, to: *mut Self::Row);
}

/// Rows and panels of one type.
pub(crate) struct Same<T>(PhantomData<T>);

impl<L: Lanes, T: Product<L>> Step<L> for Same<T> {
    type Row = T::Scalar;
    type Column = T::Scalar;
    const STEP: usize = T::STEP;
    const LONG: bool = false;

    #[inline(always)]
    unsafe fn add<const M: usize, const P: usize>(
        sums: &mut [[L::F; P]; M],
        a: *const T::Scalar,
        lda: usize,
        b: [*const T::Scalar; P],
    ) {
        // SAFETY: the caller's promise.
        unsafe {
            // Loops, not closures: a closure that is not inlined is compiled without the level's CPU features.
            let mut columns = [T::load(b[0]); P];
            for p in 1..P {
                columns[p] = T::load(b[p]);
            }
            for m in 0..M {
                let row = T::splat(a.add(m * lda));
                for p in 0..P {
                    sums[m][p] = T::madd(sums[m][p], row, columns[p]);
                }
            }
        }
    }
}

impl<L: Lanes, T: Product<L>> Weigh<L> for Same<T> {
    const ROUGH: bool = T::ROUGH_WEIGHTS;

    #[inline(always)]
    unsafe fn narrow(x: L::F, to: *mut T::Scalar) {
        // SAFETY: the caller's promise.
        unsafe { T::narrow(x, to) }
    }
}

/// Rows of f32, panels of bf16 pairs that are widened on the way: for levels without products of bf16, where
/// widening both sides would cost as much as the products.
pub(crate) struct Widened;

impl<L: Lanes> Step<L> for Widened {
    type Row = f32;
    type Column = u16;
    const STEP: usize = 2;
    const LONG: bool = true;

    #[inline(always)]
    unsafe fn add<const M: usize, const P: usize>(
        sums: &mut [[L::F; P]; M],
        a: *const f32,
        lda: usize,
        b: [*const u16; P],
    ) {
        // SAFETY: the caller's promise.
        unsafe {
            // One half after the other: both at once would not fit the registers.
            let mut columns = [L::widen_first(b[0]); P];
            for p in 1..P {
                columns[p] = L::widen_first(b[p]);
            }
            for m in 0..M {
                let row = L::splat(*a.add(m * lda));
                for p in 0..P {
                    sums[m][p] = L::fma(row, columns[p], sums[m][p]);
                }
            }
            let mut columns = [L::widen_second(b[0]); P];
            for p in 1..P {
                columns[p] = L::widen_second(b[p]);
            }
            for m in 0..M {
                let row = L::splat(*a.add(m * lda + 1));
                for p in 0..P {
                    sums[m][p] = L::fma(row, columns[p], sums[m][p]);
                }
            }
        }
    }
}

impl<L: Lanes> Weigh<L> for Widened {
    // The values are rounded to bf16, which is coarser.
    const ROUGH: bool = true;

    #[inline(always)]
    unsafe fn narrow(x: L::F, to: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe { L::store(x, to) }
    }
}

/// The register tile: M rows times P panels over all of k. If AHEAD, each step prefetches what lies `ahead`
/// numbers further in each panel.
///
/// # Safety
/// `a` is valid for M rows of `lda`, each panel for k x 16, `c` for M rows of `ldc` with 16 x P columns;
/// the level's CPU features are enabled.
#[inline(always)]
unsafe fn tile<L: Lanes, T: Step<L>, const M: usize, const P: usize, const AHEAD: bool>(
    k: usize,
    a: *const T::Row, // [M][lda]
    lda: usize,
    b: [*const T::Column; P], // each [k / STEP][16][STEP]
    c: *mut f32,              // [M][ldc]
    ldc: usize,
    accumulate: bool,
    ahead: usize,
) {
    // SAFETY: all addresses stay inside what the caller vouches for.
    unsafe {
        let mut sums = [[L::zero(); P]; M];
        for step in 0..k / T::STEP {
            let mut columns = b;
            for column in &mut columns {
                *column = column.add(step * LANES * T::STEP);
            }
            if AHEAD && step % steps_in_line::<T::Column>(LANES * T::STEP) == 0 {
                for column in columns {
                    prefetch(column.wrapping_add(ahead));
                }
            }
            T::add(&mut sums, a.add(step * T::STEP), lda, columns);
        }
        for m in 0..M {
            for p in 0..P {
                let to = c.add(m * ldc + p * LANES);
                let sum = if accumulate { L::add(L::load(to), sums[m][p]) } else { sums[m][p] };
                L::store(sum, to);
            }
        }
    }
}

/// All rows against P panels.
///
/// # Safety
/// As [`tile`], for `m` rows.
#[inline(always)]
pub(crate) unsafe fn rows<L: Lanes, T: Step<L>, const P: usize>(
    m: usize,
    k: usize,
    a: *const T::Row,
    lda: usize,
    b: [*const T::Column; P],
    c: *mut f32,
    ldc: usize,
    accumulate: bool,
) {
    // SAFETY: the caller's promise.
    unsafe { rows_ahead::<L, T, P, false>(m, k, a, lda, b, c, ldc, accumulate, 0) }
}

/// Most rows that [`few_rows`] takes.
pub(crate) const FEW_ROWS: usize = 4;

/// All of up to [`FEW_ROWS`] rows against P panels in one register tile, so that each panel is read and widened once. Asks
/// for what lies `ahead` numbers further in each panel.
///
/// # Safety
/// As [`tile`], for `m` rows.
#[inline(always)]
pub(crate) unsafe fn few_rows<L: Lanes, T: Step<L>, const P: usize>(
    m: usize,
    k: usize,
    a: *const T::Row,
    lda: usize,
    b: [*const T::Column; P],
    c: *mut f32,
    ldc: usize,
    ahead: usize,
) {
    // SAFETY: the caller's promise.
    unsafe {
        rows_in_one_tile!(m, M => {
            tile::<L, T, M, P, true>(k, a, lda, b, c, ldc, false, ahead);
        });
    }
}

/// The same, of which the first register tile prefetches what lies `ahead` numbers further if AHEAD.
///
/// # Safety
/// As [`tile`], for `m` rows.
#[inline(always)]
pub(crate) unsafe fn rows_ahead<L: Lanes, T: Step<L>, const P: usize, const AHEAD: bool>(
    m: usize,
    k: usize,
    a: *const T::Row,
    lda: usize,
    b: [*const T::Column; P],
    c: *mut f32,
    ldc: usize,
    accumulate: bool,
    ahead: usize,
) {
    // SAFETY: each call covers rows below m.
    unsafe {
        rows_in_tiles!(L::ROWS, m, [8 6 4 2 1], row, M => {
            if AHEAD && row == 0 {
                tile::<L, T, M, P, true>(k, a, lda, b, c, ldc, accumulate, ahead);
            } else {
                tile::<L, T, M, P, false>(k, a.add(row * lda), lda, b, c.add(row * ldc), ldc, accumulate, 0);
            }
        });
    }
}

/// The whole product, see [`crate::Kernels::gemm_f32`].
///
/// # Safety
/// As there.
#[inline(always)]
pub(crate) unsafe fn gemm<L: Lanes, T: Step<L>>(
    m: usize,
    k: usize,
    a: *const T::Row,
    lda: usize,
    b: *const T::Column,
    panel_stride: usize,
    panels: usize,
    c: *mut f32,
    ldc: usize,
    accumulate: bool,
) {
    // SAFETY: each call covers panels below `panels`.
    unsafe {
        let mut panel = 0;
        // With few rows threads share the panels, and what lies behind these may be another thread's to read.
        let beyond = m >= BEYOND_ROWS;
        if m == 1 {
            // A matrix-vector product waits for memory: several panels at once are several streams.
            macro_rules! streams {
                ($n:literal) => {
                    whole_groups!($n, panels, panel, P => {
                        let from: [*const T::Column; P] = std::array::from_fn(|p| b.add((panel + p) * panel_stride));
                        let (to, ahead) = (c.add(panel * LANES), P * panel_stride);
                        if T::LONG && panel + P < panels {
                            tile::<L, T, 1, P, true>(k, a, lda, from, to, ldc, accumulate, ahead);
                        } else {
                            tile::<L, T, 1, P, false>(k, a, lda, from, to, ldc, accumulate, 0);
                        }
                    });
                };
            }
            if L::PANELS >= 3 {
                streams!(8);
            }
            streams!(4);
        }
        panels_by_three!(L::PANELS, panels, panel, P => {
            let from: [*const T::Column; P] = std::array::from_fn(|p| b.add((panel + p) * panel_stride));
            let (to, ahead) = (c.add(panel * LANES), P * panel_stride);
            if beyond || panel + P < panels {
                rows_ahead::<L, T, P, true>(m, k, a, lda, from, to, ldc, accumulate, ahead);
            } else {
                rows_ahead::<L, T, P, false>(m, k, a, lda, from, to, ldc, accumulate, 0);
            }
        });
    }
}
