//! What tiles of keys weigh, estimated from their summaries: steps of the estimate for a row of tiles.

use crate::LANES;
use crate::lanes::{Lanes, Product};

// SAFETY (all functions): the level's CPU features are enabled; lengths were checked by the callers in
// `kernels/masses.rs` to be equal and multiples of sixteen.

/// Weights are 2^this at most: a sum of as many as memory holds stays finite.
const LARGEST_EXPONENT: f32 = 80.0;

/// See [`crate::Kernels::weigh_f32`].
#[inline(always)]
pub(crate) unsafe fn weigh<L: Lanes, P: Product<L>>(
    scores: &[f32], // [n]
    shift: f32,
    weights: *mut P::Scalar, // [n]
) -> f32 {
    // SAFETY: see above.
    unsafe {
        let from = scores.as_ptr();
        let (shift, most) = (L::splat(shift), L::splat(LARGEST_EXPONENT));
        macro_rules! weigh {
            ($i:expr) => {{
                let weight = L::exp2::<true>(L::min(L::sub(L::load(from.add($i)), shift), most));
                P::narrow(weight, weights.add($i));
                weight
            }};
        }
        // Two sums by name: in an array with a changing index they would live in memory.
        let (mut even, mut odd) = (L::zero(), L::zero());
        let mut i = 0;
        while scores.len() - i >= 2 * LANES {
            even = L::add(even, weigh!(i));
            odd = L::add(odd, weigh!(i + LANES));
            i += 2 * LANES;
        }
        if i < scores.len() {
            even = L::add(even, weigh!(i));
        }
        L::sum(L::add(even, odd))
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
    masses: &mut [f32],      // [n]
    mean_masses: &mut [f32], // [n]
) {
    // SAFETY: see above.
    unsafe {
        let (spread, mass, mean_mass) = (spreads.as_ptr(), masses.as_mut_ptr(), mean_masses.as_mut_ptr());
        let (cap, share, most) = (L::splat(cap), L::splat(share), L::splat(inverses.len() as f32));
        let mut i = 0;
        while i < spreads.len() {
            let mut sum = L::zero();
            for (row, &inverse) in inverses.iter().enumerate() {
                sum = L::fma(P::widen(weights.add(row * stride + i)), L::splat(inverse), sum);
            }
            L::store(L::fma(sum, share, L::load(mean_mass.add(i))), mean_mass.add(i));
            let gain = L::exp2::<true>(L::min(L::load(spread.add(i)), cap));
            let part = L::min(L::mul(sum, gain), most);
            L::store(L::fma(part, share, L::load(mass.add(i))), mass.add(i));
            i += LANES;
        }
    }
}

/// See [`crate::Kernels::thin_weights_f32`].
#[inline(always)]
pub(crate) unsafe fn thin_weights<L: Lanes, P: Product<L>>(
    kept: &[f32],            // [16 x panels]
    fine: &[bool],           // [panels]
    weights: *mut P::Scalar, // [16 x panels]
    coarse: &mut [f32],      // [panels]
) -> f32 {
    // SAFETY: see above; what is written lies at or before what is read next.
    unsafe {
        let mut total = L::zero();
        let mut to = weights;
        let mut panel = 0;
        while panel < fine.len() {
            let at = panel * LANES;
            // Most panels are not fine: four sums at once cost little more than one.
            if let Some([false, false, false, false]) = fine[panel..].first_chunk() {
                let mut four = [L::zero(); 4];
                for (i, weight) in four.iter_mut().enumerate() {
                    let kept = L::load(kept.as_ptr().add(at + i * LANES));
                    *weight = L::mul(P::widen(weights.add(at + i * LANES)), kept);
                    total = L::add(total, *weight);
                }
                L::sum_four(four, coarse[panel..].as_mut_ptr());
                panel += 4;
                continue;
            }
            let weight = L::mul(P::widen(weights.add(at)), L::load(kept.as_ptr().add(at)));
            total = L::add(total, weight);
            if fine[panel] {
                P::narrow(weight, to);
                to = to.add(LANES);
                coarse[panel] = 0.0;
            } else {
                coarse[panel] = L::sum(weight);
            }
            panel += 1;
        }
        L::sum(total)
    }
}
