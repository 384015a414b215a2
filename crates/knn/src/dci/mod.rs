//! Prioritized Dynamic Continuous Indexing with levels: Li and Malik, "Fast k-Nearest Neighbour Search via Prioritized
//! DCI" (2017), in the form that `IceFormer` (Mao, Ester, Li 2024) uses for attention.
//!
//! ```text
//! layer 1       [ cells around one in 256 vectors ]          compared with all of them
//!                  │ members: cells of layer 0
//! layer 0       [ cells around one in 16 vectors ]           compared with those in view
//!                  │ members: vectors
//! vectors       [ . . . . . . . . . . . . . . . . ]          candidates: members of the nearest cells
//! ```
//!
//! - A share of the vectors, chosen at random, is promoted to the next level; each vector belongs to the cell of the
//!   nearest promoted one. "Near" is Euclidean distance in the space of [`embedding`], which makes one method of all
//!   metrics.
//! - A search goes down the levels: it compares itself with the cells in view, visits the nearest, and comes to the
//!   vectors of the nearest cells of layer 0.
//! - Within a cell vectors are retrieved in the order of Prioritized DCI, by composite and simple indices of random
//!   projections ([`projections`]). With a single level, all vectors are one cell: plain Prioritized DCI.
//! - What is retrieved is compared exactly: the answer is the true nearest of the candidates.
//!
//! [`crate::structure::Effort::Share`] is the share of the vectors that become candidates: `max(k, ceil(share * len))`, all of them
//! within whole cells but for the last cell, from which those with the highest priority come. (Of a filtered search,
//! the share of the vectors that pass.) Visits follow from candidates: cells are visited until their members
//! are enough, at each level up the cells that have these as members are found among
//! [`DciOptions::view`] times as many, and nothing else bounds them.
//!
//! Changes keep the levels as if built anew: a new vector that is promoted takes over the members of nearby cells
//! that are nearer to it; when a promoted vector is removed, the members of its cell move to the next nearest.
//! Whether a slot is promoted is a hash of it and the seed. So there is nothing that could rot.
//!
//! A search reads the same candidates whatever the number of threads. A fork copies pointers to chunks of 1024 rows
//! and pages of 64 cells; a change copies those it touches.

mod block;
mod directions;
mod embedding;
mod hierarchy;
mod layer;
mod nearest;
mod options;
mod persistence;
mod projections;
mod search;
#[cfg(test)]
mod tests;

use crate::chunked::Chunked;
use crate::error::Result;
use crate::file::Writer;
use crate::structure::{Batch, Bytes, Context, Emit, Request, Structure};
use crate::vectors::Vectors;
use embedding::Embedding;
use layer::Layer;
pub(crate) use options::DciOptions;
use projections::Projections;

/// Cell of a slot without a vector.
const FREE: u32 = u32::MAX;
/// Cell of a vector that has none: there are no layers.
const FLAT: u32 = u32::MAX - 1;

/// Rows that are projected at once.
const PROJECTED: usize = 256;

/// Vectors in cells of cells, see the module.
#[derive(Debug, Clone)]
pub(crate) struct Dci {
    options: DciOptions,
    seed: u64,
    dimensions: usize,
    vectors: Vectors,
    /// `[slots][1]`: cell of layer 0, [`FREE`] or [`FLAT`].
    cell_of: Chunked<u32>,
    /// `[slots][1]`: squared length of the vector as stored.
    squared: Chunked<f32>,
    projections: Projections,
    embedding: Embedding,
    /// c at the time when all vectors last found their cells.
    arranged_for: f32,
    /// From the one whose cells have vectors as members upwards.
    layers: Vec<Layer>,
    len: usize,
}

impl Dci {
    /// An empty structure with default options.
    pub fn new(context: &Context) -> Self {
        Self::with_options(context, DciOptions::default())
    }

    /// An empty structure.
    pub fn with_options(context: &Context, options: DciOptions) -> Self {
        assert!(options.composite > 0 && options.simple > 0 && options.levels > 0 && options.promotion > 1);
        assert!(options.cell_share > 0.0 && options.cell_share <= 1.0);
        let embedding = Embedding::new(context.shape.metric);
        Self {
            options,
            seed: context.seed,
            dimensions: context.shape.dimensions,
            vectors: Vectors::new(context.shape),
            cell_of: Chunked::new(1),
            squared: Chunked::new(1),
            projections: Projections::new(context.shape, embedding, &options, context.seed),
            embedding,
            arranged_for: 0.0,
            layers: Vec::new(),
            len: 0,
        }
    }

    /// The taken slots, ascending.
    fn slots(&self) -> impl Iterator<Item = u32> + '_ {
        (0..self.cell_of.len() as u32).filter(|&slot| self.cell_of.row(slot as usize)[0] != FREE)
    }

    /// The extra number of a key, see [`embedding`].
    #[inline]
    fn extra(&self, slot: u32) -> f32 {
        self.embedding.extra(self.squared.row(slot as usize)[0])
    }

    /// Makes room for slots below `slots`.
    fn reserve(&mut self, slots: usize) -> Result<()> {
        self.vectors.reserve(slots)?;
        self.projections.reserve(slots)?;
        if slots > self.squared.len() {
            self.squared.resize(slots, 0.0)?;
        }
        if slots > self.cell_of.len() {
            self.cell_of.resize(slots, FREE)?;
        }
        Ok(())
    }

    /// Notes lengths and projections of stored vectors, which become part of no cell.
    fn measure(&mut self, context: &Context, slots: &[u32]) {
        let dimensions = self.dimensions;
        let mut rows = vec![0.0; PROJECTED.min(slots.len()) * dimensions];
        for slots in slots.chunks(PROJECTED) {
            for (row, &slot) in rows.chunks_exact_mut(dimensions).zip(slots) {
                self.vectors.read(context.kernels, slot, row);
                let squared = context.kernels.exact_dot(row, row);
                self.squared.row_mut(slot as usize)[0] = squared as f32;
                self.embedding.include(squared);
                self.cell_of.row_mut(slot as usize)[0] = FLAT;
            }
            let places = self.projections.project(context.kernels, slots.len(), &rows, dimensions);
            for (&slot, places) in slots.iter().zip(places.chunks_exact(self.projections.stride())) {
                self.projections.store(slot, places);
            }
        }
        self.len += slots.len();
    }
}

impl Structure for Dci {
    fn fork(&self) -> Box<dyn Structure> {
        Box::new(self.clone())
    }

    fn insert(&mut self, context: &Context, batch: Batch<'_>) -> Result<()> {
        let slots = batch.slots.iter().max().map_or(0, |&slot| slot as usize + 1);
        self.reserve(slots)?;
        for &slot in batch.slots {
            self.projections.unshare(slot)?;
            self.cell_of.unshare(slot as usize)?;
            self.squared.unshare(slot as usize)?;
        }
        let longest = self.embedding.longest;
        self.vectors.store(context, batch);
        self.measure(context, batch.slots);
        if self.embedding.longest > longest && self.embedding.projects_extra() {
            // Most of what has been arranged for a much smaller c would be arranged differently.
            if self.embedding.longest > 2.0 * self.arranged_for {
                self.rebuild(context);
                return Ok(());
            }
            self.raise_extras();
        }
        if 2 * batch.slots.len() > self.len {
            self.rebuild(context);
        } else {
            self.join(context, batch.slots);
        }
        Ok(())
    }

    fn remove(&mut self, context: &Context, slots: &[u32]) -> Result<()> {
        for &slot in slots {
            self.cell_of.unshare(slot as usize)?;
        }
        self.part(context, slots);
        Ok(())
    }

    fn compact(&mut self, context: &Context, renumber: &[u32]) -> Result<()> {
        let len = renumber.iter().filter(|&&new| new != u32::MAX).count();
        let mut other = Self::with_options(context, self.options);
        other.vectors = self.vectors.renumbered(renumber, len)?;
        other.reserve(len)?;
        let slots: Vec<u32> = (0..len as u32).collect();
        other.measure(context, &slots);
        other.rebuild(context);
        *self = other;
        Ok(())
    }

    fn read(&self, context: &Context, slot: u32, vector: &mut [f32]) {
        self.vectors.read(context.kernels, slot, vector);
    }

    fn value(&self, slot: u32) -> &[f32] {
        self.vectors.value(slot)
    }

    fn search(&self, context: &Context, request: &Request<'_>, emit: Emit<'_>) -> Result<()> {
        self.find(context, request, emit)
    }

    fn save(&self, _: &Context, writer: &mut Writer<'_>, slots: usize) -> Result<()> {
        self.write(writer, slots)
    }

    fn bytes(&self) -> Bytes {
        let parts = [self.cell_of.bytes(), self.squared.bytes(), self.projections.bytes()];
        let layers = self.layers.iter().map(Layer::bytes);
        let all = parts.into_iter().chain(layers).map(|(live, reserved)| Bytes { live, reserved });
        all.fold(self.vectors.bytes(), |sum, bytes| sum + bytes)
    }

    fn clusters(&self) -> usize {
        self.layers.first().map_or(0, Layer::len)
    }
}
