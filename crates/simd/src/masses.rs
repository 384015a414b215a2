//! What tiles of keys weigh, estimated from their summaries: steps of the estimate for a row of tiles.

use crate::LANES;
use crate::lanes::{Lanes, Product};

// SAFETY (all functions): the level's CPU features are enabled; lengths were checked by the callers in
// `kernels/masses.rs` to be equal and multiples of sixteen.

/// See [`crate::Kernels::weigh_f32`].
#[inline(always)]
pub(crate) unsafe fn weigh<L: Lanes, P: Product<L>>(
    scores: &[f32], // [n]
    bits: f32,
    floor: f32,
    weights: *mut P::Scalar, // [n]
) -> (f32, f32) {
    // SAFETY: see above.
    unsafe {
        let from = scores.as_ptr();
        let mut largest = [L::splat(f32::NEG_INFINITY); 2];
        let mut i = 0;
        while i < scores.len() {
            largest[i / LANES % 2] = L::max(largest[i / LANES % 2], L::load(from.add(i)));
            i += LANES;
        }
        let top = floor.max(L::largest(L::max(largest[0], largest[1])) + bits);
        let shift = L::splat(top - bits);
        let mut sum = L::zero();
        i = 0;
        while i < scores.len() {
            let exponent = L::sub(L::load(from.add(i)), shift);
            let weight = if P::ROUGH_WEIGHTS { L::exp2::<true>(exponent) } else { L::exp2::<false>(exponent) };
            sum = L::add(sum, weight);
            P::narrow(weight, weights.add(i));
            i += LANES;
        }
        (top, L::sum(sum))
    }
}

/// See [`crate::Kernels::add_tile_masses_f32`].
#[inline(always)]
pub(crate) unsafe fn add_tile_masses<L: Lanes, P: Product<L>>(
    weights: *const P::Scalar, // [rows][stride]
    stride: usize,
    inverses: &[f32], // [rows]
    spreads: &[f32],  // [n]
    cap: f32,
    share: f32,
    masses: &mut [f32], // [n]
) {
    // SAFETY: see above.
    unsafe {
        let (spread, mass) = (spreads.as_ptr(), masses.as_mut_ptr());
        let (cap, share, most) = (L::splat(cap), L::splat(share), L::splat(inverses.len() as f32));
        let mut i = 0;
        while i < spreads.len() {
            let mut sum = L::zero();
            for (row, &inverse) in inverses.iter().enumerate() {
                sum = L::fma(P::widen(weights.add(row * stride + i)), L::splat(inverse), sum);
            }
            let gain = L::exp2::<true>(L::min(L::load(spread.add(i)), cap));
            let part = L::min(L::mul(sum, gain), most);
            L::store(L::fma(part, share, L::load(mass.add(i))), mass.add(i));
            i += LANES;
        }
    }
}

/// See [`crate::Kernels::keep_weights_f32`].
#[inline(always)]
pub(crate) unsafe fn keep_weights<L: Lanes, P: Product<L>>(
    kept: &[f32],            // [n]
    weights: *mut P::Scalar, // [n]
) -> f32 {
    // SAFETY: see above.
    unsafe {
        let from = kept.as_ptr();
        let mut sum = L::zero();
        let mut i = 0;
        while i < kept.len() {
            let weight = L::mul(P::widen(weights.add(i)), L::load(from.add(i)));
            sum = L::add(sum, weight);
            P::narrow(weight, weights.add(i));
            i += LANES;
        }
        L::sum(sum)
    }
}
