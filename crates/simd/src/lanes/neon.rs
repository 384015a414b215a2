//! Sixteen lanes as four NEON registers. NEON is part of `AArch64`: nothing needs to be enabled.
//!
//! Written so that old compilers take it too: `neon-check/run.sh` in this crate runs the tests under an emulator.

#![allow(
    clippy::undocumented_unsafe_blocks,
    reason = "each function passes on its own contract: see SAFETY (all functions)"
)]
#![allow(unused_unsafe, reason = "whether an intrinsic without pointers is unsafe depends on the compiler's version")]

use super::{EXP2_DEGREE_3, EXP2_DEGREE_5, EXP2_LOWEST, Lanes, Quads};
use std::arch::aarch64::*;

/// NEON; bf16 products by widening.
#[derive(Clone, Copy)]
pub(crate) struct Neon;

/// Lanes 0 to 3, 4 to 7, 8 to 11, 12 to 15.
type V = [float32x4_t; 4];

// SAFETY (all functions): the trait's contract gives valid pointers.

/// Where a mask is set the first operand, elsewhere the second.
#[inline(always)]
unsafe fn select(mask: uint32x4_t, a: float32x4_t, b: float32x4_t) -> float32x4_t {
    unsafe { vbslq_f32(mask, a, b) }
}

#[inline(always)]
unsafe fn exp2_quarter<const ROUGH: bool>(x: float32x4_t) -> float32x4_t {
    unsafe {
        let lowest = vdupq_n_f32(EXP2_LOWEST);
        // "Not below" keeps NaN.
        let below = vcltq_f32(x, lowest);
        let x = select(below, lowest, x);
        let floor = vrndmq_f32(x);
        let f = vsubq_f32(x, floor);
        let one = vdupq_n_f32(1.0);
        let poly = if ROUGH {
            let [c1, c2, c3] = EXP2_DEGREE_3;
            let p = vfmaq_f32(vdupq_n_f32(c2), vdupq_n_f32(c3), f);
            let p = vfmaq_f32(vdupq_n_f32(c1), p, f);
            vfmaq_f32(one, p, f)
        } else {
            let [c1, c2, c3, c4, c5] = EXP2_DEGREE_5;
            let p = vfmaq_f32(vdupq_n_f32(c4), vdupq_n_f32(c5), f);
            let p = vfmaq_f32(vdupq_n_f32(c3), p, f);
            let p = vfmaq_f32(vdupq_n_f32(c2), p, f);
            let p = vfmaq_f32(vdupq_n_f32(c1), p, f);
            vfmaq_f32(one, p, f)
        };
        let exponent = vshlq_n_s32::<23>(vaddq_s32(vcvtq_s32_f32(floor), vdupq_n_s32(127)));
        select(below, vdupq_n_f32(0.0), vmulq_f32(poly, vreinterpretq_f32_s32(exponent)))
    }
}

#[inline(always)]
unsafe fn narrow_quarter(x: float32x4_t) -> uint16x4_t {
    unsafe {
        let bits = vreinterpretq_u32_f32(x);
        let even = vandq_u32(vshrq_n_u32::<16>(bits), vdupq_n_u32(1));
        let rounded = vaddq_u32(bits, vaddq_u32(even, vdupq_n_u32(0x7fff)));
        let quiet = vorrq_u32(bits, vdupq_n_u32(0x0040_0000));
        vshrn_n_u32::<16>(vbslq_u32(vceqq_f32(x, x), rounded, quiet))
    }
}

#[inline(always)]
unsafe fn low_bf16(x: uint32x4_t) -> float32x4_t {
    unsafe { vreinterpretq_f32_u32(vshlq_n_u32::<16>(x)) }
}

#[inline(always)]
unsafe fn high_bf16(x: uint32x4_t) -> float32x4_t {
    unsafe { vreinterpretq_f32_u32(vandq_u32(x, vdupq_n_u32(0xffff_0000))) }
}

/// Applies an intrinsic to each quarter.
macro_rules! quarters {
    ($f:path, $($x:expr),+) => {
        [$f($($x[0]),+), $f($($x[1]),+), $f($($x[2]),+), $f($($x[3]),+)]
    };
}

impl Lanes for Neon {
    type F = V;
    type Pairs = [uint32x4_t; 4];
    const ROWS: usize = 6;
    const PANELS: usize = 1;

    #[inline(always)]
    unsafe fn zero() -> V {
        unsafe { [vdupq_n_f32(0.0); 4] }
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> V {
        unsafe { [vdupq_n_f32(x); 4] }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> V {
        unsafe { [vld1q_f32(from), vld1q_f32(from.add(4)), vld1q_f32(from.add(8)), vld1q_f32(from.add(12))] }
    }
    #[inline(always)]
    unsafe fn store(x: V, to: *mut f32) {
        unsafe {
            vst1q_f32(to, x[0]);
            vst1q_f32(to.add(4), x[1]);
            vst1q_f32(to.add(8), x[2]);
            vst1q_f32(to.add(12), x[3]);
        }
    }
    #[inline(always)]
    unsafe fn add(a: V, b: V) -> V {
        unsafe { quarters!(vaddq_f32, a, b) }
    }
    #[inline(always)]
    unsafe fn sub(a: V, b: V) -> V {
        unsafe { quarters!(vsubq_f32, a, b) }
    }
    #[inline(always)]
    unsafe fn mul(a: V, b: V) -> V {
        unsafe { quarters!(vmulq_f32, a, b) }
    }
    #[inline(always)]
    unsafe fn div(a: V, b: V) -> V {
        unsafe { quarters!(vdivq_f32, a, b) }
    }
    #[inline(always)]
    unsafe fn max(a: V, b: V) -> V {
        // Not `fmax`, which passes NaN on from either side: the other levels take b where they do not compare.
        unsafe { quarters!(select, quarters!(vcgtq_f32, a, b), a, b) }
    }
    #[inline(always)]
    unsafe fn min(a: V, b: V) -> V {
        unsafe { quarters!(select, quarters!(vcltq_f32, a, b), a, b) }
    }
    #[inline(always)]
    unsafe fn fma(a: V, b: V, c: V) -> V {
        unsafe { quarters!(vfmaq_f32, c, a, b) }
    }
    #[inline(always)]
    unsafe fn sum(x: V) -> f32 {
        unsafe { vaddvq_f32(vaddq_f32(vaddq_f32(x[0], x[2]), vaddq_f32(x[1], x[3]))) }
    }
    #[inline(always)]
    unsafe fn largest(x: V) -> f32 {
        unsafe { vmaxnmvq_f32(vmaxnmq_f32(vmaxnmq_f32(x[0], x[1]), vmaxnmq_f32(x[2], x[3]))) }
    }
    #[inline(always)]
    unsafe fn exp2<const ROUGH: bool>(x: V) -> V {
        unsafe { quarters!(exp2_quarter::<ROUGH>, x) }
    }
    #[inline(always)]
    unsafe fn keep(x: V, from: u32, to: u32) -> V {
        unsafe {
            let numbers = [0_u32, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
            let (from, to) = (vdupq_n_u32(from), vdupq_n_u32(to));
            let dropped = vdupq_n_f32(f32::NEG_INFINITY);
            let mut kept = x;
            for quarter in 0..4 {
                let number = vld1q_u32(numbers.as_ptr().add(quarter * 4));
                let inside = vandq_u32(vcgeq_u32(number, from), vcltq_u32(number, to));
                kept[quarter] = select(inside, x[quarter], dropped);
            }
            kept
        }
    }
    #[inline(always)]
    unsafe fn larger(best: V, mark: V, candidate: V, candidate_mark: V) -> (V, V) {
        unsafe {
            let larger = quarters!(vcgtq_f32, candidate, best);
            (quarters!(select, larger, candidate, best), quarters!(select, larger, candidate_mark, mark))
        }
    }
    #[inline(always)]
    unsafe fn at_least(x: V, threshold: V) -> u16 {
        unsafe {
            let bits = [1_u32, 2, 4, 8];
            let bits = vld1q_u32(bits.as_ptr());
            let masks = quarters!(vcgeq_f32, x, threshold);
            let low = vorrq_u32(vandq_u32(masks[0], bits), vandq_u32(masks[1], vshlq_n_u32::<4>(bits)));
            let high =
                vorrq_u32(vandq_u32(masks[2], vshlq_n_u32::<8>(bits)), vandq_u32(masks[3], vshlq_n_u32::<12>(bits)));
            vaddvq_u32(vorrq_u32(low, high)) as u16
        }
    }
    #[inline(always)]
    unsafe fn narrow_to_codes(x: V, to: *mut u8) {
        unsafe {
            let low = vcombine_s16(vqmovn_s32(vcvtnq_s32_f32(x[0])), vqmovn_s32(vcvtnq_s32_f32(x[1])));
            let high = vcombine_s16(vqmovn_s32(vcvtnq_s32_f32(x[2])), vqmovn_s32(vcvtnq_s32_f32(x[3])));
            let bytes = vreinterpretq_u8_s8(vcombine_s8(vqmovn_s16(low), vqmovn_s16(high)));
            vst1q_u8(to, veorq_u8(bytes, vdupq_n_u8(128)));
        }
    }
    #[inline(always)]
    unsafe fn narrow_to_bytes(x: V, to: *mut i8) {
        unsafe {
            let low = vcombine_s16(vqmovn_s32(vcvtnq_s32_f32(x[0])), vqmovn_s32(vcvtnq_s32_f32(x[1])));
            let high = vcombine_s16(vqmovn_s32(vcvtnq_s32_f32(x[2])), vqmovn_s32(vcvtnq_s32_f32(x[3])));
            vst1q_s8(to, vcombine_s8(vqmovn_s16(low), vqmovn_s16(high)));
        }
    }
    #[inline(always)]
    unsafe fn narrow(x: V, to: *mut u16) {
        unsafe {
            vst1q_u16(to, vcombine_u16(narrow_quarter(x[0]), narrow_quarter(x[1])));
            vst1q_u16(to.add(8), vcombine_u16(narrow_quarter(x[2]), narrow_quarter(x[3])));
        }
    }
    #[inline(always)]
    unsafe fn widen(from: *const u16) -> V {
        unsafe {
            let (low, high) = (vld1q_u16(from), vld1q_u16(from.add(8)));
            [
                vreinterpretq_f32_u32(vshll_n_u16::<16>(vget_low_u16(low))),
                vreinterpretq_f32_u32(vshll_n_u16::<16>(vget_high_u16(low))),
                vreinterpretq_f32_u32(vshll_n_u16::<16>(vget_low_u16(high))),
                vreinterpretq_f32_u32(vshll_n_u16::<16>(vget_high_u16(high))),
            ]
        }
    }
    #[inline(always)]
    unsafe fn narrow_to_weights(x: V, to: *mut u8) {
        unsafe {
            let low = vcombine_s16(vqmovn_s32(vcvtnq_s32_f32(x[0])), vqmovn_s32(vcvtnq_s32_f32(x[1])));
            let high = vcombine_s16(vqmovn_s32(vcvtnq_s32_f32(x[2])), vqmovn_s32(vcvtnq_s32_f32(x[3])));
            vst1q_u8(to, vcombine_u8(vqmovun_s16(low), vqmovun_s16(high)));
        }
    }
    #[inline(always)]
    unsafe fn widen_first(from: *const u16) -> V {
        unsafe {
            let pairs = Self::load_pairs(from);
            quarters!(low_bf16, pairs)
        }
    }
    #[inline(always)]
    unsafe fn widen_second(from: *const u16) -> V {
        unsafe {
            let pairs = Self::load_pairs(from);
            quarters!(high_bf16, pairs)
        }
    }
    #[inline(always)]
    unsafe fn load_pairs(from: *const u16) -> [uint32x4_t; 4] {
        unsafe {
            [
                vreinterpretq_u32_u16(vld1q_u16(from)),
                vreinterpretq_u32_u16(vld1q_u16(from.add(8))),
                vreinterpretq_u32_u16(vld1q_u16(from.add(16))),
                vreinterpretq_u32_u16(vld1q_u16(from.add(24))),
            ]
        }
    }
    #[inline(always)]
    unsafe fn splat_pair(from: *const u16) -> [uint32x4_t; 4] {
        unsafe { [vdupq_n_u32(from.cast::<u32>().read_unaligned()); 4] }
    }
    #[inline(always)]
    unsafe fn dot_pairs(acc: V, a: [uint32x4_t; 4], b: [uint32x4_t; 4]) -> V {
        unsafe {
            let first = quarters!(vfmaq_f32, acc, quarters!(low_bf16, a), quarters!(low_bf16, b));
            quarters!(vfmaq_f32, first, quarters!(high_bf16, a), quarters!(high_bf16, b))
        }
    }
}

/// A signed byte times a signed byte fits 16 bits, so codes lose their 128 before they are multiplied; what the sums
/// lack, 128 times the sum of the query, they start with.
impl Quads<Neon> for Neon {
    /// Of two keys each: two sums, which belong together.
    type Sums = [int32x4_t; 8];
    /// Of four keys each.
    type Keys = [int8x16_t; 4];
    /// Twice the same four numbers.
    type Query = int8x8_t;
    const ROWS: usize = 2;
    const TILES: usize = 1;
    const TILES_OF_ONE: usize = 1;
    const PRODUCT_ROWS: usize = 2;
    const PRODUCT_PANELS: usize = 1;

    #[inline(always)]
    unsafe fn start(query: *const i8, quads: usize) -> [int32x4_t; 8] {
        unsafe {
            let mut sum = 0_i32;
            for i in 0..quads * 4 {
                sum += i32::from(*query.add(i));
            }
            let lacking = [sum.wrapping_mul(128), 0, sum.wrapping_mul(128), 0];
            [vld1q_s32(lacking.as_ptr()); 8]
        }
    }
    #[inline(always)]
    unsafe fn started(_: i32) -> [int32x4_t; 8] {
        // Codes lose their 128 before they are multiplied.
        unsafe { [vdupq_n_s32(0); 8] }
    }
    #[inline(always)]
    unsafe fn keys(from: *const u8) -> [int8x16_t; 4] {
        unsafe {
            let offset = vdupq_n_u8(128);
            [
                vreinterpretq_s8_u8(veorq_u8(vld1q_u8(from), offset)),
                vreinterpretq_s8_u8(veorq_u8(vld1q_u8(from.add(16)), offset)),
                vreinterpretq_s8_u8(veorq_u8(vld1q_u8(from.add(32)), offset)),
                vreinterpretq_s8_u8(veorq_u8(vld1q_u8(from.add(48)), offset)),
            ]
        }
    }
    #[inline(always)]
    unsafe fn two_bits<const SHIFT: u32>(from: *const u8) -> [int8x16_t; 4] {
        unsafe {
            // Shifts to the left by a negative number are shifts to the right.
            let (by, two, offset) = (vdupq_n_s8(-(SHIFT as i8)), vdupq_n_u8(3), vdupq_n_u8(128));
            let mut keys = [vreinterpretq_s8_u8(offset); 4];
            for four in 0..4 {
                let codes = vandq_u8(vshlq_u8(vld1q_u8(from.add(16 * four)), by), two);
                keys[four] = vreinterpretq_s8_u8(veorq_u8(codes, offset));
            }
            keys
        }
    }
    #[inline(always)]
    unsafe fn query(from: *const i8) -> int8x8_t {
        unsafe { vreinterpret_s8_s32(vdup_n_s32(from.cast::<i32>().read_unaligned())) }
    }
    #[inline(always)]
    unsafe fn add(sums: [int32x4_t; 8], keys: [int8x16_t; 4], query: int8x8_t) -> [int32x4_t; 8] {
        unsafe {
            let mut sums = sums;
            for four in 0..4 {
                let low = vmull_s8(vget_low_s8(keys[four]), query);
                let high = vmull_s8(vget_high_s8(keys[four]), query);
                sums[2 * four] = vpadalq_s16(sums[2 * four], low);
                sums[2 * four + 1] = vpadalq_s16(sums[2 * four + 1], high);
            }
            sums
        }
    }
    #[inline(always)]
    unsafe fn values(from: *const i8) -> [int8x16_t; 4] {
        unsafe { [vld1q_s8(from), vld1q_s8(from.add(16)), vld1q_s8(from.add(32)), vld1q_s8(from.add(48))] }
    }
    #[inline(always)]
    unsafe fn weights(from: *const u8) -> int8x8_t {
        unsafe {
            // Four numbers of 16 bits: those of weights do not fit a signed byte.
            let quad = vreinterpret_u8_u32(vdup_n_u32(from.cast::<u32>().read_unaligned()));
            vreinterpret_s8_u16(vget_low_u16(vmovl_u8(quad)))
        }
    }
    #[inline(always)]
    unsafe fn add_weighted(sums: [int32x4_t; 8], values: [int8x16_t; 4], weights: int8x8_t) -> [int32x4_t; 8] {
        unsafe {
            let weights = vreinterpret_s16_s8(weights);
            let mut sums = sums;
            for four in 0..4 {
                for half in 0..2 {
                    let two = if half == 0 { vget_low_s8(values[four]) } else { vget_high_s8(values[four]) };
                    let two = vmovl_s8(two);
                    let first = vmull_s16(vget_low_s16(two), weights);
                    let second = vmull_s16(vget_high_s16(two), weights);
                    sums[2 * four + half] = vaddq_s32(sums[2 * four + half], vpaddq_s32(first, second));
                }
            }
            sums
        }
    }
    #[inline(always)]
    unsafe fn join(a: [int32x4_t; 8], b: [int32x4_t; 8]) -> [int32x4_t; 8] {
        let mut sums = a;
        for i in 0..8 {
            sums[i] = unsafe { vaddq_s32(a[i], b[i]) };
        }
        sums
    }
    #[inline(always)]
    unsafe fn to_f32(sums: [int32x4_t; 8]) -> V {
        unsafe {
            [
                vcvtq_f32_s32(vpaddq_s32(sums[0], sums[1])),
                vcvtq_f32_s32(vpaddq_s32(sums[2], sums[3])),
                vcvtq_f32_s32(vpaddq_s32(sums[4], sums[5])),
                vcvtq_f32_s32(vpaddq_s32(sums[6], sums[7])),
            ]
        }
    }
}
