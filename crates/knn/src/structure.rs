//! What every way of finding neighbours offers to the index.
//!
//! The index ([`crate::Index`]) checks input, gives each vector a *slot* (a small number, reused after removal)
//! and knows which id has which slot. A structure stores the vectors of the slots and finds the near ones.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

use iceformer_simd::Kernels;
use iceformer_threads::ThreadPool;

use crate::error::Result;
use crate::file::Writer;
use crate::ids::IdTable;
use crate::metric::Metric;
use crate::neighbour::Neighbour;
use crate::storage::Storage;

/// What the vectors of an index have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    pub dimensions: usize,
    /// 0: no values.
    pub value_dimensions: usize,
    pub metric: Metric,
    pub storage: Storage,
}

/// What work is done with.
#[derive(Clone, Debug)]
pub(crate) struct Context {
    pub shape: Shape,
    pub kernels: &'static Kernels,
    pub pool: ThreadPool,
    pub seed: u64,
}

/// Vectors to store, checked and in the form the index compares (of length 1 for cosine).
#[derive(Clone, Copy)]
pub(crate) struct Batch<'a> {
    /// `[n][dimensions]`
    pub vectors: &'a [f32],
    /// `[n][value_dimensions]`
    pub values: &'a [f32],
    /// `[n]`, all free before.
    pub slots: &'a [u32],
}

/// How hard to look.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Effort {
    /// Finds every neighbour, provably.
    Exact,
    /// A share, above 0, at most 1, of what the structure could read; 1 may still be less than exact.
    Share(f32),
}

/// What to find.
#[derive(Clone, Copy)]
pub(crate) struct Request<'a> {
    /// `[n][dimensions]`, checked and in the form the index compares.
    pub queries: &'a [f32],
    /// At least 1; may exceed the size of the index.
    pub k: usize,
    pub effort: Effort,
    /// Ranks below this are not wanted: the radius of a radius search, −∞ otherwise.
    pub floor: f32,
    /// Slots that may be found; `None` is all.
    pub allowed: Option<&'a SlotSet>,
    /// Id of each slot that is taken. Equal ranks are ordered by id.
    pub ids: &'a IdTable,
    pub cancel: Option<&'a AtomicBool>,
}

impl Request<'_> {
    pub fn cancelled(&self) -> bool {
        self.cancel.is_some_and(|cancel| cancel.load(Ordering::Relaxed))
    }
}

/// Takes the neighbours of a query (its row in the request), nearest first, at most k. Called once per row,
/// from any thread.
pub(crate) type Emit<'a> = &'a (dyn Fn(usize, &[Neighbour]) + Sync);

/// Bytes of native memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Bytes {
    /// In use by the vectors there are.
    pub live: usize,
    /// Held, reserves for growth included.
    pub reserved: usize,
}

impl std::ops::Add for Bytes {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self { live: self.live + other.live, reserved: self.reserved + other.reserved }
    }
}

/// A cluster in short. Not for L2.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Outline<'a> {
    /// Vectors.
    pub len: usize,
    /// The mean vector or near it, `[dimensions]`.
    pub centre: &'a [f32],
    /// Root of the mean squared distance of a vector from the centre, per dimension.
    pub spread: f32,
    /// Sum of the values, `[value_dimensions]`.
    pub values: &'a [f64],
}

/// A way of finding neighbours.
pub(crate) trait Structure: Send + Sync + fmt::Debug {
    /// A copy that shares memory until one of the two changes: what a search holds while the index moves on.
    fn fork(&self) -> Box<dyn Structure>;

    /// Stores vectors. On an error nothing has changed.
    fn insert(&mut self, context: &Context, batch: Batch<'_>) -> Result<()>;

    /// Removes the vectors of these slots, all taken and different. Their memory is free for the next insert.
    fn remove(&mut self, context: &Context, slots: &[u32]) -> Result<()>;

    /// Gives memory back. `renumber` has the new slot of every old one (`u32::MAX`: free); new slots are
    /// `0..len`. On an error the structure still works with the old slots.
    fn compact(&mut self, context: &Context, renumber: &[u32]) -> Result<()>;

    /// The vector of a slot as stored, `[dimensions]`.
    fn read(&self, context: &Context, slot: u32, vector: &mut [f32]);

    /// The value of a slot, `[value_dimensions]`.
    fn value(&self, slot: u32) -> &[f32];

    /// Finds neighbours and hands them to `emit`. Returns [`crate::Error::Cancelled`] if cancelled.
    fn search(&self, context: &Context, request: &Request<'_>, emit: Emit<'_>) -> Result<()>;

    /// Writes everything, for `slots` slots (what is beyond them is free), so that the structure's `load` can read it
    /// back: `load(context, reader, taken: &SlotSet, slots) -> Result<Self>`, which trusts nothing it reads.
    fn save(&self, context: &Context, writer: &mut Writer<'_>, slots: usize) -> Result<()>;

    /// Parts that [`Structure::read_part`] reads; `None` if it has none, and vectors are read slot by slot.
    fn parts(&self) -> Option<usize> {
        None
    }

    /// Appends the vectors, `[n][dimensions]`, and the values, `[n][value_dimensions]`, of a part.
    fn read_part(&self, _: &Context, _: usize, _: &mut Vec<f32>, _: &mut Vec<f32>) {}

    /// What is known of a part without reading it; `None` if nothing is.
    fn outline(&self, _: usize) -> Option<Outline<'_>> {
        None
    }

    fn bytes(&self) -> Bytes;

    /// Groups of vectors that a search chooses from; 0 if it does not choose groups.
    fn clusters(&self) -> usize;
}

/// A set of slots, one bit each.
#[derive(Debug, Clone, Default)]
pub(crate) struct SlotSet {
    bits: Vec<u64>,
    len: usize,
}

impl SlotSet {
    /// No slot of `slots`.
    pub fn new(slots: usize) -> Self {
        Self { bits: vec![0; slots.div_ceil(64)], len: 0 }
    }

    pub fn insert(&mut self, slot: u32) {
        let bit = 1_u64 << (slot % 64);
        let word = &mut self.bits[slot as usize / 64];
        self.len += usize::from(*word & bit == 0);
        *word |= bit;
    }

    #[inline]
    pub fn contains(&self, slot: u32) -> bool {
        self.bits[slot as usize / 64] >> (slot % 64) & 1 == 1
    }

    /// Number of slots in the set.
    pub fn len(&self) -> usize {
        self.len
    }

    /// The slots, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.bits.iter().enumerate().flat_map(|(word, &bits)| {
            std::iter::successors((bits != 0).then_some(bits), |bits| Some(bits & (bits - 1)).filter(|&b| b != 0))
                .map(move |bits| word as u32 * 64 + bits.trailing_zeros())
        })
    }
}
