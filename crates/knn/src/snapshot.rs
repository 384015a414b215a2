//! The vectors of an index at one moment.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::algorithm::Algorithm;
use crate::error::{Error, Result};
use crate::ids::IdTable;
use crate::index::IndexOptions;
use crate::structure::{Context, Structure};
use crate::tuning::Tuning;

/// The vectors of an index at one moment. Searching it needs no lock and sees no later change.
///
/// Clones share everything.
#[derive(Debug, Clone)]
pub struct Snapshot {
    options: IndexOptions,
    pub(crate) context: Arc<Context>,
    pub(crate) structure: Arc<dyn Structure>,
    pub(crate) table: Arc<IdTable>,
    /// What the index learnt about its recall; shared by all its snapshots.
    pub(crate) tuning: Arc<Tuning>,
    /// Different for every state of every index of the process.
    pub(crate) state: u64,
    /// Vectors added and removed since the index was made.
    pub(crate) changes: u64,
}

/// Size and memory of an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stats {
    /// Number of vectors.
    pub size: usize,
    /// Bytes in use by the vectors there are, everything that finds them included.
    pub live_bytes: usize,
    /// Bytes held, reserves for growth and memory of removed vectors included.
    pub reserved_bytes: usize,
    /// Groups of vectors that a search chooses from; 0 if it does not choose groups.
    pub clusters: usize,
    /// The algorithm in use, never [`Algorithm::Auto`].
    pub algorithm: Algorithm,
    /// The SIMD level in use.
    pub simd: &'static str,
}

fn new_state() -> u64 {
    static STATES: AtomicU64 = AtomicU64::new(0);
    STATES.fetch_add(1, Ordering::Relaxed)
}

impl Snapshot {
    pub(crate) fn new(options: IndexOptions, context: Context, structure: Box<dyn Structure>) -> Self {
        Self {
            options,
            context: Arc::new(context),
            structure: Arc::from(structure),
            table: Arc::default(),
            tuning: Arc::default(),
            state: new_state(),
            changes: 0,
        }
    }

    /// Notes that this many vectors were added or removed.
    pub(crate) fn changed(&mut self, vectors: usize) {
        self.state = new_state();
        self.changes += vectors as u64;
    }

    /// What the index was made with.
    #[must_use]
    pub fn options(&self) -> &IndexOptions {
        &self.options
    }

    /// Number of vectors.
    #[must_use]
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// True when there are no vectors.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// True when a vector has this id.
    #[must_use]
    pub fn has(&self, id: u64) -> bool {
        self.table.find(id).is_some()
    }

    /// All ids, ascending.
    #[must_use]
    pub fn ids(&self) -> Vec<u64> {
        let mut ids: Vec<u64> = self.table.iter().map(|(_, id)| id).collect();
        if !ids.is_sorted() {
            ids.sort_unstable();
        }
        ids
    }

    /// The vector with `id`, `[dimensions]`, as stored: of length 1 for cosine, rounded for the short formats.
    ///
    /// Fails with [`Error::UnknownId`].
    pub fn get(&self, id: u64) -> Result<Vec<f32>> {
        let slot = self.slot(id)?;
        let mut vector = vec![0.0; self.context.shape.dimensions];
        self.structure.read(&self.context, slot, &mut vector);
        Ok(vector)
    }

    /// The value kept with the vector `id`, `[value_dimensions]`.
    ///
    /// Fails with [`Error::UnknownId`], or [`Error::NoValues`] if the index keeps none.
    pub fn value(&self, id: u64) -> Result<Vec<f32>> {
        if self.context.shape.value_dimensions == 0 {
            return Err(Error::NoValues);
        }
        Ok(self.structure.value(self.slot(id)?).to_vec())
    }

    fn slot(&self, id: u64) -> Result<u32> {
        self.table.find(id).ok_or(Error::UnknownId { id })
    }

    /// Size, memory and the algorithm in use.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let bytes = self.structure.bytes() + self.table.bytes();
        Stats {
            size: self.len(),
            live_bytes: bytes.live,
            reserved_bytes: bytes.reserved,
            clusters: self.structure.clusters(),
            algorithm: self.algorithm(),
            simd: self.context.kernels.level.name(),
        }
    }

    /// The algorithm in use.
    pub(crate) fn algorithm(&self) -> Algorithm {
        match self.options.algorithm {
            Algorithm::Auto if self.structure.clusters() > 0 => Algorithm::Cluster,
            Algorithm::Auto => Algorithm::Exact,
            chosen => chosen,
        }
    }
}
