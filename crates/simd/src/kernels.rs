//! The table of kernels: the same functions at each SIMD level, behind safe calls where lengths can be checked.

mod attention;
mod choice;
mod elementwise;
mod estimates;
mod listed_rows;
mod masses;
mod moments;
mod products;
mod tables;

use crate::attention::{Attend, Tile};
use crate::attention_i8::AttendCodes;
use crate::codes::Scan;
use crate::gemm_i8::ByteProduct;
use crate::halves::HalfProduct;
use crate::level::Level;
use crate::sketch::Sketch;
#[cfg(all(test, target_arch = "x86_64", target_os = "linux"))]
pub(crate) use choice::tiles_and_vectors;
pub use choice::{at_level, kernels, supported};

type Gemm<A, B> = unsafe fn(usize, usize, *const A, usize, *const B, usize, usize, *mut f32, usize, bool);
type AddRowsByPanels<A, B> = unsafe fn(usize, *const A, usize, &[*const B], usize, *mut f32, usize);
type NearestColumns = unsafe fn(usize, &[f32], usize, &[f32], u32, &mut [u32], &mut [f32]);
type QuantizeRow = unsafe fn(&[f32], usize, &mut [i8], &mut [f32], &mut [i32]);
/// Panel or codes, means, variances.
type Moments<T> = unsafe fn(*const T, &mut [f32], &mut [f32]);
/// Rows, list, vector, out.
type PassOverRows = unsafe fn(*const f32, &[u32], &[f32], &mut [f32]);

/// Scores, shift, weights; gives their sum.
type Weigh<T> = unsafe fn(&[f32], f32, *mut T) -> f32;
/// What stays, fine panels, weights, sums of the others; gives the sum of all.
type ThinWeights<T> = unsafe fn(&[f32], &[bool], *mut T, &mut [f32]) -> f32;
/// Weights, stride, inverses, spreads, cap, share, masses, masses of means.
type AddTileMasses<T> = unsafe fn(*const T, usize, &[f32], &[f32], f32, f32, &mut [f32], &mut [f32]);

/// The kernels of one SIMD level.
pub struct Kernels {
    /// The level they are compiled for.
    pub level: Level,
    gemm_f32: Gemm<f32, f32>,
    gemm_bf16: Gemm<u16, u16>,
    gemm_f32_bf16: Gemm<f32, u16>,
    add_rows_by_panels_f32: AddRowsByPanels<f32, f32>,
    add_rows_by_panels_bf16: AddRowsByPanels<u16, u16>,
    add_rows_by_panels_f32_bf16: AddRowsByPanels<f32, u16>,
    gemm_i8: unsafe fn(&ByteProduct),
    gemm_halves: unsafe fn(&HalfProduct),
    to_halves: unsafe fn(&[f32], &mut [u16], &mut [f32]),
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
    largest_magnitude: unsafe fn(&[f32]) -> f32,
    to_signed_codes: unsafe fn(&[f32], f32, &mut [i8]),
    weigh_f32: Weigh<f32>,
    weigh_bf16: Weigh<u16>,
    add_tile_masses_f32: AddTileMasses<f32>,
    add_tile_masses_bf16: AddTileMasses<u16>,
    thin_weights_f32: ThinWeights<f32>,
    thin_weights_bf16: ThinWeights<u16>,
    exp2_shifted: unsafe fn(&mut [f32], f32) -> f32,
    sum: unsafe fn(&[f32]) -> f32,
    largest_scaled: unsafe fn(&[f32], f32, &mut [f32]),
    sums_at_most: unsafe fn(&[f32], f32, &[f32], &mut [f32]),
    to_codes: unsafe fn(&[f32], &[f32], f32, &mut [u8]),
    scan_u8: unsafe fn(&Scan),
    sketch_masses: unsafe fn(&Sketch),
    nearest_columns: NearestColumns,
    panel_moments_f32: Moments<f32>,
    panel_moments_bf16: Moments<u16>,
    code_moments: Moments<i8>,
    value_means_f32: unsafe fn(*const f32, &mut [f32]),
    value_means_bf16: unsafe fn(*const u16, &mut [f32]),
    code_value_means: unsafe fn(*const i8, &mut [f32]),
    dots_of_rows: PassOverRows,
    squared_distances_of_rows: PassOverRows,
    mean_of_rows: unsafe fn(*const f32, &[u32], &mut [f32]),
    byte_dots: unsafe fn(*const i8, usize, &[*const u8], *mut i32),
}

impl std::fmt::Debug for Kernels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kernels").field("level", &self.level).finish_non_exhaustive()
    }
}
