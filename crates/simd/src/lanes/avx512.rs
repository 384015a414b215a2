//! Sixteen lanes as one AVX-512 register.

#![allow(
    clippy::undocumented_unsafe_blocks,
    reason = "each function passes on its own contract: see SAFETY (all functions)"
)]

use super::{EXP2_DEGREE_3, EXP2_DEGREE_5, EXP2_LOWEST, Lanes, Quads};
use std::arch::x86_64::*;

/// AVX-512 F, BW, DQ, VL; bf16 products by widening.
#[derive(Clone, Copy)]
pub(crate) struct Avx512;

/// The same with `vpdpbusd`.
pub(crate) struct Avx512Vnni;

/// AVX-512 F, BW, DQ, VL with `vdpbf16ps` and `vcvtneps2bf16`.
#[derive(Clone, Copy)]
pub(crate) struct Avx512Bf16;

// SAFETY (both impls below): the trait's contract gives the CPU features and valid pointers.
macro_rules! shared {
    () => {
        type F = __m512;
        type Pairs = __m512i;
        const ROWS: usize = 8;
        const PANELS: usize = 3;

        #[inline(always)]
        unsafe fn zero() -> __m512 {
            unsafe { _mm512_setzero_ps() }
        }
        #[inline(always)]
        unsafe fn splat(x: f32) -> __m512 {
            unsafe { _mm512_set1_ps(x) }
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> __m512 {
            unsafe { _mm512_loadu_ps(from) }
        }
        #[inline(always)]
        unsafe fn store(x: __m512, to: *mut f32) {
            unsafe { _mm512_storeu_ps(to, x) }
        }
        #[inline(always)]
        unsafe fn add(a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_add_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn sub(a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_sub_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn mul(a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_mul_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn div(a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_div_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn max(a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_max_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn min(a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_min_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
            unsafe { _mm512_fmadd_ps(a, b, c) }
        }
        #[inline(always)]
        unsafe fn butterfly<const HALF: usize>(x: __m512) -> __m512 {
            unsafe {
                let (other, higher) = match HALF {
                    1 => (_mm512_permute_ps::<0b10_11_00_01>(x), 0xaaaa),
                    2 => (_mm512_permute_ps::<0b01_00_11_10>(x), 0xcccc),
                    4 => (_mm512_shuffle_f32x4::<0b10_11_00_01>(x, x), 0xf0f0),
                    _ => (_mm512_shuffle_f32x4::<0b01_00_11_10>(x, x), 0xff00),
                };
                // Other plus or minus x, exactly as an addition or a subtraction rounds.
                let sign = _mm512_mask_mov_ps(_mm512_set1_ps(1.0), higher, _mm512_set1_ps(-1.0));
                _mm512_fmadd_ps(x, sign, other)
            }
        }
        #[inline(always)]
        unsafe fn sum(x: __m512) -> f32 {
            unsafe { _mm512_reduce_add_ps(x) }
        }
        #[inline(always)]
        unsafe fn sum_four(x: [__m512; 4], to: *mut f32) {
            unsafe {
                let first = _mm512_add_ps(_mm512_unpacklo_ps(x[0], x[1]), _mm512_unpackhi_ps(x[0], x[1]));
                let second = _mm512_add_ps(_mm512_unpacklo_ps(x[2], x[3]), _mm512_unpackhi_ps(x[2], x[3]));
                // In each quarter of the register a part of all four sums, in order.
                let quarters = _mm512_add_ps(
                    _mm512_shuffle_ps::<0b01_00_01_00>(first, second),
                    _mm512_shuffle_ps::<0b11_10_11_10>(first, second),
                );
                let halves = _mm256_add_ps(_mm512_castps512_ps256(quarters), _mm512_extractf32x8_ps::<1>(quarters));
                let all = _mm_add_ps(_mm256_castps256_ps128(halves), _mm256_extractf128_ps::<1>(halves));
                _mm_storeu_ps(to, all);
            }
        }
        #[inline(always)]
        unsafe fn largest(x: __m512) -> f32 {
            unsafe { _mm512_reduce_max_ps(x) }
        }
        #[inline(always)]
        unsafe fn exp2<const ROUGH: bool>(x: __m512) -> __m512 {
            unsafe {
                let normal = _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(x, _mm512_set1_ps(EXP2_LOWEST));
                // x - floor(x); vscalef takes the floor of its second operand itself.
                let f = _mm512_reduce_ps::<0x09>(x);
                let one = _mm512_set1_ps(1.0);
                let poly = if ROUGH {
                    let [c1, c2, c3] = EXP2_DEGREE_3.map(|c| _mm512_set1_ps(c));
                    let p = _mm512_fmadd_ps(c3, f, c2);
                    let p = _mm512_fmadd_ps(p, f, c1);
                    _mm512_fmadd_ps(p, f, one)
                } else {
                    let [c1, c2, c3, c4, c5] = EXP2_DEGREE_5.map(|c| _mm512_set1_ps(c));
                    let p = _mm512_fmadd_ps(c5, f, c4);
                    let p = _mm512_fmadd_ps(p, f, c3);
                    let p = _mm512_fmadd_ps(p, f, c2);
                    let p = _mm512_fmadd_ps(p, f, c1);
                    _mm512_fmadd_ps(p, f, one)
                };
                _mm512_maskz_scalef_ps(normal, poly, x)
            }
        }
        #[inline(always)]
        unsafe fn keep(x: __m512, from: u32, to: u32) -> __m512 {
            let below = |n: u32| if n >= 16 { 0xffff_u16 } else { (1_u16 << n) - 1 };
            unsafe { _mm512_mask_mov_ps(_mm512_set1_ps(f32::NEG_INFINITY), below(to) & !below(from), x) }
        }
        #[inline(always)]
        unsafe fn larger(best: __m512, mark: __m512, candidate: __m512, candidate_mark: __m512) -> (__m512, __m512) {
            unsafe {
                let larger = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(candidate, best);
                (_mm512_mask_mov_ps(best, larger, candidate), _mm512_mask_mov_ps(mark, larger, candidate_mark))
            }
        }
        #[inline(always)]
        unsafe fn at_least(x: __m512, threshold: __m512) -> u16 {
            unsafe { _mm512_cmp_ps_mask::<_CMP_GE_OQ>(x, threshold) }
        }
        #[inline(always)]
        unsafe fn narrow_to_codes(x: __m512, to: *mut u8) {
            unsafe {
                let bytes = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(x));
                _mm_storeu_si128(to.cast(), _mm_xor_si128(bytes, _mm_set1_epi8(-128)));
            }
        }
        #[inline(always)]
        unsafe fn narrow_to_bytes(x: __m512, to: *mut i8) {
            unsafe { _mm_storeu_si128(to.cast(), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(x))) }
        }
        #[inline(always)]
        unsafe fn widen(from: *const u16) -> __m512 {
            unsafe {
                let half = _mm256_loadu_si256(from.cast());
                _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(half)))
            }
        }
        #[inline(always)]
        unsafe fn widen_codes<const NUMBER: usize, const SIGNED: bool>(from: *const i8) -> __m512 {
            unsafe {
                let codes = _mm512_loadu_si512(from.cast());
                let flipped = if SIGNED { codes } else { _mm512_xor_si512(codes, _mm512_set1_epi8(-128)) };
                let highest = _mm512_sll_epi32(flipped, _mm_cvtsi32_si128(24 - 8 * NUMBER as i32));
                _mm512_cvtepi32_ps(_mm512_srai_epi32::<24>(highest))
            }
        }
        #[inline(always)]
        unsafe fn narrow_to_weights(x: __m512, to: *mut u8) {
            unsafe { _mm_storeu_si128(to.cast(), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(x))) }
        }
        #[inline(always)]
        unsafe fn from_sums(from: *const i32, start: i32) -> __m512 {
            unsafe { _mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_loadu_si512(from.cast()), _mm512_set1_epi32(start))) }
        }
        #[inline(always)]
        unsafe fn copy_line(from: *const u8, to: *mut u8) {
            unsafe { _mm512_storeu_si512(to.cast(), _mm512_loadu_si512(from.cast())) }
        }
        #[inline(always)]
        unsafe fn widen_first(from: *const u16) -> __m512 {
            unsafe { _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_loadu_si512(from.cast()))) }
        }
        #[inline(always)]
        unsafe fn widen_second(from: *const u16) -> __m512 {
            unsafe {
                let odd = _mm512_set1_epi32(0xffff_0000_u32 as i32);
                _mm512_castsi512_ps(_mm512_and_si512(_mm512_loadu_si512(from.cast()), odd))
            }
        }
        #[inline(always)]
        unsafe fn load_pairs(from: *const u16) -> __m512i {
            unsafe { _mm512_loadu_si512(from.cast()) }
        }
        #[inline(always)]
        unsafe fn splat_pair(from: *const u16) -> __m512i {
            unsafe { _mm512_set1_epi32(from.cast::<i32>().read_unaligned()) }
        }
    };
}

impl Lanes for Avx512 {
    shared!();

    #[inline(always)]
    unsafe fn narrow(x: __m512, to: *mut u16) {
        // Adds half of the lowest kept bit, less one on even: round to nearest even. NaN keeps a quiet bit.
        unsafe {
            let bits = _mm512_castps_si512(x);
            let even = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
            let rounded = _mm512_add_epi32(bits, _mm512_add_epi32(even, _mm512_set1_epi32(0x7fff)));
            let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(x, x);
            let quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x0040_0000));
            let high = _mm512_srli_epi32::<16>(_mm512_mask_mov_epi32(rounded, nan, quiet));
            _mm256_storeu_si256(to.cast(), _mm512_cvtepi32_epi16(high));
        }
    }
    #[inline(always)]
    unsafe fn dot_pairs(acc: __m512, a: __m512i, b: __m512i) -> __m512 {
        unsafe {
            let odd = _mm512_set1_epi32(0xffff_0000_u32 as i32);
            let low = |x| _mm512_castsi512_ps(_mm512_slli_epi32::<16>(x));
            let high = |x| _mm512_castsi512_ps(_mm512_and_si512(x, odd));
            _mm512_fmadd_ps(high(a), high(b), _mm512_fmadd_ps(low(a), low(b), acc))
        }
    }
}

impl Lanes for Avx512Bf16 {
    shared!();

    #[inline(always)]
    unsafe fn narrow(x: __m512, to: *mut u16) {
        unsafe {
            let half: __m256i = std::mem::transmute(_mm512_cvtneps_pbh(x));
            _mm256_storeu_si256(to.cast(), half);
        }
    }
    #[inline(always)]
    unsafe fn narrow_two(first: __m512, second: __m512, to: *mut u16) {
        unsafe {
            // The second operand is what comes first.
            let both: __m512i = std::mem::transmute(_mm512_cvtne2ps_pbh(second, first));
            _mm512_storeu_si512(to.cast(), both);
        }
    }
    #[inline(always)]
    unsafe fn narrow_pairs(first: __m512, second: __m512, to: *mut u16) {
        unsafe {
            // Number i of either half goes to 2 i and 2 i + 1.
            let interleaved = _mm512_set_epi16(
                31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2,
                17, 1, 16, 0,
            );
            let both: __m512i = std::mem::transmute(_mm512_cvtne2ps_pbh(second, first));
            _mm512_storeu_si512(to.cast(), _mm512_permutexvar_epi16(interleaved, both));
        }
    }
    #[inline(always)]
    unsafe fn dot_pairs(acc: __m512, a: __m512i, b: __m512i) -> __m512 {
        unsafe {
            _mm512_dpbf16_ps(
                acc,
                std::mem::transmute::<__m512i, __m512bh>(a),
                std::mem::transmute::<__m512i, __m512bh>(b),
            )
        }
    }
}

/// Even and odd numbers are widened to 16 bits, see the AVX2 level.
impl Quads<Avx512> for Avx512 {
    type Sums = __m512i;
    /// Even, odd.
    type Keys = (__m512i, __m512i);
    /// Even, odd.
    type Query = (__m512i, __m512i);
    const ROWS: usize = 4;
    const TILES: usize = 3;
    const PRODUCT_ROWS: usize = 6;
    const PRODUCT_PANELS: usize = 3;

    #[inline(always)]
    unsafe fn start(_: *const i8, _: usize) -> __m512i {
        unsafe { _mm512_setzero_si512() }
    }
    #[inline(always)]
    unsafe fn started(start: i32) -> __m512i {
        unsafe { _mm512_set1_epi32(start) }
    }
    #[inline(always)]
    unsafe fn keys(from: *const u8) -> (__m512i, __m512i) {
        unsafe {
            let keys = _mm512_loadu_si512(from.cast());
            (_mm512_and_si512(keys, _mm512_set1_epi16(0x00ff)), _mm512_srli_epi16::<8>(keys))
        }
    }
    #[inline(always)]
    unsafe fn two_bits<const SHIFT: u32>(from: *const u8) -> (__m512i, __m512i) {
        unsafe {
            let keys = _mm512_srli_epi16::<SHIFT>(_mm512_loadu_si512(from.cast()));
            let two = _mm512_set1_epi16(3);
            (_mm512_and_si512(keys, two), _mm512_and_si512(_mm512_srli_epi16::<8>(keys), two))
        }
    }
    #[inline(always)]
    unsafe fn query(from: *const i8) -> (__m512i, __m512i) {
        unsafe {
            let quad = _mm512_set1_epi32(from.cast::<i32>().read_unaligned());
            (_mm512_srai_epi16::<8>(_mm512_slli_epi16::<8>(quad)), _mm512_srai_epi16::<8>(quad))
        }
    }
    #[inline(always)]
    unsafe fn add(sums: __m512i, keys: (__m512i, __m512i), query: (__m512i, __m512i)) -> __m512i {
        unsafe {
            let sums = _mm512_add_epi32(sums, _mm512_madd_epi16(keys.0, query.0));
            _mm512_add_epi32(sums, _mm512_madd_epi16(keys.1, query.1))
        }
    }
    #[inline(always)]
    unsafe fn values(from: *const i8) -> (__m512i, __m512i) {
        unsafe {
            let values = _mm512_loadu_si512(from.cast());
            (_mm512_srai_epi16::<8>(_mm512_slli_epi16::<8>(values)), _mm512_srai_epi16::<8>(values))
        }
    }
    #[inline(always)]
    unsafe fn weights(from: *const u8) -> (__m512i, __m512i) {
        unsafe {
            let quad = _mm512_set1_epi32(from.cast::<i32>().read_unaligned());
            (_mm512_and_si512(quad, _mm512_set1_epi16(0x00ff)), _mm512_srli_epi16::<8>(quad))
        }
    }
    #[inline(always)]
    unsafe fn add_weighted(sums: __m512i, values: (__m512i, __m512i), weights: (__m512i, __m512i)) -> __m512i {
        unsafe { <Self as Quads<Self>>::add(sums, values, weights) }
    }
    #[inline(always)]
    unsafe fn join(a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_add_epi32(a, b) }
    }
    #[inline(always)]
    unsafe fn to_f32(sums: __m512i) -> __m512 {
        unsafe { _mm512_cvtepi32_ps(sums) }
    }
}

impl<L: Lanes<F = __m512>> Quads<L> for Avx512Vnni {
    type Sums = __m512i;
    type Keys = __m512i;
    type Query = __m512i;
    // Not 8: with few quads the thresholds of one register tile should overlap the products of the next.
    const ROWS: usize = 4;
    const TILES: usize = 3;
    const PRODUCT_ROWS: usize = 8;
    const PRODUCT_PANELS: usize = 3;
    const LINE_SUMS: usize = 4;

    #[inline(always)]
    unsafe fn start(_: *const i8, _: usize) -> __m512i {
        unsafe { _mm512_setzero_si512() }
    }
    #[inline(always)]
    unsafe fn started(start: i32) -> __m512i {
        unsafe { _mm512_set1_epi32(start) }
    }
    #[inline(always)]
    unsafe fn keys(from: *const u8) -> __m512i {
        unsafe { _mm512_loadu_si512(from.cast()) }
    }
    #[inline(always)]
    unsafe fn two_bits<const SHIFT: u32>(from: *const u8) -> __m512i {
        unsafe {
            let keys = _mm512_srli_epi16::<SHIFT>(_mm512_loadu_si512(from.cast()));
            _mm512_and_si512(keys, _mm512_set1_epi8(3))
        }
    }
    #[inline(always)]
    unsafe fn query(from: *const i8) -> __m512i {
        unsafe { _mm512_set1_epi32(from.cast::<i32>().read_unaligned()) }
    }
    #[inline(always)]
    unsafe fn add(sums: __m512i, keys: __m512i, query: __m512i) -> __m512i {
        unsafe { _mm512_dpbusd_epi32(sums, keys, query) }
    }
    #[inline(always)]
    unsafe fn values(from: *const i8) -> __m512i {
        unsafe { _mm512_loadu_si512(from.cast()) }
    }
    #[inline(always)]
    unsafe fn weights(from: *const u8) -> __m512i {
        unsafe { _mm512_set1_epi32(from.cast::<i32>().read_unaligned()) }
    }
    #[inline(always)]
    unsafe fn add_weighted(sums: __m512i, values: __m512i, weights: __m512i) -> __m512i {
        // The first operand is the unsigned one.
        unsafe { _mm512_dpbusd_epi32(sums, weights, values) }
    }
    #[inline(always)]
    unsafe fn join(a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_add_epi32(a, b) }
    }
    #[inline(always)]
    unsafe fn to_f32(sums: __m512i) -> __m512 {
        unsafe { _mm512_cvtepi32_ps(sums) }
    }
}
