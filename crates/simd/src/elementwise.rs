//! Kernels that pass once over their data: norms, activations, conversions, distances.

#![allow(
    clippy::undocumented_unsafe_blocks,
    reason = "each function passes on its own contract: see SAFETY (all functions)"
)]

use crate::LANES;
use crate::lanes::Lanes;

/// Calls `$full` for whole vectors and `$rest` for the indices left.
macro_rules! sweep {
    ($length:expr, |$i:ident| $full:expr, |$r:ident| $rest:expr) => {{
        let length = $length;
        let mut $i = 0;
        while $i + LANES <= length {
            $full;
            $i += LANES;
        }
        for $r in $i..length {
            $rest;
        }
    }};
}

/// The sum of what `$next` adds to `$sum` for each whole vector and of `$rest` for the indices left. Four sums take turns, so that
/// none waits for the one before. They are told apart by constants: with an index that changes they would live in memory.
macro_rules! sum_in_turns {
    ($lanes:ty, $length:expr, |$i:ident, $sum:ident| $next:expr, |$r:ident| $rest:expr) => {{
        let length = $length;
        let mut sums = [<$lanes>::zero(); 4];
        let mut start = 0;
        while start + 4 * LANES <= length {
            for (turn, sum) in sums.iter_mut().enumerate() {
                let ($i, $sum) = (start + turn * LANES, *sum);
                *sum = $next;
            }
            start += 4 * LANES;
        }
        for sum in &mut sums[..3] {
            if start + LANES <= length {
                let ($i, $sum) = (start, *sum);
                *sum = $next;
                start += LANES;
            }
        }
        let mut rest = 0.0;
        for $r in start..length {
            rest += $rest;
        }
        <$lanes>::sum(<$lanes>::add(<$lanes>::add(sums[0], sums[1]), <$lanes>::add(sums[2], sums[3]))) + rest
    }};
}

// SAFETY (all functions): the level's CPU features are enabled; slices were checked to be of equal
// length by the callers in `kernels.rs`, and every access is below that length.

#[inline(always)]
pub(crate) unsafe fn dot<L: Lanes>(x: &[f32], y: &[f32]) -> f32 {
    unsafe {
        let (a, b) = (x.as_ptr(), y.as_ptr());
        sum_in_turns!(L, x.len(), |i, sum| L::fma(L::load(a.add(i)), L::load(b.add(i)), sum), |r| x[r] * y[r])
    }
}

/// Sums `term(i)` in `f64`, always in the same order: sixteen interleaved sums, then neighbours pairwise. The
/// result does not depend on the level: nothing here may be fused or reordered by a compiler.
#[inline(always)]
fn exact_sum(length: usize, term: impl Fn(usize) -> f64) -> f64 {
    let mut sums = [0.0_f64; LANES];
    let whole = length / LANES * LANES;
    let mut start = 0;
    while start < whole {
        for lane in 0..LANES {
            sums[lane] += term(start + lane);
        }
        start += LANES;
    }
    for i in whole..length {
        sums[i - whole] += term(i);
    }
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            sums[lane] += sums[lane + width];
        }
        width /= 2;
    }
    sums[0]
}

#[inline(always)]
pub(crate) unsafe fn exact_dot<L: Lanes>(x: &[f32], y: &[f32]) -> f64 {
    unsafe { exact_sum(x.len(), |i| f64::from(*x.get_unchecked(i)) * f64::from(*y.get_unchecked(i))) }
}

#[inline(always)]
pub(crate) unsafe fn exact_squared_distance<L: Lanes>(x: &[f32], y: &[f32]) -> f64 {
    unsafe {
        exact_sum(x.len(), |i| {
            let difference = f64::from(*x.get_unchecked(i)) - f64::from(*y.get_unchecked(i));
            difference * difference
        })
    }
}

#[inline(always)]
pub(crate) unsafe fn squared_distance<L: Lanes>(x: &[f32], y: &[f32]) -> f32 {
    unsafe {
        let (a, b) = (x.as_ptr(), y.as_ptr());
        sum_in_turns!(
            L,
            x.len(),
            |i, sum| {
                let difference = L::sub(L::load(a.add(i)), L::load(b.add(i)));
                L::fma(difference, difference, sum)
            },
            |r| (x[r] - y[r]) * (x[r] - y[r])
        )
    }
}

#[inline(always)]
pub(crate) unsafe fn rms_norm<L: Lanes>(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    unsafe {
        let mean = dot::<L>(x, x) / x.len() as f32;
        let factor = 1.0 / (mean + eps).sqrt();
        let lanes = L::splat(factor);
        let (from, by, to) = (x.as_ptr(), weight.as_ptr(), out.as_mut_ptr());
        sweep!(
            x.len(),
            |i| L::store(L::mul(L::mul(L::load(from.add(i)), lanes), L::load(by.add(i))), to.add(i)),
            |r| out[r] = x[r] * factor * weight[r]
        );
    }
}

#[inline(always)]
pub(crate) unsafe fn rotate_half<L: Lanes>(x: &mut [f32], cos: &[f32], sin: &[f32]) {
    unsafe {
        let half = cos.len();
        let (low, high) = x.split_at_mut(half);
        let (a, b, c, s) = (low.as_mut_ptr(), high.as_mut_ptr(), cos.as_ptr(), sin.as_ptr());
        sweep!(
            half,
            |i| {
                let (x0, x1) = (L::load(a.add(i)), L::load(b.add(i)));
                let (c, s) = (L::load(c.add(i)), L::load(s.add(i)));
                L::store(L::sub(L::mul(x0, c), L::mul(x1, s)), a.add(i));
                L::store(L::fma(x1, c, L::mul(x0, s)), b.add(i));
            },
            |r| {
                let (x0, x1) = (low[r], high[r]);
                low[r] = x0 * cos[r] - x1 * sin[r];
                high[r] = x1 * cos[r] + x0 * sin[r];
            }
        );
    }
}

#[inline(always)]
pub(crate) unsafe fn silu_mul<L: Lanes>(gate: &[f32], up: &[f32], out: &mut [f32]) {
    unsafe {
        let (g, u, to) = (gate.as_ptr(), up.as_ptr(), out.as_mut_ptr());
        let (one, minus_log2e) = (L::splat(1.0), L::splat(-std::f32::consts::LOG2_E));
        let (least, most) = (L::splat(-126.0), L::splat(126.0));
        sweep!(
            gate.len(),
            |i| {
                let x = L::load(g.add(i));
                // x / (1 + e^-x); the exponent is held where 2^x is a normal number.
                let exponent = L::min(L::max(L::mul(x, minus_log2e), least), most);
                let silu = L::div(x, L::add(one, L::exp2::<false>(exponent)));
                L::store(L::mul(silu, L::load(u.add(i))), to.add(i));
            },
            |r| out[r] = gate[r] / (1.0 + (-gate[r]).exp()) * up[r]
        );
    }
}

#[inline(always)]
pub(crate) unsafe fn add<L: Lanes>(x: &mut [f32], y: &[f32]) {
    unsafe {
        let (to, from) = (x.as_mut_ptr(), y.as_ptr());
        sweep!(x.len(), |i| L::store(L::add(L::load(to.add(i)), L::load(from.add(i))), to.add(i)), |r| x[r] += y[r]);
    }
}

#[inline(always)]
pub(crate) unsafe fn to_bf16<L: Lanes>(x: &[f32], out: &mut [u16]) {
    unsafe {
        let (from, to) = (x.as_ptr(), out.as_mut_ptr());
        sweep!(x.len(), |i| L::narrow(L::load(from.add(i)), to.add(i)), |r| out[r] =
            half::bf16::from_f32(x[r]).to_bits());
    }
}

#[inline(always)]
pub(crate) unsafe fn from_bf16<L: Lanes>(x: &[u16], out: &mut [f32]) {
    unsafe {
        let (from, to) = (x.as_ptr(), out.as_mut_ptr());
        sweep!(x.len(), |i| L::store(L::widen(from.add(i)), to.add(i)), |r| out[r] =
            half::bf16::from_bits(x[r]).to_f32());
    }
}

/// `out[i] = x[i] * by`
#[inline(always)]
pub(crate) unsafe fn scale<L: Lanes>(x: &[f32], by: f32, out: &mut [f32]) {
    unsafe {
        let (from, to, lanes) = (x.as_ptr(), out.as_mut_ptr(), L::splat(by));
        sweep!(x.len(), |i| L::store(L::mul(L::load(from.add(i)), lanes), to.add(i)), |r| out[r] = x[r] * by);
    }
}

/// `out[i] += x[i] * by`
#[inline(always)]
pub(crate) unsafe fn add_scaled<L: Lanes>(x: &[f32], by: f32, out: &mut [f32]) {
    unsafe {
        let (from, to, lanes) = (x.as_ptr(), out.as_mut_ptr(), L::splat(by));
        sweep!(x.len(), |i| L::store(L::fma(L::load(from.add(i)), lanes, L::load(to.add(i))), to.add(i)), |r| out
            [r] +=
            x[r] * by);
    }
}

#[inline(always)]
pub(crate) unsafe fn largest<L: Lanes>(x: &[f32]) -> f32 {
    unsafe {
        let from = x.as_ptr();
        let mut top = L::splat(f32::NEG_INFINITY);
        let mut rest = f32::NEG_INFINITY;
        sweep!(x.len(), |i| top = L::max(top, L::load(from.add(i))), |r| rest = rest.max(x[r]));
        L::largest(top).max(rest)
    }
}

#[inline(always)]
pub(crate) unsafe fn largest_magnitude<L: Lanes>(x: &[f32]) -> f32 {
    unsafe {
        let from = x.as_ptr();
        let mut top = L::zero();
        let mut rest = 0.0_f32;
        sweep!(
            x.len(),
            |i| {
                let numbers = L::load(from.add(i));
                top = L::max(top, L::max(numbers, L::sub(L::zero(), numbers)));
            },
            |r| rest = rest.max(x[r].abs())
        );
        L::largest(top).max(rest)
    }
}

/// `out[i] = round(x[i] * by)`
#[inline(always)]
pub(crate) unsafe fn to_signed_codes<L: Lanes>(x: &[f32], by: f32, out: &mut [i8]) {
    unsafe {
        let (from, to, lanes) = (x.as_ptr(), out.as_mut_ptr(), L::splat(by));
        sweep!(x.len(), |i| L::narrow_to_bytes(L::mul(L::load(from.add(i)), lanes), to.add(i)), |r| out[r] =
            (x[r] * by).round_ties_even() as i8);
    }
}

/// `x[i] = 2^(x[i] - shift)`; returns the sum.
#[inline(always)]
pub(crate) unsafe fn exp2_shifted<L: Lanes>(x: &mut [f32], shift: f32) -> f32 {
    unsafe {
        let to = x.as_mut_ptr();
        let lanes = L::splat(shift);
        let mut sum = L::zero();
        let mut rest = 0.0;
        sweep!(
            x.len(),
            |i| {
                let weight = L::exp2::<false>(L::sub(L::load(to.add(i)), lanes));
                sum = L::add(sum, weight);
                L::store(weight, to.add(i));
            },
            |r| {
                let exponent = x[r] - shift;
                x[r] = if exponent < crate::lanes::EXP2_LOWEST { 0.0 } else { exponent.exp2() };
                rest += x[r];
            }
        );
        L::sum(sum) + rest
    }
}

/// The sum of all elements.
#[inline(always)]
pub(crate) unsafe fn sum<L: Lanes>(x: &[f32]) -> f32 {
    unsafe {
        let from = x.as_ptr();
        let mut sum = L::zero();
        let mut rest = 0.0;
        sweep!(x.len(), |i| sum = L::add(sum, L::load(from.add(i))), |r| rest += x[r]);
        L::sum(sum) + rest
    }
}

/// `out[i] = max(out[i], x[i] * by)`.
#[inline(always)]
pub(crate) unsafe fn largest_scaled<L: Lanes>(x: &[f32], by: f32, out: &mut [f32]) {
    unsafe {
        let (from, to) = (x.as_ptr(), out.as_mut_ptr());
        let factor = L::splat(by);
        sweep!(
            x.len(),
            |i| L::store(L::max(L::load(to.add(i)), L::mul(L::load(from.add(i)), factor)), to.add(i)),
            |r| out[r] = out[r].max(x[r] * by)
        );
    }
}

/// `sums[r] = sum of x[r][i] where keys[i] <= most`.
#[inline(always)]
pub(crate) unsafe fn sums_at_most<L: Lanes>(keys: &[f32], most: f32, x: &[f32], sums: &mut [f32]) {
    /// Sums that wait for nothing but themselves.
    const CHAINS: usize = 4;
    unsafe {
        let limit = L::splat(most);
        let whole = keys.len() / (CHAINS * LANES) * (CHAINS * LANES);
        for (r, sum) in sums.iter_mut().enumerate() {
            let row = &x[r * keys.len()..][..keys.len()];
            let mut chains = [L::zero(); CHAINS];
            let mut i = 0;
            while i < whole {
                for c in 0..CHAINS {
                    let at = i + c * LANES;
                    // Where the key is larger than the limit its zero is taken.
                    let (key, number) = (L::load(keys.as_ptr().add(at)), L::load(row.as_ptr().add(at)));
                    chains[c] = L::add(chains[c], L::larger(limit, number, key, L::zero()).1);
                }
                i += CHAINS * LANES;
            }
            let total = L::add(L::add(chains[0], chains[1]), L::add(chains[2], chains[3]));
            *sum = L::sum(total);
            for i in whole..keys.len() {
                if keys[i] <= most {
                    *sum += row[i];
                }
            }
        }
    }
}
