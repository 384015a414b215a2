//! Products of activation rows with packed weights: how one is cut to fit the caches, and how it is cut among threads.

use std::ops::Range;

use iceformer_simd::{HALF_GROUP, Kernels, LANES};
use iceformer_threads::ThreadPool;

use crate::activations::{ActivationView, Activations};
use crate::disjoint::Disjoint;
use crate::error::Result;
use crate::packed::{PackedMatrix, Panels};
use crate::precision::{GROUP_INPUTS, Precision};

/// From this many rows on, threads share the rows of a chunk and each goes through all weights for its own; below,
/// they share the weights. It depends on the rows alone, so that results do not depend on the number of threads.
pub(crate) const ROW_SPLIT: usize = 48;

/// Most rows that one worker takes through a layer at once: their activations stay in the second-level cache while
/// the weights stream past.
pub(crate) const ROW_BLOCK: usize = 128;

/// Panels that a kernel takes side by side: the width of its register tile.
const TILE_PANELS: usize = 3;

/// Rows that a kernel takes at once. [`ROW_BLOCK`] is a multiple of it.
const TILE_ROWS: usize = 8;

/// Most bytes of [`TILE_PANELS`] panels along the inputs before the sum is cut. They come from the second-level cache
/// for every few rows; that costs nothing, while cutting the sum shorter costs passes over the outputs.
const TILE_BYTES: usize = 112 * 1024;

/// Work items for each thread where threads share the weights: one, so that it is one long stream of memory. Taking the
/// next would wait for all reads that are under way.
const ITEMS_PER_THREAD: usize = 1;

/// Least and most bytes of weights in such an item.
const STREAM_BYTES: [usize; 2] = [32 * 1024, 1024 * 1024];

/// Most bytes that a waiting thread fetches: they must stay in its second-level cache, also while attention reads keys and
/// values.
const AHEAD_BYTES: usize = 256 * 1024;

/// Bytes of weights in one work item that meets many rows.
const CACHED_BYTES: usize = 256 * 1024;

/// Where a product goes: the element of its first row and first column, and what lies around it.
#[derive(Clone, Copy)]
pub(crate) struct Output {
    /// `[rows][stride]`
    pub(crate) pointer: *mut f32,
    pub(crate) stride: usize,
    /// Columns that may be written in each row. Where panels end in padding these can be fewer than `16 * panels`.
    pub(crate) columns: usize,
}

/// How the inner dimension is walked.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Walk {
    /// Many rows: cut so that the weights of one kernel call stay in the first-level cache.
    Blocked,
    /// Few rows: each weight is read once, in order.
    Streamed,
}

/// `out (+)= A[rows][column..] * W[inputs][panels]`, sums in f32.
///
/// # Safety
/// The activations of `rows` hold `inputs.len()` values from `column` on (and a zero behind an odd count); nobody writes
/// them meanwhile; `inputs.start` is even, in int8 and half precision the first of a group as is `column`; `out` is
/// writable as described and touched by nobody else.
pub(crate) unsafe fn multiply(
    kernels: &Kernels,
    activations: &ActivationView<'_>,
    rows: Range<usize>,
    column: usize,
    weights: &PackedMatrix,
    inputs: Range<usize>,
    panels: Range<usize>,
    out: Output,
    accumulate: bool,
    walk: Walk,
) {
    assert!(inputs.end <= weights.inputs() && panels.end <= weights.panels() && inputs.start.is_multiple_of(2));
    let block = match walk {
        Walk::Blocked => input_block(inputs.len(), weights, activations.group()),
        Walk::Streamed => inputs.len().max(1),
    };
    for start in inputs.clone().step_by(block) {
        let length = block.min(inputs.end - start);
        let full = panels.len().min(out.columns / LANES);
        let piece = Piece {
            kernels,
            activations,
            rows: rows.clone(),
            column: column + start - inputs.start,
            weights,
            start,
            length,
        };
        let add = accumulate || start > inputs.start;
        if full > 0 {
            // SAFETY: the caller's promise, and `full` panels end within the writable columns.
            unsafe { piece.run(panels.start, full, out.pointer, out.stride, add) };
        }
        if full < panels.len() {
            let rest = out.columns - full * LANES;
            // SAFETY: as above, for the `rest` columns behind the full panels.
            unsafe { piece.run_partial(panels.start + full, rest, out.pointer.add(full * LANES), out.stride, add) };
        }
    }
}

/// One kernel call's worth of a product.
struct Piece<'a> {
    kernels: &'a Kernels,
    activations: &'a ActivationView<'a>,
    rows: Range<usize>,
    column: usize,
    weights: &'a PackedMatrix,
    start: usize,
    length: usize,
}

impl Piece<'_> {
    /// # Safety
    /// As for [`multiply`]; `16 * panels` columns are writable.
    unsafe fn run(&self, panel: usize, panels: usize, out: *mut f32, stride: usize, accumulate: bool) {
        // SAFETY: rows, inputs and panels are inside their buffers by the caller's promise and `multiply`'s assertion.
        unsafe { self.run_rows(self.rows.clone(), panel, panels, out, stride, accumulate) };
    }

    /// The last panel, of which only `columns` outputs exist, through a block on the stack.
    ///
    /// # Safety
    /// As for [`multiply`]; `columns` columns are writable.
    unsafe fn run_partial(&self, panel: usize, columns: usize, out: *mut f32, stride: usize, accumulate: bool) {
        const ROWS: usize = 64;
        let mut block = [0.0_f32; ROWS * LANES];
        for first in self.rows.clone().step_by(ROWS) {
            let rows = first..self.rows.end.min(first + ROWS);
            let count = rows.len();
            // SAFETY: as for `run`; the block has room for these rows.
            unsafe { self.run_rows(rows, panel, 1, block.as_mut_ptr(), LANES, false) };
            for (row, values) in block.chunks_exact(LANES).take(count).enumerate() {
                // SAFETY: `columns` elements of this row are writable.
                let out = unsafe {
                    std::slice::from_raw_parts_mut(out.add((first - self.rows.start + row) * stride), columns)
                };
                for (out, value) in out.iter_mut().zip(values) {
                    *out = if accumulate { *out + value } else { *value };
                }
            }
        }
    }

    /// # Safety
    /// As for [`multiply`].
    unsafe fn run_rows(
        &self,
        rows: Range<usize>,
        panel: usize,
        panels: usize,
        out: *mut f32,
        ldc: usize,
        accumulate: bool,
    ) {
        let (m, row) = (rows.len(), rows.start);
        let stride = self.weights.panel_stride();
        let first = panel * stride + self.start * LANES;
        match (self.activations, self.weights.elements()) {
            (ActivationView::F32 { rows, stride: lda }, Panels::F32(b)) => {
                let k = self.length;
                let a = rows.pointer(row * lda + self.column, (m - 1) * lda + k);
                let b = b[first..first + (panels - 1) * stride + k * LANES].as_ptr();
                // SAFETY: A and B were checked just now, C is the caller's promise.
                unsafe { self.kernels.gemm_f32(m, k, a, *lda, b, stride, panels, out, ldc, accumulate) };
            }
            (ActivationView::Bf16 { rows, stride: lda }, Panels::Bf16(b)) => {
                let k = self.length.next_multiple_of(2);
                let a = rows.pointer(row * lda + self.column, (m - 1) * lda + k);
                let b = b[first..first + (panels - 1) * stride + k * LANES].as_ptr();
                // SAFETY: as above.
                unsafe { self.kernels.gemm_bf16(m, k, a, *lda, b, stride, panels, out, ldc, accumulate) };
            }
            (ActivationView::Halves { rows, stride: lda, groups, scales }, Panels::Bf16(b)) => {
                assert!(self.column.is_multiple_of(HALF_GROUP));
                let k = self.length.next_multiple_of(2);
                let a = rows.pointer(row * lda + self.column, (m - 1) * lda + k);
                let group = row * groups + self.column / HALF_GROUP;
                let a_scales = scales.pointer(group, (m - 1) * groups + k.div_ceil(HALF_GROUP));
                let b = b[first..first + (panels - 1) * stride + k * LANES].as_ptr();
                // SAFETY: as above; scales are stored with the halves.
                unsafe {
                    self.kernels.gemm_halves(m, k, a, *lda, a_scales, *groups, b, stride, panels, out, ldc, accumulate);
                }
            }
            (ActivationView::F32 { rows, stride: lda }, Panels::Bf16(b)) => {
                let k = self.length.next_multiple_of(2);
                let a = rows.pointer(row * lda + self.column, (m - 1) * lda + k);
                let b = b[first..first + (panels - 1) * stride + k * LANES].as_ptr();
                // SAFETY: as above.
                unsafe { self.kernels.gemm_f32_bf16(m, k, a, *lda, b, stride, panels, out, ldc, accumulate) };
            }
            (
                ActivationView::Int8 { rows, stride: lda, groups, scales, starts },
                Panels::Int8 { codes: b, scales: b_scales },
            ) => {
                assert!(self.start.is_multiple_of(GROUP_INPUTS) && self.column.is_multiple_of(GROUP_INPUTS));
                let quads = self.length.div_ceil(4);
                let count = self.length.div_ceil(GROUP_INPUTS);
                let a = rows.pointer(row * lda + self.column, (m - 1) * lda + 4 * quads);
                let group = row * groups + self.column / GROUP_INPUTS;
                let a_scales = scales.pointer(group, (m - 1) * groups + count);
                let a_starts = starts.pointer(group, (m - 1) * groups + count);
                let b = b[first..first + (panels - 1) * stride + quads * 4 * LANES].as_ptr();
                let scale_stride = self.weights.scale_stride();
                let first = panel * scale_stride + self.start / GROUP_INPUTS * LANES;
                let b_scales = b_scales[first..first + (panels - 1) * scale_stride + count * LANES].as_ptr();
                // SAFETY: as above; starts are stored with the codes.
                unsafe {
                    self.kernels.gemm_i8(
                        m,
                        quads,
                        GROUP_INPUTS / 4,
                        a,
                        *lda,
                        a_scales,
                        a_starts,
                        *groups,
                        b,
                        stride,
                        b_scales,
                        scale_stride,
                        panels,
                        out,
                        ldc,
                        accumulate,
                    );
                }
            }
            (ActivationView::Bf16 { .. } | ActivationView::Halves { .. }, Panels::F32(_))
            | (ActivationView::Int8 { .. }, _)
            | (_, Panels::Int8 { .. }) => {
                unreachable!("activations are stored for weights of another type")
            }
        }
    }
}

/// The whole product of rows `0..rows` with a matrix, on all threads, into `out`, `[rows][outputs]`.
pub(crate) fn multiply_all(
    kernels: &Kernels,
    pool: &ThreadPool,
    activations: &ActivationView<'_>,
    rows: usize,
    weights: &PackedMatrix,
    out: &mut [f32],
) {
    let stride = weights.outputs();
    assert_eq!(out.len(), rows * stride);
    let out = Disjoint::new(out);
    let (walk, block, items) = if rows < ROW_SPLIT {
        (Walk::Streamed, ROW_SPLIT, PanelItems::streamed(weights, pool.threads()))
    } else {
        (Walk::Blocked, ROW_BLOCK, PanelItems::cached(weights))
    };
    let blocks = rows.div_ceil(block);
    // Blocks of rows run innermost: the item's weights then come from the cache for all but the first.
    pool.for_each(items.count() * blocks, |_, item| {
        let panels = items.panels(item / blocks);
        let first = item % blocks * block;
        let rows = first..rows.min(first + block);
        let column = panels.start * LANES;
        let columns = stride - column;
        let output = Output { pointer: out.pointer(first * stride + column, columns), stride, columns };
        // SAFETY: items differ in rows or in columns, so each writes its own part of `out`; its last row ends with the
        // buffer.
        unsafe { multiply(kernels, activations, rows, 0, weights, 0..weights.inputs(), panels, output, false, walk) };
    });
}

/// Rows that one work item of a product on its own stores as activations.
const STORED_ROWS: usize = 4;

/// A product on its own: what a linear layer without bias computes.
pub struct MatrixProduct {
    kernels: &'static Kernels,
    inputs: usize,
    precision: Precision,
    max_rows: usize,
    /// `[max_rows][inputs]`
    activations: Activations,
}

impl MatrixProduct {
    /// Room for `max_rows` rows of `inputs` values, to be multiplied with weights of one precision.
    pub fn new(max_rows: usize, inputs: usize, precision: Precision, kernels: &'static Kernels) -> Result<Self> {
        let activations = Activations::new(max_rows, inputs, precision, kernels, "activations")?;
        Ok(Self { kernels, inputs, precision, max_rows, activations })
    }

    /// `out[rows][outputs] = x[rows][inputs] * weights`; sums are f32. With bf16 weights `x` is rounded once, where the CPU
    /// multiplies bf16; with int8 weights it is quantized.
    ///
    /// # Panics
    /// If the lengths do not agree with the weights, or the rows are too many.
    pub fn run(&mut self, pool: &ThreadPool, weights: &PackedMatrix, x: &[f32], out: &mut [f32]) {
        let rows = x.len() / self.inputs;
        assert!(rows <= self.max_rows && x.len() == rows * self.inputs && out.len() == rows * weights.outputs());
        assert!(weights.inputs() == self.inputs && weights.precision() == self.precision);
        let kernels = self.kernels;
        let activations = self.activations.view();
        pool.for_each(rows.div_ceil(STORED_ROWS), |_, item| {
            let first = item * STORED_ROWS;
            for (row, values) in x.chunks_exact(self.inputs).enumerate().skip(first).take(STORED_ROWS) {
                // SAFETY: each row belongs to one item.
                unsafe { activations.store(kernels, row, 0, values) };
            }
        });
        multiply_all(kernels, pool, &activations, rows, weights, out);
    }
}

/// Inputs per kernel call: as many as keep [`TILE_PANELS`] panels within [`TILE_BYTES`], in equal parts of whole groups of
/// inputs that share a scale.
fn input_block(inputs: usize, weights: &PackedMatrix, group: usize) -> usize {
    let most = TILE_BYTES / (TILE_PANELS * LANES * weights.precision().bytes());
    let parts = inputs.div_ceil(most).max(1);
    inputs.div_ceil(parts).next_multiple_of(group).max(group)
}

/// Cuts the panels of a matrix into work items.
pub(crate) struct PanelItems {
    panels: usize,
    per_item: usize,
}

impl PanelItems {
    /// For few rows: each thread streams its part of the weights.
    pub(crate) fn streamed(weights: &PackedMatrix, threads: usize) -> Self {
        Self::streamed_together(&[weights], threads)
    }

    /// The same for matrices of as many inputs: items are parts of the row of all their panels.
    pub(crate) fn streamed_together(matrices: &[&PackedMatrix], threads: usize) -> Self {
        let panels = matrices.iter().map(|weights| weights.panels()).sum::<usize>();
        let [least, most] = STREAM_BYTES.map(|bytes| bytes.div_ceil(panel_bytes(matrices[0])));
        Self { panels, per_item: panels.div_ceil(threads * ITEMS_PER_THREAD).clamp(least, most) }
    }

    /// For many rows: an item's weights stay in the second-level cache while blocks of rows pass.
    pub(crate) fn cached(weights: &PackedMatrix) -> Self {
        let per_item = CACHED_BYTES.div_ceil(panel_bytes(weights)).next_multiple_of(TILE_PANELS);
        Self { panels: weights.panels(), per_item }
    }

    /// The same in items of at most `panels` panels.
    pub(crate) fn at_most(self, panels: usize) -> Self {
        Self { per_item: self.per_item.min(panels.max(1)), ..self }
    }

    pub(crate) fn count(&self) -> usize {
        self.panels.div_ceil(self.per_item)
    }

    pub(crate) fn panels(&self, item: usize) -> Range<usize> {
        let start = item * self.per_item;
        start..self.panels.min(start + self.per_item)
    }
}

/// Tells the threads of the pool which weights come next that they share for few rows, those of `matrices` one after the
/// other, so that they fetch the beginning of what will be theirs while they wait.
pub(crate) fn look_ahead(pool: &ThreadPool, matrices: &[&PackedMatrix]) {
    let items = PanelItems::streamed_together(matrices, pool.threads());
    for worker in 1..pool.threads().min(items.count()) {
        let mut panels = items.panels(worker);
        for weights in matrices {
            let count = weights.panels();
            if panels.start < count {
                let memory = weights.memory(panels.start..panels.end.min(count));
                pool.look_ahead(worker, &memory[..memory.len().min(AHEAD_BYTES)]);
                break;
            }
            panels = panels.start - count..panels.end - count;
        }
    }
}

fn panel_bytes(weights: &PackedMatrix) -> usize {
    weights.panel_stride() * weights.precision().bytes()
}

/// Cuts the rows of a chunk into blocks of at most [`ROW_BLOCK`], as many as keep all threads busy, in whole register
/// tiles but for the last.
pub(crate) struct RowBlocks {
    rows: usize,
    per_block: usize,
}

impl RowBlocks {
    pub(crate) fn new(rows: usize, threads: usize) -> Self {
        let blocks = rows.div_ceil(ROW_BLOCK).next_multiple_of(threads.max(1));
        Self { rows, per_block: rows.div_ceil(blocks).next_multiple_of(TILE_ROWS) }
    }

    pub(crate) fn count(&self) -> usize {
        self.rows.div_ceil(self.per_block)
    }

    pub(crate) fn rows(&self, block: usize) -> Range<usize> {
        let start = block * self.per_block;
        start..self.rows.min(start + self.per_block)
    }
}

#[cfg(test)]
mod tests;
