//! Means and variances of the sixteen vectors of a tile, from its panels.

#![allow(
    clippy::undocumented_unsafe_blocks,
    reason = "each function passes on its own contract: see SAFETY (all functions)"
)]
#![allow(clippy::cast_ptr_alignment, reason = "scales are loaded from any address")]

use crate::LANES;
use crate::lanes::{Lanes, Product};

/// One sixteenth.
const SHARE: f32 = 1.0 / LANES as f32;

/// Numbers of a key, and keys of a value's dimension, whose codes lie side by side.
const QUAD: usize = 4;

/// Bytes of the codes of four numbers of sixteen keys.
const QUAD_BYTES: usize = LANES * QUAD;

// SAFETY (all functions): the level's CPU features are enabled; panels are valid for the shapes beside them, and results
// for as many numbers as rows are asked for.

/// Means of four rows of sixteen numbers and their variances, the mean squares off the means: four numbers each.
macro_rules! moments_of_rows {
    ($lanes:ty, $rows:expr, $means:expr, $variances:expr) => {{
        let mut rows = $rows;
        <$lanes>::sum_four(rows, $means);
        for i in 0..4 {
            *$means.add(i) *= SHARE;
            let off = <$lanes>::sub(rows[i], <$lanes>::splat(*$means.add(i)));
            rows[i] = <$lanes>::mul(off, off);
        }
        <$lanes>::sum_four(rows, $variances);
        for i in 0..4 {
            *$variances.add(i) *= SHARE;
        }
    }};
}

/// See [`crate::Kernels::panel_moments_f32`].
#[inline(always)]
pub(crate) unsafe fn panel_moments<L: Lanes, P: Product<L>>(
    panel: *const P::Scalar, // [k][16] or [k / 2][16][2]
    means: &mut [f32],       // [k], an even number
    variances: &mut [f32],   // [k]
) {
    unsafe {
        let k = means.len();
        let mut i = 0;
        while i < k {
            let first = P::two_rows(panel.add(i * LANES));
            if i + QUAD <= k {
                let second = P::two_rows(panel.add((i + 2) * LANES));
                let rows = [first[0], first[1], second[0], second[1]];
                moments_of_rows!(L, rows, means.as_mut_ptr().add(i), variances.as_mut_ptr().add(i));
            } else {
                let (mut last_means, mut last_variances) = ([0.0; QUAD], [0.0; QUAD]);
                let rows = [first[0], first[1], L::zero(), L::zero()];
                moments_of_rows!(L, rows, last_means.as_mut_ptr(), last_variances.as_mut_ptr());
                means[i..].copy_from_slice(&last_means[..2]);
                variances[i..].copy_from_slice(&last_variances[..2]);
            }
            i += QUAD;
        }
    }
}

/// See [`crate::Kernels::value_means_f32`].
#[inline(always)]
pub(crate) unsafe fn value_means<L: Lanes, P: Product<L>>(
    panels: *const P::Scalar, // [n / 16][16][16] or [n / 16][8][16][2]
    means: &mut [f32],        // [n]
) {
    unsafe {
        let share = L::splat(SHARE);
        let mut i = 0;
        while i < means.len() {
            let panel = panels.add(i * LANES);
            let mut sums = P::two_rows(panel);
            let mut row = 2;
            while row < LANES {
                let two = P::two_rows(panel.add(row * LANES));
                sums = [L::add(sums[0], two[0]), L::add(sums[1], two[1])];
                row += 2;
            }
            L::store(L::mul(L::add(sums[0], sums[1]), share), means.as_mut_ptr().add(i));
            i += LANES;
        }
    }
}

/// See [`crate::Kernels::code_moments`].
#[inline(always)]
pub(crate) unsafe fn code_moments<L: Lanes>(
    codes: *const i8,      // [k / 4][16][4], with 128 added, and behind them the keys' scales, [16] f32
    means: &mut [f32],     // [k], whole quads
    variances: &mut [f32], // [k]
) {
    unsafe {
        let scales = L::load(codes.add(means.len() * LANES).cast::<f32>());
        let mut i = 0;
        while i < means.len() {
            let quad = codes.add(i * LANES);
            let rows = [
                L::mul(L::widen_codes::<0, false>(quad), scales),
                L::mul(L::widen_codes::<1, false>(quad), scales),
                L::mul(L::widen_codes::<2, false>(quad), scales),
                L::mul(L::widen_codes::<3, false>(quad), scales),
            ];
            moments_of_rows!(L, rows, means.as_mut_ptr().add(i), variances.as_mut_ptr().add(i));
            i += QUAD;
        }
    }
}

/// See [`crate::Kernels::code_value_means`].
#[inline(always)]
pub(crate) unsafe fn code_value_means<L: Lanes>(
    codes: *const i8,  // [n / 16][4][16][4], and behind them the values' scales, [16] f32
    means: &mut [f32], // [n]
) {
    unsafe {
        let scales = codes.add(means.len() * LANES).cast::<f32>();
        let share = L::splat(SHARE);
        let mut i = 0;
        while i < means.len() {
            let mut sums = [L::zero(); QUAD];
            for quad in 0..LANES / QUAD {
                let (from, scale) = (codes.add(i * LANES + quad * QUAD_BYTES), scales.add(quad * QUAD));
                let first = L::widen_codes::<0, true>(from);
                sums[0] = L::fma(first, L::splat(scale.read_unaligned()), sums[0]);
                let second = L::widen_codes::<1, true>(from);
                sums[1] = L::fma(second, L::splat(scale.add(1).read_unaligned()), sums[1]);
                let third = L::widen_codes::<2, true>(from);
                sums[2] = L::fma(third, L::splat(scale.add(2).read_unaligned()), sums[2]);
                let fourth = L::widen_codes::<3, true>(from);
                sums[3] = L::fma(fourth, L::splat(scale.add(3).read_unaligned()), sums[3]);
            }
            let sum = L::add(L::add(sums[0], sums[1]), L::add(sums[2], sums[3]));
            L::store(L::mul(sum, share), means.as_mut_ptr().add(i));
            i += LANES;
        }
    }
}
