//! Several indexes of one shape that grow and are searched together, for example one per attention head.
//!
//! A call appends to, settles or searches all lanes at once and spreads the work over the thread pool.
//! The vectors are numbered by insertion; searches see them "as of" a number, which is what causal
//! attention needs.

/// Runs the same on lanes of each type of numbers.
macro_rules! each {
    ($lanes:expr, $name:ident => $body:expr) => {
        match $lanes {
            Lanes::F32($name) => $body,
            Lanes::Bf16($name) => $body,
        }
    };
}

mod detail;
mod lanes;
mod rounds;
mod search;
mod soft_search;
mod top_k;

use crate::algorithm::Algorithm;
use crate::error::{Error, Result};
use crate::sketch::Sketches;
use crate::soft::Selection;
use crate::storage::Storage;
use crate::summaries::Summaries;
use crate::tiles::{TileStore, VECTORS_PER_CHUNK};
pub use detail::{LaneDetail, Reused};
use iceformer_simd::{Kernels, LANES};
use iceformer_threads::ThreadPool;
use lanes::LanesOf;
use std::sync::{Mutex, PoisonError};
use top_k::NearestKeys;

/// Largest number of dimensions of a key or a value.
const MAX_DIMENSIONS: usize = 1024;

/// Longest key and longest query: their products, and products of their squares, stay far from where `f32` ends.
const MAX_KEY_LENGTH: f32 = 1e9;

/// The shape of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupShape {
    /// Number of lanes (independent indexes).
    pub lanes: usize,
    /// Numbers per key.
    pub dimensions: usize,
    /// Numbers per value.
    pub value_dimensions: usize,
    /// How keys and values are stored: [`Storage::F32`], [`Storage::Bf16`] or [`Storage::I8`]. Summaries of settled
    /// vectors are bf16 where keys are [`Storage::I8`].
    pub storage: Storage,
}

/// Indexes of one shape, see the module.
#[derive(Debug)]
pub struct IndexGroup {
    shape: GroupShape,
    lanes: Lanes,
    /// `[lanes]`: keys that are also in an index of their own, for [`crate::Strategy::TopK`].
    nearest: Vec<Option<Indexed>>,
    /// What the last search that was to be remembered selected.
    selection: Mutex<Selection>,
    kernels: &'static Kernels,
    pool: ThreadPool,
}

/// A lane's keys in an index, and what it was made with.
#[derive(Debug)]
struct Indexed {
    made_with: (Algorithm, u64),
    keys: Mutex<NearestKeys>,
}

#[derive(Debug)]
enum Lanes {
    F32(LanesOf<f32>),
    /// Also keys and values in codes: what is computed with them is bf16.
    Bf16(LanesOf<u16>),
}

impl IndexGroup {
    /// An empty group.
    ///
    /// # Errors
    /// If a number of the shape is zero or too large.
    pub fn new(shape: GroupShape, kernels: &'static Kernels, pool: ThreadPool) -> Result<Self> {
        for (what, value) in
            [("dimensions", shape.dimensions), ("valueDimensions", shape.value_dimensions), ("count", shape.lanes)]
        {
            if value == 0 || value > MAX_DIMENSIONS {
                return Err(Error::GroupShape { what, value, max: MAX_DIMENSIONS });
            }
        }
        let nearest = (0..shape.lanes).map(|_| None).collect();
        let own_pool = pool.clone();
        let lanes = match shape.storage {
            Storage::F32 => Lanes::F32(LanesOf::new(&shape, kernels, pool)),
            Storage::Bf16 | Storage::I8 => Lanes::Bf16(LanesOf::new(&shape, kernels, pool)),
            storage @ Storage::F16 => return Err(Error::GroupStorage { storage }),
        };
        Ok(Self { shape, lanes, nearest, selection: Mutex::default(), kernels, pool: own_pool })
    }

    /// The shape it was made with.
    #[must_use]
    pub fn shape(&self) -> GroupShape {
        self.shape
    }

    /// Vectors per lane.
    #[must_use]
    pub fn len(&self) -> usize {
        each!(&self.lanes, lanes => lanes.read(0).len())
    }

    /// True if nothing was appended.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The range of vectors, by insertion, that have settled in the first lane.
    #[must_use]
    pub fn settled(&self) -> (usize, usize) {
        self.settled_lane(0)
    }

    /// The range of vectors, by insertion, that have settled in a lane.
    ///
    /// # Panics
    /// If there is no such lane.
    #[must_use]
    pub fn settled_lane(&self, lane: usize) -> (usize, usize) {
        each!(&self.lanes, lanes => lanes.read(lane).settled())
    }

    /// Numbers of insertion of the vectors of a lane that have settled, in the order in which they stand: each sixteen
    /// share a tile.
    ///
    /// # Panics
    /// If there is no such lane.
    #[must_use]
    pub fn settled_order(&self, lane: usize) -> Vec<u32> {
        each!(&self.lanes, lanes => lanes.read(lane).arrangement().order().to_vec())
    }

    /// Bytes allocated for vectors, summaries and indexes of keys.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let vectors: usize =
            each!(&self.lanes, lanes => (0..lanes.lanes.len()).map(|lane| lanes.read(lane).bytes()).sum());
        let indexed = |lane: &Indexed| lane.keys.lock().unwrap_or_else(PoisonError::into_inner).bytes();
        vectors + self.nearest.iter().flatten().map(indexed).sum::<usize>()
    }

    /// Prepares a lane for [`crate::Strategy::TopK`]: its keys are also kept in an index of this algorithm, which takes them in
    /// as searches come to them. Does nothing if the lane has such an index.
    ///
    /// # Errors
    /// A lane that does not exist.
    pub fn index_keys(&mut self, lane: usize, algorithm: Algorithm, seed: u64) -> Result<()> {
        let made_with = (algorithm, seed);
        let Some(place) = self.nearest.get_mut(lane) else {
            return Err(Error::Lane { lane, lanes: self.shape.lanes });
        };
        if place.as_ref().is_none_or(|indexed| indexed.made_with != made_with) {
            let keys = NearestKeys::new(&self.shape, algorithm, seed, self.pool.clone(), self.kernels)?;
            *place = Some(Indexed { made_with, keys: Mutex::new(keys) });
        }
        Ok(())
    }

    /// Bytes that `vectors` vectors per lane of this shape need at most, all settled; `usize::MAX` where that is more.
    #[must_use]
    pub fn estimate_bytes(shape: &GroupShape, vectors: usize) -> usize {
        let (d, dv) = (shape.dimensions, shape.value_dimensions);
        let tiles = vectors.div_ceil(LANES);
        let (vector, summary_bytes) = match shape.storage {
            Storage::F32 => {
                (TileStore::<f32>::vector_bytes(d, dv, false), Summaries::<f32>::estimate_bytes(d, dv, tiles))
            }
            storage => {
                let coded = storage == Storage::I8;
                (TileStore::<u16>::vector_bytes(d, dv, coded), Summaries::<u16>::estimate_bytes(d, dv, tiles))
            }
        };
        // Vectors come in whole chunks, and the order list may have doubled.
        let vector_bytes = vectors.div_ceil(VECTORS_PER_CHUNK).saturating_mul(VECTORS_PER_CHUNK).saturating_mul(vector);
        let sketch_bytes = Sketches::estimate_bytes(shape.dimensions, vectors.div_ceil(LANES));
        let order_bytes = vectors.saturating_mul(2 * size_of::<u32>());
        let all = [summary_bytes, sketch_bytes, order_bytes].into_iter().fold(vector_bytes, usize::saturating_add);
        all.saturating_mul(shape.lanes)
    }

    /// Makes room for `vectors` vectors per lane in all.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`]; nothing is lost then.
    pub fn reserve(&mut self, vectors: usize) -> Result<()> {
        each!(&mut self.lanes, lanes => lanes.reserve(vectors))
    }

    /// Appends to every lane: `keys` is `[n][lanes][dimensions]`, `values` is `[n][lanes][value_dimensions]`.
    ///
    /// # Errors
    /// Wrong lengths, numbers that are not finite, no memory; nothing is appended then.
    pub fn append(&mut self, keys: &[f32], values: &[f32]) -> Result<()> {
        let shape = self.shape;
        let (row, value_row) = (shape.lanes * shape.dimensions, shape.lanes * shape.value_dimensions);
        if !keys.len().is_multiple_of(row) {
            return Err(Error::RaggedBatch { what: "keys", length: keys.len(), dimensions: row });
        }
        let n = keys.len() / row;
        if values.len() != n * value_row {
            return Err(Error::CountMismatch { what: "values", actual: values.len(), expected: n * value_row });
        }
        each!(&mut self.lanes, lanes => lanes.append(&shape, keys, values, n))
    }

    /// Settles vectors before `end` (by insertion) that have not: they are rearranged so that near keys share
    /// tiles, and summarised. The first `sinks` vectors never settle; all later calls must give the same number.
    ///
    /// # Errors
    /// If `sinks` or `end` is no multiple of 16 or `end` exceeds the number of vectors; no memory.
    pub fn settle(&mut self, sinks: usize, end: usize) -> Result<()> {
        let all: Vec<usize> = (0..self.shape.lanes).collect();
        self.settle_lanes(&all, sinks, end)
    }

    /// As [`IndexGroup::settle`], for some of the lanes: the others keep their order of insertion, or settle on their
    /// own terms.
    ///
    /// # Errors
    /// As [`IndexGroup::settle`]; a lane that does not exist.
    pub fn settle_lanes(&mut self, lanes: &[usize], sinks: usize, end: usize) -> Result<()> {
        for &lane in lanes {
            if lane >= self.shape.lanes {
                return Err(Error::Lane { lane, lanes: self.shape.lanes });
            }
            let (start, settled_end) = self.settled_lane(lane);
            if !sinks.is_multiple_of(LANES) || !end.is_multiple_of(LANES) || end > self.len() {
                return Err(Error::SettleRange { sinks, end, len: self.len() });
            }
            if settled_end > start && sinks != start {
                return Err(Error::SettleRange { sinks, end: settled_end, len: self.len() });
            }
        }
        each!(&mut self.lanes, own => own.settle(lanes, sinks, end))
    }

    /// Settles vectors as those of the same lanes of another group have settled, in the same order: tiles of the same
    /// number then hold vectors of the same numbers of insertion, so what one group selects can be read in the other.
    /// These lanes must settle in no other way.
    ///
    /// # Errors
    /// A lane that does not exist in both; fewer vectors here than have settled there; no memory.
    pub fn settle_like(&mut self, source: &Self, lanes: &[usize]) -> Result<()> {
        for &lane in lanes {
            let count = self.shape.lanes.min(source.shape.lanes);
            if lane >= count {
                return Err(Error::Lane { lane, lanes: count });
            }
            let (sinks, like) = each!(&source.lanes, lanes => {
                let lane = lanes.read(lane);
                (lane.rooted(), lane.arrangement().clone())
            });
            // What lies before the sinks end is read whole here as there, also while nothing behind them has settled.
            let Some(sinks) = sinks else { continue };
            let (_, end) = source.settled_lane(lane);
            let (own_start, own_end) = self.settled_lane(lane);
            if end > self.len() || own_end > own_start && sinks != own_start {
                return Err(Error::SettleRange { sinks, end, len: self.len() });
            }
            each!(&mut self.lanes, own => own.settle_like(lane, &like, sinks))?;
        }
        Ok(())
    }

    /// What the last search that was to be remembered ([`LaneDetail::remember`]) selected.
    #[must_use]
    pub fn selection(&self) -> Selection {
        self.selection.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Forgets vectors from number `len` on.
    pub fn truncate(&mut self, len: usize) {
        each!(&mut self.lanes, lanes => lanes.truncate(len));
        *self.selection.get_mut().unwrap_or_else(PoisonError::into_inner) = Selection::default();
        for indexed in self.nearest.iter_mut().flatten() {
            let keys = indexed.keys.get_mut().unwrap_or_else(PoisonError::into_inner);
            // Without memory to note what goes, the index begins anew.
            if keys.truncate(len).is_err() {
                keys.clear();
            }
        }
    }
}
