//! Inner activations of the MLP: the product of gate and up, on its way into the down product.

use std::ops::Range;

use iceformer_simd::Kernels;

use crate::activations::{ActivationView, Activations};
use crate::error::Result;
use crate::precision::Precision;

/// Activations that are written in blocks of columns, in any order. In int8 and half precision a group of columns shares a
/// scale, so they wait in f32 until all are there.
pub(crate) struct InnerActivations {
    stored: Activations,
    /// `[capacity][width]`, in int8 and half precision
    waiting: Option<Activations>,
}

impl InnerActivations {
    /// As [`Activations::new`].
    pub(crate) fn new(
        capacity: usize,
        width: usize,
        precision: Precision,
        kernels: &Kernels,
        purpose: &str,
    ) -> Result<Self> {
        let waiting = (precision == Precision::Int8)
            .then(|| Activations::new(capacity, width, Precision::F32, kernels, purpose))
            .transpose()?;
        Ok(Self { stored: Activations::new(capacity, width, precision, kernels, purpose)?, waiting })
    }

    /// The same for products of many rows, as [`Activations::in_halves`] where `kernels` have them.
    pub(crate) fn of_many_rows(
        capacity: usize,
        width: usize,
        precision: Precision,
        kernels: &Kernels,
        purpose: &str,
    ) -> Result<Self> {
        let Some(stored) = Activations::in_halves(capacity, width, precision, kernels, purpose)? else {
            return Self::new(capacity, width, precision, kernels, purpose);
        };
        Ok(Self { stored, waiting: Some(Activations::new(capacity, width, Precision::F32, kernels, purpose)?) })
    }

    /// Bytes that it takes.
    pub(crate) fn bytes(&self) -> u64 {
        self.stored.bytes() + self.waiting.as_ref().map_or(0, Activations::bytes)
    }

    /// A view for one parallel region, in which each worker writes only elements of its own.
    pub(crate) fn view(&mut self) -> InnerView<'_> {
        InnerView { stored: self.stored.view(), waiting: self.waiting.as_mut().map(Activations::view) }
    }
}

/// A view of [`InnerActivations`] that the workers of a parallel region share.
#[derive(Clone, Copy)]
pub(crate) struct InnerView<'a> {
    /// What the down product reads, once it is [complete](Self::complete).
    pub(crate) stored: ActivationView<'a>,
    waiting: Option<ActivationView<'a>>,
}

impl InnerView<'_> {
    /// Writes a row's values from `column` on.
    ///
    /// # Safety
    /// Nobody else may touch these elements at the same time.
    pub(crate) unsafe fn store(&self, kernels: &Kernels, row: usize, column: usize, values: &[f32]) {
        // SAFETY: the caller's promise.
        unsafe { self.waiting.as_ref().unwrap_or(&self.stored).store(kernels, row, column, values) };
    }

    /// To be called when the first `width` values of these rows are written, before they are read.
    ///
    /// # Safety
    /// Nobody else may touch these rows at the same time.
    pub(crate) unsafe fn complete(&self, kernels: &Kernels, rows: Range<usize>, width: usize) {
        if let Some(ActivationView::F32 { rows: values, stride }) = &self.waiting {
            for row in rows {
                // SAFETY: the caller's promise.
                unsafe { self.stored.store(kernels, row, 0, values.slice(row * stride, width)) };
            }
        }
    }
}
