//! The numbers in which the stand-ins of a block's unread tiles are weighed.
//!
//! A weight meets mean values of a lane's type. Where the CPU multiplies that type, weights are of it too; where it does
//! not, both sides would have to be widened at every product, and weights are f32 from the start.

use super::scratch::{Buffer, Scratch};
use crate::element::{AddRowsByPanels, Element};
use iceformer_simd::{Kernels, LANES};

/// How stand-ins with mean values of type `T` are weighed.
pub(super) trait StandIns<T: Element> {
    /// A weight.
    type Weight: Element;
    /// The kernel of [`StandIns::add`].
    const ADD: AddRowsByPanels<Self::Weight, T>;
    /// A worker's room for weights.
    fn room(scratch: &mut Scratch<T>) -> &mut StandInWeights<Self::Weight>;

    /// Adds weighted values: weights are `[rows][stride]`, `c` is `[rows][16 x width]`, see
    /// [`Kernels::add_rows_by_panels_f32`].
    ///
    /// # Safety
    /// As there.
    unsafe fn add(
        kernels: &Kernels,
        rows: usize,
        weights: &[Self::Weight],
        stride: usize,
        list: &[*const T],
        width: usize,
        c: &mut [f32],
    ) {
        let columns = width * LANES;
        assert!(weights.len() + stride >= rows * stride + list.len() * LANES && c.len() >= rows * columns);
        // SAFETY: lengths are checked, the list is the caller's promise.
        unsafe { Self::ADD(kernels, rows, weights.as_ptr(), stride, list, width, c.as_mut_ptr(), columns) }
    }
}

/// Weights of the values' type.
pub(super) struct Own;

impl<T: Element> StandIns<T> for Own {
    type Weight = T;
    const ADD: AddRowsByPanels<T, T> = T::ADD_ROWS_BY_PANELS;
    fn room(scratch: &mut Scratch<T>) -> &mut StandInWeights<T> {
        &mut scratch.stand_ins
    }
}

/// Weights in f32.
pub(super) struct Wide;

impl<T: Element> StandIns<T> for Wide {
    type Weight = f32;
    const ADD: AddRowsByPanels<f32, T> = T::ADD_WIDE_ROWS_BY_PANELS;
    fn room(scratch: &mut Scratch<T>) -> &mut StandInWeights<f32> {
        &mut scratch.wide_stand_ins
    }
}

/// Room for the weights of a block's stand-ins.
#[derive(Debug)]
pub(super) struct StandInWeights<W: Element> {
    /// `[rows][width]`, the candidates in whole panels: weights of their means, then of those left out.
    pub single: Buffer<W>,
    /// `[rows][panels, in whole panels]`: weights of the panels whose tiles share one mean value.
    pub shared: Buffer<W>,
}

impl<W: Element> Default for StandInWeights<W> {
    fn default() -> Self {
        Self { single: Buffer::default(), shared: Buffer::default() }
    }
}

impl<W: Element> StandInWeights<W> {
    /// Bytes allocated.
    pub fn bytes(&self) -> usize {
        self.single.bytes() + self.shared.bytes()
    }
}
