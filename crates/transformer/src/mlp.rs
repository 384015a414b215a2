//! The `SwiGLU` feed-forward part: `down(silu(gate(x)) * up(x))`.

use std::ops::Range;

use iceformer_simd::{Kernels, LANES};
use iceformer_threads::ThreadPool;

use crate::activations::ActivationView;
use crate::inner::InnerView;
use crate::linear::Linear;
use crate::packed::PackedMatrix;
use crate::product::{Output, PanelItems, Walk, look_ahead, multiply};
use crate::workspace::{GATE_COLUMNS, INNER_COLUMNS, ResidualView, WorkerScratch, Workers};

/// Panels of gate and up that are computed side by side.
const GATE_PANELS: usize = GATE_COLUMNS / LANES;

pub(crate) struct Mlp {
    /// `[intermediate, hidden]`
    pub(crate) gate: Linear,
    /// `[intermediate, hidden]`
    pub(crate) up: Linear,
    /// `[hidden, intermediate]`
    pub(crate) down: Linear,
}

impl Mlp {
    pub(crate) fn bytes(&self) -> u64 {
        self.gate.bytes() + self.up.bytes() + self.down.bytes()
    }

    /// Adds the MLP of some rows' activations to the residual stream, on one worker. The inner activations exist only
    /// for a block of columns at a time and never leave the second-level cache.
    ///
    /// # Safety
    /// Nobody else may touch these rows of the activations and of the residual stream.
    pub(crate) unsafe fn add_rows(
        &self,
        kernels: &Kernels,
        activations: &ActivationView<'_>,
        rows: Range<usize>,
        hidden: &ResidualView<'_>,
        scratch: &mut WorkerScratch,
    ) {
        let WorkerScratch { gate, up, combined, inner, halves, .. } = scratch;
        let inner = inner.view();
        let width = self.gate.weights.inputs();
        // SAFETY: the rows are the caller's.
        let (activations, from) = unsafe { activations.for_many_rows(kernels, rows.clone(), width, halves.as_mut()) };
        let panels = self.gate.weights.panels();
        for block in (0..panels).step_by(INNER_COLUMNS / LANES) {
            let block = block..panels.min(block + INNER_COLUMNS / LANES);
            let first_input = block.start * LANES;
            for group in block.clone().step_by(GATE_PANELS) {
                let group = group..block.end.min(group + GATE_PANELS);
                let column = group.start * LANES - first_input;
                // SAFETY: the rows are the caller's, the scratch is this worker's.
                unsafe {
                    self.combine(
                        kernels,
                        &activations,
                        from.clone(),
                        group,
                        [&mut *gate, up, combined],
                        Walk::Blocked,
                        &inner,
                        0,
                        column,
                    );
                }
            }
            let inputs = first_input..self.down.weights.inputs().min(block.end * LANES);
            let outputs = 0..self.down.weights.panels();
            // SAFETY: as above; the inner activations of these inputs were just written.
            unsafe {
                inner.complete(kernels, 0..rows.len(), inputs.len());
                multiply(
                    kernels,
                    &inner.stored,
                    0..rows.len(),
                    0,
                    &self.down.weights,
                    inputs,
                    outputs,
                    hidden.output(rows.start, 0),
                    true,
                    Walk::Blocked,
                );
            }
        }
        for row in rows {
            // SAFETY: as above.
            self.down.add_bias(kernels, 0..self.down.outputs(), unsafe { hidden.row(row) });
        }
    }

    /// The same for few rows, `0..rows`, all threads together: they share the columns of gate and up, then those of
    /// down. `shared` holds the inner activations, `[rows][intermediate]`; `next` are the matrices that come after.
    pub(crate) fn add_shared(
        &self,
        kernels: &Kernels,
        pool: &ThreadPool,
        activations: &ActivationView<'_>,
        rows: usize,
        hidden: &ResidualView<'_>,
        shared: &InnerView<'_>,
        workers: &Workers,
        next: &[&PackedMatrix],
    ) {
        let items = PanelItems::streamed(&self.gate.weights, pool.threads());
        // What one item computes has to fit a worker's memory.
        let items = items.at_most(workers.of(0).gate.len() / (rows * LANES));
        look_ahead(pool, &[&self.down.weights]);
        pool.for_each(items.count(), |worker, item| {
            let mut scratch = workers.of(worker);
            let WorkerScratch { gate, up, combined, .. } = &mut *scratch;
            let group = items.panels(item);
            let column = group.start * LANES;
            // SAFETY: each item writes its own columns of the inner activations; the rest is only read.
            unsafe {
                self.combine(
                    kernels,
                    activations,
                    0..rows,
                    group,
                    [&mut *gate, up, combined],
                    Walk::Streamed,
                    shared,
                    0,
                    column,
                );
            }
        });
        // SAFETY: the region is over; each row is one item.
        pool.for_each(rows, |_, row| unsafe { shared.complete(kernels, row..row + 1, self.down.weights.inputs()) });
        let items = PanelItems::streamed(&self.down.weights, pool.threads());
        look_ahead(pool, next);
        pool.for_each(items.count(), |_, item| {
            let panels = items.panels(item);
            let out = hidden.output(0, panels.start * LANES);
            // SAFETY: each item writes its own columns of the residual stream.
            unsafe {
                multiply(
                    kernels,
                    &shared.stored,
                    0..rows,
                    0,
                    &self.down.weights,
                    0..self.down.weights.inputs(),
                    panels,
                    out,
                    true,
                    Walk::Streamed,
                );
            }
        });
        for row in 0..rows {
            // SAFETY: the region is over, nobody else touches the residual stream.
            self.down.add_bias(kernels, 0..self.down.outputs(), unsafe { hidden.row(row) });
        }
    }

    /// Computes `silu(gate) * up` for the outputs in `panels` and stores it from `(out_row, out_column)` on.
    ///
    /// # Safety
    /// Nobody writes these activations or touches that part of `out`.
    unsafe fn combine(
        &self,
        kernels: &Kernels,
        activations: &ActivationView<'_>,
        rows: Range<usize>,
        panels: Range<usize>,
        [gate, up, combined]: [&mut [f32]; 3],
        walk: Walk,
        out: &InnerView<'_>,
        out_row: usize,
        out_column: usize,
    ) {
        let width = panels.len() * LANES;
        let columns = panels.start * LANES..self.gate.outputs().min(panels.end * LANES);
        let count = rows.len() * width;
        for (linear, block) in [(&self.gate, &mut *gate), (&self.up, &mut *up)] {
            let block = &mut block[..count];
            let output = Output { pointer: block.as_mut_ptr(), stride: width, columns: width };
            let inputs = 0..linear.weights.inputs();
            // SAFETY: the activations are the caller's; the block has `rows` rows of `width` elements.
            unsafe {
                multiply(
                    kernels,
                    activations,
                    rows.clone(),
                    0,
                    &linear.weights,
                    inputs,
                    panels.clone(),
                    output,
                    false,
                    walk,
                );
            }
            if linear.has_bias() {
                for row in block.chunks_exact_mut(width) {
                    linear.add_bias(kernels, columns.clone(), &mut row[..columns.len()]);
                }
            }
        }
        let combined = &mut combined[..count];
        kernels.silu_mul(&gate[..count], &up[..count], combined);
        for (row, values) in combined.chunks_exact(width).enumerate() {
            // SAFETY: that part of `out` is this call's.
            unsafe { out.store(kernels, out_row + row, out_column, &values[..columns.len()]) };
        }
    }
}
