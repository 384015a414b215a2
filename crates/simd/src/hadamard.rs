//! The Walsh-Hadamard transform of short blocks: it spreads what is large in few places over a whole block.

#![allow(
    clippy::undocumented_unsafe_blocks,
    reason = "each function passes on its own contract: see SAFETY (all functions)"
)]

use std::f32::consts::FRAC_1_SQRT_2;

use crate::LANES;
use crate::lanes::Lanes;

/// Numbers that are transformed together.
pub const HADAMARD_BLOCK: usize = 128;

/// Vectors of a block.
pub(crate) const BLOCK_VECTORS: usize = HADAMARD_BLOCK / LANES;

/// The factor of a block: one over the root of [`HADAMARD_BLOCK`].
pub(crate) const BLOCK_FACTOR: f32 = 0.125 * FRAC_1_SQRT_2;

// SAFETY (all functions): the level's CPU features are enabled; every access lies within the slice.

/// The transform of a whole block, in registers.
#[inline(always)]
pub(crate) unsafe fn block<L: Lanes>(from: *const f32) -> [L::F; BLOCK_VECTORS] {
    unsafe { transformed::<L, BLOCK_VECTORS>(from, BLOCK_FACTOR) }
}

/// The transform of V vectors, a power of two; `factor` is one over the root of how many numbers these are.
#[inline(always)]
unsafe fn transformed<L: Lanes, const V: usize>(from: *const f32, factor: f32) -> [L::F; V] {
    unsafe {
        let mut values = [L::zero(); V];
        for v in 0..V {
            values[v] = L::load(from.add(v * LANES));
            values[v] = L::butterfly::<1>(values[v]);
            values[v] = L::butterfly::<2>(values[v]);
            values[v] = L::butterfly::<4>(values[v]);
            values[v] = L::butterfly::<8>(values[v]);
        }
        // Constants, so that all of it unrolls.
        macro_rules! across {
            ($half:literal) => {
                if V > $half {
                    for v in 0..V {
                        if v & $half == 0 {
                            let (low, high) = (values[v], values[v | $half]);
                            values[v] = L::add(low, high);
                            values[v | $half] = L::sub(low, high);
                        }
                    }
                }
            };
        }
        across!(1);
        across!(2);
        across!(4);
        let factor = L::splat(factor);
        for v in 0..V {
            values[v] = L::mul(values[v], factor);
        }
        values
    }
}

/// Transforms each whole block of V vectors of `count` numbers; returns how many numbers that were. `to` may be `from`.
#[inline(always)]
unsafe fn vectors<L: Lanes, const V: usize>(from: *const f32, to: *mut f32, count: usize, factor: f32) -> usize {
    unsafe {
        let length = V * LANES;
        let whole = count / length * length;
        let mut start = 0;
        while start < whole {
            let values = transformed::<L, V>(from.add(start), factor);
            for v in 0..V {
                L::store(values[v], to.add(start + v * LANES));
            }
            start += length;
        }
        whole
    }
}

/// Transforms each whole block of N numbers, fewer than a vector; returns how many numbers that were.
#[inline(always)]
fn numbers<const N: usize>(x: &mut [f32], factor: f32) -> usize {
    let whole = x.len() / N * N;
    for block in x[..whole].chunks_exact_mut(N) {
        let mut half = 1;
        while half < N {
            let mut before = [0.0; N];
            before.copy_from_slice(block);
            for i in 0..N {
                let other = before[i ^ half];
                block[i] = if i & half == 0 { before[i] + other } else { other - before[i] };
            }
            half *= 2;
        }
        for number in block.iter_mut() {
            *number *= factor;
        }
    }
    whole
}

/// See [`crate::Kernels::hadamard`].
#[inline(always)]
pub(crate) unsafe fn hadamard<L: Lanes>(x: &mut [f32]) {
    unsafe {
        let start = x.as_mut_ptr();
        transform::<L>(start, start, x.len());
    }
}

/// The transform of `count` numbers. `to` may be `from`.
#[inline(always)]
pub(crate) unsafe fn transform<L: Lanes>(from: *const f32, to: *mut f32, count: usize) {
    unsafe {
        let mut done = vectors::<L, BLOCK_VECTORS>(from, to, count, BLOCK_FACTOR);
        done += vectors::<L, 4>(from.add(done), to.add(done), count - done, 0.125);
        done += vectors::<L, 2>(from.add(done), to.add(done), count - done, 0.25 * FRAC_1_SQRT_2);
        done += vectors::<L, 1>(from.add(done), to.add(done), count - done, 0.25);
        std::ptr::copy(from.add(done), to.add(done), count - done);
        let rest = std::slice::from_raw_parts_mut(to.add(done), count - done);
        let mut done = numbers::<8>(rest, 0.5 * FRAC_1_SQRT_2);
        done += numbers::<4>(&mut rest[done..], 0.5);
        numbers::<2>(&mut rest[done..], FRAC_1_SQRT_2);
    }
}
