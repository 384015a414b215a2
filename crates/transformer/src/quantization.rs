//! Rows of numbers as int8 and back.
//!
//! Activations have a few channels that are far larger than the others in every token. Quantized as they are, they
//! would leave the others hardly any steps. So rows of weights and of activations are both Hadamard-transformed in
//! blocks before they are quantized, which changes no product and spreads large channels over their blocks (`QuaRot`,
//! Ashkboos et al. 2024).

use iceformer_simd::{HADAMARD_BLOCK, Kernels};

use crate::precision::GROUP_INPUTS;

// A group is whole blocks.
const _: () = assert!(GROUP_INPUTS.is_multiple_of(HADAMARD_BLOCK));

/// Transforms and quantizes a row, or whole groups of one: see [`Kernels::quantize_transformed_i8`]. `codes` may be longer.
pub(crate) fn quantize(kernels: &Kernels, row: &[f32], codes: &mut [i8], scales: &mut [f32], starts: &mut [i32]) {
    kernels.quantize_transformed_i8(row, GROUP_INPUTS, codes, scales, starts);
}
