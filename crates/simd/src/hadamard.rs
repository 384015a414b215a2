//! The Walsh-Hadamard transform of short blocks: it spreads what is large in few places over a whole block.

use std::f32::consts::FRAC_1_SQRT_2;

/// Numbers that are transformed together.
pub const HADAMARD_BLOCK: usize = 128;

/// Transforms each whole block of N numbers; returns how many numbers that were.
#[inline(always)]
fn blocks<const N: usize>(x: &mut [f32], factor: f32) -> usize {
    let (blocks, _) = x.as_chunks_mut::<N>();
    for block in blocks.iter_mut() {
        let mut values = *block;
        let mut half = 1;
        while half < N {
            let before = values;
            for i in 0..N {
                let other = before[i ^ half];
                values[i] = if i & half == 0 { before[i] + other } else { other - before[i] };
            }
            half *= 2;
        }
        for i in 0..N {
            block[i] = values[i] * factor;
        }
    }
    blocks.len() * N
}

/// See [`crate::Kernels::hadamard`].
#[inline(always)]
pub(crate) fn hadamard(x: &mut [f32]) {
    let mut done = blocks::<HADAMARD_BLOCK>(x, 0.125 * FRAC_1_SQRT_2);
    done += blocks::<64>(&mut x[done..], 0.125);
    done += blocks::<32>(&mut x[done..], 0.25 * FRAC_1_SQRT_2);
    done += blocks::<16>(&mut x[done..], 0.25);
    done += blocks::<8>(&mut x[done..], 0.5 * FRAC_1_SQRT_2);
    done += blocks::<4>(&mut x[done..], 0.5);
    blocks::<2>(&mut x[done..], FRAC_1_SQRT_2);
}
