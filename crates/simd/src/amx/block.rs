//! One block of a product: up to 2 x 2 tiles of sums, along all of the inner dimension.
//!
//! Everything is counted in *lines*: the 64 bytes of a panel that one step of four bytes along the sum meets (a pair
//! of bf16 or a quad of bytes, of each of sixteen columns). A tile of a panel is sixteen lines; a sum that is no
//! multiple of sixteen lines ends with a shorter tile, for which other registers are shaped.

use super::tiles::{ROW_BYTES, TILE_BYTES, TILE_ROWS};
use super::{Config, Tiles};
use crate::prefetch::prefetch;

/// Which numbers are multiplied.
pub(crate) trait Kind {
    /// C += A x B.
    ///
    /// # Safety
    /// As [`Tiles`].
    unsafe fn multiply<T: Tiles, const C: usize, const A: usize, const B: usize>();
}

/// bf16 times bf16, summed in f32.
pub(crate) struct Pairs;

impl Kind for Pairs {
    #[inline(always)]
    unsafe fn multiply<T: Tiles, const C: usize, const A: usize, const B: usize>() {
        // SAFETY: passed on.
        unsafe { T::multiply_bf16::<C, A, B>() }
    }
}

/// i8 rows times u8 panels, summed in i32.
pub(crate) struct Codes;

impl Kind for Codes {
    #[inline(always)]
    unsafe fn multiply<T: Tiles, const C: usize, const A: usize, const B: usize>() {
        // SAFETY: passed on.
        unsafe { T::multiply_i8_u8::<C, A, B>() }
    }
}

/// Rows of the largest block.
pub(crate) const BLOCK_ROWS: usize = 2 * TILE_ROWS;

/// How a sum is cut into tiles.
#[derive(Clone, Copy)]
pub(crate) struct Lengths {
    /// Tiles of sixteen lines.
    pub whole: usize,
    /// Lines of the last, shorter tile; 0 to 15.
    pub rest: usize,
}

impl Lengths {
    pub fn of(lines: usize) -> Self {
        Self { whole: lines / TILE_ROWS, rest: lines % TILE_ROWS }
    }
}

/// Registers for blocks of `rows` (1 to 32) rows: without a rest C is 0 to 3 (row by row), A is 4 and 5, B is 6 and 7;
/// with one C is 0 and 1, A is 2 and 3, B is 4, and 5 to 7 are A, A and B of the rest.
pub(crate) fn config(rows: usize, rest: usize) -> Config {
    debug_assert!((1..=BLOCK_ROWS).contains(&rows) && rest < TILE_ROWS);
    let rows = [rows.min(TILE_ROWS), rows.saturating_sub(TILE_ROWS)];
    let config = Config::new();
    if rest == 0 {
        config
            .with(0, rows[0], ROW_BYTES)
            .with(1, rows[0], ROW_BYTES)
            .with(2, rows[1], ROW_BYTES)
            .with(3, rows[1], ROW_BYTES)
            .with(4, rows[0], ROW_BYTES)
            .with(5, rows[1], ROW_BYTES)
            .with(6, TILE_ROWS, ROW_BYTES)
            .with(7, TILE_ROWS, ROW_BYTES)
    } else {
        config
            .with(0, rows[0], ROW_BYTES)
            .with(1, rows[1], ROW_BYTES)
            .with(2, rows[0], ROW_BYTES)
            .with(3, rows[1], ROW_BYTES)
            .with(4, TILE_ROWS, ROW_BYTES)
            .with(5, rows[0], 4 * rest)
            .with(6, rows[1], 4 * rest)
            .with(7, rest, ROW_BYTES)
    }
}

/// What a block multiplies.
#[derive(Clone, Copy)]
pub(crate) struct Operands {
    /// `[rows][a_stride]` bytes, of which 4 per line are used.
    pub a: *const u8,
    pub a_stride: usize,
    /// One or two panels, each `[lines][64]` bytes.
    pub b: [*const u8; 2],
    /// `[rows][c_stride]` bytes, of which 64 per panel are used.
    pub c: *mut u8,
    pub c_stride: usize,
    /// Adds to C instead of overwriting it.
    pub accumulate: bool,
}

/// What to fetch meanwhile: of each tile that is read, lines `from..to` of what lies `distance` bytes further.
#[derive(Clone, Copy)]
pub(crate) struct Ahead {
    pub distance: usize,
    pub from: usize,
    pub to: usize,
}

impl Ahead {
    /// Nothing.
    pub const NONE: Self = Self { distance: 0, from: 0, to: 0 };

    #[inline(always)]
    fn fetch(self, tile: *const u8) {
        for line in self.from..self.to {
            prefetch(tile.wrapping_add(self.distance + line * ROW_BYTES));
        }
    }
}

/// A block of 16 or (`TWO_ROWS`) 32 rows x one or (`TWO_PANELS`) two panels, the rows being what the registers are shaped
/// for; both tiles of rows are in use if `TWO_ROWS`.
///
/// # Safety
/// AMX may be used and is configured by [`config`] with no rest, for more than 16 rows if `TWO_ROWS`; the operands are
/// valid for the shapes beside them, with `steps` x 16 lines.
#[inline(always)]
pub(crate) unsafe fn square<T: Tiles, K: Kind, const TWO_ROWS: bool, const TWO_PANELS: bool>(
    x: &Operands,
    steps: usize,
    ahead: Ahead,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let [low, high] = [x.c, x.c.wrapping_add(TILE_ROWS * x.c_stride)];
        if x.accumulate {
            T::load::<0>(low, x.c_stride);
            if TWO_PANELS {
                T::load::<1>(low.add(ROW_BYTES), x.c_stride);
            }
            if TWO_ROWS {
                T::load::<2>(high, x.c_stride);
                if TWO_PANELS {
                    T::load::<3>(high.add(ROW_BYTES), x.c_stride);
                }
            }
        } else {
            T::zero::<0>();
            if TWO_PANELS {
                T::zero::<1>();
            }
            if TWO_ROWS {
                T::zero::<2>();
                if TWO_PANELS {
                    T::zero::<3>();
                }
            }
        }
        for step in 0..steps {
            let a = x.a.add(step * ROW_BYTES);
            let b = x.b[0].add(step * TILE_BYTES);
            T::load::<4>(a, x.a_stride);
            T::load::<6>(b, ROW_BYTES);
            ahead.fetch(b);
            K::multiply::<T, 0, 4, 6>();
            if TWO_PANELS {
                let b = x.b[1].add(step * TILE_BYTES);
                T::load::<7>(b, ROW_BYTES);
                ahead.fetch(b);
                K::multiply::<T, 1, 4, 7>();
            }
            if TWO_ROWS {
                T::load::<5>(a.add(TILE_ROWS * x.a_stride), x.a_stride);
                K::multiply::<T, 2, 5, 6>();
                if TWO_PANELS {
                    K::multiply::<T, 3, 5, 7>();
                }
            }
        }
        T::store::<0>(low, x.c_stride);
        if TWO_PANELS {
            T::store::<1>(low.add(ROW_BYTES), x.c_stride);
        }
        if TWO_ROWS {
            T::store::<2>(high, x.c_stride);
            if TWO_PANELS {
                T::store::<3>(high.add(ROW_BYTES), x.c_stride);
            }
        }
    }
}

/// A block of 16 or (`TWO_ROWS`) 32 rows x one panel, whose sum may end with a shorter tile.
///
/// # Safety
/// AMX may be used and is configured by [`config`] with a rest, for more than 16 rows if `TWO_ROWS`; the operands are
/// valid for the shapes beside them, with `steps` x 16 lines and, if `REST`, those of the rest.
#[inline(always)]
pub(crate) unsafe fn tall<T: Tiles, K: Kind, const TWO_ROWS: bool, const REST: bool>(
    x: &Operands,
    steps: usize,
    ahead: Ahead,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let high = x.c.wrapping_add(TILE_ROWS * x.c_stride);
        if x.accumulate {
            T::load::<0>(x.c, x.c_stride);
            if TWO_ROWS {
                T::load::<1>(high, x.c_stride);
            }
        } else {
            T::zero::<0>();
            if TWO_ROWS {
                T::zero::<1>();
            }
        }
        for step in 0..steps {
            let a = x.a.add(step * ROW_BYTES);
            let b = x.b[0].add(step * TILE_BYTES);
            T::load::<2>(a, x.a_stride);
            T::load::<4>(b, ROW_BYTES);
            ahead.fetch(b);
            K::multiply::<T, 0, 2, 4>();
            if TWO_ROWS {
                T::load::<3>(a.add(TILE_ROWS * x.a_stride), x.a_stride);
                K::multiply::<T, 1, 3, 4>();
            }
        }
        if REST {
            let a = x.a.add(steps * ROW_BYTES);
            T::load::<5>(a, x.a_stride);
            T::load::<7>(x.b[0].add(steps * TILE_BYTES), ROW_BYTES);
            K::multiply::<T, 0, 5, 7>();
            if TWO_ROWS {
                T::load::<6>(a.add(TILE_ROWS * x.a_stride), x.a_stride);
                K::multiply::<T, 1, 6, 7>();
            }
        }
        T::store::<0>(x.c, x.c_stride);
        if TWO_ROWS {
            T::store::<1>(high, x.c_stride);
        }
    }
}

/// A block of one or two panels (`two_panels`) by the registers that [`config`] shaped for `two_rows` and for the rest
/// of `shaped`; a sum of `lengths` ends without a rest or with that one.
///
/// # Safety
/// As [`square`] and [`tall`].
#[inline(always)]
pub(crate) unsafe fn multiply<T: Tiles, K: Kind>(
    x: &Operands,
    lengths: Lengths,
    shaped: Lengths,
    two_rows: bool,
    two_panels: bool,
    ahead: Ahead,
) {
    debug_assert!(lengths.rest == 0 || lengths.rest == shaped.rest);
    // SAFETY: the caller's promise.
    unsafe {
        if shaped.rest == 0 {
            match (two_rows, two_panels) {
                (true, true) => square::<T, K, true, true>(x, lengths.whole, ahead),
                (true, false) => square::<T, K, true, false>(x, lengths.whole, ahead),
                (false, true) => square::<T, K, false, true>(x, lengths.whole, ahead),
                (false, false) => square::<T, K, false, false>(x, lengths.whole, ahead),
            }
            return;
        }
        for panel in 0..=usize::from(two_panels) {
            let x = Operands { b: [x.b[panel]; 2], c: x.c.add(panel * ROW_BYTES), ..*x };
            match (two_rows, lengths.rest > 0) {
                (true, true) => tall::<T, K, true, true>(&x, lengths.whole, ahead),
                (true, false) => tall::<T, K, true, false>(&x, lengths.whole, ahead),
                (false, true) => tall::<T, K, false, true>(&x, lengths.whole, ahead),
                (false, false) => tall::<T, K, false, false>(&x, lengths.whole, ahead),
            }
        }
    }
}
