//! One decoder layer without its attention: what comes before it and what comes after.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use iceformer_simd::{Kernels, LANES};
use iceformer_threads::ThreadPool;

use crate::activations::ActivationView;
use crate::disjoint::Disjoint;
use crate::linear::Linear;
use crate::mlp::Mlp;
use crate::norm::RmsNorm;
use crate::packed::PackedMatrix;
use crate::product::{Output, PanelItems, ROW_SPLIT, RowBlocks, Walk, look_ahead, multiply};
use crate::rope::Rotation;
use crate::workspace::{WorkerScratch, Workspace};

pub(crate) struct Layer {
    pub(crate) input_norm: RmsNorm,
    /// `[heads * headDim, hidden]`
    pub(crate) q: Linear,
    /// `[kvHeads * headDim, hidden]`
    pub(crate) k: Linear,
    /// `[kvHeads * headDim, hidden]`
    pub(crate) v: Linear,
    pub(crate) q_norm: Option<RmsNorm>,
    pub(crate) k_norm: Option<RmsNorm>,
    /// `[hidden, heads * headDim]`
    pub(crate) o: Linear,
    pub(crate) post_norm: RmsNorm,
    pub(crate) mlp: Mlp,
}

/// Queries, keys and values of a chunk: `[rows][heads * headDim]` each, with heads as the layer has them.
pub(crate) struct Projected<'a> {
    pub(crate) q: &'a mut [f32],
    pub(crate) k: &'a mut [f32],
    pub(crate) v: &'a mut [f32],
}

impl Layer {
    pub(crate) fn bytes(&self) -> u64 {
        let norms = [Some(&self.input_norm), self.q_norm.as_ref(), self.k_norm.as_ref(), Some(&self.post_norm)];
        let linears = [&self.q, &self.k, &self.v, &self.o];
        norms.into_iter().flatten().map(RmsNorm::bytes).sum::<u64>()
            + linears.into_iter().map(Linear::bytes).sum::<u64>()
            + self.mlp.bytes()
    }

    /// The matrices that are read first, of a layer that attends or of one whose attention is left out.
    pub(crate) fn first(&self, attends: bool) -> Vec<&PackedMatrix> {
        if attends { vec![&self.q.weights, &self.k.weights, &self.v.weights] } else { vec![&self.mlp.gate.weights] }
    }

    /// Input norm, q, k and v products with biases, q/k norm, rotation, for the first `rows` rows.
    pub(crate) fn project(
        &self,
        kernels: &Kernels,
        pool: &ThreadPool,
        rows: usize,
        workspace: &mut Workspace,
        rotation: &Rotation,
        out: Projected<'_>,
    ) {
        let hidden = workspace.hidden.view();
        let activations = workspace.activations.view();
        let workers = &workspace.workers;
        let Projected { q, k, v } = out;
        let outputs = [(&self.q, Disjoint::new(q)), (&self.k, Disjoint::new(k)), (&self.v, Disjoint::new(v))];
        let inputs = 0..self.q.weights.inputs();
        let epilogue = |rows: Range<usize>, scratch: &mut [f32]| {
            for row in rows {
                let [q, k, v] = outputs.each_ref().map(|(linear, out)| {
                    let width = linear.outputs();
                    // SAFETY: each row is handled by one worker, after its products.
                    let values = unsafe { out.slice(row * width, width) };
                    linear.add_bias(kernels, 0..width, values);
                    values
                });
                let _ = v;
                for (values, norm) in [(q, &self.q_norm), (k, &self.k_norm)] {
                    if let Some(norm) = norm {
                        norm.heads(kernels, values, scratch);
                    }
                    rotation.apply(kernels, row, values);
                }
            }
        };
        // SAFETY (of both uses): the item's rows and panels of `out` are touched by no other item.
        let product = |index: usize,
                       from: &ActivationView<'_>,
                       rows: Range<usize>,
                       row: usize,
                       panels: Range<usize>,
                       walk: Walk| {
            let (linear, out) = &outputs[index];
            let (stride, column) = (linear.outputs(), panels.start * LANES);
            let columns = stride - column;
            let output = Output { pointer: out.pointer(row * stride + column, columns), stride, columns };
            // SAFETY: see above; the activations of these rows are complete and no longer written.
            unsafe {
                multiply(kernels, from, rows, 0, &linear.weights, inputs.clone(), panels, output, false, walk);
            }
        };
        if rows >= ROW_SPLIT {
            let blocks = RowBlocks::new(rows, pool.threads());
            pool.for_each(blocks.count(), |worker, block| {
                let mut scratch = workers.of(worker);
                let rows = blocks.rows(block);
                for row in rows.clone() {
                    // SAFETY: each row belongs to one block.
                    unsafe { self.input_norm.store(kernels, hidden.row(row), &mut scratch.row, &activations, row) };
                }
                let WorkerScratch { row, halves, .. } = &mut *scratch;
                // SAFETY: as above.
                let (from, own) =
                    unsafe { activations.for_many_rows(kernels, rows.clone(), inputs.end, halves.as_mut()) };
                for (index, (linear, _)) in outputs.iter().enumerate() {
                    product(index, &from, own.clone(), rows.start, 0..linear.weights.panels(), Walk::Blocked);
                }
                epilogue(rows, row);
            });
        } else {
            pool.for_each(rows, |worker, row| {
                let scratch = &mut workers.of(worker).row;
                // SAFETY: each row is one item.
                unsafe { self.input_norm.store(kernels, hidden.row(row), scratch, &activations, row) };
            });
            let matrices = outputs.each_ref().map(|(linear, _)| &linear.weights);
            let items = PanelItems::streamed_together(&matrices, pool.threads());
            look_ahead(pool, &[&self.o.weights]);
            pool.for_each(items.count(), |_, item| {
                // Of all three one after the other.
                let mut panels = items.panels(item);
                for (index, weights) in matrices.iter().enumerate() {
                    let count = weights.panels();
                    let own = panels.start.min(count)..panels.end.min(count);
                    if !own.is_empty() {
                        product(index, &activations, 0..rows, 0, own, Walk::Streamed);
                    }
                    panels = panels.start.saturating_sub(count)..panels.end.saturating_sub(count);
                }
            });
            pool.for_each(rows, |worker, row| epilogue(row..row + 1, &mut workers.of(worker).row));
        }
    }

    /// Output product, residual, post norm, MLP, residual. `attended` is `[rows][heads * headDim]`; without it the output
    /// product is left out, of which the bias remains, as if all were zero. `next` are the matrices that come after this
    /// layer. Returns the share of the time that went into what comes before the MLP, 0 to 1.
    pub(crate) fn finish(
        &self,
        kernels: &Kernels,
        pool: &ThreadPool,
        rows: usize,
        workspace: &mut Workspace,
        attended: Option<&[f32]>,
        next: &[&PackedMatrix],
    ) -> f64 {
        let split = SplitTime::default();
        let hidden = workspace.hidden.view();
        let activations = workspace.activations.view();
        let shared = workspace.inner.view();
        let workers = &workspace.workers;
        let width = self.o.weights.inputs();
        let inputs = 0..width;
        let after_output = |row: usize, scratch: &mut [f32]| {
            // SAFETY: each row is handled by one worker, after its product.
            let values = unsafe { hidden.row(row) };
            self.o.add_bias(kernels, 0..self.o.outputs(), values);
            // SAFETY: as above; the product has read the row's activations, they may be replaced.
            unsafe { self.post_norm.store(kernels, values, scratch, &activations, row) };
        };
        if rows >= ROW_SPLIT {
            let blocks = RowBlocks::new(rows, pool.threads());
            pool.for_each(blocks.count(), |worker, block| {
                let begin = Instant::now();
                let mut scratch = workers.of(worker);
                let rows = blocks.rows(block);
                if let Some(attended) = attended {
                    for row in rows.clone() {
                        // SAFETY: each row belongs to one block.
                        unsafe { activations.store(kernels, row, 0, &attended[row * width..(row + 1) * width]) };
                    }
                    let out = hidden.output(rows.start, 0);
                    let panels = 0..self.o.weights.panels();
                    // SAFETY: as above.
                    unsafe {
                        let halves = scratch.halves.as_mut();
                        let (from, own) = activations.for_many_rows(kernels, rows.clone(), width, halves);
                        multiply(
                            kernels,
                            &from,
                            own,
                            0,
                            &self.o.weights,
                            inputs.clone(),
                            panels,
                            out,
                            true,
                            Walk::Blocked,
                        );
                    }
                }
                for row in rows.clone() {
                    after_output(row, &mut scratch.row);
                }
                let between = Instant::now();
                // SAFETY: as above.
                unsafe { self.mlp.add_rows(kernels, &activations, rows, &hidden, &mut scratch) };
                split.add(begin, between);
            });
        } else {
            let begin = Instant::now();
            if let Some(attended) = attended {
                pool.for_each(rows, |_, row| {
                    // SAFETY: each row is one item.
                    unsafe { activations.store(kernels, row, 0, &attended[row * width..(row + 1) * width]) };
                });
                let items = PanelItems::streamed(&self.o.weights, pool.threads());
                look_ahead(pool, &[&self.mlp.gate.weights]);
                pool.for_each(items.count(), |_, item| {
                    let panels = items.panels(item);
                    let out = hidden.output(0, panels.start * LANES);
                    // SAFETY: each item writes its own columns.
                    unsafe {
                        multiply(
                            kernels,
                            &activations,
                            0..rows,
                            0,
                            &self.o.weights,
                            inputs.clone(),
                            panels,
                            out,
                            true,
                            Walk::Streamed,
                        );
                    }
                });
            }
            pool.for_each(rows, |worker, row| after_output(row, &mut workers.of(worker).row));
            let between = Instant::now();
            self.mlp.add_shared(kernels, pool, &activations, rows, &hidden, &shared, workers, next);
            split.add(begin, between);
        }
        split.first_share()
    }
}

/// Time of all workers in two parts of one pass over the rows.
#[derive(Default)]
struct SplitTime {
    /// Nanoseconds of the first part.
    first: AtomicU64,
    /// Nanoseconds of both.
    all: AtomicU64,
}

impl SplitTime {
    /// Adds a pass whose first part lasted from `begin` to `between` and whose second part ends now.
    fn add(&self, begin: Instant, between: Instant) {
        // 2^64 nanoseconds are centuries.
        self.first.fetch_add((between - begin).as_nanos() as u64, Ordering::Relaxed);
        self.all.fetch_add(begin.elapsed().as_nanos() as u64, Ordering::Relaxed);
    }

    /// Share of the first part, 0 to 1.
    fn first_share(&self) -> f64 {
        self.first.load(Ordering::Relaxed) as f64 / self.all.load(Ordering::Relaxed).max(1) as f64
    }
}
