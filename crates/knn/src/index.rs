//! The index: what is added and removed, and who has which id.

use std::sync::Arc;

use iceformer_simd::{Kernels, kernels};
use iceformer_threads::ThreadPool;

use crate::algorithm::{Algorithm, make};
use crate::average::{AverageOptions, Averages};
use crate::error::{Error, Result};
use crate::free_slots::FreeSlots;
use crate::ids::IdTable;
use crate::input;
use crate::limits::{MAX_DIMENSIONS, MAX_VECTORS};
use crate::metric::Metric;
use crate::radius::{RadiusOptions, Ranges};
use crate::search::{Neighbours, SearchOptions};
use crate::snapshot::{Snapshot, Stats};
use crate::storage::Storage;
use crate::structure::{Batch, Context, Shape, Structure};

/// What an index is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexOptions {
    /// Numbers in a vector, 1 to [`MAX_DIMENSIONS`].
    pub dimensions: usize,
    /// How vectors are compared.
    pub metric: Metric,
    /// How numbers are stored.
    pub storage: Storage,
    /// How neighbours are found.
    pub algorithm: Algorithm,
    /// Makes random choices repeatable: equal seeds and changes give equal results.
    pub seed: u64,
    /// Numbers in the value kept with each vector; 0 keeps none.
    pub value_dimensions: usize,
}

impl IndexOptions {
    /// An inner-product index of `f32` vectors without values that chooses its algorithm.
    #[must_use]
    pub fn new(dimensions: usize) -> Self {
        Self {
            dimensions,
            metric: Metric::InnerProduct,
            storage: Storage::F32,
            algorithm: Algorithm::Auto,
            seed: 0,
            value_dimensions: 0,
        }
    }
}

/// A dynamic index of vectors with ids.
///
/// Ids are numbers below 2⁶⁴ − 1. Every change is all or nothing: after an error the index is as it was.
#[derive(Debug)]
pub struct Index {
    /// The state that searches see.
    now: Snapshot,
    free: FreeSlots,
}

impl Index {
    /// An empty index that works on `pool`.
    ///
    /// Fails if the dimensions are not supported.
    pub fn new(options: IndexOptions, pool: ThreadPool) -> Result<Self> {
        Self::with_kernels(options, pool, kernels())
    }

    /// An empty index with the kernels of a given SIMD level.
    pub fn with_kernels(options: IndexOptions, pool: ThreadPool, kernels: &'static Kernels) -> Result<Self> {
        let IndexOptions { dimensions, metric, storage, value_dimensions, seed, .. } = options;
        if dimensions == 0 || dimensions > MAX_DIMENSIONS {
            return Err(Error::Dimensions { dimensions, max: MAX_DIMENSIONS });
        }
        if value_dimensions > MAX_DIMENSIONS {
            return Err(Error::Dimensions { dimensions: value_dimensions, max: MAX_DIMENSIONS });
        }
        let shape = Shape { dimensions, value_dimensions, metric, storage };
        let context = Context { shape, kernels, pool, seed };
        let structure = make(options.algorithm, &context);
        Ok(Self { now: Snapshot::new(options, context, structure), free: FreeSlots::default() })
    }

    /// The index of a state that nobody else changes.
    pub(crate) fn of(now: Snapshot) -> Self {
        let mut free = FreeSlots::default();
        free.give(&now.table.free_slots());
        Self { now, free }
    }

    /// The state that searches see.
    pub(crate) fn now(&self) -> &Snapshot {
        &self.now
    }

    /// What the index was made with.
    #[must_use]
    pub fn options(&self) -> &IndexOptions {
        self.now.options()
    }

    /// Number of vectors.
    #[must_use]
    pub fn len(&self) -> usize {
        self.now.len()
    }

    /// True when there are no vectors.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.now.is_empty()
    }

    /// True when a vector has this id.
    #[must_use]
    pub fn has(&self, id: u64) -> bool {
        self.now.has(id)
    }

    /// The vector with `id`, `[dimensions]`, as stored: of length 1 for cosine, rounded for the short formats.
    ///
    /// Fails with [`Error::UnknownId`].
    pub fn get(&self, id: u64) -> Result<Vec<f32>> {
        self.now.get(id)
    }

    /// The value kept with the vector `id`, `[value_dimensions]`.
    ///
    /// Fails with [`Error::UnknownId`], or [`Error::NoValues`] if the index keeps none.
    pub fn value(&self, id: u64) -> Result<Vec<f32>> {
        self.now.value(id)
    }

    /// All ids, ascending.
    #[must_use]
    pub fn ids(&self) -> Vec<u64> {
        self.now.ids()
    }

    /// The largest id ever given since the index was made or cleared; ids that are not given go on from there.
    #[must_use]
    pub fn largest_id(&self) -> Option<u64> {
        self.now.table.largest()
    }

    /// Size, memory and the algorithm in use.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let mut stats = self.now.stats();
        stats.reserved_bytes += self.free.bytes();
        stats
    }

    /// The index as it is now, to search while it changes. Takes no time and no memory; what changes later is
    /// copied first if a snapshot still holds it.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.now.clone()
    }

    /// The k nearest of each query; see [`Snapshot::search`].
    pub fn search(&self, queries: &[f32], options: SearchOptions<'_>) -> Result<Neighbours> {
        self.now.search(queries, options)
    }

    /// The weighted average of all values for each query; see [`Snapshot::soft_search`].
    pub fn soft_search(&self, queries: &[f32], options: AverageOptions<'_>) -> Result<Averages> {
        self.snapshot().soft_search(queries, options)
    }

    /// All vectors within a radius of each query; see [`Snapshot::search_radius`].
    pub fn search_radius(&self, queries: &[f32], radius: f32, options: RadiusOptions<'_>) -> Result<Ranges> {
        self.now.search_radius(queries, radius, options)
    }

    /// Adds one vector and returns its id; see [`Index::add_batch`].
    pub fn add(&mut self, vector: &[f32], id: Option<u64>, value: Option<&[f32]>) -> Result<u64> {
        self.check_single(vector)?;
        let ids = self.add_batch(vector, id.as_ref().map(std::slice::from_ref), value)?;
        Ok(ids[0])
    }

    /// Adds vectors, `[n][dimensions]`, with `ids`, `[n]` (by default those after the largest so far,
    /// beginning with 0), and `values`, `[n][value_dimensions]` (required if the index keeps values).
    /// Returns the ids.
    ///
    /// Fails if an id is taken or given twice ([`Error::DuplicateId`]), if the arrays do not fit each other or
    /// the index, if a number is not finite, and if there is no memory. Nothing is added then.
    pub fn add_batch(&mut self, vectors: &[f32], ids: Option<&[u64]>, values: Option<&[f32]>) -> Result<Vec<u64>> {
        let context = Arc::clone(&self.now.context);
        let added = self.check_counts(vectors, ids)?;
        let values = input::values(&context, values, added)?;
        let vectors = input::prepare(&context, vectors, "vector")?;
        let ids = if let Some(ids) = ids {
            IdTable::check(ids)?;
            if let Some(&id) = ids.iter().find(|&&id| self.has(id)) {
                return Err(Error::DuplicateId { id });
            }
            ids.to_vec()
        } else {
            self.now.table.following(added)?
        };
        if added == 0 {
            return Ok(ids);
        }
        let slots = self.insert(&vectors, values, &ids)?;
        Arc::make_mut(&mut self.now.table).take(&ids, &slots);
        self.now.changed(added);
        Ok(ids)
    }

    /// Adds vectors, or replaces those whose id is taken. Arguments as for [`Index::add_batch`]. Returns how
    /// many were replaced.
    ///
    /// Fails like [`Index::add_batch`], but not for ids that are taken. Nothing has changed then.
    pub fn upsert_batch(&mut self, vectors: &[f32], ids: &[u64], values: Option<&[f32]>) -> Result<usize> {
        let context = Arc::clone(&self.now.context);
        let added = self.check_counts(vectors, Some(ids))?;
        let values = input::values(&context, values, added)?;
        let vectors = input::prepare(&context, vectors, "vector")?;
        IdTable::check(ids)?;
        let replaced: Vec<u32> = ids.iter().filter_map(|&id| self.now.table.find(id)).collect();
        if added == 0 {
            return Ok(0);
        }
        self.free.reserve(replaced.len() + added)?;
        Arc::make_mut(&mut self.now.table).unshare(&replaced)?;
        // The new come before the old go, so that there is a way back from an error.
        let slots = self.insert(&vectors, values, ids)?;
        let structure = self.now.structure_mut();
        if let Err(error) = structure.remove(&context, &replaced) {
            // These are in memory that is the index's own, so this has nothing to fail for.
            let undone = structure.remove(&context, &slots);
            debug_assert!(undone.is_ok(), "{undone:?}");
            self.free.give(&slots);
            return Err(error);
        }
        let table = Arc::make_mut(&mut self.now.table);
        table.free(&replaced);
        table.take(ids, &slots);
        self.free.give(&replaced);
        self.now.changed(added + replaced.len());
        Ok(replaced.len())
    }

    /// Removes vectors. Ids that are not in the index are skipped. Returns how many were removed.
    ///
    /// Fails only if there is no memory. Nothing is removed then.
    pub fn remove_batch(&mut self, ids: &[u64]) -> Result<usize> {
        let mut slots: Vec<u32> = ids.iter().filter_map(|&id| self.now.table.find(id)).collect();
        slots.sort_unstable();
        slots.dedup();
        if slots.is_empty() {
            return Ok(0);
        }
        self.free.reserve(slots.len())?;
        Arc::make_mut(&mut self.now.table).unshare(&slots)?;
        let context = Arc::clone(&self.now.context);
        self.now.structure_mut().remove(&context, &slots)?;
        Arc::make_mut(&mut self.now.table).free(&slots);
        self.free.give(&slots);
        self.now.changed(slots.len());
        Ok(slots.len())
    }

    /// Removes all vectors and gives their memory back. Ids that are not given begin with 0 again.
    pub fn clear(&mut self) {
        let structure = make(self.options().algorithm, &self.now.context);
        let removed = self.len();
        self.now.structure = Arc::from(structure);
        self.now.table = Arc::default();
        self.free = FreeSlots::default();
        self.now.changed(removed);
    }

    /// Gives back the memory that removed vectors left and that was reserved for growth.
    ///
    /// Takes time and, for a while, memory for a copy. Fails if there is no memory; nothing has changed then.
    pub fn compact(&mut self) -> Result<()> {
        let table = self.now.table.compacted()?;
        let renumber = self.now.table.renumber();
        let context = Arc::clone(&self.now.context);
        self.now.structure_mut().compact(&context, &renumber)?;
        self.now.table = Arc::new(table);
        self.free = FreeSlots::default();
        self.now.changed(0);
        Ok(())
    }

    fn check_single(&self, vector: &[f32]) -> Result<()> {
        let expected = self.options().dimensions;
        if vector.len() == expected {
            return Ok(());
        }
        Err(Error::DimensionMismatch { what: "vector", actual: vector.len(), expected })
    }

    /// Checks that arrays fit each other and the index. Returns the number of vectors.
    fn check_counts(&self, vectors: &[f32], ids: Option<&[u64]>) -> Result<usize> {
        let added = input::count(&self.now.context, vectors, "vectors")?;
        let size = self.len();
        // Also for an upsert, which holds both the old and the new for a moment.
        if added > MAX_VECTORS - size {
            return Err(Error::Full { size, added, max: MAX_VECTORS });
        }
        if let Some(ids) = ids
            && ids.len() != added
        {
            return Err(Error::CountMismatch { what: "ids", actual: ids.len(), expected: added });
        }
        Ok(added)
    }

    /// Stores checked vectors in free slots and reserves their ids. On an error nothing has changed.
    fn insert(&mut self, vectors: &[f32], values: &[f32], ids: &[u64]) -> Result<Vec<u32>> {
        let context = Arc::clone(&self.now.context);
        let slots_before = self.now.table.slots();
        let slots = self.free.take(ids.len(), slots_before);
        let batch = Batch { vectors, values, slots: &slots };
        let inserted = Arc::make_mut(&mut self.now.table)
            .reserve(ids, &slots)
            .and_then(|()| self.now.structure_mut().insert(&context, batch));
        if let Err(error) = inserted {
            self.free.untake(&slots, slots_before);
            Arc::make_mut(&mut self.now.table).forget(slots_before);
            return Err(error);
        }
        Ok(slots)
    }
}

impl Snapshot {
    /// The structure, to change: a copy if a snapshot still holds it.
    fn structure_mut(&mut self) -> &mut dyn Structure {
        if Arc::get_mut(&mut self.structure).is_none() {
            self.structure = Arc::from(self.structure.fork());
        }
        match Arc::get_mut(&mut self.structure) {
            Some(structure) => structure,
            None => unreachable!("the copy is ours alone"),
        }
    }
}

#[cfg(test)]
mod tests;
