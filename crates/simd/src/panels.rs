//! Products with panels that lie anywhere in memory: what an index of clusters asks for, which looks closely at few of
//! its parts.
//!
//! A panel holds sixteen columns for [`rows_by_panels`], and sixteen steps along the sum for [`add_rows_by_panels`]:
//! so the scores of sixteen keys are sixteen neighbouring columns, and their values are summed up by the same panel of
//! weights.

use crate::LANES;
use crate::gemm::{self, Step};
use crate::lanes::Lanes;

/// See [`crate::Kernels::rows_by_panels_f32`].
///
/// # Safety
/// `a` is valid for `m` rows of `lda` (`k` used), each panel for `k` x 16, `c` for `m` rows of `ldc` with 16 columns for
/// each panel; the level's CPU features are enabled.
#[inline(always)]
pub(crate) unsafe fn rows_by_panels<L: Lanes, T: Step<L>>(
    m: usize,
    k: usize,
    a: *const T::Row, // [m][lda]
    lda: usize,
    panels: &[*const T::Column], // each [k / STEP][16][STEP]
    c: *mut f32,                 // [m][ldc]
    ldc: usize,
) {
    let mut panel = 0;
    macro_rules! group {
        ($n:literal) => {{
            let mut group = [panels[panel]; $n];
            group.copy_from_slice(&panels[panel..panel + $n]);
            // SAFETY: these panels are among those listed.
            unsafe { gemm::rows::<L, T, $n>(m, k, a, lda, group, c.add(panel * LANES), ldc, false) };
            panel += $n;
        }};
    }
    while panel < panels.len() {
        match panels.len() - panel {
            _ if L::PANELS == 1 => group!(1),
            1 => group!(1),
            // 4 = 2 + 2: a single panel leaves too few sums in flight.
            2 | 4 => group!(2),
            _ => group!(3),
        }
    }
}

/// See [`crate::Kernels::add_rows_by_panels_f32`].
///
/// # Safety
/// `a` is valid for `m` rows of `lda` with sixteen numbers for each entry of `list`, which point to `width` panels of
/// 16 x 16 each, `c` for `m` rows of `ldc` with 16 x `width` columns; the level's CPU features are enabled.
#[inline(always)]
pub(crate) unsafe fn add_rows_by_panels<L: Lanes, T: Step<L>>(
    m: usize,
    a: *const T::Row, // [m][lda]
    lda: usize,
    list: &[*const T::Column], // each [width][16 / STEP][16][STEP]
    width: usize,
    c: *mut f32, // [m][ldc]
    ldc: usize,
) {
    let mut panel = 0;
    macro_rules! group {
        ($n:literal) => {{
            // SAFETY: panels below `width`.
            unsafe { add_rows::<L, T, $n>(m, a, lda, list, panel, c.add(panel * LANES), ldc) };
            panel += $n;
        }};
    }
    while panel < width {
        match width - panel {
            _ if L::PANELS == 1 => group!(1),
            1 => group!(1),
            2 | 4 => group!(2),
            _ => group!(3),
        }
    }
}

/// All rows against P panels, from `panel` on, of each entry.
#[inline(always)]
unsafe fn add_rows<L: Lanes, T: Step<L>, const P: usize>(
    m: usize,
    a: *const T::Row,
    lda: usize,
    list: &[*const T::Column],
    panel: usize,
    c: *mut f32,
    ldc: usize,
) {
    let mut row = 0;
    macro_rules! rows {
        ($n:literal) => {
            while m - row >= $n {
                // SAFETY: rows below `m`.
                unsafe { add_tile::<L, T, $n, P>(a.add(row * lda), lda, list, panel, c.add(row * ldc), ldc) };
                row += $n;
            }
        };
    }
    // L::ROWS is a constant of the level: the branches not taken vanish.
    if L::ROWS >= 8 {
        rows!(8);
    }
    if L::ROWS >= 6 && L::ROWS < 8 {
        rows!(6);
    }
    if L::ROWS >= 4 {
        rows!(4);
        // Three heads often share keys and values.
        rows!(3);
    }
    rows!(2);
    rows!(1);
}

/// The register tile: M rows times P panels over all entries.
#[inline(always)]
unsafe fn add_tile<L: Lanes, T: Step<L>, const M: usize, const P: usize>(
    a: *const T::Row, // [M][lda]
    lda: usize,
    list: &[*const T::Column],
    panel: usize,
    c: *mut f32, // [M][ldc]
    ldc: usize,
) {
    // SAFETY: all addresses stay inside what the callers vouch for.
    unsafe {
        let mut sums = [[L::zero(); P]; M];
        for m in 0..M {
            for p in 0..P {
                sums[m][p] = L::load(c.add(m * ldc + p * LANES));
            }
        }
        for (index, &entry) in list.iter().enumerate() {
            let (weights, from) = (a.add(index * LANES), entry.add(panel * LANES * LANES));
            for step in 0..LANES / T::STEP {
                let mut columns = [from.add(step * LANES * T::STEP); P];
                for p in 1..P {
                    columns[p] = columns[p].add(p * LANES * LANES);
                }
                T::add(&mut sums, weights.add(step * T::STEP), lda, columns);
            }
        }
        for m in 0..M {
            for p in 0..P {
                L::store(sums[m][p], c.add(m * ldc + p * LANES));
            }
        }
    }
}
