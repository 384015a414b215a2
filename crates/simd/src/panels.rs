//! Weighted sums of rows that lie anywhere in memory: what an index of clusters asks for, which looks closely at few of
//! its parts.
//!
//! A panel holds sixteen steps along the sum: the values of sixteen keys, which the scores of these keys weigh.

use crate::LANES;
use crate::gemm::Step;
use crate::lanes::Lanes;
use crate::prefetch::{prefetch, steps_in_line};
use crate::register_tile::{panels_by_three, rows_in_tiles};

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
    panels_by_three!(L::PANELS, width, panel, P => {
        // SAFETY: panels below `width`.
        unsafe { add_rows::<L, T, _, P>(m, a, lda, &Listed(list.iter()), panel, c.add(panel * LANES), ldc) };
    });
}

/// Pieces of sixteen rows of a matrix B, which lie anywhere, each of some panels `[16 / STEP][16][STEP]`: where a piece
/// begins, and what memory is asked for while it is multiplied, as many numbers at the same places, if any is.
pub(crate) trait Pieces<T>: Iterator<Item = (*const T, *const T)> + Clone {
    /// True if memory is asked for. It need not be there.
    #[inline(always)]
    fn asks(&self) -> bool {
        false
    }

    /// The same pieces for those rows that come after the first ones: they ask for nothing.
    #[inline(always)]
    fn again(&self) -> Self {
        self.clone()
    }
}

/// Pieces that ask for nothing.
struct Listed<'a, T>(std::slice::Iter<'a, *const T>);

impl<T> Clone for Listed<'_, T> {
    #[inline(always)]
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Iterator for Listed<'_, T> {
    type Item = (*const T, *const T);

    #[inline(always)]
    fn next(&mut self) -> Option<Self::Item> {
        let &piece = self.0.next()?;
        Some((piece, piece))
    }
}

impl<T> Pieces<T> for Listed<'_, T> {}

/// Adds to C the product of `m` rows with P panels, from `panel` on, of all pieces.
///
/// # Safety
/// `a` is valid for `m` rows of `lda` with sixteen numbers for each piece, which has the panels, `c` for `m` rows of
/// `ldc` with 16 x P columns; the level's CPU features are enabled.
#[inline(always)]
pub(crate) unsafe fn add_rows<L: Lanes, T: Step<L>, B: Pieces<T::Column>, const P: usize>(
    m: usize,
    a: *const T::Row, // [m][lda]
    lda: usize,
    pieces: &B,
    panel: usize,
    c: *mut f32, // [m][ldc]
    ldc: usize,
) {
    // Three heads often share keys and values.
    rows_in_tiles!(L::ROWS, m, [8 6 4 3 2 1], row, M => {
        let pieces = if row == 0 { pieces.clone() } else { pieces.again() };
        // SAFETY: rows below `m`.
        unsafe { add_tile::<L, T, B, M, P>(a.add(row * lda), lda, &pieces, panel, c.add(row * ldc), ldc) };
    });
}

/// The register tile of [`add_rows`]: M rows times P panels of all pieces.
///
/// # Safety
/// As there, for M rows.
#[inline(always)]
pub(crate) unsafe fn add_tile<L: Lanes, T: Step<L>, B: Pieces<T::Column>, const M: usize, const P: usize>(
    a: *const T::Row, // [M][lda]
    lda: usize,
    pieces: &B,
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
        let asks = pieces.asks();
        for (index, (piece, later)) in pieces.clone().enumerate() {
            let from = piece.add(panel * LANES * LANES); // [P][16 / STEP][16][STEP]
            let a = a.add(index * LANES);
            let later = later.wrapping_add(panel * LANES * LANES);
            for step in 0..LANES / T::STEP {
                let mut columns = [from.add(step * LANES * T::STEP); P];
                for p in 1..P {
                    columns[p] = columns[p].add(p * LANES * LANES);
                }
                if asks && step % steps_in_line::<T::Column>(LANES * T::STEP) == 0 {
                    for p in 0..P {
                        prefetch(later.wrapping_add((step * T::STEP + p * LANES) * LANES));
                    }
                }
                T::add(&mut sums, a.add(step * T::STEP), lda, columns);
            }
        }
        for m in 0..M {
            for p in 0..P {
                L::store(sums[m][p], c.add(m * ldc + p * LANES));
            }
        }
    }
}
