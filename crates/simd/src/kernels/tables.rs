//! The generic kernels compiled for each level: a table of functions that have the level's CPU features.

use super::Kernels;
use crate::attention::{self, Attend, Tile};
use crate::attention_i8::{self, AttendCodes};
use crate::byte_dot::ByteDot;
use crate::codes::{self, Scan};
use crate::elementwise;
use crate::gemm::{self, Same, Widened};
use crate::gemm_i8::{self, ByteProduct};
use crate::hadamard;
use crate::halves;
use crate::lanes::scalar::Scalar;
use crate::lanes::{Bf16, F32};
use crate::level::Level;
use crate::listed_rows;
use crate::masses;
use crate::moments;
use crate::nearest;
use crate::panels;
use crate::sketch::{self, Sketch};

#[cfg(target_arch = "x86_64")]
use crate::lanes::avx2::{Avx2, Avx2Vnni};
#[cfg(target_arch = "x86_64")]
use crate::lanes::avx512::{Avx512, Avx512Bf16, Avx512Vnni};
#[cfg(target_arch = "aarch64")]
use crate::lanes::neon::Neon;

/// Compiles the generic kernels for one level: every entry is a function with the level's CPU features
/// into which the generic code is inlined.
macro_rules! compile {
    ($module:ident, $lanes:ty, $quads:ty, $level:expr $(, $feature:meta)?) => {
        #[allow(clippy::undocumented_unsafe_blocks, reason = "each function passes on its own contract: see SAFETY (all functions)")]
        pub(super) mod $module {
            use super::*;
            // SAFETY (all functions): each passes its caller's promises on; the table is handed out only
            // where the CPU has the level.
            $(#[$feature])?
            unsafe fn gemm_f32(m: usize, k: usize, a: *const f32, lda: usize, b: *const f32, stride: usize, panels: usize, c: *mut f32, ldc: usize, accumulate: bool) {
                unsafe { gemm::gemm::<$lanes, Same<F32>>(m, k, a, lda, b, stride, panels, c, ldc, accumulate) }
            }
            $(#[$feature])?
            unsafe fn gemm_bf16(m: usize, k: usize, a: *const u16, lda: usize, b: *const u16, stride: usize, panels: usize, c: *mut f32, ldc: usize, accumulate: bool) {
                unsafe { gemm::gemm::<$lanes, Same<Bf16>>(m, k, a, lda, b, stride, panels, c, ldc, accumulate) }
            }
            $(#[$feature])?
            unsafe fn gemm_f32_bf16(m: usize, k: usize, a: *const f32, lda: usize, b: *const u16, stride: usize, panels: usize, c: *mut f32, ldc: usize, accumulate: bool) {
                unsafe { gemm::gemm::<$lanes, Widened>(m, k, a, lda, b, stride, panels, c, ldc, accumulate) }
            }
            $(#[$feature])?
            unsafe fn add_rows_by_panels_f32(m: usize, a: *const f32, lda: usize, list: &[*const f32], width: usize, c: *mut f32, ldc: usize) {
                unsafe { panels::add_rows_by_panels::<$lanes, Same<F32>>(m, a, lda, list, width, c, ldc) }
            }
            $(#[$feature])?
            unsafe fn add_rows_by_panels_bf16(m: usize, a: *const u16, lda: usize, list: &[*const u16], width: usize, c: *mut f32, ldc: usize) {
                unsafe { panels::add_rows_by_panels::<$lanes, Same<Bf16>>(m, a, lda, list, width, c, ldc) }
            }
            $(#[$feature])?
            unsafe fn add_rows_by_panels_f32_bf16(m: usize, a: *const f32, lda: usize, list: &[*const u16], width: usize, c: *mut f32, ldc: usize) {
                unsafe { panels::add_rows_by_panels::<$lanes, Widened>(m, a, lda, list, width, c, ldc) }
            }
            $(#[$feature])?
            unsafe fn gemm_i8(product: &ByteProduct) {
                unsafe { gemm_i8::gemm_i8::<$lanes, $quads>(product) }
            }
            $(#[$feature])?
            unsafe fn quantize_i8(x: &[f32], group: usize, codes: &mut [i8], scales: &mut [f32], starts: &mut [i32]) {
                unsafe { gemm_i8::quantize_i8::<$lanes>(x, group, codes, scales, starts) }
            }
            $(#[$feature])?
            unsafe fn quantize_transformed_i8(x: &[f32], group: usize, codes: &mut [i8], scales: &mut [f32], starts: &mut [i32]) {
                unsafe { gemm_i8::quantize_transformed_i8::<$lanes>(x, group, codes, scales, starts) }
            }
            $(#[$feature])?
            unsafe fn hadamard(x: &mut [f32]) {
                unsafe { hadamard::hadamard::<$lanes>(x) }
            }
            $(#[$feature])?
            unsafe fn attend_f32(block: &mut Attend<'_, f32>, tiles: &[Tile<f32>]) {
                unsafe { attention::attend::<$lanes, Same<F32>>(block, tiles) }
            }
            $(#[$feature])?
            unsafe fn attend_f32_bf16(block: &mut Attend<'_, f32>, tiles: &[Tile<u16>]) {
                unsafe { attention::attend::<$lanes, Widened>(block, tiles) }
            }
            $(#[$feature])?
            unsafe fn attend_bf16(block: &mut Attend<'_, u16>, tiles: &[Tile<u16>]) {
                unsafe { attention::attend::<$lanes, Same<Bf16>>(block, tiles) }
            }
            $(#[$feature])?
            unsafe fn attend_i8(block: &mut AttendCodes<'_>, tiles: &[Tile<i8>]) {
                unsafe { attention_i8::attend::<$lanes, $quads>(block, tiles) }
            }
            $(#[$feature])?
            unsafe fn dequantize_tile(dimensions: usize, value_panels: usize, tile: &Tile<i8>, keys: *mut u16, values: *mut u16) {
                unsafe { attention_i8::dequantize_tile::<$lanes>(dimensions, value_panels, tile, keys, values) }
            }
            $(#[$feature])?
            unsafe fn dot(x: &[f32], y: &[f32]) -> f32 {
                unsafe { elementwise::dot::<$lanes>(x, y) }
            }
            $(#[$feature])?
            unsafe fn squared_distance(x: &[f32], y: &[f32]) -> f32 {
                unsafe { elementwise::squared_distance::<$lanes>(x, y) }
            }
            $(#[$feature])?
            unsafe fn exact_dot(x: &[f32], y: &[f32]) -> f64 {
                unsafe { elementwise::exact_dot::<$lanes>(x, y) }
            }
            $(#[$feature])?
            unsafe fn exact_squared_distance(x: &[f32], y: &[f32]) -> f64 {
                unsafe { elementwise::exact_squared_distance::<$lanes>(x, y) }
            }
            $(#[$feature])?
            unsafe fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
                unsafe { elementwise::rms_norm::<$lanes>(x, weight, eps, out) }
            }
            $(#[$feature])?
            unsafe fn rotate_half(x: &mut [f32], cos: &[f32], sin: &[f32]) {
                unsafe { elementwise::rotate_half::<$lanes>(x, cos, sin) }
            }
            $(#[$feature])?
            unsafe fn silu_mul(gate: &[f32], up: &[f32], out: &mut [f32]) {
                unsafe { elementwise::silu_mul::<$lanes>(gate, up, out) }
            }
            $(#[$feature])?
            unsafe fn add(x: &mut [f32], y: &[f32]) {
                unsafe { elementwise::add::<$lanes>(x, y) }
            }
            $(#[$feature])?
            unsafe fn to_bf16(x: &[f32], out: &mut [u16]) {
                unsafe { elementwise::to_bf16::<$lanes>(x, out) }
            }
            $(#[$feature])?
            unsafe fn from_bf16(x: &[u16], out: &mut [f32]) {
                unsafe { elementwise::from_bf16::<$lanes>(x, out) }
            }
            $(#[$feature])?
            unsafe fn scale(x: &[f32], by: f32, out: &mut [f32]) {
                unsafe { elementwise::scale::<$lanes>(x, by, out) }
            }
            $(#[$feature])?
            unsafe fn add_scaled(x: &[f32], by: f32, out: &mut [f32]) {
                unsafe { elementwise::add_scaled::<$lanes>(x, by, out) }
            }
            $(#[$feature])?
            unsafe fn largest(x: &[f32]) -> f32 {
                unsafe { elementwise::largest::<$lanes>(x) }
            }
            $(#[$feature])?
            unsafe fn largest_magnitude(x: &[f32]) -> f32 {
                unsafe { elementwise::largest_magnitude::<$lanes>(x) }
            }
            $(#[$feature])?
            unsafe fn to_signed_codes(x: &[f32], by: f32, out: &mut [i8]) {
                unsafe { elementwise::to_signed_codes::<$lanes>(x, by, out) }
            }
            $(#[$feature])?
            unsafe fn weigh_f32(scores: &[f32], shift: f32, weights: *mut f32) -> f32 {
                unsafe { masses::weigh::<$lanes, F32>(scores, shift, weights) }
            }
            $(#[$feature])?
            unsafe fn add_tile_masses_f32(weights: *const f32, stride: usize, inverses: &[f32], spreads: &[f32], cap: f32, share: f32, masses: &mut [f32], mean_masses: &mut [f32]) {
                unsafe { masses::add_tile_masses::<$lanes, F32>(weights, stride, inverses, spreads, cap, share, masses, mean_masses) }
            }
            $(#[$feature])?
            unsafe fn thin_weights_f32(kept: &[f32], fine: &[bool], weights: *mut f32, coarse: &mut [f32]) -> f32 {
                unsafe { masses::thin_weights::<$lanes, F32>(kept, fine, weights, coarse) }
            }
            $(#[$feature])?
            unsafe fn weigh_bf16(scores: &[f32], shift: f32, weights: *mut u16) -> f32 {
                unsafe { masses::weigh::<$lanes, Bf16>(scores, shift, weights) }
            }
            $(#[$feature])?
            unsafe fn add_tile_masses_bf16(weights: *const u16, stride: usize, inverses: &[f32], spreads: &[f32], cap: f32, share: f32, masses: &mut [f32], mean_masses: &mut [f32]) {
                unsafe { masses::add_tile_masses::<$lanes, Bf16>(weights, stride, inverses, spreads, cap, share, masses, mean_masses) }
            }
            $(#[$feature])?
            unsafe fn thin_weights_bf16(kept: &[f32], fine: &[bool], weights: *mut u16, coarse: &mut [f32]) -> f32 {
                unsafe { masses::thin_weights::<$lanes, Bf16>(kept, fine, weights, coarse) }
            }
            $(#[$feature])?
            unsafe fn exp2_shifted(x: &mut [f32], shift: f32) -> f32 {
                unsafe { elementwise::exp2_shifted::<$lanes>(x, shift) }
            }
            $(#[$feature])?
            unsafe fn sum(x: &[f32]) -> f32 {
                unsafe { elementwise::sum::<$lanes>(x) }
            }
            $(#[$feature])?
            unsafe fn largest_scaled(x: &[f32], by: f32, out: &mut [f32]) {
                unsafe { elementwise::largest_scaled::<$lanes>(x, by, out) }
            }
            $(#[$feature])?
            unsafe fn sums_at_most(keys: &[f32], most: f32, x: &[f32], sums: &mut [f32]) {
                unsafe { elementwise::sums_at_most::<$lanes>(keys, most, x, sums) }
            }
            $(#[$feature])?
            unsafe fn to_codes(x: &[f32], centre: &[f32], inverse_step: f32, out: &mut [u8]) {
                unsafe { codes::to_codes::<$lanes>(x, centre, inverse_step, out) }
            }
            $(#[$feature])?
            unsafe fn scan_u8(scan: &Scan) {
                unsafe { codes::scan_u8::<$lanes, $quads>(scan) }
            }
            $(#[$feature])?
            unsafe fn sketch_masses(sketch: &Sketch) {
                unsafe { sketch::sketch_masses::<$lanes, $quads>(sketch) }
            }
            $(#[$feature])?
            unsafe fn byte_dots(query: *const i8, length: usize, rows: &[*const u8], out: *mut i32) {
                unsafe { <$quads as ByteDot>::byte_dots(query, length, rows, out) }
            }
            $(#[$feature])?
            unsafe fn nearest_columns(n: usize, scores: &[f32], stride: usize, offsets: &[f32], first: u32, best: &mut [u32], best_scores: &mut [f32]) {
                unsafe { nearest::nearest_columns::<$lanes>(n, scores, stride, offsets, first, best, best_scores) }
            }
            $(#[$feature])?
            unsafe fn panel_moments_f32(panel: *const f32, means: &mut [f32], variances: &mut [f32]) {
                unsafe { moments::panel_moments::<$lanes, F32>(panel, means, variances) }
            }
            $(#[$feature])?
            unsafe fn panel_moments_bf16(panel: *const u16, means: &mut [f32], variances: &mut [f32]) {
                unsafe { moments::panel_moments::<$lanes, Bf16>(panel, means, variances) }
            }
            $(#[$feature])?
            unsafe fn code_moments(codes: *const i8, means: &mut [f32], variances: &mut [f32]) {
                unsafe { moments::code_moments::<$lanes>(codes, means, variances) }
            }
            $(#[$feature])?
            unsafe fn value_means_f32(values: *const f32, means: &mut [f32]) {
                unsafe { moments::value_means::<$lanes, F32>(values, means) }
            }
            $(#[$feature])?
            unsafe fn value_means_bf16(values: *const u16, means: &mut [f32]) {
                unsafe { moments::value_means::<$lanes, Bf16>(values, means) }
            }
            $(#[$feature])?
            unsafe fn code_value_means(codes: *const i8, means: &mut [f32]) {
                unsafe { moments::code_value_means::<$lanes>(codes, means) }
            }
            $(#[$feature])?
            unsafe fn dots_of_rows(rows: *const f32, list: &[u32], vector: &[f32], out: &mut [f32]) {
                unsafe { listed_rows::dots_of_rows::<$lanes>(rows, list, vector, out) }
            }
            $(#[$feature])?
            unsafe fn squared_distances_of_rows(rows: *const f32, list: &[u32], vector: &[f32], out: &mut [f32]) {
                unsafe { listed_rows::squared_distances_of_rows::<$lanes>(rows, list, vector, out) }
            }
            $(#[$feature])?
            unsafe fn mean_of_rows(rows: *const f32, list: &[u32], mean: &mut [f32]) {
                unsafe { listed_rows::mean_of_rows::<$lanes>(rows, list, mean) }
            }
            pub(in crate::kernels) static TABLE: Kernels = Kernels {
                level: $level, panel_moments_f32, panel_moments_bf16, code_moments, value_means_f32, value_means_bf16, code_value_means, dots_of_rows, squared_distances_of_rows, mean_of_rows, nearest_columns, gemm_f32, gemm_bf16, gemm_f32_bf16, add_rows_by_panels_f32, add_rows_by_panels_bf16, add_rows_by_panels_f32_bf16, gemm_i8, gemm_halves: halves::gemm_halves_plain, to_halves: halves::to_halves_plain, quantize_i8, quantize_transformed_i8, hadamard, attend_f32, attend_f32_bf16, attend_bf16, attend_i8, dequantize_tile, dot, squared_distance, exact_dot, exact_squared_distance, rms_norm,
                rotate_half, silu_mul, add, to_bf16, from_bf16, scale, add_scaled, largest, largest_magnitude, to_signed_codes, weigh_f32, weigh_bf16, add_tile_masses_f32, add_tile_masses_bf16, thin_weights_f32, thin_weights_bf16, exp2_shifted, sum, largest_scaled, sums_at_most, to_codes, scan_u8, sketch_masses, byte_dots,
            };
        }
    };
}

/// A level that differs from another one in nothing but its products of codes.
#[cfg(target_arch = "x86_64")]
macro_rules! compile_codes {
    ($module:ident, $base:ident, $lanes:ty, $quads:ty, $level:expr, $feature:meta) => {
        pub(super) mod $module {
            use super::*;
            /// # Safety
            /// As [`codes::scan_u8`]; the table is handed out only where the CPU has the level.
            #[$feature]
            unsafe fn scan_u8(scan: &Scan) {
                // SAFETY: passed on.
                unsafe { codes::scan_u8::<$lanes, $quads>(scan) }
            }
            /// # Safety
            /// As [`sketch::sketch_masses`]; the table is handed out only where the CPU has the level.
            #[$feature]
            unsafe fn sketch_masses(sketch: &Sketch) {
                // SAFETY: passed on.
                unsafe { sketch::sketch_masses::<$lanes, $quads>(sketch) }
            }
            /// # Safety
            /// As [`gemm_i8::gemm_i8`]; the table is handed out only where the CPU has the level.
            #[$feature]
            unsafe fn gemm_i8(product: &ByteProduct) {
                // SAFETY: passed on.
                unsafe { gemm_i8::gemm_i8::<$lanes, $quads>(product) }
            }
            /// # Safety
            /// As [`Kernels::attend_i8`]; the table is handed out only where the CPU has the level.
            #[$feature]
            unsafe fn attend_i8(block: &mut AttendCodes<'_>, tiles: &[Tile<i8>]) {
                // SAFETY: passed on.
                unsafe { attention_i8::attend::<$lanes, $quads>(block, tiles) }
            }
            /// # Safety
            /// As [`ByteDot::byte_dots`]; the table is handed out only where the CPU has the level.
            #[$feature]
            unsafe fn byte_dots(query: *const i8, length: usize, rows: &[*const u8], out: *mut i32) {
                // SAFETY: passed on.
                unsafe { <$quads as ByteDot>::byte_dots(query, length, rows, out) }
            }
            pub(in crate::kernels) static TABLE: Kernels =
                Kernels { level: $level, scan_u8, sketch_masses, gemm_i8, attend_i8, byte_dots, ..$base::TABLE };
        }
    };
}

/// A level that differs from AVX-512 with bf16 in what it multiplies on tiles.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub(super) mod amx {
    use super::*;
    use crate::amx::assembly::Assembly;
    use crate::amx::{attention, byte_product, product};

    /// # Safety
    /// As [`Kernels::gemm_bf16`]; the table is handed out only where the process may use AMX.
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16")]
    unsafe fn gemm_bf16(
        m: usize,
        k: usize,
        a: *const u16,
        lda: usize,
        b: *const u16,
        stride: usize,
        panels: usize,
        c: *mut f32,
        ldc: usize,
        accumulate: bool,
    ) {
        // SAFETY: passed on.
        unsafe { product::gemm_bf16::<Assembly, Avx512Bf16>(m, k, a, lda, b, stride, panels, c, ldc, accumulate) }
    }

    /// # Safety
    /// As [`Kernels::gemm_i8`]; the table is handed out only where the process may use AMX.
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16")]
    unsafe fn gemm_i8(product: &ByteProduct) {
        // SAFETY: passed on.
        unsafe { byte_product::gemm_i8::<Assembly, Avx512Bf16, Avx512Vnni>(product) }
    }

    /// # Safety
    /// As [`Kernels::attend_bf16`]; the table is handed out only where the process may use AMX.
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16")]
    unsafe fn attend_bf16(block: &mut Attend<'_, u16>, tiles: &[Tile<u16>]) {
        // SAFETY: passed on.
        unsafe { attention::attend::<Assembly, Avx512Bf16>(block, tiles) }
    }

    pub(in crate::kernels) static TABLE: Kernels =
        Kernels { level: Level::Amx, gemm_bf16, gemm_i8, attend_bf16, ..avx512_bf16::TABLE };
}

/// A level that differs from AVX-512 with `vpdpbusd` in its products in half precision.
#[cfg(target_arch = "x86_64")]
pub(super) mod avx512_fp16 {
    use super::*;
    use crate::halves::avx512_fp16::{gemm_halves, to_halves};

    pub(in crate::kernels) static TABLE: Kernels =
        Kernels { level: Level::Avx512Fp16, gemm_halves, to_halves, ..avx512_vnni::TABLE };
}

compile!(scalar, Scalar, Scalar, Level::Scalar);
#[cfg(target_arch = "aarch64")]
compile!(neon, Neon, Neon, Level::Neon);
#[cfg(target_arch = "x86_64")]
compile!(avx2, Avx2, Avx2, Level::Avx2, target_feature(enable = "avx2,fma,f16c"));
#[cfg(target_arch = "x86_64")]
compile_codes!(avx2_vnni, avx2, Avx2, Avx2Vnni, Level::Avx2Vnni, target_feature(enable = "avx2,fma,f16c,avxvnni"));
#[cfg(target_arch = "x86_64")]
compile!(
    avx512,
    Avx512,
    Avx512,
    Level::Avx512,
    target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")
);
#[cfg(target_arch = "x86_64")]
compile_codes!(
    avx512_vnni,
    avx512,
    Avx512,
    Avx512Vnni,
    Level::Avx512Vnni,
    target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")
);
#[cfg(target_arch = "x86_64")]
compile!(
    avx512_bf16,
    Avx512Bf16,
    Avx512Vnni,
    Level::Avx512Bf16,
    target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16")
);
