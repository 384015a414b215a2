//! One vector as bytes: how it is stored, read back and scored exactly.

use half::f16;
use half::slice::HalfFloatSliceExt;
use iceformer_simd::{Kernels, prefetch};

use crate::metric::Metric;
use crate::quantization::{inverse, reach, step_for};
use crate::storage::Storage;

/// The layout of a stored vector:
/// - `F32`: `[dimensions]` f32
/// - `F16`, `Bf16`: `[dimensions]` u16
/// - `I8`: one f32 (the step between two neighbouring numbers), then `[dimensions]` i8
///
/// in the byte order of the machine (little-endian on all that are supported), padded to whole f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RowFormat {
    pub storage: Storage,
    pub dimensions: usize,
}

impl RowFormat {
    /// `f32` words of a row: rows are kept as words, so that they are aligned.
    pub fn words(self) -> usize {
        match self.storage {
            Storage::F32 => self.dimensions,
            Storage::F16 | Storage::Bf16 => self.dimensions.div_ceil(2),
            Storage::I8 => 1 + self.dimensions.div_ceil(4),
        }
    }

    /// Stores `vector`, `[dimensions]`, in `row`, `[words]`.
    pub fn encode(self, kernels: &Kernels, vector: &[f32], row: &mut [u32]) {
        match self.storage {
            Storage::F32 => row.iter_mut().zip(vector).for_each(|(to, from)| *to = from.to_bits()),
            Storage::F16 => halves_mut(row, self.dimensions)
                .iter_mut()
                .zip(vector)
                .for_each(|(to, &from)| *to = f16::from_f32(from.clamp(-65504.0, 65504.0)).to_bits()),
            Storage::Bf16 => kernels.to_bf16(vector, halves_mut(row, self.dimensions)),
            Storage::I8 => {
                let step = step_for(reach(vector));
                let inverse = inverse(step);
                row[0] = step.to_bits();
                let bytes = bytes_mut(&mut row[1..], self.dimensions);
                for (to, from) in bytes.iter_mut().zip(vector) {
                    *to = (from * inverse).round_ties_even() as i8;
                }
            }
        }
    }

    /// Reads a row, `[words]`, back into `vector`, `[dimensions]`.
    pub fn decode(self, kernels: &Kernels, row: &[u32], vector: &mut [f32]) {
        match self.storage {
            Storage::F32 => vector.copy_from_slice(floats(row)),
            Storage::F16 => {
                let halves: &[f16] = half::slice::HalfBitsSliceExt::reinterpret_cast(halves(row, self.dimensions));
                halves.convert_to_f32_slice(vector);
            }
            Storage::Bf16 => kernels.from_bf16(halves(row, self.dimensions), vector),
            Storage::I8 => {
                let step = f32::from_bits(row[0]);
                let bytes = bytes(&row[1..], self.dimensions);
                vector.iter_mut().zip(bytes).for_each(|(to, &from)| *to = f32::from(from) * step);
            }
        }
    }

    /// The exact rank (score, negated for L2) of a row for a query, `[dimensions]`: summed in `f64` in a fixed
    /// order and rounded once, so that it is the same whatever found the pair, at every SIMD level.
    #[inline]
    pub fn rank(self, kernels: &Kernels, metric: Metric, query: &[f32], row: &[u32]) -> f32 {
        if self.storage == Storage::F32 {
            return exact_rank(kernels, metric, query, floats(row));
        }
        thread_local! {
            static VECTOR: std::cell::RefCell<Vec<f32>> = const { std::cell::RefCell::new(Vec::new()) };
        }
        VECTOR.with_borrow_mut(|vector| {
            vector.resize(self.dimensions, 0.0);
            self.decode(kernels, row, vector);
            exact_rank(kernels, metric, query, vector)
        })
    }
}

/// The exact rank of a vector for a query, both `[dimensions]`; see [`RowFormat::rank`].
#[inline]
pub(crate) fn exact_rank(kernels: &Kernels, metric: Metric, query: &[f32], vector: &[f32]) -> f32 {
    if metric == Metric::L2 {
        // Not `-distance`: equal vectors have rank 0, not −0.
        (0.0 - kernels.exact_squared_distance(query, vector)) as f32
    } else {
        kernels.exact_dot(query, vector) as f32
    }
}

/// Asks for the memory of a row before it is ranked.
#[inline]
pub(crate) fn prefetch_row(row: &[u32]) {
    for line in row.chunks(16) {
        prefetch(line.as_ptr());
    }
}

/// Words as the floats they hold.
#[inline]
pub(crate) fn floats(row: &[u32]) -> &[f32] {
    // SAFETY: both are four bytes with the same alignment, and every bit pattern is an f32.
    unsafe { std::slice::from_raw_parts(row.as_ptr().cast(), row.len()) }
}

fn halves(row: &[u32], dimensions: usize) -> &[u16] {
    debug_assert!(dimensions.div_ceil(2) <= row.len());
    // SAFETY: within the row, whose alignment is larger; every bit pattern is a u16.
    unsafe { std::slice::from_raw_parts(row.as_ptr().cast(), dimensions) }
}

fn halves_mut(row: &mut [u32], dimensions: usize) -> &mut [u16] {
    debug_assert!(dimensions.div_ceil(2) <= row.len());
    // SAFETY: within the row, whose alignment is larger; every bit pattern is valid in both.
    unsafe { std::slice::from_raw_parts_mut(row.as_mut_ptr().cast(), dimensions) }
}

fn bytes(row: &[u32], dimensions: usize) -> &[i8] {
    debug_assert!(dimensions.div_ceil(4) <= row.len());
    // SAFETY: within the row; every bit pattern is an i8.
    unsafe { std::slice::from_raw_parts(row.as_ptr().cast(), dimensions) }
}

fn bytes_mut(row: &mut [u32], dimensions: usize) -> &mut [i8] {
    debug_assert!(dimensions.div_ceil(4) <= row.len());
    // SAFETY: within the row; every bit pattern is valid in both.
    unsafe { std::slice::from_raw_parts_mut(row.as_mut_ptr().cast(), dimensions) }
}
