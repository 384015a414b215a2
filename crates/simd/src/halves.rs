//! Matrix products in half precision: many rows of f16 times panels of bf16, `C[m][16 x panels] (+)= A x B`.
//!
//! CPUs that multiply f16 numbers (eleven bits of mantissa) do so twice as fast as f32 ones. A number of bf16 has eight bits,
//! so a weight fits an f16 exactly once it is scaled into its range; a row of f32 numbers is rounded, with a scale for each
//! [`HALF_GROUP`] of them, which errs less than rounding it to bf16 would. Sums of f16 would be too coarse, so they end after
//! 32 products and go on in f32.
//!
//! Ranges, so that no sum overflows: numbers of a row are at most 2^6, those of a panel below 2^4, a run has 2^5 products.

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512_fp16;

use crate::LANES;
use crate::gemm_i8::LEAST_MAGNITUDE;
use half::{bf16, f16};

/// Numbers of a row that share a scale; at its end they can be fewer.
pub const HALF_GROUP: usize = 128;

/// A row's scaled numbers are below two to this, before they are rounded.
const ROW_EXPONENT: u32 = 6;

/// What [`crate::Kernels::gemm_halves`] works on; see there.
pub(crate) struct HalfProduct {
    pub m: usize,
    pub k: usize,
    pub a: *const u16, // [m][lda], bits of f16
    pub lda: usize,
    pub a_scales: *const f32, // [m][groups_stride]
    pub groups_stride: usize,
    pub b: *const u16, // [panels][panel_stride], of each [k/2][16][2], bits of bf16
    pub panel_stride: usize,
    pub panels: usize,
    pub c: *mut f32, // [m][ldc]
    pub ldc: usize,
    pub accumulate: bool,
}

/// The scale of a group whose largest magnitude this is, a power of two, and its inverse. Zero for both where the
/// group counts as zero, NaN and zero where a number is not finite.
pub(crate) fn group_scale(largest: f32) -> (f32, f32) {
    if !largest.is_finite() {
        (f32::NAN, 0.0)
    } else if largest < LEAST_MAGNITUDE {
        (0.0, 0.0)
    } else {
        let biased = largest.to_bits() >> 23; // at least 27, at most 254
        let power = |exponent: u32| f32::from_bits(exponent << 23);
        // 2^(e - 5) and 2^(5 - e), where e = biased - 127.
        let shift = ROW_EXPONENT - 1;
        (power(biased - shift), power(254 + shift - biased))
    }
}

/// See [`crate::Kernels::to_halves`]: the reference of it.
///
/// # Safety
/// None; the table's entries share one type.
pub(crate) unsafe fn to_halves_plain(x: &[f32], halves: &mut [u16], scales: &mut [f32]) {
    for ((x, halves), scale) in x.chunks(HALF_GROUP).zip(halves.chunks_mut(HALF_GROUP)).zip(scales) {
        // Magnitudes compare as whole numbers do; NaN is larger than all others.
        let largest = x.iter().map(|x| x.abs().to_bits()).fold(0, u32::max);
        let (group, inverse) = group_scale(f32::from_bits(largest));
        *scale = group;
        for (half, x) in halves.iter_mut().zip(x) {
            *half = if inverse == 0.0 { 0 } else { f16::from_f32(x * inverse).to_bits() };
        }
    }
}

/// See [`crate::Kernels::gemm_halves`]: the same product with exact weights and sums in f32, for levels without
/// arithmetic of half precision, which have faster products and no use for this one.
///
/// # Safety
/// As there.
pub(crate) unsafe fn gemm_halves_plain(x: &HalfProduct) {
    for row in 0..x.m {
        for panel in 0..x.panels {
            for lane in 0..LANES {
                let mut sum = 0.0;
                for i in 0..x.k {
                    // SAFETY: inside the shapes beside the pointers, the caller's promise.
                    let (a, scale, b) = unsafe {
                        (
                            *x.a.add(row * x.lda + i),
                            *x.a_scales.add(row * x.groups_stride + i / HALF_GROUP),
                            *x.b.add(panel * x.panel_stride + (i / 2 * LANES + lane) * 2 + i % 2),
                        )
                    };
                    sum += f16::from_bits(a).to_f32() * scale * bf16::from_bits(b).to_f32();
                }
                // SAFETY: as above.
                unsafe {
                    let to = x.c.add(row * x.ldc + panel * LANES + lane);
                    *to = if x.accumulate { *to + sum } else { sum };
                }
            }
        }
    }
}
