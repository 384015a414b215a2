//! All memory that a forward pass works in, allocated once.

use std::sync::{Mutex, MutexGuard, PoisonError};

use iceformer_simd::{AlignedBuffer, Kernels, LANES};

use crate::activations::Activations;
use crate::disjoint::Disjoint;
use crate::error::Result;
use crate::inner::InnerActivations;
use crate::memory::{granted, try_zeroed};
use crate::precision::{GROUP_INPUTS, Precision};
use crate::product::{Output, ROW_BLOCK, ROW_SPLIT};

/// Columns of the gate and up products that are computed side by side before they are combined.
pub(crate) const GATE_COLUMNS: usize = 6 * LANES;

/// Columns of the MLP's inner activations that a row block computes before they go into the down product.
pub(crate) const INNER_COLUMNS: usize = 4 * GATE_COLUMNS;

// A block of them is whole groups.
const _: () = assert!(INNER_COLUMNS.is_multiple_of(GROUP_INPUTS));

/// Sizes that the buffers depend on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WorkspaceShape {
    pub(crate) max_chunk: usize,
    pub(crate) hidden: usize,
    pub(crate) attended: usize,
    pub(crate) intermediate: usize,
    pub(crate) head_dim: usize,
    pub(crate) threads: usize,
    pub(crate) precision: Precision,
}

/// The buffers.
pub(crate) struct Workspace {
    /// The residual stream.
    pub(crate) hidden: Residual,
    /// `[maxChunk][max(hidden, heads * headDim)]`: what the next product reads.
    pub(crate) activations: Activations,
    /// `[min(maxChunk, ROW_SPLIT - 1)][intermediate]`: inner activations of the MLP where threads share the weights.
    pub(crate) inner: InnerActivations,
    /// One per worker.
    pub(crate) workers: Workers,
}

impl Workspace {
    pub(crate) fn new(shape: &WorkspaceShape, kernels: &Kernels) -> Result<Self> {
        let &WorkspaceShape { max_chunk, precision, .. } = shape;
        Ok(Self {
            hidden: Residual::new(max_chunk, shape.hidden)?,
            activations: Activations::new(
                max_chunk,
                shape.hidden.max(shape.attended),
                precision,
                kernels,
                "activations",
            )?,
            inner: InnerActivations::new(
                max_chunk.min(ROW_SPLIT - 1),
                shape.intermediate,
                precision,
                kernels,
                "MLP activations",
            )?,
            workers: Workers::new(shape, kernels)?,
        })
    }

    /// Bytes that it takes.
    pub(crate) fn bytes(&self) -> u64 {
        let hidden = self.hidden.values.len() as u64 * 4;
        hidden + self.activations.bytes() + self.inner.bytes() + self.workers.bytes()
    }
}

/// The residual stream, `[maxChunk][stride]`: `width` values per row, then padding to whole panels.
pub(crate) struct Residual {
    width: usize,
    stride: usize,
    values: AlignedBuffer<f32>,
}

impl Residual {
    fn new(max_chunk: usize, width: usize) -> Result<Self> {
        // As for activations, rows are an odd number of cache lines apart.
        let stride = (width.div_ceil(LANES) | 1) * LANES;
        Ok(Self {
            width,
            stride,
            values: granted(AlignedBuffer::try_new(max_chunk.saturating_mul(stride)), "residual stream")?,
        })
    }

    pub(crate) fn view(&mut self) -> ResidualView<'_> {
        ResidualView { width: self.width, stride: self.stride, values: Disjoint::new(&mut self.values) }
    }
}

/// The residual stream as the workers of one parallel region share it.
#[derive(Clone, Copy)]
pub(crate) struct ResidualView<'a> {
    width: usize,
    stride: usize,
    values: Disjoint<'a, f32>,
}

impl ResidualView<'_> {
    /// One row, `[hidden]`.
    ///
    /// # Safety
    /// Nobody else may touch the row while the slice lives.
    #[expect(clippy::mut_from_ref, reason = "workers share the view; the caller promises disjoint rows")]
    pub(crate) unsafe fn row(&self, row: usize) -> &mut [f32] {
        // SAFETY: the caller's promise.
        unsafe { self.values.slice(row * self.stride, self.width) }
    }

    /// Where a product goes whose first row is `row` and first column `column`. The padding is writable.
    pub(crate) fn output(&self, row: usize, column: usize) -> Output {
        let columns = self.stride - column;
        Output { pointer: self.values.pointer(row * self.stride + column, columns), stride: self.stride, columns }
    }
}

/// Memory of each worker of the pool.
pub(crate) struct Workers(Vec<Mutex<WorkerScratch>>);

/// What one worker computes in.
pub(crate) struct WorkerScratch {
    /// `[max(hidden, headDim)]`
    pub(crate) row: Vec<f32>,
    /// `[ROW_BLOCK][GATE_COLUMNS]`
    pub(crate) gate: AlignedBuffer<f32>,
    /// `[ROW_BLOCK][GATE_COLUMNS]`
    pub(crate) up: AlignedBuffer<f32>,
    /// `[ROW_BLOCK][GATE_COLUMNS]`
    pub(crate) combined: AlignedBuffer<f32>,
    /// `[ROW_BLOCK][INNER_COLUMNS]`
    pub(crate) inner: InnerActivations,
    /// `[ROW_BLOCK][max(hidden, heads * headDim)]`: what the next product of many rows reads where these are multiplied in
    /// half precision.
    pub(crate) halves: Option<Activations>,
}

impl Workers {
    fn new(shape: &WorkspaceShape, kernels: &Kernels) -> Result<Self> {
        let rows = ROW_BLOCK.min(shape.max_chunk);
        let worker = || {
            Ok(Mutex::new(WorkerScratch {
                row: try_zeroed(shape.hidden.max(shape.head_dim), "worker memory")?,
                gate: granted(AlignedBuffer::try_new(rows.saturating_mul(GATE_COLUMNS)), "worker memory")?,
                up: granted(AlignedBuffer::try_new(rows.saturating_mul(GATE_COLUMNS)), "worker memory")?,
                combined: granted(AlignedBuffer::try_new(rows.saturating_mul(GATE_COLUMNS)), "worker memory")?,
                inner: InnerActivations::of_many_rows(rows, INNER_COLUMNS, shape.precision, kernels, "worker memory")?,
                halves: Activations::in_halves(
                    rows,
                    shape.hidden.max(shape.attended),
                    shape.precision,
                    kernels,
                    "worker memory",
                )?,
            }))
        };
        Ok(Self((0..shape.threads).map(|_| worker()).collect::<Result<Vec<_>>>()?))
    }

    fn bytes(&self) -> u64 {
        let worker = self.of(0);
        let values = worker.row.len() + worker.gate.len() + worker.up.len() + worker.combined.len();
        let halves = worker.halves.as_ref().map_or(0, Activations::bytes);
        (values as u64 * 4 + worker.inner.bytes() + halves) * self.0.len() as u64
    }

    /// The memory of a worker. The pool runs each worker on one thread at a time, so this never waits.
    pub(crate) fn of(&self, worker: usize) -> MutexGuard<'_, WorkerScratch> {
        // What an earlier panic left behind is overwritten before it is read.
        self.0[worker].lock().unwrap_or_else(PoisonError::into_inner)
    }
}
