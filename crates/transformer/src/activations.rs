//! Rows of activations in the type that a product reads.

use iceformer_simd::{AlignedBuffer, Kernels};

use crate::disjoint::Disjoint;
use crate::error::Result;
use crate::memory::granted;
use crate::precision::Precision;

/// A matrix of activations, `[capacity][stride]`; a row holds its values and then zeros up to an even count.
pub(crate) struct Activations {
    stride: usize,
    elements: Elements,
}

enum Elements {
    F32(AlignedBuffer<f32>),
    Bf16(AlignedBuffer<u16>),
}

impl Activations {
    /// Room for `capacity` rows of up to `width` values, in the type in which `kernels` multiplies them with weights of
    /// `precision`: where the CPU has no products of bf16, activations stay f32 and weights are widened on the way.
    pub(crate) fn new(
        capacity: usize,
        width: usize,
        precision: Precision,
        kernels: &Kernels,
        purpose: &str,
    ) -> Result<Self> {
        let precision = if kernels.level.multiplies_bf16() { precision } else { Precision::F32 };
        // Rows begin on a cache line, and an odd number of lines apart: with a power of two between them, the rows
        // of one register tile would all fall into the same cache set.
        let line = 64 / precision.bytes();
        let stride = (width.div_ceil(line) | 1) * line;
        let elements = match precision {
            Precision::F32 => Elements::F32(granted(AlignedBuffer::try_new(capacity.saturating_mul(stride)), purpose)?),
            Precision::Bf16 => {
                Elements::Bf16(granted(AlignedBuffer::try_new(capacity.saturating_mul(stride)), purpose)?)
            }
        };
        Ok(Self { stride, elements })
    }

    /// Bytes that it takes.
    pub(crate) fn bytes(&self) -> u64 {
        let bytes = match &self.elements {
            Elements::F32(buffer) => size_of_val::<[f32]>(buffer),
            Elements::Bf16(buffer) => size_of_val::<[u16]>(buffer),
        };
        bytes as u64
    }

    /// A view for one parallel region, in which each worker writes only rows of its own.
    pub(crate) fn view(&mut self) -> ActivationView<'_> {
        let stride = self.stride;
        match &mut self.elements {
            Elements::F32(buffer) => ActivationView::F32 { rows: Disjoint::new(buffer.as_mut_slice()), stride },
            Elements::Bf16(buffer) => ActivationView::Bf16 { rows: Disjoint::new(buffer.as_mut_slice()), stride },
        }
    }
}

/// A view of [`Activations`] that the workers of a parallel region share.
#[derive(Clone, Copy)]
pub(crate) enum ActivationView<'a> {
    F32 { rows: Disjoint<'a, f32>, stride: usize },
    Bf16 { rows: Disjoint<'a, u16>, stride: usize },
}

impl ActivationView<'_> {
    /// Writes a row's values from `column` on, rounding to the stored type.
    ///
    /// # Safety
    /// Nobody else may touch these elements at the same time.
    pub(crate) unsafe fn store(&self, kernels: &Kernels, row: usize, column: usize, values: &[f32]) {
        match self {
            Self::F32 { rows, stride } => {
                let start = row * stride + column;
                // SAFETY: the caller's promise.
                unsafe { rows.slice(start, values.len()) }.copy_from_slice(values);
                if !values.len().is_multiple_of(2) {
                    // Products with bf16 weights read pairs: the second half of the last pair must be zero.
                    // SAFETY: the caller's promise; a stride is even, so the pair is complete within the row.
                    let rest = unsafe { rows.slice(start + values.len(), 1) };
                    rest[0] = 0.0;
                }
            }
            Self::Bf16 { rows, stride } => {
                let start = row * stride + column;
                // SAFETY: the caller's promise.
                kernels.to_bf16(values, unsafe { rows.slice(start, values.len()) });
                if !values.len().is_multiple_of(2) {
                    // SAFETY: as above.
                    let rest = unsafe { rows.slice(start + values.len(), 1) };
                    rest[0] = 0;
                }
            }
        }
    }
}
