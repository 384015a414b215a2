//! Sixteen lanes as two AVX2 registers.

#![allow(
    clippy::undocumented_unsafe_blocks,
    reason = "each function passes on its own contract: see SAFETY (all functions)"
)]

use super::{EXP2_DEGREE_3, EXP2_DEGREE_5, EXP2_LOWEST, Lanes, Quads};
use std::arch::x86_64::*;

/// AVX2 and FMA.
#[derive(Clone, Copy)]
pub(crate) struct Avx2;

/// The same with `vpdpbusd`.
pub(crate) struct Avx2Vnni;

/// Low and high eight lanes.
type V = (__m256, __m256);

// SAFETY (all functions): the trait's contract gives the CPU features and valid pointers.
#[inline(always)]
unsafe fn exp2_half<const ROUGH: bool>(x: __m256) -> __m256 {
    unsafe {
        let lowest = _mm256_set1_ps(EXP2_LOWEST);
        let normal = _mm256_cmp_ps::<_CMP_NLT_UQ>(x, lowest);
        let x = _mm256_max_ps(x, lowest);
        let floor = _mm256_floor_ps(x);
        let f = _mm256_sub_ps(x, floor);
        let one = _mm256_set1_ps(1.0);
        let poly = if ROUGH {
            let [c1, c2, c3] = EXP2_DEGREE_3.map(|c| _mm256_set1_ps(c));
            let p = _mm256_fmadd_ps(c3, f, c2);
            let p = _mm256_fmadd_ps(p, f, c1);
            _mm256_fmadd_ps(p, f, one)
        } else {
            let [c1, c2, c3, c4, c5] = EXP2_DEGREE_5.map(|c| _mm256_set1_ps(c));
            let p = _mm256_fmadd_ps(c5, f, c4);
            let p = _mm256_fmadd_ps(p, f, c3);
            let p = _mm256_fmadd_ps(p, f, c2);
            let p = _mm256_fmadd_ps(p, f, c1);
            _mm256_fmadd_ps(p, f, one)
        };
        let exponent = _mm256_slli_epi32::<23>(_mm256_add_epi32(_mm256_cvtps_epi32(floor), _mm256_set1_epi32(127)));
        _mm256_and_ps(_mm256_mul_ps(poly, _mm256_castsi256_ps(exponent)), normal)
    }
}

#[inline(always)]
unsafe fn narrow_half(x: __m256) -> __m256i {
    unsafe {
        let bits = _mm256_castps_si256(x);
        let even = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
        let rounded = _mm256_add_epi32(bits, _mm256_add_epi32(even, _mm256_set1_epi32(0x7fff)));
        let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(x, x));
        let quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x0040_0000));
        _mm256_srli_epi32::<16>(_mm256_blendv_epi8(rounded, quiet, nan))
    }
}

#[inline(always)]
unsafe fn keep_half(x: __m256, first: i32, from: u32, to: u32) -> __m256 {
    unsafe {
        let lane = _mm256_add_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_set1_epi32(first));
        let kept = _mm256_and_si256(
            _mm256_cmpgt_epi32(lane, _mm256_set1_epi32(from.min(16) as i32 - 1)),
            _mm256_cmpgt_epi32(_mm256_set1_epi32(to.min(16) as i32), lane),
        );
        _mm256_blendv_ps(_mm256_set1_ps(f32::NEG_INFINITY), x, _mm256_castsi256_ps(kept))
    }
}

#[inline(always)]
unsafe fn fold(x: __m256, f: unsafe fn(__m128, __m128) -> __m128) -> f32 {
    unsafe {
        let x = f(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
        let x = f(x, _mm_movehl_ps(x, x));
        _mm_cvtss_f32(f(x, _mm_shuffle_ps::<1>(x, x)))
    }
}

#[inline(always)]
unsafe fn low_bf16(x: __m256i) -> __m256 {
    unsafe { _mm256_castsi256_ps(_mm256_slli_epi32::<16>(x)) }
}

#[inline(always)]
unsafe fn high_bf16(x: __m256i) -> __m256 {
    unsafe { _mm256_castsi256_ps(_mm256_and_si256(x, _mm256_set1_epi32(0xffff_0000_u32 as i32))) }
}

impl Lanes for Avx2 {
    type F = V;
    type Pairs = (__m256i, __m256i);
    const ROWS: usize = 6;
    const PANELS: usize = 1;

    #[inline(always)]
    unsafe fn zero() -> V {
        unsafe { (_mm256_setzero_ps(), _mm256_setzero_ps()) }
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> V {
        unsafe { (_mm256_set1_ps(x), _mm256_set1_ps(x)) }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> V {
        unsafe { (_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))) }
    }
    #[inline(always)]
    unsafe fn store(x: V, to: *mut f32) {
        unsafe {
            _mm256_storeu_ps(to, x.0);
            _mm256_storeu_ps(to.add(8), x.1);
        }
    }
    #[inline(always)]
    unsafe fn add(a: V, b: V) -> V {
        unsafe { (_mm256_add_ps(a.0, b.0), _mm256_add_ps(a.1, b.1)) }
    }
    #[inline(always)]
    unsafe fn sub(a: V, b: V) -> V {
        unsafe { (_mm256_sub_ps(a.0, b.0), _mm256_sub_ps(a.1, b.1)) }
    }
    #[inline(always)]
    unsafe fn mul(a: V, b: V) -> V {
        unsafe { (_mm256_mul_ps(a.0, b.0), _mm256_mul_ps(a.1, b.1)) }
    }
    #[inline(always)]
    unsafe fn div(a: V, b: V) -> V {
        unsafe { (_mm256_div_ps(a.0, b.0), _mm256_div_ps(a.1, b.1)) }
    }
    #[inline(always)]
    unsafe fn max(a: V, b: V) -> V {
        unsafe { (_mm256_max_ps(a.0, b.0), _mm256_max_ps(a.1, b.1)) }
    }
    #[inline(always)]
    unsafe fn min(a: V, b: V) -> V {
        unsafe { (_mm256_min_ps(a.0, b.0), _mm256_min_ps(a.1, b.1)) }
    }
    #[inline(always)]
    unsafe fn fma(a: V, b: V, c: V) -> V {
        unsafe { (_mm256_fmadd_ps(a.0, b.0, c.0), _mm256_fmadd_ps(a.1, b.1, c.1)) }
    }
    #[inline(always)]
    unsafe fn sum(x: V) -> f32 {
        unsafe { fold(_mm256_add_ps(x.0, x.1), |a, b| _mm_add_ps(a, b)) }
    }
    #[inline(always)]
    unsafe fn largest(x: V) -> f32 {
        unsafe { fold(_mm256_max_ps(x.0, x.1), |a, b| _mm_max_ps(a, b)) }
    }
    #[inline(always)]
    unsafe fn exp2<const ROUGH: bool>(x: V) -> V {
        unsafe { (exp2_half::<ROUGH>(x.0), exp2_half::<ROUGH>(x.1)) }
    }
    #[inline(always)]
    unsafe fn keep(x: V, from: u32, to: u32) -> V {
        unsafe { (keep_half(x.0, 0, from, to), keep_half(x.1, 8, from, to)) }
    }
    #[inline(always)]
    unsafe fn larger(best: V, mark: V, candidate: V, candidate_mark: V) -> (V, V) {
        unsafe {
            let low = _mm256_cmp_ps::<_CMP_GT_OQ>(candidate.0, best.0);
            let high = _mm256_cmp_ps::<_CMP_GT_OQ>(candidate.1, best.1);
            (
                (_mm256_blendv_ps(best.0, candidate.0, low), _mm256_blendv_ps(best.1, candidate.1, high)),
                (_mm256_blendv_ps(mark.0, candidate_mark.0, low), _mm256_blendv_ps(mark.1, candidate_mark.1, high)),
            )
        }
    }
    #[inline(always)]
    unsafe fn at_least(x: V, threshold: V) -> u16 {
        unsafe {
            let low = _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_GE_OQ>(x.0, threshold.0));
            let high = _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_GE_OQ>(x.1, threshold.1));
            (low | high << 8) as u16
        }
    }
    #[inline(always)]
    unsafe fn narrow_to_codes(x: V, to: *mut u8) {
        unsafe {
            // Packing works within 128-bit halves: put the quarters back in order.
            let words = _mm256_packs_epi32(_mm256_cvtps_epi32(x.0), _mm256_cvtps_epi32(x.1));
            let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(words);
            let bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
            _mm_storeu_si128(to.cast(), _mm_xor_si128(bytes, _mm_set1_epi8(-128)));
        }
    }
    #[inline(always)]
    unsafe fn narrow_to_bytes(x: V, to: *mut i8) {
        unsafe {
            let words = _mm256_packs_epi32(_mm256_cvtps_epi32(x.0), _mm256_cvtps_epi32(x.1));
            let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(words);
            let bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
            _mm_storeu_si128(to.cast(), bytes);
        }
    }
    #[inline(always)]
    unsafe fn narrow(x: V, to: *mut u16) {
        unsafe {
            // packus works within 128-bit halves: put the quarters back in order.
            let packed = _mm256_packus_epi32(narrow_half(x.0), narrow_half(x.1));
            _mm256_storeu_si256(to.cast(), _mm256_permute4x64_epi64::<0b11_01_10_00>(packed));
        }
    }
    #[inline(always)]
    unsafe fn widen(from: *const u16) -> V {
        unsafe {
            let low = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
            let high = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.add(8).cast()));
            (low_bf16(low), low_bf16(high))
        }
    }
    #[inline(always)]
    unsafe fn narrow_to_weights(x: V, to: *mut u8) {
        unsafe {
            let words = _mm256_packs_epi32(_mm256_cvtps_epi32(x.0), _mm256_cvtps_epi32(x.1));
            let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(words);
            let bytes = _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
            _mm_storeu_si128(to.cast(), bytes);
        }
    }
    #[inline(always)]
    unsafe fn widen_first(from: *const u16) -> V {
        unsafe {
            let pairs = Self::load_pairs(from);
            (low_bf16(pairs.0), low_bf16(pairs.1))
        }
    }
    #[inline(always)]
    unsafe fn widen_second(from: *const u16) -> V {
        unsafe {
            let pairs = Self::load_pairs(from);
            (high_bf16(pairs.0), high_bf16(pairs.1))
        }
    }
    #[inline(always)]
    unsafe fn load_pairs(from: *const u16) -> (__m256i, __m256i) {
        unsafe { (_mm256_loadu_si256(from.cast()), _mm256_loadu_si256(from.add(16).cast())) }
    }
    #[inline(always)]
    unsafe fn splat_pair(from: *const u16) -> (__m256i, __m256i) {
        unsafe {
            let pair = _mm256_set1_epi32(from.cast::<i32>().read_unaligned());
            (pair, pair)
        }
    }
    #[inline(always)]
    unsafe fn dot_pairs(acc: V, a: (__m256i, __m256i), b: (__m256i, __m256i)) -> V {
        unsafe {
            let low = _mm256_fmadd_ps(low_bf16(a.0), low_bf16(b.0), acc.0);
            let high = _mm256_fmadd_ps(low_bf16(a.1), low_bf16(b.1), acc.1);
            (
                _mm256_fmadd_ps(high_bf16(a.0), high_bf16(b.0), low),
                _mm256_fmadd_ps(high_bf16(a.1), high_bf16(b.1), high),
            )
        }
    }
}

/// Products of two bytes do not fit the sums of two that `vpmaddubsw` keeps in 16 bits. So the even and the odd
/// numbers of each quad are widened to 16 bits, and `vpmaddwd` sums two exact products per key.
/// Reads 32 bytes as sixteen numbers of two bytes, each shifted to the right.
///
/// # Safety
/// AVX2 is enabled, `from` is valid for 32 bytes.
#[inline(always)]
unsafe fn load_shifted<const SHIFT: u32>(from: *const u8) -> __m256i {
    unsafe { _mm256_srl_epi16(_mm256_loadu_si256(from.cast()), _mm_cvtsi32_si128(SHIFT as i32)) }
}

impl Quads<Avx2> for Avx2 {
    type Sums = (__m256i, __m256i);
    /// Of eight keys each: even, odd; even, odd.
    type Keys = [__m256i; 4];
    /// Even, odd.
    type Query = (__m256i, __m256i);
    const ROWS: usize = 4;
    const TILES: usize = 1;
    const PRODUCT_ROWS: usize = 4;
    const PRODUCT_PANELS: usize = 1;

    #[inline(always)]
    unsafe fn start(_: *const i8, _: usize) -> (__m256i, __m256i) {
        unsafe { (_mm256_setzero_si256(), _mm256_setzero_si256()) }
    }
    #[inline(always)]
    unsafe fn started(start: i32) -> (__m256i, __m256i) {
        unsafe { (_mm256_set1_epi32(start), _mm256_set1_epi32(start)) }
    }
    #[inline(always)]
    unsafe fn keys(from: *const u8) -> [__m256i; 4] {
        unsafe {
            let even = _mm256_set1_epi16(0x00ff);
            let (low, high) = (_mm256_loadu_si256(from.cast()), _mm256_loadu_si256(from.add(32).cast()));
            [
                _mm256_and_si256(low, even),
                _mm256_srli_epi16::<8>(low),
                _mm256_and_si256(high, even),
                _mm256_srli_epi16::<8>(high),
            ]
        }
    }
    #[inline(always)]
    unsafe fn two_bits<const SHIFT: u32>(from: *const u8) -> [__m256i; 4] {
        unsafe {
            let two = _mm256_set1_epi16(3);
            let low = load_shifted::<SHIFT>(from);
            let high = load_shifted::<SHIFT>(from.add(32));
            [
                _mm256_and_si256(low, two),
                _mm256_and_si256(_mm256_srli_epi16::<8>(low), two),
                _mm256_and_si256(high, two),
                _mm256_and_si256(_mm256_srli_epi16::<8>(high), two),
            ]
        }
    }
    #[inline(always)]
    unsafe fn query(from: *const i8) -> (__m256i, __m256i) {
        unsafe {
            let quad = _mm256_set1_epi32(from.cast::<i32>().read_unaligned());
            (_mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(quad)), _mm256_srai_epi16::<8>(quad))
        }
    }
    #[inline(always)]
    unsafe fn add(sums: (__m256i, __m256i), keys: [__m256i; 4], query: (__m256i, __m256i)) -> (__m256i, __m256i) {
        unsafe {
            let low = _mm256_add_epi32(sums.0, _mm256_madd_epi16(keys[0], query.0));
            let high = _mm256_add_epi32(sums.1, _mm256_madd_epi16(keys[2], query.0));
            (
                _mm256_add_epi32(low, _mm256_madd_epi16(keys[1], query.1)),
                _mm256_add_epi32(high, _mm256_madd_epi16(keys[3], query.1)),
            )
        }
    }
    #[inline(always)]
    unsafe fn values(from: *const i8) -> [__m256i; 4] {
        unsafe {
            let (low, high) = (_mm256_loadu_si256(from.cast()), _mm256_loadu_si256(from.add(32).cast()));
            [
                _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(low)),
                _mm256_srai_epi16::<8>(low),
                _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(high)),
                _mm256_srai_epi16::<8>(high),
            ]
        }
    }
    #[inline(always)]
    unsafe fn weights(from: *const u8) -> (__m256i, __m256i) {
        unsafe {
            let quad = _mm256_set1_epi32(from.cast::<i32>().read_unaligned());
            (_mm256_and_si256(quad, _mm256_set1_epi16(0x00ff)), _mm256_srli_epi16::<8>(quad))
        }
    }
    #[inline(always)]
    unsafe fn add_weighted(
        sums: (__m256i, __m256i),
        values: [__m256i; 4],
        weights: (__m256i, __m256i),
    ) -> (__m256i, __m256i) {
        unsafe { <Self as Quads<Self>>::add(sums, values, weights) }
    }
    #[inline(always)]
    unsafe fn join(a: (__m256i, __m256i), b: (__m256i, __m256i)) -> (__m256i, __m256i) {
        unsafe { (_mm256_add_epi32(a.0, b.0), _mm256_add_epi32(a.1, b.1)) }
    }
    #[inline(always)]
    unsafe fn to_f32(sums: (__m256i, __m256i)) -> V {
        unsafe { (_mm256_cvtepi32_ps(sums.0), _mm256_cvtepi32_ps(sums.1)) }
    }
}

impl Quads<Avx2> for Avx2Vnni {
    type Sums = (__m256i, __m256i);
    /// Of eight keys each.
    type Keys = (__m256i, __m256i);
    type Query = __m256i;
    const ROWS: usize = 6;
    const TILES: usize = 1;
    const PRODUCT_ROWS: usize = 6;
    const PRODUCT_PANELS: usize = 1;
    const LINE_SUMS: usize = 4;

    #[inline(always)]
    unsafe fn start(_: *const i8, _: usize) -> (__m256i, __m256i) {
        unsafe { (_mm256_setzero_si256(), _mm256_setzero_si256()) }
    }
    #[inline(always)]
    unsafe fn started(start: i32) -> (__m256i, __m256i) {
        unsafe { (_mm256_set1_epi32(start), _mm256_set1_epi32(start)) }
    }
    #[inline(always)]
    unsafe fn keys(from: *const u8) -> (__m256i, __m256i) {
        unsafe { (_mm256_loadu_si256(from.cast()), _mm256_loadu_si256(from.add(32).cast())) }
    }
    #[inline(always)]
    unsafe fn two_bits<const SHIFT: u32>(from: *const u8) -> (__m256i, __m256i) {
        unsafe {
            let two = _mm256_set1_epi8(3);
            (
                _mm256_and_si256(load_shifted::<SHIFT>(from), two),
                _mm256_and_si256(load_shifted::<SHIFT>(from.add(32)), two),
            )
        }
    }
    #[inline(always)]
    unsafe fn query(from: *const i8) -> __m256i {
        unsafe { _mm256_set1_epi32(from.cast::<i32>().read_unaligned()) }
    }
    #[inline(always)]
    unsafe fn add(sums: (__m256i, __m256i), keys: (__m256i, __m256i), query: __m256i) -> (__m256i, __m256i) {
        unsafe { (_mm256_dpbusd_avx_epi32(sums.0, keys.0, query), _mm256_dpbusd_avx_epi32(sums.1, keys.1, query)) }
    }
    #[inline(always)]
    unsafe fn values(from: *const i8) -> (__m256i, __m256i) {
        unsafe { (_mm256_loadu_si256(from.cast()), _mm256_loadu_si256(from.add(32).cast())) }
    }
    #[inline(always)]
    unsafe fn weights(from: *const u8) -> __m256i {
        unsafe { _mm256_set1_epi32(from.cast::<i32>().read_unaligned()) }
    }
    #[inline(always)]
    unsafe fn add_weighted(
        sums: (__m256i, __m256i),
        values: (__m256i, __m256i),
        weights: __m256i,
    ) -> (__m256i, __m256i) {
        // The unsigned operand comes first.
        unsafe {
            (_mm256_dpbusd_avx_epi32(sums.0, weights, values.0), _mm256_dpbusd_avx_epi32(sums.1, weights, values.1))
        }
    }
    #[inline(always)]
    unsafe fn join(a: (__m256i, __m256i), b: (__m256i, __m256i)) -> (__m256i, __m256i) {
        unsafe { (_mm256_add_epi32(a.0, b.0), _mm256_add_epi32(a.1, b.1)) }
    }
    #[inline(always)]
    unsafe fn to_f32(sums: (__m256i, __m256i)) -> V {
        unsafe { (_mm256_cvtepi32_ps(sums.0), _mm256_cvtepi32_ps(sums.1)) }
    }
}
