//! Products in half precision with AVX512-FP16.
//!
//! Three panels at a time are rewritten from bf16 to f16, once for all rows, which takes four instructions for 32 numbers. A
//! line of a panel holds sixteen pairs along k, so a register of 32 lanes sums the even and the odd numbers of sixteen columns
//! apart; at the end of a run they become f32, and at the end of all they are added.

#![allow(
    clippy::undocumented_unsafe_blocks,
    reason = "each function passes on its own contract: see SAFETY (all functions)"
)]

use super::{HALF_GROUP, HalfProduct, group_scale};
use crate::LANES;
use crate::prefetch::prefetch;
use crate::register_tile::{panels_by_three, rows_in_tiles};
use std::arch::x86_64::*;
use std::mem::MaybeUninit;

/// Most rows and panels of the register tile.
const ROWS: usize = 8;
const PANELS: usize = 3;

/// Numbers of a line: sixteen pairs.
const LINE: usize = 2 * LANES;

/// Products of a lane that are summed in half precision. A lane takes every other number along k.
const RUN: usize = 32;

/// Numbers along k that one run takes.
const RUN_NUMBERS: usize = 2 * RUN;

const _: () = assert!(HALF_GROUP.is_multiple_of(RUN_NUMBERS));

/// Most lines of a panel that are rewritten at once, 72 KB for three panels: on the stack, and in the second-level cache.
const BLOCK_LINES: usize = 384;

const _: () = assert!((2 * BLOCK_LINES).is_multiple_of(HALF_GROUP));

/// Exponent of f16 (biased by 15) that the largest number of the panels gets: it is below 2^4.
const COLUMN_EXPONENT: u16 = 18;

/// Lines that are asked for ahead of those being rewritten.
const AHEAD_LINES: usize = 16;

/// Lines of up to three panels in f16, each `[16][2]` in a cache line.
#[repr(align(64))]
struct Lines(MaybeUninit<[[[u16; LINE]; BLOCK_LINES]; PANELS]>);

impl Lines {
    /// The first line of a panel, `[BLOCK_LINES][16][2]`.
    fn panel(&mut self, panel: usize) -> *mut u16 {
        self.0.as_mut_ptr().cast::<u16>().wrapping_add(panel * BLOCK_LINES * LINE)
    }
}

// SAFETY (all functions): the level's CPU features are enabled; the pointers of a product are valid for the shapes
// beside them (the caller's promise), and every row, panel and number that is touched is below `m`, `panels` and `k`.

/// Rewrites `lines` lines of P panels from line `first` on, scaled such that the largest is below 2^4. Returns what that
/// took: the power of two that a number of the lines has to be multiplied with, NaN if one is not finite. Numbers whose
/// exponent is 18 or more below that of the largest become zero.
#[inline(always)]
unsafe fn rewrite<const P: usize>(x: &HalfProduct, panel: usize, first: usize, lines: usize, to: &mut Lines) -> f32 {
    unsafe {
        // Each [lines][16][2].
        let from: [*const u16; P] = std::array::from_fn(|p| x.b.add((panel + p) * x.panel_stride + first * LINE));
        let magnitude = _mm512_set1_epi16(0x7fff);
        let mut most = _mm512_setzero_si512();
        for line in 0..lines {
            for p in 0..P {
                let at = from[p].add(line * LINE);
                prefetch(at.wrapping_add(AHEAD_LINES * LINE));
                most = _mm512_max_epu16(most, _mm512_and_si512(_mm512_loadu_si512(at.cast()), magnitude));
            }
        }
        let halves = _mm256_max_epu16(_mm512_castsi512_si256(most), _mm512_extracti64x4_epi64::<1>(most));
        let mut each = [0_u16; LANES];
        _mm256_storeu_si256(each.as_mut_ptr().cast(), halves);
        let exponent = each.into_iter().fold(0, u16::max) >> 7; // biased by 127
        // What is taken off each exponent: bf16 is biased by 127, f16 by 15.
        let shift = exponent.saturating_sub(COLUMN_EXPONENT);
        let offset = _mm512_set1_epi16((shift << 7) as i16);
        let least = _mm512_set1_epi16(((shift + 1) << 7) as i16);
        for p in 0..P {
            for line in 0..lines {
                let number = _mm512_loadu_si512(from[p].add(line * LINE).cast());
                let size = _mm512_and_si512(number, magnitude);
                let normal = _mm512_cmpge_epu16_mask(size, least);
                let half = _mm512_maskz_slli_epi16::<3>(normal, _mm512_sub_epi16(size, offset));
                // The sign of `number`, the rest of `half`: magnitude ? half : number.
                let half = _mm512_ternarylogic_epi32::<0xca>(magnitude, half, number);
                _mm512_store_si512(to.panel(p).add(line * LINE).cast(), half);
            }
        }
        if exponent == 0xff { f32::NAN } else { f32::from_bits((u32::from(shift) + 15) << 23) }
    }
}

/// The register tile: M rows from `row` times P panels, whose `lines` lines from `first` on lie in `columns`.
#[inline(always)]
unsafe fn tile<const M: usize, const P: usize>(
    x: &HalfProduct,
    row: usize,
    panel: usize,
    first: usize,
    lines: usize,
    columns: &mut Lines,
    scale: f32,
    accumulate: bool,
) {
    unsafe {
        let a = x.a.add(row * x.lda + 2 * first);
        let a_scales = x.a_scales.add(row * x.groups_stride + 2 * first / HALF_GROUP);
        let columns: [*const u16; P] = std::array::from_fn(|p| columns.panel(p).cast_const()); // [lines][16][2]
        // Columns 0 to 7 and 8 to 15, of each the even and the odd numbers' sum.
        let mut sums = [[[_mm512_setzero_ps(); 2]; P]; M];
        let mut line = 0;
        while line < lines {
            let end = lines.min(line + RUN);
            let group = 2 * line / HALF_GROUP;
            let mut run = [[_mm512_setzero_ph(); P]; M];
            while line < end {
                let mut column = [_mm512_setzero_ph(); P];
                for p in 0..P {
                    column[p] = _mm512_castsi512_ph(_mm512_load_si512(columns[p].add(line * LINE).cast()));
                }
                for m in 0..M {
                    let pair = a.add(m * x.lda + 2 * line).cast::<i32>().read_unaligned();
                    let pair = _mm512_castsi512_ph(_mm512_set1_epi32(pair));
                    for p in 0..P {
                        run[m][p] = _mm512_fmadd_ph(pair, column[p], run[m][p]);
                    }
                }
                line += 1;
            }
            for m in 0..M {
                let scale = _mm512_set1_ps(*a_scales.add(m * x.groups_stride + group));
                for p in 0..P {
                    let run = _mm512_castph_si512(run[m][p]);
                    let low = _mm512_cvtph_ps(_mm512_castsi512_si256(run));
                    let high = _mm512_cvtph_ps(_mm512_extracti64x4_epi64::<1>(run));
                    sums[m][p][0] = _mm512_fmadd_ps(low, scale, sums[m][p][0]);
                    sums[m][p][1] = _mm512_fmadd_ps(high, scale, sums[m][p][1]);
                }
            }
        }
        let scale = _mm512_set1_ps(scale);
        let even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
        let odd = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
        for m in 0..M {
            for p in 0..P {
                let [low, high] = sums[m][p];
                let sum =
                    _mm512_add_ps(_mm512_permutex2var_ps(low, even, high), _mm512_permutex2var_ps(low, odd, high));
                let to = x.c.add((row + m) * x.ldc + (panel + p) * LANES);
                let before = if accumulate { _mm512_loadu_ps(to) } else { _mm512_setzero_ps() };
                _mm512_storeu_ps(to, _mm512_fmadd_ps(sum, scale, before));
            }
        }
    }
}

/// See [`crate::Kernels::gemm_halves`].
///
/// # Safety
/// As there; the CPU has the level's features.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512fp16")]
pub(crate) unsafe fn gemm_halves(x: &HalfProduct) {
    let mut columns = Lines(MaybeUninit::uninit());
    let all = x.k / 2;
    // In equal parts of whole groups.
    let lines = all.div_ceil(all.div_ceil(BLOCK_LINES).max(1)).next_multiple_of(HALF_GROUP / 2);
    let mut first = 0;
    while first < all {
        let lines = lines.min(all - first);
        let accumulate = x.accumulate || first > 0;
        let mut panel = 0;
        panels_by_three!(PANELS, x.panels, panel, P => {
            unsafe {
                let scale = rewrite::<P>(x, panel, first, lines, &mut columns);
                rows_in_tiles!(ROWS, x.m, [8 4 2 1], row, M => {
                    tile::<M, P>(x, row, panel, first, lines, &mut columns, scale, accumulate);
                });
            }
        });
        first += lines;
    }
}

/// See [`crate::Kernels::to_halves`].
///
/// # Safety
/// `halves` and `scales` have room; the CPU has the level's features.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512fp16")]
pub(crate) unsafe fn to_halves(x: &[f32], halves: &mut [u16], scales: &mut [f32]) {
    for ((x, halves), scale) in x.chunks(HALF_GROUP).zip(halves.chunks_mut(HALF_GROUP)).zip(scales) {
        unsafe {
            // As in the plain function.
            let magnitude = _mm512_set1_epi32(0x7fff_ffff);
            let mut most = _mm512_setzero_si512();
            for from in (0..x.len()).step_by(LANES) {
                let bits = _mm512_castps_si512(load(x, from));
                most = _mm512_max_epu32(most, _mm512_and_si512(bits, magnitude));
            }
            let (group, inverse) = group_scale(f32::from_bits(_mm512_reduce_max_epu32(most)));
            *scale = group;
            let by = _mm512_set1_ps(inverse);
            for from in (0..x.len()).step_by(LANES) {
                let half = if inverse == 0.0 {
                    _mm256_setzero_si256()
                } else {
                    _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(_mm512_mul_ps(load(x, from), by))
                };
                _mm256_mask_storeu_epi16(halves.as_mut_ptr().add(from).cast(), lanes(x.len() - from), half);
            }
        }
    }
}

/// The first `count` lanes, at most all sixteen.
fn lanes(count: usize) -> u16 {
    if count >= LANES { u16::MAX } else { (1 << count) - 1 }
}

/// Up to sixteen numbers from `from` on, zeros behind the last.
#[inline(always)]
unsafe fn load(x: &[f32], from: usize) -> __m512 {
    unsafe { _mm512_maskz_loadu_ps(lanes(x.len() - from), x.as_ptr().add(from)) }
}
