//! Inner products of one vector of bytes with many rows of bytes that lie anywhere: the step of a graph search.

use crate::lanes::scalar::Scalar;

#[cfg(target_arch = "x86_64")]
use crate::lanes::{
    avx2::{Avx2, Avx2Vnni},
    avx512::{Avx512, Avx512Vnni},
};

/// Bytes of a row are a multiple of this: a cache line.
pub const BYTE_ROW: usize = 64;

/// Inner products of signed with unsigned bytes. Sums are whole numbers, so every level gives the same.
pub(crate) trait ByteDot {
    /// `out[r] = sum of query[i] * rows[r][i]`.
    ///
    /// # Safety
    /// The level's CPU features are enabled. `query` and each row are valid for `length` bytes, a multiple of
    /// [`BYTE_ROW`] and at most 2^16; `out` is valid for as many numbers as there are rows.
    unsafe fn byte_dots(query: *const i8, length: usize, rows: &[*const u8], out: *mut i32);
}

impl ByteDot for Scalar {
    #[inline(always)]
    unsafe fn byte_dots(query: *const i8, length: usize, rows: &[*const u8], out: *mut i32) {
        for (r, &row) in rows.iter().enumerate() {
            // SAFETY: valid for `length` bytes by contract.
            let (query, row) =
                unsafe { (std::slice::from_raw_parts(query, length), std::slice::from_raw_parts(row, length)) };
            let sum = query.iter().zip(row).map(|(&q, &x)| i32::from(q) * i32::from(x)).sum();
            // SAFETY: one number per row by contract.
            unsafe { *out.add(r) = sum };
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Avx2, Avx2Vnni, Avx512, Avx512Vnni, ByteDot};
    use std::arch::x86_64::*;

    /// Rows whose sums are added up together.
    const GROUP: usize = 4;

    /// Goes through rows in groups of four; the last group repeats its last row. A macro, as a closure that is not
    /// inlined is compiled without the level's CPU features.
    macro_rules! groups {
        ($rows:expr, |$start:ident, $four:ident| $body:block) => {
            for (g, rows) in $rows.chunks(GROUP).enumerate() {
                let ($start, last) = (g * GROUP, rows.len() - 1);
                let $four: [*const u8; GROUP] = [rows[0], rows[1.min(last)], rows[2.min(last)], rows[3.min(last)]];
                $body
            }
        };
    }

    /// Writes as many of four sums as there are rows left.
    ///
    /// # Safety
    /// `out` is valid for `rows` numbers.
    #[inline(always)]
    unsafe fn put(sums: __m128i, start: usize, rows: usize, out: *mut i32) {
        let mut four = [0_i32; GROUP];
        // SAFETY: SSE2 is part of x86-64, and the copy ends at `rows`.
        unsafe {
            _mm_storeu_si128(four.as_mut_ptr().cast(), sums);
            std::ptr::copy_nonoverlapping(four.as_ptr(), out.add(start), GROUP.min(rows - start));
        }
    }

    /// The sums of four registers of sixteen i32.
    ///
    /// # Safety
    /// AVX-512 F is enabled.
    #[inline(always)]
    unsafe fn sum_512(a: [__m512i; GROUP]) -> __m128i {
        // SAFETY: by contract.
        unsafe {
            let p = _mm512_add_epi32(_mm512_unpacklo_epi32(a[0], a[1]), _mm512_unpackhi_epi32(a[0], a[1]));
            let q = _mm512_add_epi32(_mm512_unpacklo_epi32(a[2], a[3]), _mm512_unpackhi_epi32(a[2], a[3]));
            let all = _mm512_add_epi32(_mm512_unpacklo_epi64(p, q), _mm512_unpackhi_epi64(p, q));
            let half = _mm256_add_epi32(_mm512_castsi512_si256(all), _mm512_extracti64x4_epi64::<1>(all));
            _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256::<1>(half))
        }
    }

    /// The sums of four registers of eight i32.
    ///
    /// # Safety
    /// AVX2 is enabled.
    #[inline(always)]
    unsafe fn sum_256(a: [__m256i; GROUP]) -> __m128i {
        // SAFETY: by contract.
        unsafe {
            let all = _mm256_hadd_epi32(_mm256_hadd_epi32(a[0], a[1]), _mm256_hadd_epi32(a[2], a[3]));
            _mm_add_epi32(_mm256_castsi256_si128(all), _mm256_extracti128_si256::<1>(all))
        }
    }

    impl ByteDot for Avx2 {
        #[inline(always)]
        unsafe fn byte_dots(query: *const i8, length: usize, rows: &[*const u8], out: *mut i32) {
            groups!(rows, |start, four| {
                // SAFETY: by contract; steps of 16 end with the row.
                unsafe {
                    let mut sums = [_mm256_setzero_si256(); GROUP];
                    for i in (0..length).step_by(16) {
                        // Sixteen bits hold what the products need: no pair of them saturates.
                        let q = _mm256_cvtepi8_epi16(_mm_loadu_si128(query.add(i).cast()));
                        for r in 0..GROUP {
                            let x = _mm256_cvtepu8_epi16(_mm_loadu_si128(four[r].add(i).cast()));
                            sums[r] = _mm256_add_epi32(sums[r], _mm256_madd_epi16(q, x));
                        }
                    }
                    put(sum_256(sums), start, rows.len(), out);
                }
            });
        }
    }

    impl ByteDot for Avx2Vnni {
        #[inline(always)]
        unsafe fn byte_dots(query: *const i8, length: usize, rows: &[*const u8], out: *mut i32) {
            groups!(rows, |start, four| {
                // SAFETY: by contract; steps of 32 end with the row.
                unsafe {
                    let mut sums = [_mm256_setzero_si256(); GROUP];
                    for i in (0..length).step_by(32) {
                        let q = _mm256_loadu_si256(query.add(i).cast());
                        for r in 0..GROUP {
                            sums[r] = _mm256_dpbusd_avx_epi32(sums[r], _mm256_loadu_si256(four[r].add(i).cast()), q);
                        }
                    }
                    put(sum_256(sums), start, rows.len(), out);
                }
            });
        }
    }

    impl ByteDot for Avx512 {
        #[inline(always)]
        unsafe fn byte_dots(query: *const i8, length: usize, rows: &[*const u8], out: *mut i32) {
            groups!(rows, |start, four| {
                // SAFETY: by contract; steps of 32 end with the row.
                unsafe {
                    let mut sums = [_mm512_setzero_si512(); GROUP];
                    for i in (0..length).step_by(32) {
                        let q = _mm512_cvtepi8_epi16(_mm256_loadu_si256(query.add(i).cast()));
                        for r in 0..GROUP {
                            let x = _mm512_cvtepu8_epi16(_mm256_loadu_si256(four[r].add(i).cast()));
                            sums[r] = _mm512_add_epi32(sums[r], _mm512_madd_epi16(q, x));
                        }
                    }
                    put(sum_512(sums), start, rows.len(), out);
                }
            });
        }
    }

    impl ByteDot for Avx512Vnni {
        #[inline(always)]
        unsafe fn byte_dots(query: *const i8, length: usize, rows: &[*const u8], out: *mut i32) {
            groups!(rows, |start, four| {
                // SAFETY: by contract; steps of 64 end with the row.
                unsafe {
                    let mut sums = [_mm512_setzero_si512(); GROUP];
                    for i in (0..length).step_by(64) {
                        let q = _mm512_loadu_si512(query.add(i).cast());
                        for r in 0..GROUP {
                            sums[r] = _mm512_dpbusd_epi32(sums[r], _mm512_loadu_si512(four[r].add(i).cast()), q);
                        }
                    }
                    put(sum_512(sums), start, rows.len(), out);
                }
            });
        }
    }
}

#[cfg(target_arch = "aarch64")]
mod neon {
    use super::ByteDot;
    use crate::lanes::neon::Neon;
    use std::arch::aarch64::*;

    impl ByteDot for Neon {
        #[inline(always)]
        #[allow(unused_unsafe, reason = "whether an intrinsic is unsafe depends on the compiler's version")]
        unsafe fn byte_dots(query: *const i8, length: usize, rows: &[*const u8], out: *mut i32) {
            // SAFETY: by contract; steps of 16 end with the row.
            unsafe {
                // Rows lose their 128, so that products fit 16 bits; their sums lack it times the sum of the query.
                let mut lacking = vdupq_n_s32(0);
                for i in (0..length).step_by(16) {
                    lacking = vpadalq_s16(lacking, vpaddlq_s8(vld1q_s8(query.add(i))));
                }
                let lacking = vaddvq_s32(lacking).wrapping_mul(128);
                let offset = vdupq_n_u8(128);
                for (r, &row) in rows.iter().enumerate() {
                    let mut sums = [vdupq_n_s32(0); 2];
                    for i in (0..length).step_by(16) {
                        let q = vld1q_s8(query.add(i));
                        let x = vreinterpretq_s8_u8(veorq_u8(vld1q_u8(row.add(i)), offset));
                        sums[0] = vpadalq_s16(sums[0], vmull_s8(vget_low_s8(q), vget_low_s8(x)));
                        sums[1] = vpadalq_s16(sums[1], vmull_s8(vget_high_s8(q), vget_high_s8(x)));
                    }
                    *out.add(r) = vaddvq_s32(vaddq_s32(sums[0], sums[1])).wrapping_add(lacking);
                }
            }
        }
    }
}
