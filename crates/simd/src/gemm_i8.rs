//! Matrix products in bytes: rows of signed codes times panels of unsigned ones, `C[m][16 x panels] (+)= A x B`.
//!
//! Both sides are quantized in groups along k: a number is its code times the scale of its group. Within a group sums
//! are whole numbers, exact in any order. Where a group ends they are converted once, multiplied with both scales and
//! added to C with one rounding (fused), so that all levels agree to the bit.

#![allow(
    clippy::undocumented_unsafe_blocks,
    reason = "each function passes on its own contract: see SAFETY (all functions)"
)]

use crate::LANES;
use crate::hadamard::{self, BLOCK_VECTORS, HADAMARD_BLOCK};
use crate::lanes::{Lanes, Quads};
use crate::prefetch::prefetch;
use crate::register_tile::{panels_by_three, rows_in_even_tiles};

/// Codes along k that lie side by side.
const QUAD: usize = 4;

/// Bytes that hold one quad of each of a panel's columns.
const STEP: usize = LANES * QUAD;

/// From this many rows on a product prefetches beyond the panels it was given, see [`crate::gemm`].
const BEYOND_ROWS: usize = 32;

/// A group whose largest magnitude is below this counts as zero: the inverse of its scale would overflow.
pub(crate) const LEAST_MAGNITUDE: f32 = 1e-30;

/// What [`crate::Kernels::gemm_i8`] works on; see there.
pub(crate) struct ByteProduct {
    pub m: usize,
    pub quads: usize,
    pub group_quads: usize,
    pub a: *const i8, // [m][lda]
    pub lda: usize,
    pub a_scales: *const f32, // [m][groups_stride]
    pub a_starts: *const i32, // [m][groups_stride]
    pub groups_stride: usize,
    pub b: *const u8, // [panels][panel_stride], of each [quads][16][4]
    pub panel_stride: usize,
    pub b_scales: *const f32, // [panels][b_scale_stride], of each [groups][16]
    pub b_scale_stride: usize,
    pub panels: usize,
    pub c: *mut f32, // [m][ldc]
    pub ldc: usize,
    pub accumulate: bool,
}

// SAFETY (all functions): the level's CPU features are enabled; the pointers of a product are valid for the shapes
// beside them (the caller's promise), and every row and panel that is touched is below `m` and `panels`.

/// M rows from `row` times P panels from `panel`. If AHEAD, the P panels behind are prefetched.
#[inline(always)]
unsafe fn tile<L: Lanes, Q: Quads<L>, const M: usize, const P: usize, const AHEAD: bool>(
    x: &ByteProduct,
    row: usize,
    panel: usize,
) {
    unsafe {
        let a = x.a.add(row * x.lda);
        let b = x.b.add(panel * x.panel_stride);
        let c = x.c.add(row * x.ldc + panel * LANES);
        let (a_scales, a_starts) = (x.a_scales.add(row * x.groups_stride), x.a_starts.add(row * x.groups_stride));
        let b_scales = x.b_scales.add(panel * x.b_scale_stride);
        let (mut quad, mut group) = (0, 0);
        while quad < x.quads {
            let end = x.quads.min(quad + x.group_quads);
            let mut sums = [[Q::started(*a_starts.add(group)); P]; M];
            for m in 1..M {
                sums[m] = [Q::started(*a_starts.add(m * x.groups_stride + group)); P];
            }
            while quad < end {
                let step = b.add(quad * STEP);
                if AHEAD {
                    for p in 0..P {
                        prefetch(step.wrapping_add((P + p) * x.panel_stride));
                    }
                }
                if M == 1 {
                    let query = Q::query(a.add(quad * QUAD));
                    for p in 0..P {
                        sums[0][p] = Q::add(sums[0][p], Q::keys(step.add(p * x.panel_stride)), query);
                    }
                } else {
                    let mut keys = [Q::keys(step); P];
                    for p in 1..P {
                        keys[p] = Q::keys(step.add(p * x.panel_stride));
                    }
                    for m in 0..M {
                        let query = Q::query(a.add(m * x.lda + quad * QUAD));
                        for p in 0..P {
                            sums[m][p] = Q::add(sums[m][p], keys[p], query);
                        }
                    }
                }
                quad += 1;
            }
            let add = x.accumulate || group > 0;
            // Two passes: the first one stays short enough to unroll, which keeps the sums in registers.
            let mut values = [[L::zero(); P]; M];
            for m in 0..M {
                for p in 0..P {
                    values[m][p] = Q::to_f32(sums[m][p]);
                }
            }
            for m in 0..M {
                let a_scale = L::splat(*a_scales.add(m * x.groups_stride + group));
                for p in 0..P {
                    let scale = L::mul(L::load(b_scales.add(p * x.b_scale_stride + group * LANES)), a_scale);
                    let to = c.add(m * x.ldc + p * LANES);
                    let before = if add { L::load(to) } else { L::zero() };
                    L::store(L::fused(values[m][p], scale, before), to);
                }
            }
            group += 1;
        }
    }
}

/// One row times one panel. All weights are then read in the order in which they lie, which is what the CPU's own
/// prefetching follows best. SUMS are made along k, as one alone may have to wait for itself.
#[inline(always)]
unsafe fn line<L: Lanes, Q: Quads<L>, const SUMS: usize>(x: &ByteProduct, panel: usize) {
    /// Panels between what is multiplied and the scales that are prefetched: they lie apart, and come too late
    /// where their product ends.
    const SCALES_AHEAD: usize = 2;
    unsafe {
        let b = x.b.add(panel * x.panel_stride);
        let b_scales = x.b_scales.add(panel * x.b_scale_stride);
        let mut total = L::zero();
        if x.accumulate {
            total = L::load(x.c.add(panel * LANES));
        }
        let (mut quad, mut group) = (0, 0);
        while quad < x.quads {
            let scales = b_scales.add(group * LANES);
            prefetch(scales.wrapping_add(SCALES_AHEAD * x.b_scale_stride));
            let end = x.quads.min(quad + x.group_quads);
            let mut sums = [Q::started(0); SUMS];
            sums[0] = Q::started(*x.a_starts.add(group));
            while quad + SUMS <= end {
                for s in 0..SUMS {
                    let query = Q::query(x.a.add((quad + s) * QUAD));
                    sums[s] = Q::add(sums[s], Q::keys(b.add((quad + s) * STEP)), query);
                }
                quad += SUMS;
            }
            while quad < end {
                sums[0] = Q::add(sums[0], Q::keys(b.add(quad * STEP)), Q::query(x.a.add(quad * QUAD)));
                quad += 1;
            }
            let mut sum = sums[0];
            for s in 1..SUMS {
                sum = Q::join(sum, sums[s]);
            }
            let scale = L::mul(L::load(scales), L::splat(*x.a_scales.add(group)));
            total = L::fused(Q::to_f32(sum), scale, total);
            group += 1;
        }
        L::store(total, x.c.add(panel * LANES));
    }
}

/// All rows times P panels from `panel`. If AHEAD, the first tile of rows prefetches the P panels behind.
#[inline(always)]
unsafe fn rows<L: Lanes, Q: Quads<L>, const P: usize, const AHEAD: bool>(x: &ByteProduct, panel: usize) {
    unsafe {
        let mut ahead = AHEAD;
        rows_in_even_tiles!(Q::PRODUCT_ROWS, x.m, [1 2 3 4 5 6 7 8], row, M => {
            if ahead {
                tile::<L, Q, M, P, true>(x, row, panel);
            } else {
                tile::<L, Q, M, P, false>(x, row, panel);
            }
            ahead = false;
        });
    }
}

/// The whole product, see [`crate::Kernels::gemm_i8`].
#[inline(always)]
pub(crate) unsafe fn gemm_i8<L: Lanes, Q: Quads<L>>(x: &ByteProduct) {
    unsafe {
        let mut panel = 0;
        // With few rows threads share the panels, and what lies behind these may be another thread's to read.
        let beyond = x.m >= BEYOND_ROWS;
        if x.m == 1 {
            // LINE_SUMS is a constant of the level: the branches not taken vanish.
            while panel < x.panels {
                if Q::LINE_SUMS == 4 {
                    line::<L, Q, 4>(x, panel);
                } else {
                    line::<L, Q, 1>(x, panel);
                }
                panel += 1;
            }
        }
        panels_by_three!(Q::PRODUCT_PANELS, x.panels, panel, P => {
            if beyond || panel + P < x.panels {
                rows::<L, Q, P, true>(x, panel);
            } else {
                rows::<L, Q, P, false>(x, panel);
            }
        });
    }
}

/// One number's code. Adding 1.5 x 2^23 leaves the number, rounded to nearest even, in the lowest bits.
#[inline(always)]
fn to_code(x: f32, inverse: f32) -> i8 {
    let steps = x * inverse;
    // Written so that NaN becomes the lowest code, as the vector instructions have it.
    let steps = if steps > -127.0 { steps } else { -127.0 };
    let steps = if steps < 127.0 { steps } else { 127.0 };
    (steps + 12_582_912.0).to_bits() as i8
}

/// The step of codes for numbers up to `magnitude`, and one over it; both are zero where all numbers are as good as that.
#[inline(always)]
fn step_of(magnitude: f32) -> (f32, f32) {
    if magnitude < LEAST_MAGNITUDE { (0.0, 0.0) } else { (magnitude / 127.0, 127.0 / magnitude) }
}

/// -128 times the sum of the codes of a group.
#[inline(always)]
fn start_of(codes: &[i8]) -> i32 {
    -128 * codes.iter().map(|&code| i32::from(code)).sum::<i32>()
}

/// Quantizes one group: its codes, its scale and -128 times the sum of its codes.
#[inline(always)]
unsafe fn quantize_group<L: Lanes>(x: &[f32], codes: &mut [i8]) -> (f32, i32) {
    unsafe {
        let from = x.as_ptr();
        let whole = x.len() / LANES * LANES;
        let mut largest = L::zero();
        // Zero, or NaN where a number is not finite.
        let mut poison = L::zero();
        let mut i = 0;
        while i < whole {
            let numbers = L::load(from.add(i));
            largest = L::max(L::max(numbers, L::sub(L::zero(), numbers)), largest);
            poison = L::fma(numbers, L::zero(), poison);
            i += LANES;
        }
        let (mut magnitude, mut poison) = (L::largest(largest), L::sum(poison));
        for &number in &x[whole..] {
            magnitude = if number.abs() > magnitude { number.abs() } else { magnitude };
            poison += number * 0.0;
        }
        let (scale, inverse) = step_of(magnitude);
        let codes = &mut codes[..x.len()];
        let to = codes.as_mut_ptr();
        let (lanes, least, most) = (L::splat(inverse), L::splat(-127.0), L::splat(127.0));
        let mut i = 0;
        while i < whole {
            let steps = L::mul(L::load(from.add(i)), lanes);
            L::narrow_to_bytes(L::min(L::max(steps, least), most), to.add(i));
            i += LANES;
        }
        for i in whole..x.len() {
            *to.add(i) = to_code(x[i], inverse);
        }
        (scale + poison, start_of(codes))
    }
}

/// See [`crate::Kernels::quantize_i8`].
#[inline(always)]
pub(crate) unsafe fn quantize_i8<L: Lanes>(
    x: &[f32],
    group: usize,
    codes: &mut [i8],
    scales: &mut [f32],
    starts: &mut [i32],
) {
    for (index, x) in x.chunks(group).enumerate() {
        // SAFETY: the caller's promise.
        let (scale, start) = unsafe { quantize_group::<L>(x, &mut codes[index * group..]) };
        scales[index] = scale;
        starts[index] = start;
    }
    codes[x.len()..].fill(0);
}

/// As [`quantize_group`], of one transformed block that is still in registers.
#[inline(always)]
unsafe fn quantize_block<L: Lanes>(values: [L::F; BLOCK_VECTORS], codes: &mut [i8]) -> (f32, i32) {
    unsafe {
        let (mut largest, mut least) = (values[0], values[0]);
        for v in 1..BLOCK_VECTORS {
            largest = L::max(largest, values[v]);
            least = L::min(least, values[v]);
        }
        let magnitude = L::largest(L::max(largest, L::sub(L::zero(), least)));
        // Zero, or NaN: every number of a transformed block is a sum of all, so one that was not finite leaves none that is.
        let poison = magnitude * 0.0;
        let (scale, inverse) = step_of(magnitude);
        let codes = &mut codes[..HADAMARD_BLOCK];
        let (to, inverse) = (codes.as_mut_ptr(), L::splat(inverse));
        let (least, most) = (L::splat(-127.0), L::splat(127.0));
        for v in 0..BLOCK_VECTORS {
            let steps = L::mul(values[v], inverse);
            L::narrow_to_bytes(L::min(L::max(steps, least), most), to.add(v * LANES));
        }
        (scale + poison, start_of(codes))
    }
}

/// Most numbers of a group that is transformed before it is quantized.
pub(crate) const TRANSFORMED_GROUP: usize = 512;

/// See [`crate::Kernels::quantize_transformed_i8`].
#[inline(always)]
pub(crate) unsafe fn quantize_transformed_i8<L: Lanes>(
    x: &[f32],
    group: usize,
    codes: &mut [i8],
    scales: &mut [f32],
    starts: &mut [i32],
) {
    let mut block = [0.0_f32; TRANSFORMED_GROUP];
    for (index, x) in x.chunks(group).enumerate() {
        if x.len() == HADAMARD_BLOCK {
            // SAFETY: the caller's promise.
            (scales[index], starts[index]) =
                unsafe { quantize_block::<L>(hadamard::block::<L>(x.as_ptr()), &mut codes[index * group..]) };
            continue;
        }
        let transformed = &mut block[..x.len()];
        // SAFETY: the caller's promise; the block has as many numbers as `x`.
        let (scale, start) = unsafe {
            hadamard::transform::<L>(x.as_ptr(), transformed.as_mut_ptr(), x.len());
            quantize_group::<L>(transformed, &mut codes[index * group..])
        };
        scales[index] = scale;
        starts[index] = start;
    }
    codes[x.len()..].fill(0);
}
