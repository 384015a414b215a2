//! Rows of activations in the type that a product reads.

use std::ops::Range;

use iceformer_simd::{AlignedBuffer, HALF_GROUP, Kernels};

use crate::disjoint::Disjoint;
use crate::error::Result;
use crate::memory::granted;
use crate::precision::{GROUP_INPUTS, Precision};
use crate::quantization::quantize;

/// A matrix of activations, `[capacity][stride]`; a row holds its values and then zeros up to an even count, in int8 up
/// to a multiple of four.
pub(crate) struct Activations {
    stride: usize,
    elements: Elements,
}

enum Elements {
    F32(AlignedBuffer<f32>),
    Bf16(AlignedBuffer<u16>),
    Halves {
        halves: AlignedBuffer<u16>,
        /// Scales per row.
        groups: usize,
        /// `[capacity][groups]`
        scales: AlignedBuffer<f32>,
    },
    Int8 {
        codes: AlignedBuffer<i8>,
        /// Scales per row.
        groups: usize,
        /// `[capacity][groups]`
        scales: AlignedBuffer<f32>,
        /// `[capacity][groups]`: -128 times the sum of each group's codes
        starts: AlignedBuffer<i32>,
    },
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
        let precision = match precision {
            Precision::Bf16 if !kernels.level.multiplies_bf16() => Precision::F32,
            precision => precision,
        };
        let stride = row_stride(width, precision.bytes());
        let elements = match precision {
            Precision::F32 => Elements::F32(granted(AlignedBuffer::try_new(capacity.saturating_mul(stride)), purpose)?),
            Precision::Bf16 => {
                Elements::Bf16(granted(AlignedBuffer::try_new(capacity.saturating_mul(stride)), purpose)?)
            }
            Precision::Int8 => {
                let groups = width.div_ceil(GROUP_INPUTS);
                Elements::Int8 {
                    codes: granted(AlignedBuffer::try_new(capacity.saturating_mul(stride)), purpose)?,
                    groups,
                    scales: granted(AlignedBuffer::try_new(capacity.saturating_mul(groups)), purpose)?,
                    starts: granted(AlignedBuffer::try_new(capacity.saturating_mul(groups)), purpose)?,
                }
            }
        };
        Ok(Self { stride, elements })
    }

    /// Room for `capacity` rows of up to `width` values in half precision, for [`ActivationView::for_many_rows`], where
    /// `kernels` multiply many rows with weights of `precision` so.
    pub(crate) fn in_halves(
        capacity: usize,
        width: usize,
        precision: Precision,
        kernels: &Kernels,
        purpose: &str,
    ) -> Result<Option<Self>> {
        if precision != Precision::Bf16 || !kernels.level.multiplies_halves() {
            return Ok(None);
        }
        let (stride, groups) = (row_stride(width, size_of::<u16>()), width.div_ceil(HALF_GROUP));
        let elements = Elements::Halves {
            halves: granted(AlignedBuffer::try_new(capacity.saturating_mul(stride)), purpose)?,
            groups,
            scales: granted(AlignedBuffer::try_new(capacity.saturating_mul(groups)), purpose)?,
        };
        Ok(Some(Self { stride, elements }))
    }

    /// Bytes that it takes.
    pub(crate) fn bytes(&self) -> u64 {
        let bytes = match &self.elements {
            Elements::F32(buffer) => size_of_val::<[f32]>(buffer),
            Elements::Bf16(buffer) => size_of_val::<[u16]>(buffer),
            Elements::Halves { halves, scales, .. } => 2 * halves.len() + 4 * scales.len(),
            Elements::Int8 { codes, scales, starts, .. } => codes.len() + 4 * (scales.len() + starts.len()),
        };
        bytes as u64
    }

    /// A view for one parallel region, in which each worker writes only rows of its own.
    pub(crate) fn view(&mut self) -> ActivationView<'_> {
        let stride = self.stride;
        match &mut self.elements {
            Elements::F32(buffer) => ActivationView::F32 { rows: Disjoint::new(buffer.as_mut_slice()), stride },
            Elements::Bf16(buffer) => ActivationView::Bf16 { rows: Disjoint::new(buffer.as_mut_slice()), stride },
            Elements::Halves { halves, groups, scales } => ActivationView::Halves {
                rows: Disjoint::new(halves.as_mut_slice()),
                stride,
                groups: *groups,
                scales: Disjoint::new(scales.as_mut_slice()),
            },
            Elements::Int8 { codes, groups, scales, starts } => ActivationView::Int8 {
                rows: Disjoint::new(codes.as_mut_slice()),
                stride,
                groups: *groups,
                scales: Disjoint::new(scales.as_mut_slice()),
                starts: Disjoint::new(starts.as_mut_slice()),
            },
        }
    }
}

/// Elements from one row of `width` to the next. Rows begin on a cache line, and an odd number of lines apart: with a power
/// of two between them, the rows of one register tile would all fall into the same cache set.
fn row_stride(width: usize, element_bytes: usize) -> usize {
    let line = 64 / element_bytes;
    (width.div_ceil(line) | 1) * line
}

/// A view of [`Activations`] that the workers of a parallel region share.
#[derive(Clone, Copy)]
pub(crate) enum ActivationView<'a> {
    F32 { rows: Disjoint<'a, f32>, stride: usize },
    Bf16 { rows: Disjoint<'a, u16>, stride: usize },
    Halves { rows: Disjoint<'a, u16>, stride: usize, groups: usize, scales: Disjoint<'a, f32> },
    Int8 { rows: Disjoint<'a, i8>, stride: usize, groups: usize, scales: Disjoint<'a, f32>, starts: Disjoint<'a, i32> },
}

impl<'a> ActivationView<'a> {
    /// These rows as many rows are multiplied, and where they are then: the first `width` values of each rounded to half
    /// precision, as the first rows of `halves`, or, without it, as they stand.
    ///
    /// # Safety
    /// Nobody else may touch these rows at the same time.
    pub(crate) unsafe fn for_many_rows(
        self,
        kernels: &Kernels,
        rows: Range<usize>,
        width: usize,
        halves: Option<&'a mut Activations>,
    ) -> (Self, Range<usize>) {
        let (Self::F32 { rows: values, stride }, Some(halves)) = (self, halves) else {
            return (self, rows);
        };
        let (first, count) = (rows.start, rows.len());
        let rounded = halves.view();
        for row in 0..count {
            // SAFETY: the caller's promise; the halves are borrowed.
            unsafe { rounded.store(kernels, row, 0, values.slice((first + row) * stride, width)) };
        }
        (rounded, 0..count)
    }

    /// Numbers along a row that a product may not part: those that share a scale, or else a pair.
    pub(crate) fn group(&self) -> usize {
        match self {
            Self::F32 { .. } | Self::Bf16 { .. } => 2,
            Self::Halves { .. } => HALF_GROUP,
            Self::Int8 { .. } => GROUP_INPUTS,
        }
    }

    /// Writes a row's values from `column` on, rounding to the stored type. In int8 and half precision they are whole
    /// groups, but for the last of the row.
    ///
    /// # Safety
    /// Nobody else may touch these elements at the same time.
    pub(crate) unsafe fn store(&self, kernels: &Kernels, row: usize, column: usize, values: &[f32]) {
        match self {
            Self::F32 { rows, stride } => {
                let start = row * stride + column;
                // SAFETY: the caller's promise.
                unsafe {
                    rows.slice(start, values.len()).copy_from_slice(values);
                    complete_pair(rows, start, values.len());
                }
            }
            Self::Bf16 { rows, stride } => {
                let start = row * stride + column;
                // SAFETY: the caller's promise.
                unsafe {
                    kernels.to_bf16(values, rows.slice(start, values.len()));
                    complete_pair(rows, start, values.len());
                }
            }
            Self::Halves { rows, stride, groups, scales } => {
                assert!(column.is_multiple_of(HALF_GROUP), "a group begins before column {column}");
                let (first, count) = (row * groups + column / HALF_GROUP, values.len().div_ceil(HALF_GROUP));
                let start = row * stride + column;
                // SAFETY: the caller's promise.
                unsafe {
                    kernels.to_halves(values, rows.slice(start, values.len()), scales.slice(first, count));
                    complete_pair(rows, start, values.len());
                }
            }
            Self::Int8 { rows, stride, groups, scales, starts } => {
                assert!(column.is_multiple_of(GROUP_INPUTS), "a group begins before column {column}");
                let first = row * groups + column / GROUP_INPUTS;
                let count = values.len().div_ceil(GROUP_INPUTS);
                // SAFETY: the caller's promise; a stride is a multiple of four, so the last quad is within the row.
                let (codes, scales, starts) = unsafe {
                    (
                        rows.slice(row * stride + column, values.len().next_multiple_of(4)),
                        scales.slice(first, count),
                        starts.slice(first, count),
                    )
                };
                quantize(kernels, values, codes, scales, starts);
            }
        }
    }
}

/// Products with bf16 weights read pairs: behind an odd count of values from `start` on there must be a zero.
///
/// # Safety
/// Nobody else may touch that element at the same time. A stride is even, so the pair is complete within the row.
unsafe fn complete_pair<T: Default>(rows: &Disjoint<'_, T>, start: usize, count: usize) {
    if !count.is_multiple_of(2) {
        // SAFETY: the caller's promise.
        let rest = unsafe { rows.slice(start + count, 1) };
        rest[0] = T::default();
    }
}
