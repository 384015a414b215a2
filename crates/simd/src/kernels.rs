//! The table of kernels: the same functions at each SIMD level, behind safe calls where lengths can be checked.

use crate::LANES;
use crate::attention::{self, Attend, Tile};
use crate::attention_i8::{self, AttendCodes};
use crate::byte_dot::{BYTE_ROW, ByteDot};
use crate::codes::{self, Scan};
use crate::elementwise;
use crate::gemm::{self, Same, Widened};
use crate::gemm_i8::{self, ByteProduct};
use crate::hadamard;
use crate::lanes::scalar::Scalar;
use crate::lanes::{Bf16, F32};
use crate::level::Level;
use crate::masses;
use crate::nearest;
use crate::panels;
use crate::sketch::{self, Sketch, SketchRow};
use std::sync::OnceLock;

#[cfg(target_arch = "x86_64")]
use crate::lanes::avx2::{Avx2, Avx2Vnni};
#[cfg(target_arch = "x86_64")]
use crate::lanes::avx512::{Avx512, Avx512Bf16, Avx512Vnni};
#[cfg(target_arch = "aarch64")]
use crate::lanes::neon::Neon;

type Gemm<A, B> = unsafe fn(usize, usize, *const A, usize, *const B, usize, usize, *mut f32, usize, bool);
type RowsByPanels<T> = unsafe fn(usize, usize, *const T, usize, &[*const T], *mut f32, usize);
type AddRowsByPanels<T> = unsafe fn(usize, *const T, usize, &[*const T], usize, *mut f32, usize);
type NearestColumns = unsafe fn(usize, &[f32], usize, &[f32], u32, &mut [u32], &mut [f32]);
type QuantizeRow = unsafe fn(&[f32], usize, &mut [i8], &mut [f32], &mut [i32]);

/// Scores, bits, floor, weights; gives top and sum.
type Weigh<T> = unsafe fn(&[f32], f32, f32, *mut T) -> (f32, f32);
/// Weights, stride, inverses, spreads, cap, share, masses.
type AddTileMasses<T> = unsafe fn(*const T, usize, &[f32], &[f32], f32, f32, &mut [f32]);

/// The kernels of one SIMD level.
pub struct Kernels {
    /// The level they are compiled for.
    pub level: Level,
    gemm_f32: Gemm<f32, f32>,
    gemm_bf16: Gemm<u16, u16>,
    gemm_f32_bf16: Gemm<f32, u16>,
    rows_by_panels_f32: RowsByPanels<f32>,
    rows_by_panels_bf16: RowsByPanels<u16>,
    add_rows_by_panels_f32: AddRowsByPanels<f32>,
    add_rows_by_panels_bf16: AddRowsByPanels<u16>,
    gemm_i8: unsafe fn(&ByteProduct),
    quantize_i8: QuantizeRow,
    quantize_transformed_i8: QuantizeRow,
    hadamard: unsafe fn(&mut [f32]),
    attend_f32: unsafe fn(&mut Attend<'_, f32>, &[Tile<f32>]),
    attend_f32_bf16: unsafe fn(&mut Attend<'_, f32>, &[Tile<u16>]),
    attend_bf16: unsafe fn(&mut Attend<'_, u16>, &[Tile<u16>]),
    attend_i8: unsafe fn(&mut AttendCodes<'_>, &[Tile<i8>]),
    dequantize_tile: unsafe fn(usize, usize, &Tile<i8>, *mut u16, *mut u16),
    dot: unsafe fn(&[f32], &[f32]) -> f32,
    squared_distance: unsafe fn(&[f32], &[f32]) -> f32,
    exact_dot: unsafe fn(&[f32], &[f32]) -> f64,
    exact_squared_distance: unsafe fn(&[f32], &[f32]) -> f64,
    rms_norm: unsafe fn(&[f32], &[f32], f32, &mut [f32]),
    rotate_half: unsafe fn(&mut [f32], &[f32], &[f32]),
    silu_mul: unsafe fn(&[f32], &[f32], &mut [f32]),
    add: unsafe fn(&mut [f32], &[f32]),
    to_bf16: unsafe fn(&[f32], &mut [u16]),
    from_bf16: unsafe fn(&[u16], &mut [f32]),
    scale: unsafe fn(&[f32], f32, &mut [f32]),
    add_scaled: unsafe fn(&[f32], f32, &mut [f32]),
    largest: unsafe fn(&[f32]) -> f32,
    weigh_f32: Weigh<f32>,
    weigh_bf16: Weigh<u16>,
    add_tile_masses_f32: AddTileMasses<f32>,
    add_tile_masses_bf16: AddTileMasses<u16>,
    keep_weights_f32: unsafe fn(&[f32], *mut f32) -> f32,
    keep_weights_bf16: unsafe fn(&[f32], *mut u16) -> f32,
    exp2_shifted: unsafe fn(&mut [f32], f32) -> f32,
    sum: unsafe fn(&[f32]) -> f32,
    largest_scaled: unsafe fn(&[f32], f32, &mut [f32]),
    sums_at_most: unsafe fn(&[f32], f32, &[f32], &mut [f32]),
    to_codes: unsafe fn(&[f32], &[f32], f32, &mut [u8]),
    scan_u8: unsafe fn(&Scan),
    sketch_masses: unsafe fn(&Sketch),
    nearest_columns: NearestColumns,
    byte_dots: unsafe fn(*const i8, usize, &[*const u8], *mut i32),
}

/// Compiles the generic kernels for one level: every entry is a function with the level's CPU features
/// into which the generic code is inlined.
macro_rules! compile {
    ($module:ident, $lanes:ty, $quads:ty, $level:expr $(, $feature:meta)?) => {
        #[allow(clippy::undocumented_unsafe_blocks, reason = "each function passes on its own contract: see SAFETY (all functions)")]
        mod $module {
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
            unsafe fn rows_by_panels_f32(m: usize, k: usize, a: *const f32, lda: usize, panels: &[*const f32], c: *mut f32, ldc: usize) {
                unsafe { panels::rows_by_panels::<$lanes, Same<F32>>(m, k, a, lda, panels, c, ldc) }
            }
            $(#[$feature])?
            unsafe fn rows_by_panels_bf16(m: usize, k: usize, a: *const u16, lda: usize, panels: &[*const u16], c: *mut f32, ldc: usize) {
                unsafe { panels::rows_by_panels::<$lanes, Same<Bf16>>(m, k, a, lda, panels, c, ldc) }
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
            unsafe fn weigh_f32(scores: &[f32], bits: f32, floor: f32, weights: *mut f32) -> (f32, f32) {
                unsafe { masses::weigh::<$lanes, F32>(scores, bits, floor, weights) }
            }
            $(#[$feature])?
            unsafe fn add_tile_masses_f32(weights: *const f32, stride: usize, inverses: &[f32], spreads: &[f32], cap: f32, share: f32, masses: &mut [f32]) {
                unsafe { masses::add_tile_masses::<$lanes, F32>(weights, stride, inverses, spreads, cap, share, masses) }
            }
            $(#[$feature])?
            unsafe fn keep_weights_f32(kept: &[f32], weights: *mut f32) -> f32 {
                unsafe { masses::keep_weights::<$lanes, F32>(kept, weights) }
            }
            $(#[$feature])?
            unsafe fn weigh_bf16(scores: &[f32], bits: f32, floor: f32, weights: *mut u16) -> (f32, f32) {
                unsafe { masses::weigh::<$lanes, Bf16>(scores, bits, floor, weights) }
            }
            $(#[$feature])?
            unsafe fn add_tile_masses_bf16(weights: *const u16, stride: usize, inverses: &[f32], spreads: &[f32], cap: f32, share: f32, masses: &mut [f32]) {
                unsafe { masses::add_tile_masses::<$lanes, Bf16>(weights, stride, inverses, spreads, cap, share, masses) }
            }
            $(#[$feature])?
            unsafe fn keep_weights_bf16(kept: &[f32], weights: *mut u16) -> f32 {
                unsafe { masses::keep_weights::<$lanes, Bf16>(kept, weights) }
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
            pub(super) static TABLE: Kernels = Kernels {
                level: $level, nearest_columns, gemm_f32, gemm_bf16, gemm_f32_bf16, rows_by_panels_f32, rows_by_panels_bf16, add_rows_by_panels_f32, add_rows_by_panels_bf16, gemm_i8, quantize_i8, quantize_transformed_i8, hadamard, attend_f32, attend_f32_bf16, attend_bf16, attend_i8, dequantize_tile, dot, squared_distance, exact_dot, exact_squared_distance, rms_norm,
                rotate_half, silu_mul, add, to_bf16, from_bf16, scale, add_scaled, largest, weigh_f32, weigh_bf16, add_tile_masses_f32, add_tile_masses_bf16, keep_weights_f32, keep_weights_bf16, exp2_shifted, sum, largest_scaled, sums_at_most, to_codes, scan_u8, sketch_masses, byte_dots,
            };
        }
    };
}

/// A level that differs from another one in nothing but its products of codes.
#[cfg(target_arch = "x86_64")]
macro_rules! compile_codes {
    ($module:ident, $base:ident, $lanes:ty, $quads:ty, $level:expr, $feature:meta) => {
        mod $module {
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
            pub(super) static TABLE: Kernels =
                Kernels { level: $level, scan_u8, sketch_masses, gemm_i8, attend_i8, byte_dots, ..$base::TABLE };
        }
    };
}

/// A level that differs from AVX-512 with bf16 in what it multiplies on tiles.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod amx {
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
    /// As [`Kernels::rows_by_panels_bf16`]; the table is handed out only where the process may use AMX.
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16")]
    unsafe fn rows_by_panels_bf16(
        m: usize,
        k: usize,
        a: *const u16,
        lda: usize,
        panels: &[*const u16],
        c: *mut f32,
        ldc: usize,
    ) {
        // SAFETY: passed on.
        unsafe { product::rows_by_panels::<Assembly, Avx512Bf16>(m, k, a, lda, panels, c, ldc) }
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

    pub(super) static TABLE: Kernels =
        Kernels { level: Level::Amx, gemm_bf16, rows_by_panels_bf16, gemm_i8, attend_bf16, ..avx512_bf16::TABLE };
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

/// The table of `level`, if this CPU can run it.
#[must_use]
pub fn at_level(level: Level) -> Option<&'static Kernels> {
    if !level.is_supported() {
        return None;
    }
    match level {
        Level::Scalar => Some(&scalar::TABLE),
        #[cfg(target_arch = "aarch64")]
        Level::Neon => Some(&neon::TABLE),
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => Some(&avx2::TABLE),
        #[cfg(target_arch = "x86_64")]
        Level::Avx2Vnni => Some(&avx2_vnni::TABLE),
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => Some(&avx512::TABLE),
        #[cfg(target_arch = "x86_64")]
        Level::Avx512Vnni => Some(&avx512_vnni::TABLE),
        #[cfg(target_arch = "x86_64")]
        Level::Avx512Bf16 => Some(&avx512_bf16::TABLE),
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        Level::Amx => Some(&amx::TABLE),
        #[allow(unreachable_patterns, reason = "levels of other architectures")]
        _ => None,
    }
}

/// The table of AMX if the CPU has what its kernels need beside the tiles: for tests that make tile instructions work.
#[cfg(all(test, target_arch = "x86_64", target_os = "linux"))]
pub(crate) fn tiles_and_vectors() -> Option<&'static Kernels> {
    Level::Avx512Bf16.is_supported().then_some(&amx::TABLE)
}

/// The tables that this CPU can run, the scalar one first: what tests walk over.
pub fn supported() -> impl Iterator<Item = &'static Kernels> {
    Level::ALL.into_iter().filter_map(at_level)
}

/// The table in use: the CPU's best level, or the one that `ICEFORMER_SIMD` names when the process starts
/// to use kernels. A level that is unknown or that the CPU has not falls back to the best one.
#[must_use]
pub fn kernels() -> &'static Kernels {
    static CHOSEN: OnceLock<&'static Kernels> = OnceLock::new();
    CHOSEN.get_or_init(|| {
        let forced = std::env::var("ICEFORMER_SIMD").ok();
        forced
            .and_then(|name| name.parse().ok())
            .and_then(at_level)
            .or_else(|| supported().last())
            .unwrap_or(&scalar::TABLE)
    })
}

impl std::fmt::Debug for Kernels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kernels").field("level", &self.level).finish_non_exhaustive()
    }
}

impl Kernels {
    /// C = A x B, or C += A x B: `a` is `[m][lda]` (k used), `b` holds `panels` panels `[k][16]`, one every
    /// `panel_stride` numbers, `c` is `[m][ldc]` (16 x panels used).
    ///
    /// # Safety
    /// All three must be valid for these shapes; `c` must not overlap the others.
    pub unsafe fn gemm_f32(
        &self,
        m: usize,
        k: usize,
        a: *const f32,
        lda: usize,
        b: *const f32,
        panel_stride: usize,
        panels: usize,
        c: *mut f32,
        ldc: usize,
        accumulate: bool,
    ) {
        // SAFETY: the caller's promise; the level was detected.
        unsafe { (self.gemm_f32)(m, k, a, lda, b, panel_stride, panels, c, ldc, accumulate) }
    }

    /// The same on bf16 numbers (their bits): panels `[k/2][16][2]`, k even, sums in f32.
    ///
    /// # Safety
    /// As [`Self::gemm_f32`].
    pub unsafe fn gemm_bf16(
        &self,
        m: usize,
        k: usize,
        a: *const u16,
        lda: usize,
        b: *const u16,
        panel_stride: usize,
        panels: usize,
        c: *mut f32,
        ldc: usize,
        accumulate: bool,
    ) {
        debug_assert!(k.is_multiple_of(2));
        // SAFETY: the caller's promise; the level was detected.
        unsafe { (self.gemm_bf16)(m, k, a, lda, b, panel_stride, panels, c, ldc, accumulate) }
    }

    /// Rows of f32 times bf16 panels `[k/2][16][2]`, k even, which are widened exactly. Where
    /// [`Level::multiplies_bf16`] is false this is the fastest product with bf16 panels.
    ///
    /// # Safety
    /// As [`Self::gemm_f32`].
    pub unsafe fn gemm_f32_bf16(
        &self,
        m: usize,
        k: usize,
        a: *const f32,
        lda: usize,
        b: *const u16,
        panel_stride: usize,
        panels: usize,
        c: *mut f32,
        ldc: usize,
        accumulate: bool,
    ) {
        debug_assert!(k.is_multiple_of(2));
        // SAFETY: the caller's promise; the level was detected.
        unsafe { (self.gemm_f32_bf16)(m, k, a, lda, b, panel_stride, panels, c, ldc, accumulate) }
    }

    /// C = A x B where the panels of B lie anywhere: `a` is `[m][lda]` (k used), each of `panels` is `[k][16]`, `c` is
    /// `[m][ldc]` (16 for each panel used).
    ///
    /// # Safety
    /// All must be valid for these shapes; `c` must not overlap the others.
    pub unsafe fn rows_by_panels_f32(
        &self,
        m: usize,
        k: usize,
        a: *const f32,
        lda: usize,
        panels: &[*const f32],
        c: *mut f32,
        ldc: usize,
    ) {
        // SAFETY: the caller's promise; the level was detected.
        unsafe { (self.rows_by_panels_f32)(m, k, a, lda, panels, c, ldc) }
    }

    /// The same on bf16 numbers (their bits): panels `[k/2][16][2]`, k even, sums in f32.
    ///
    /// # Safety
    /// As [`Self::rows_by_panels_f32`].
    pub unsafe fn rows_by_panels_bf16(
        &self,
        m: usize,
        k: usize,
        a: *const u16,
        lda: usize,
        panels: &[*const u16],
        c: *mut f32,
        ldc: usize,
    ) {
        debug_assert!(k.is_multiple_of(2));
        // SAFETY: the caller's promise; the level was detected.
        unsafe { (self.rows_by_panels_bf16)(m, k, a, lda, panels, c, ldc) }
    }

    /// C += A x B where B lies in pieces of sixteen rows anywhere: `a` is `[m][lda]` (16 for each entry of `list` used),
    /// each entry is `[width][16][16]` (panel, row, column), `c` is `[m][ldc]` (16 x width used).
    ///
    /// # Safety
    /// All must be valid for these shapes; `c` must not overlap the others.
    pub unsafe fn add_rows_by_panels_f32(
        &self,
        m: usize,
        a: *const f32,
        lda: usize,
        list: &[*const f32],
        width: usize,
        c: *mut f32,
        ldc: usize,
    ) {
        // SAFETY: the caller's promise; the level was detected.
        unsafe { (self.add_rows_by_panels_f32)(m, a, lda, list, width, c, ldc) }
    }

    /// The same on bf16 numbers (their bits): entries `[width][8][16][2]`, sums in f32.
    ///
    /// # Safety
    /// As [`Self::add_rows_by_panels_f32`].
    pub unsafe fn add_rows_by_panels_bf16(
        &self,
        m: usize,
        a: *const u16,
        lda: usize,
        list: &[*const u16],
        width: usize,
        c: *mut f32,
        ldc: usize,
    ) {
        // SAFETY: the caller's promise; the level was detected.
        unsafe { (self.add_rows_by_panels_bf16)(m, a, lda, list, width, c, ldc) }
    }

    /// Products in bytes, both sides quantized in groups along k, the same to the last bit at every level:
    ///
    /// `c[r][16p + j] (+)= sum over g of sums[r][p][g][j] * (b_scales[p][g][j] * a_scales[r][g])`, where
    ///
    /// `sums[r][p][g][j] = a_starts[r][g] + sum over i in g of a[r][i] * b[p][i / 4][j][i % 4]`
    ///
    /// The sum within a group is an exact integer (up to 65,536 numbers, it wraps beyond). With
    /// `a_starts[r][g] = -128 * sum over i in g of a[r][i]` a code of B counts as its value less 128.
    ///
    /// - `quads`: numbers of a row, in fours, at least one; `group_quads`: those that share a scale. A group is a
    ///   multiple of 16 quads long, but for the last, which may be shorter
    /// - `a`: `[m][lda]` bytes, `4 x quads` of each row used
    /// - `a_scales`, `a_starts`: `[m][groups_stride]`, one for each group used
    /// - `b`: one panel `[quads][16][4]` every `panel_stride` bytes
    /// - `b_scales`: `[groups][16]` every `b_scale_stride` numbers
    /// - `c`: `[m][ldc]`, `16 x panels` of each row used
    ///
    /// # Safety
    /// All must be valid for these shapes; `c` must not overlap the others. `a_starts` must be as said above: some
    /// levels use them, others take 128 off the codes instead.
    pub unsafe fn gemm_i8(
        &self,
        m: usize,
        quads: usize,
        group_quads: usize,
        a: *const i8,
        lda: usize,
        a_scales: *const f32,
        a_starts: *const i32,
        groups_stride: usize,
        b: *const u8,
        panel_stride: usize,
        b_scales: *const f32,
        b_scale_stride: usize,
        panels: usize,
        c: *mut f32,
        ldc: usize,
        accumulate: bool,
    ) {
        debug_assert!(quads > 0 && (group_quads >= quads || (group_quads > 0 && group_quads.is_multiple_of(16))));
        let product = ByteProduct {
            m,
            quads,
            group_quads,
            a,
            lda,
            a_scales,
            a_starts,
            groups_stride,
            b,
            panel_stride,
            b_scales,
            b_scale_stride,
            panels,
            c,
            ldc,
            accumulate,
        };
        // SAFETY: the caller's promise; the level was detected.
        unsafe { (self.gemm_i8)(&product) }
    }

    /// Quantizes a row for [`Self::gemm_i8`] in groups of `group` numbers, the last of which may be shorter. The same
    /// at every level:
    ///
    /// - `scales[g]`: the largest magnitude of the group over 127; zero if that magnitude is below 1e-30, NaN if a
    ///   number of the group is not finite
    /// - `codes[i]`: `x[i] / scale`, rounded to nearest even; zero where `codes` is longer than `x`
    /// - `starts[g]`: -128 times the sum of the group's codes
    pub fn quantize_i8(&self, x: &[f32], group: usize, codes: &mut [i8], scales: &mut [f32], starts: &mut [i32]) {
        assert!(group > 0 && x.len() <= codes.len());
        assert!(x.len().div_ceil(group) <= scales.len() && x.len().div_ceil(group) <= starts.len());
        // SAFETY: lengths agree.
        unsafe { (self.quantize_i8)(x, group, codes, scales, starts) }
    }

    /// [`Self::hadamard`] of each group, then [`Self::quantize_i8`], in one pass: the same to the bit. A group of whole
    /// blocks of [`crate::HADAMARD_BLOCK`] has at most 512 numbers.
    ///
    /// # Panics
    /// If a group is longer or no number of whole blocks, or a buffer too short.
    pub fn quantize_transformed_i8(
        &self,
        x: &[f32],
        group: usize,
        codes: &mut [i8],
        scales: &mut [f32],
        starts: &mut [i32],
    ) {
        assert!(group > 0 && group <= gemm_i8::TRANSFORMED_GROUP && group.is_multiple_of(crate::HADAMARD_BLOCK));
        assert!(x.len() <= codes.len());
        assert!(x.len().div_ceil(group) <= scales.len() && x.len().div_ceil(group) <= starts.len());
        // SAFETY: lengths agree.
        unsafe { (self.quantize_transformed_i8)(x, group, codes, scales, starts) }
    }

    /// Replaces each block of [`crate::HADAMARD_BLOCK`] numbers by its Walsh-Hadamard transform, what is left at the end
    /// in blocks of 64, 32, 16, 8, 4 and 2. The transform is orthonormal and its own inverse: inner products stay, and a
    /// number much larger than its neighbours, which would make quantization coarse for all of them, is spread over
    /// its block. The same to the last bit at every level.
    pub fn hadamard(&self, x: &mut [f32]) {
        // SAFETY: the level was detected.
        unsafe { (self.hadamard)(x) }
    }

    /// Continues a block's softmax over tiles of f32.
    ///
    /// # Safety
    /// The tiles must point to panels of the block's shape.
    pub unsafe fn attend_f32(&self, block: &mut Attend<'_, f32>, tiles: &[Tile<f32>]) {
        block.check();
        // SAFETY: lengths are checked, tiles are the caller's promise.
        unsafe { (self.attend_f32)(block, tiles) }
    }

    /// Continues a block's softmax over tiles of bf16, which are widened exactly; queries and weights stay f32. Where
    /// [`Level::multiplies_bf16`] is false this is the fastest way through tiles of bf16.
    ///
    /// # Safety
    /// The tiles must point to panels of the block's shape.
    pub unsafe fn attend_f32_bf16(&self, block: &mut Attend<'_, f32>, tiles: &[Tile<u16>]) {
        block.check();
        // SAFETY: lengths are checked, tiles are the caller's promise.
        unsafe { (self.attend_f32_bf16)(block, tiles) }
    }

    /// Continues a block's softmax over tiles of bf16; weights are rounded to bf16.
    ///
    /// # Safety
    /// The tiles must point to panels of the block's shape.
    pub unsafe fn attend_bf16(&self, block: &mut Attend<'_, u16>, tiles: &[Tile<u16>]) {
        block.check();
        // SAFETY: lengths are checked, tiles are the caller's promise.
        unsafe { (self.attend_bf16)(block, tiles) }
    }

    /// Continues a block's softmax over tiles of codes, which are multiplied as they are: scores are exact products of
    /// codes times their scales, weights are rounded to 255ths of a step's largest (times the value's scale).
    ///
    /// # Safety
    /// The tiles must point to panels of the block's shape.
    pub unsafe fn attend_i8(&self, block: &mut AttendCodes<'_>, tiles: &[Tile<i8>]) {
        block.check();
        // SAFETY: lengths are checked, tiles are the caller's promise.
        unsafe { (self.attend_i8)(block, tiles) }
    }

    /// Writes a tile of codes as a tile of bf16: `keys` takes `[dimensions / 2][16][2]`, `values`
    /// `[value_panels][8][16][2]`. Each number is scale times code, rounded to nearest even: the same at every level if
    /// that product is exact in f32. Many rows are faster with this and [`Self::attend_bf16`] where tiles of bf16 are
    /// multiplied ([`Level::Amx`]).
    ///
    /// # Safety
    /// The tile must point to panels of this shape.
    pub unsafe fn dequantize_tile(
        &self,
        dimensions: usize,
        value_panels: usize,
        tile: &Tile<i8>,
        keys: &mut [u16],
        values: &mut [u16],
    ) {
        assert!(dimensions.is_multiple_of(2));
        assert!(keys.len() >= dimensions * LANES && values.len() >= value_panels * LANES * LANES);
        // SAFETY: lengths are checked, the tile is the caller's promise.
        unsafe { (self.dequantize_tile)(dimensions, value_panels, tile, keys.as_mut_ptr(), values.as_mut_ptr()) }
    }

    /// `out[r] = sum of query[i] * rows[r][i]`, a whole number, the same at every level.
    ///
    /// # Safety
    /// Each row must be valid for as many bytes as the query has.
    pub unsafe fn byte_dots(&self, query: &[i8], rows: &[*const u8], out: &mut [i32]) {
        assert!(query.len().is_multiple_of(BYTE_ROW) && rows.len() <= out.len());
        // SAFETY: lengths were checked, the rows are the caller's promise.
        unsafe { (self.byte_dots)(query.as_ptr(), query.len(), rows, out.as_mut_ptr()) }
    }

    /// Inner product.
    #[must_use]
    pub fn dot(&self, x: &[f32], y: &[f32]) -> f32 {
        assert_eq!(x.len(), y.len());
        // SAFETY: equal lengths.
        unsafe { (self.dot)(x, y) }
    }

    /// Squared Euclidean distance.
    #[must_use]
    pub fn squared_distance(&self, x: &[f32], y: &[f32]) -> f32 {
        assert_eq!(x.len(), y.len());
        // SAFETY: equal lengths.
        unsafe { (self.squared_distance)(x, y) }
    }

    /// Inner product summed in `f64`, the same to the last bit at every level.
    #[must_use]
    pub fn exact_dot(&self, x: &[f32], y: &[f32]) -> f64 {
        assert_eq!(x.len(), y.len());
        // SAFETY: equal lengths.
        unsafe { (self.exact_dot)(x, y) }
    }

    /// Squared Euclidean distance summed in `f64`, the same to the last bit at every level.
    #[must_use]
    pub fn exact_squared_distance(&self, x: &[f32], y: &[f32]) -> f64 {
        assert_eq!(x.len(), y.len());
        // SAFETY: equal lengths.
        unsafe { (self.exact_squared_distance)(x, y) }
    }

    /// `out = x / sqrt(mean(x^2) + eps) * weight` (Zhang and Sennrich 2019).
    pub fn rms_norm(&self, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
        assert!(x.len() == weight.len() && x.len() == out.len());
        // SAFETY: equal lengths.
        unsafe { (self.rms_norm)(x, weight, eps, out) }
    }

    /// Rotary position embedding of one head, the halves form: `(x[i], x[i + d/2])` turns by angle i.
    pub fn rotate_half(&self, x: &mut [f32], cos: &[f32], sin: &[f32]) {
        assert!(x.len() == 2 * cos.len() && cos.len() == sin.len());
        // SAFETY: lengths agree.
        unsafe { (self.rotate_half)(x, cos, sin) }
    }

    /// out = silu(gate) * up, silu(x) = x / (1 + e^-x).
    pub fn silu_mul(&self, gate: &[f32], up: &[f32], out: &mut [f32]) {
        assert!(gate.len() == up.len() && gate.len() == out.len());
        // SAFETY: equal lengths.
        unsafe { (self.silu_mul)(gate, up, out) }
    }

    /// x += y.
    pub fn add(&self, x: &mut [f32], y: &[f32]) {
        assert_eq!(x.len(), y.len());
        // SAFETY: equal lengths.
        unsafe { (self.add)(x, y) }
    }

    /// Rounds to bf16 (bits), nearest even.
    pub fn to_bf16(&self, x: &[f32], out: &mut [u16]) {
        assert_eq!(x.len(), out.len());
        // SAFETY: equal lengths.
        unsafe { (self.to_bf16)(x, out) }
    }

    /// Widens bf16 (bits).
    pub fn from_bf16(&self, x: &[u16], out: &mut [f32]) {
        assert_eq!(x.len(), out.len());
        // SAFETY: equal lengths.
        unsafe { (self.from_bf16)(x, out) }
    }

    /// out = x * by.
    pub fn scale(&self, x: &[f32], by: f32, out: &mut [f32]) {
        assert_eq!(x.len(), out.len());
        // SAFETY: equal lengths.
        unsafe { (self.scale)(x, by, out) }
    }

    /// out += x * by.
    pub fn add_scaled(&self, x: &[f32], by: f32, out: &mut [f32]) {
        assert_eq!(x.len(), out.len());
        // SAFETY: equal lengths.
        unsafe { (self.add_scaled)(x, by, out) }
    }

    /// The largest element, -inf of nothing.
    #[must_use]
    pub fn largest(&self, x: &[f32]) -> f32 {
        // SAFETY: within the slice.
        unsafe { (self.largest)(x) }
    }

    /// Turns a row's scores (base 2) of groups of keys into weights, where each counts `2^bits` times, relative to the
    /// row's largest: `weights = 2^(scores + bits - top)`, 0 below 2^-126, with `top = max(floor, largest score + bits)`.
    /// Returns `top` and the sum of the weights. Lengths are equal and multiples of 16.
    pub fn weigh_f32(&self, scores: &[f32], bits: f32, floor: f32, weights: &mut [f32]) -> (f32, f32) {
        assert!(scores.len() == weights.len() && scores.len().is_multiple_of(LANES));
        // SAFETY: equal lengths.
        unsafe { (self.weigh_f32)(scores, bits, floor, weights.as_mut_ptr()) }
    }

    /// Adds the share of mass that each tile of keys holds for some rows: `masses += share * min(rows, 2^min(spreads,
    /// cap) * sum over rows of weights * inverse)`.
    ///
    /// `weights` (`[rows][stride]`, the first n of each row count) are the tiles' weights if all their keys were their
    /// mean, `inverses` (`[rows]`) is one over each row's sum of weights, `spreads` (`[n]`) are the second-order terms
    /// (half the variance of the tile's scores, in bits, the mean over the rows); `cap` is at most 126. n is a multiple of
    /// 16.
    #[allow(clippy::too_many_arguments, reason = "a formula's terms")]
    pub fn add_tile_masses_f32(
        &self,
        weights: &[f32],
        stride: usize,
        inverses: &[f32],
        spreads: &[f32],
        cap: f32,
        share: f32,
        masses: &mut [f32],
    ) {
        let n = spreads.len();
        assert!(n == masses.len() && n <= stride && n.is_multiple_of(LANES));
        assert!(weights.len() + stride >= inverses.len() * stride + n);
        // SAFETY: lengths are checked.
        unsafe { (self.add_tile_masses_f32)(weights.as_ptr(), stride, inverses, spreads, cap, share, masses) }
    }

    /// `weights *= kept` (1 for what stays and 0 for what goes); returns the sum of the weights that stay. Lengths are
    /// equal and multiples of 16.
    pub fn keep_weights_f32(&self, kept: &[f32], weights: &mut [f32]) -> f32 {
        assert!(kept.len() == weights.len() && kept.len().is_multiple_of(LANES));
        // SAFETY: equal lengths.
        unsafe { (self.keep_weights_f32)(kept, weights.as_mut_ptr()) }
    }

    /// As [`Kernels::weigh_f32`] with weights in bf16.
    pub fn weigh_bf16(&self, scores: &[f32], bits: f32, floor: f32, weights: &mut [u16]) -> (f32, f32) {
        assert!(scores.len() == weights.len() && scores.len().is_multiple_of(LANES));
        // SAFETY: equal lengths.
        unsafe { (self.weigh_bf16)(scores, bits, floor, weights.as_mut_ptr()) }
    }

    /// As [`Kernels::add_tile_masses_f32`] with weights in bf16.
    #[allow(clippy::too_many_arguments, reason = "a formula's terms")]
    pub fn add_tile_masses_bf16(
        &self,
        weights: &[u16],
        stride: usize,
        inverses: &[f32],
        spreads: &[f32],
        cap: f32,
        share: f32,
        masses: &mut [f32],
    ) {
        let n = spreads.len();
        assert!(n == masses.len() && n <= stride && n.is_multiple_of(LANES));
        assert!(weights.len() + stride >= inverses.len() * stride + n);
        // SAFETY: lengths are checked.
        unsafe { (self.add_tile_masses_bf16)(weights.as_ptr(), stride, inverses, spreads, cap, share, masses) }
    }

    /// As [`Kernels::keep_weights_f32`] with weights in bf16.
    pub fn keep_weights_bf16(&self, kept: &[f32], weights: &mut [u16]) -> f32 {
        assert!(kept.len() == weights.len() && kept.len().is_multiple_of(LANES));
        // SAFETY: equal lengths.
        unsafe { (self.keep_weights_bf16)(kept, weights.as_mut_ptr()) }
    }

    /// x = 2^(x - shift), 0 below 2^-126; returns the sum. `x - shift` must not exceed 126.
    pub fn exp2_shifted(&self, x: &mut [f32], shift: f32) -> f32 {
        // SAFETY: within the slice.
        unsafe { (self.exp2_shifted)(x, shift) }
    }

    /// Sum of all elements.
    #[must_use]
    pub fn sum(&self, x: &[f32]) -> f32 {
        // SAFETY: within the slice.
        unsafe { (self.sum)(x) }
    }

    /// out = max(out, x * by).
    pub fn largest_scaled(&self, x: &[f32], by: f32, out: &mut [f32]) {
        assert_eq!(x.len(), out.len());
        // SAFETY: equal lengths.
        unsafe { (self.largest_scaled)(x, by, out) }
    }

    /// `sums[r]`: sum of `x[r][i]` over all i with `keys[i]` at most `most`. `x` is `[sums.len()][keys.len()]`, no key is
    /// NaN.
    pub fn sums_at_most(&self, keys: &[f32], most: f32, x: &[f32], sums: &mut [f32]) {
        assert_eq!(x.len(), sums.len() * keys.len());
        // SAFETY: lengths agree.
        unsafe { (self.sums_at_most)(keys, most, x, sums) }
    }

    /// Codes a vector, one byte per number: `out[i] = clamp(round((x[i] - centre[i]) * inverse_step), -127, 127) +
    /// 128`, nearest even; 128 (zero steps) where `out` is longer than `x`. NaN takes the lowest code, 1. The same at
    /// every level.
    pub fn to_codes(&self, x: &[f32], centre: &[f32], inverse_step: f32, out: &mut [u8]) {
        assert!(x.len() == centre.len() && x.len() <= out.len());
        // SAFETY: lengths agree.
        unsafe { (self.to_codes)(x, centre, inverse_step, out) }
    }

    /// Multiplies `m` queries of signed bytes with tiles of codes and finds the keys that reach a query's threshold:
    ///
    /// `value[r][t][j] = (sum over i of a[r][i] * b[t][i / 4][j][i % 4]) * scales[r] + offsets[t][j]`
    ///
    /// The sum is an exact integer (up to 65,536 numbers, it wraps beyond), converted to f32 once, multiplied and
    /// added with one rounding (fused): the same to the last bit at every level.
    ///
    /// - `a`: `[m][lda]` bytes, `4 x quads` of each row used
    /// - `b`: one tile `[quads][16][4]` every `tile_stride` bytes
    /// - `scales`, `thresholds`: `[m]`
    /// - `offsets`: `[tiles][16]`, or null for zeros
    /// - `masks`: `[m][tiles]`, bit j of each is set if the value of key j is at least the threshold (never for NaN)
    /// - `values`: `[m][tiles][16]`, written (all sixteen) where the mask is not zero, and perhaps elsewhere
    ///
    /// # Safety
    /// All must be valid for these shapes; `values` and `masks` must not overlap anything else.
    pub unsafe fn scan_u8(
        &self,
        m: usize,
        quads: usize,
        a: *const i8,
        lda: usize,
        tiles: usize,
        b: *const u8,
        tile_stride: usize,
        scales: *const f32,
        thresholds: *const f32,
        offsets: *const f32,
        values: *mut f32,
        masks: *mut u16,
    ) {
        let scan = Scan { m, quads, a, lda, tiles, b, tile_stride, scales, thresholds, offsets, values, masks };
        // SAFETY: the caller's promise; the level was detected.
        unsafe { (self.scan_u8)(&scan) }
    }

    /// The softmax mass of every tile of keys for every row, estimated from the keys' sketches ([`crate::SKETCH_LINE`]):
    ///
    /// `masses[r][t] = sum over j of 2^min(value[r][t][j], 80)`, where, with key j's scale `k` and codes 0 to 3 in `c`,
    ///
    /// `value[r][t][j] = k * (scale * sum over i of a[r][i] * c[i] + offset - penalty * k) + base`
    ///
    /// and scale, offset, penalty and base are those of `rows[r]`. Levels differ by rounding only.
    ///
    /// - `lines`: numbers of a key, in sixteens
    /// - `a`: `[rows.len()][lda]` bytes, `16 x lines` of each row used
    /// - `codes`: `[tiles][lines][16][4]`, see [`crate::SKETCH_LINE_BYTES`]
    /// - `scales`: bf16, `[tiles][16]`
    /// - `masses`: `[rows.len()][stride]`, `tiles` of each row written
    ///
    /// # Safety
    /// All must be valid for these shapes; `masses` must not overlap anything else.
    pub unsafe fn sketch_masses(
        &self,
        lines: usize,
        a: *const i8,
        lda: usize,
        rows: &[SketchRow],
        tiles: usize,
        codes: *const u8,
        scales: *const u16,
        masses: *mut f32,
        stride: usize,
    ) {
        let sketch = Sketch { m: rows.len(), lines, a, lda, rows: rows.as_ptr(), tiles, codes, scales, masses, stride };
        // SAFETY: the caller's promise; the level was detected.
        unsafe { (self.sketch_masses)(&sketch) }
    }

    /// For each row the column whose `scores[r][j] + offsets[j]` is largest, the first one of equals, if it is larger
    /// than the row's best so far: so products can be searched a few columns at a time, from the first to the last.
    /// NaN is never larger. The same at every level.
    ///
    /// - `scores`: `[m][stride]`, `n` of each row used
    /// - `offsets`: `[n]`, or empty for zeros
    /// - `first`: number of the first of these columns
    /// - `best`, `best_scores`: `[m]`; -inf is the score of a row that has no best yet
    pub fn nearest_columns(
        &self,
        n: usize,
        scores: &[f32],
        stride: usize,
        offsets: &[f32],
        first: u32,
        best: &mut [u32],
        best_scores: &mut [f32],
    ) {
        assert!(best.len() == best_scores.len() && n <= stride && (offsets.is_empty() || offsets.len() == n));
        assert!(u32::try_from(n).ok().and_then(|n| first.checked_add(n)).is_some());
        assert!(best.is_empty() || (best.len() - 1) * stride + n <= scores.len());
        // SAFETY: every row's n columns lie within the slice.
        unsafe { (self.nearest_columns)(n, scores, stride, offsets, first, best, best_scores) }
    }
}
