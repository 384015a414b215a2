//! Passes over some rows of a matrix, which a list names.

#![allow(
    clippy::undocumented_unsafe_blocks,
    reason = "each function passes on its own contract: see SAFETY (all functions)"
)]

use crate::LANES;
use crate::lanes::Lanes;

/// Rows that are worked on together: each has a sum of its own.
const TOGETHER: usize = 4;

/// Columns whose sums the registers hold.
const COLUMNS: usize = 4;

// SAFETY (all functions): the level's CPU features are enabled; every number of the list was checked to be a row of the
// matrix, and the other lengths to agree.

/// What of each listed row one pass sums up; the last rows of a list are worked on with copies of the last one, so that a
/// row's result does not depend on where it stands.
macro_rules! sums_of_rows {
    ($lanes:ty, $rows:expr, $list:expr, $other:expr, $out:expr, |$x:ident, $y:ident, $sum:ident| $add:expr, |$a:ident, $b:ident| $rest:expr) => {{
        let (list, other, out) = ($list, $other, $out);
        let d = other.len();
        let whole = d / LANES * LANES;
        let mut first = 0;
        while first < list.len() {
            let mut at = [$rows; TOGETHER];
            let mut sums = [<$lanes>::zero(); TOGETHER];
            for i in 0..TOGETHER {
                let place = if first + i < list.len() { first + i } else { list.len() - 1 };
                at[i] = at[i].add(*list.get_unchecked(place) as usize * d);
            }
            let mut column = 0;
            while column < whole {
                let $y = <$lanes>::load(other.as_ptr().add(column));
                for i in 0..TOGETHER {
                    let ($x, $sum) = (<$lanes>::load(at[i].add(column)), sums[i]);
                    sums[i] = $add;
                }
                column += LANES;
            }
            let mut totals = [0.0; TOGETHER];
            <$lanes>::sum_four(sums, totals.as_mut_ptr());
            for i in 0..TOGETHER {
                let mut rest = 0.0;
                for column in whole..d {
                    let ($a, $b) = (*at[i].add(column), other[column]);
                    rest += $rest;
                }
                if first + i < list.len() {
                    out[first + i] = totals[i] + rest;
                }
            }
            first += TOGETHER;
        }
    }};
}

/// See [`crate::Kernels::dots_of_rows`].
#[inline(always)]
pub(crate) unsafe fn dots_of_rows<L: Lanes>(
    rows: *const f32, // [..][d]
    list: &[u32],     // [n]
    other: &[f32],    // [d]
    out: &mut [f32],  // [n]
) {
    unsafe { sums_of_rows!(L, rows, list, other, out, |x, y, sum| L::fma(x, y, sum), |a, b| a * b) }
}

/// See [`crate::Kernels::squared_distances_of_rows`].
#[inline(always)]
pub(crate) unsafe fn squared_distances_of_rows<L: Lanes>(
    rows: *const f32, // [..][d]
    list: &[u32],     // [n]
    other: &[f32],    // [d]
    out: &mut [f32],  // [n]
) {
    unsafe {
        sums_of_rows!(L, rows, list, other, out, |x, y, sum| L::fma(L::sub(x, y), L::sub(x, y), sum), |a, b| (a - b)
            * (a - b));
    }
}

/// See [`crate::Kernels::mean_of_rows`].
#[inline(always)]
pub(crate) unsafe fn mean_of_rows<L: Lanes>(
    rows: *const f32, // [..][d]
    list: &[u32],     // [n]
    mean: &mut [f32], // [d]
) {
    unsafe {
        let d = mean.len();
        let share = 1.0 / list.len() as f32;
        let mut column = 0;
        macro_rules! columns {
            ($count:expr) => {
                while column + $count * LANES <= d {
                    let mut sums = [L::zero(); $count];
                    for &row in list {
                        let at = rows.add(row as usize * d + column);
                        for c in 0..$count {
                            sums[c] = L::add(sums[c], L::load(at.add(c * LANES)));
                        }
                    }
                    for c in 0..$count {
                        let to = mean.as_mut_ptr().add(column + c * LANES);
                        L::store(L::mul(sums[c], L::splat(share)), to);
                    }
                    column += $count * LANES;
                }
            };
        }
        columns!(COLUMNS);
        columns!(1);
        for i in column..d {
            let mut sum = 0.0;
            for &row in list {
                sum += *rows.add(row as usize * d + i);
            }
            mean[i] = sum * share;
        }
    }
}
