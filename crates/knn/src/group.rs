//! Several indexes of one shape that grow and are searched together, for example one per attention head.
//!
//! A call appends to, settles or searches all lanes at once and spreads the work over the thread pool.
//! The vectors are numbered by insertion; searches see them "as of" a number, which is what causal
//! attention needs.

use crate::error::{Error, Result};
use crate::lane::{Lane, SUMMARY_CHUNK};
use crate::soft::{Block, Scratch, SoftQuery, SoftReport, Strategy, block_queries};
use crate::storage::Storage;
use crate::tiles::{Element, TileStore, VECTORS_PER_CHUNK};
use iceformer_simd::{Kernels, LANES, OutOfMemory};
use iceformer_threads::ThreadPool;
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

/// Largest number of dimensions of a key or a value.
const MAX_DIMENSIONS: usize = 1024;

/// Tiles below which one exact search is not worth splitting between threads.
const SPLIT_TILES: usize = 64;

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
}

#[derive(Debug)]
enum Lanes {
    F32(LanesOf<f32>),
    /// Also keys and values in codes: what is computed with them is bf16.
    Bf16(LanesOf<u16>),
}

macro_rules! each {
    ($lanes:expr, $name:ident => $body:expr) => {
        match $lanes {
            Lanes::F32($name) => $body,
            Lanes::Bf16($name) => $body,
        }
    };
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
        let lanes = match shape.storage {
            Storage::F32 => Lanes::F32(LanesOf::new(&shape, kernels, pool)),
            Storage::Bf16 | Storage::I8 => Lanes::Bf16(LanesOf::new(&shape, kernels, pool)),
            storage @ Storage::F16 => return Err(Error::GroupStorage { storage }),
        };
        Ok(Self { shape, lanes })
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

    /// The range of vectors, by insertion, that have settled.
    #[must_use]
    pub fn settled(&self) -> (usize, usize) {
        each!(&self.lanes, lanes => lanes.read(0).settled())
    }

    /// Bytes allocated for vectors and summaries.
    #[must_use]
    pub fn bytes(&self) -> usize {
        each!(&self.lanes, lanes => (0..lanes.lanes.len()).map(|lane| lanes.read(lane).bytes()).sum())
    }

    /// Bytes that `vectors` vectors per lane of this shape need at most, all settled; `usize::MAX` where that is more.
    #[must_use]
    pub fn estimate_bytes(shape: &GroupShape, vectors: usize) -> usize {
        let key = shape.dimensions.next_multiple_of(2);
        let value = shape.value_dimensions.next_multiple_of(LANES);
        // Bytes of a vector and of a number of a summary.
        let (vector, number) = match shape.storage {
            Storage::F32 => (TileStore::<f32>::vector_bytes(shape.dimensions, shape.value_dimensions, false), 4),
            storage => {
                (TileStore::<u16>::vector_bytes(shape.dimensions, shape.value_dimensions, storage == Storage::I8), 2)
            }
        };
        // Both come in whole chunks, and the order list may have doubled.
        let chunked = |count: usize, chunk: usize| count.div_ceil(chunk).saturating_mul(chunk);
        let vector_bytes = chunked(vectors, VECTORS_PER_CHUNK).saturating_mul(vector);
        let tiles = chunked(vectors.div_ceil(LANES), SUMMARY_CHUNK);
        let summary_bytes = tiles.saturating_mul((2 * key + value) * number);
        let order_bytes = vectors.saturating_mul(2 * size_of::<u32>());
        vector_bytes.saturating_add(summary_bytes).saturating_add(order_bytes).saturating_mul(shape.lanes)
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
        let (start, settled_end) = self.settled();
        if !sinks.is_multiple_of(LANES) || !end.is_multiple_of(LANES) || end > self.len() {
            return Err(Error::SettleRange { sinks, end, len: self.len() });
        }
        if settled_end > start && sinks != start {
            return Err(Error::SettleRange { sinks, end: settled_end, len: self.len() });
        }
        each!(&mut self.lanes, lanes => lanes.settle(sinks, end))
    }

    /// Forgets vectors from number `len` on.
    pub fn truncate(&mut self, len: usize) {
        each!(&mut self.lanes, lanes => lanes.truncate(len));
    }

    /// Soft search of all lanes: `queries` is `[n][lanes * group][dimensions]` (row `lane * group + g` of a query
    /// searches `lane`), `output` is `[n][lanes * group][value_dimensions]`, `lse`, if asked for, `[n][lanes * group]`
    /// takes the natural logarithm of the sum of exponentials. n is `query.queries`, `group` follows from the lengths.
    ///
    /// # Errors
    /// Wrong lengths, a mass target outside (0, 1], a query that would see nothing or more than there is, or settled
    /// vectors that the first query does not see (they have lost their order, so they cannot be seen in part).
    pub fn soft_search(
        &self,
        queries: &[f32],
        output: &mut [f32],
        lse: Option<&mut [f32]>,
        query: &SoftQuery,
    ) -> Result<SoftReport> {
        let shape = &self.shape;
        let row = query.queries * shape.lanes * shape.dimensions;
        if row == 0 || queries.is_empty() || !queries.len().is_multiple_of(row) {
            return Err(Error::RaggedBatch { what: "queries", length: queries.len(), dimensions: row });
        }
        let rows = queries.len() / shape.dimensions;
        if output.len() != rows * shape.value_dimensions {
            let expected = rows * shape.value_dimensions;
            return Err(Error::CountMismatch { what: "output", actual: output.len(), expected });
        }
        if let Some(lse) = &lse
            && lse.len() != rows
        {
            return Err(Error::CountMismatch { what: "lse", actual: lse.len(), expected: rows });
        }
        if let Strategy::Selected { mass_target } = query.strategy
            && !(mass_target > 0.0 && mass_target <= 1.0)
        {
            return Err(Error::SoftSearch { what: "massTarget", value: mass_target, allowed: "above 0 and at most 1" });
        }
        let last = query.visible + if query.causal { query.queries - 1 } else { 0 };
        if query.visible == 0 || last > self.len() || query.window == Some(0) {
            return Err(Error::Visible { visible: query.visible, last, len: self.len() });
        }
        let (start, end) = self.settled();
        let cut_by_window = query
            .window
            .is_some_and(|window| last.saturating_sub(window) > start && query.visible.saturating_sub(window) < end);
        if end > start && (end > query.visible || cut_by_window) {
            return Err(Error::SettledInPart { settled: end, visible: query.visible });
        }
        let kernels_finite = each!(&self.lanes, lanes => first_not_finite(lanes.kernels, queries, shape.dimensions));
        if let Some((row, position, value)) = kernels_finite {
            return Err(Error::NotFinite { what: "query", row, position, value });
        }
        Ok(each!(&self.lanes, lanes => lanes.soft_search(shape, queries, output, lse, query)))
    }
}

/// Row, position and value of the first number that is not finite.
fn first_not_finite(kernels: &Kernels, rows: &[f32], dimensions: usize) -> Option<(usize, usize, f32)> {
    // A row's squared length is finite unless a number is not (or is absurdly large): one quick pass for all.
    let suspicious = |row: &&[f32]| !kernels.dot(row, row).is_finite();
    let row = rows.chunks(dimensions).position(|row| suspicious(&row))?;
    let numbers = &rows[row * dimensions..][..dimensions];
    let position = numbers.iter().position(|x| !x.is_finite())?;
    Some((row, position, numbers[position]))
}

/// Where several workers write, each to its own rows.
struct Rows<'a> {
    start: *mut f32,
    length: usize,
    _owner: std::marker::PhantomData<&'a mut [f32]>,
}

// SAFETY: `row` is only called for rows that one worker owns.
unsafe impl Sync for Rows<'_> {}

impl<'a> Rows<'a> {
    fn new(all: &'a mut [f32]) -> Self {
        Self { start: all.as_mut_ptr(), length: all.len(), _owner: std::marker::PhantomData }
    }

    /// # Safety
    /// No other worker may use the same range at the same time.
    #[allow(clippy::mut_from_ref, reason = "the ranges of different workers do not overlap, see Safety")]
    unsafe fn range(&self, start: usize, length: usize) -> &mut [f32] {
        assert!(start + length <= self.length);
        // SAFETY: inside the slice, and not shared by contract.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(start), length) }
    }
}

#[derive(Debug)]
struct LanesOf<T: Element> {
    kernels: &'static Kernels,
    pool: ThreadPool,
    lanes: Vec<RwLock<Lane<T>>>,
    /// One per worker.
    scratch: Vec<Mutex<Scratch<T>>>,
}

/// A part of a search whose tiles were split between workers.
struct Partial {
    /// `[rows][value_dimensions, padded]`
    output: Vec<f32>,
    largest: Vec<f32>,
    sum: Vec<f32>,
}

impl<T: Element> LanesOf<T> {
    fn new(shape: &GroupShape, kernels: &'static Kernels, pool: ThreadPool) -> Self {
        let coded = shape.storage == Storage::I8;
        let lane = |_| RwLock::new(Lane::new(shape.dimensions, shape.value_dimensions, coded));
        let scratch = (0..pool.threads()).map(|_| Mutex::default()).collect();
        Self { kernels, pool, lanes: (0..shape.lanes).map(lane).collect(), scratch }
    }

    fn read(&self, lane: usize) -> RwLockReadGuard<'_, Lane<T>> {
        self.lanes[lane].read().unwrap_or_else(PoisonError::into_inner)
    }

    fn scratch(&self, worker: usize) -> MutexGuard<'_, Scratch<T>> {
        self.scratch[worker].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `f` on every lane, in parallel if `parallel`.
    fn change(&self, parallel: bool, f: impl Fn(usize, &mut Lane<T>) + Sync) {
        let one = |lane: usize| f(lane, &mut self.lanes[lane].write().unwrap_or_else(PoisonError::into_inner));
        if parallel {
            self.pool.for_each(self.lanes.len(), |_, lane| one(lane));
        } else {
            (0..self.lanes.len()).for_each(one);
        }
    }

    fn reserve(&mut self, vectors: usize) -> Result<()> {
        for lane in &mut self.lanes {
            let lane = lane.get_mut().unwrap_or_else(PoisonError::into_inner);
            lane.store.reserve(vectors).map_err(out_of_memory)?;
        }
        Ok(())
    }

    fn append(&mut self, shape: &GroupShape, keys: &[f32], values: &[f32], n: usize) -> Result<()> {
        for (what, numbers, dimensions) in [("key", keys, shape.dimensions), ("value", values, shape.value_dimensions)]
        {
            if let Some((row, position, value)) = first_not_finite(self.kernels, numbers, dimensions) {
                return Err(Error::NotFinite { what, row, position, value });
            }
        }
        let len = self.read(0).len();
        self.reserve(len + n)?;
        self.change(n > 16, |number, lane| {
            for i in 0..n {
                let row = i * shape.lanes + number;
                let key = &keys[row * shape.dimensions..][..shape.dimensions];
                lane.push(key, &values[row * shape.value_dimensions..][..shape.value_dimensions]);
            }
        });
        Ok(())
    }

    fn settle(&mut self, sinks: usize, end: usize) -> Result<()> {
        let failed = Mutex::new(None);
        self.change(true, |_, lane| {
            if let Err(error) = lane.settle(self.kernels, sinks, end) {
                *failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            }
        });
        failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), |error| Err(out_of_memory(error)))
    }

    fn truncate(&mut self, len: usize) {
        self.change(true, |_, lane| lane.truncate(len));
    }

    fn soft_search(
        &self,
        shape: &GroupShape,
        queries: &[f32],
        output: &mut [f32],
        lse: Option<&mut [f32]>,
        query: &SoftQuery,
    ) -> SoftReport {
        let (d, dv, lanes) = (shape.dimensions, shape.value_dimensions, shape.lanes);
        let group = queries.len() / (query.queries * lanes * d);
        let per_block = block_queries(group);
        let blocks = query.queries.div_ceil(per_block);
        let output = Rows::new(output);
        let lse = lse.map(Rows::new);
        let report = Mutex::new(SoftReport::default());
        // Row of the queries, and of the results, that is the i-th of a block.
        let row = |lane: usize, first: usize, i: usize| ((first + i / group) * lanes + lane) * group + i % group;
        let write = |block: &Block<'_, T>, lane: usize, scratch: &Scratch<T>| {
            block.finish(scratch, |i, sums, factor, log_sum| {
                let row = row(lane, block.first, i);
                // SAFETY: every row belongs to one block of one lane.
                let (to, log) = unsafe { (output.range(row * dv, dv), lse.as_ref().map(|lse| lse.range(row, 1))) };
                self.kernels.scale(sums, factor, to);
                if let Some(log) = log {
                    log[0] = log_sum;
                }
            });
        };
        let search = |lane_number: usize, first: usize, worker: usize| {
            let lane = self.read(lane_number);
            let block = self.block(shape, &lane, query, first, group);
            let scratch = &mut *self.scratch(worker);
            block.load(scratch, |i| &queries[row(lane_number, first, i) * d..][..d]);
            let found = block.search(scratch);
            write(&block, lane_number, scratch);
            report.lock().unwrap_or_else(PoisonError::into_inner).add(&found);
        };
        let splits = self.splits(query, blocks);
        if splits == 1 {
            self.pool.for_each(lanes * blocks, |worker, item| {
                // The last blocks see most, so they go first; lanes alternate.
                search(item % lanes, (blocks - 1 - item / lanes) * per_block, worker);
            });
        } else {
            let partials: Vec<Mutex<Option<Partial>>> = (0..lanes * splits).map(|_| Mutex::new(None)).collect();
            self.pool.for_each(lanes * splits, |worker, item| {
                let (lane_number, part) = (item / splits, item % splits);
                let lane = self.read(lane_number);
                let block = self.block(shape, &lane, query, 0, group);
                let scratch = &mut *self.scratch(worker);
                block.load(scratch, |i| &queries[row(lane_number, 0, i) * d..][..d]);
                let (first, end) = block.tile_range();
                let bound = |part: usize| first + (end - first) * part / splits;
                block.search_exactly(scratch, bound(part)..bound(part + 1));
                *partials[item].lock().unwrap_or_else(PoisonError::into_inner) = Some(Partial {
                    output: scratch.output.clone(),
                    largest: scratch.largest.clone(),
                    sum: scratch.sum.clone(),
                });
            });
            for lane_number in 0..lanes {
                let lane = self.read(lane_number);
                let block = self.block(shape, &lane, query, 0, group);
                let scratch = &mut *self.scratch(0);
                let parts = partials[lane_number * splits..][..splits].iter();
                let parts = parts.filter_map(|part| part.lock().unwrap_or_else(PoisonError::into_inner).take());
                merge(self.kernels, scratch, parts);
                write(&block, lane_number, scratch);
                report.lock().unwrap_or_else(PoisonError::into_inner).add(&block.report_exact());
            }
        }
        report.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// The block of queries that begins with query `first`, against one lane.
    fn block<'a>(
        &self,
        shape: &GroupShape,
        lane: &'a Lane<T>,
        query: &'a SoftQuery,
        first: usize,
        group: usize,
    ) -> Block<'a, T> {
        Block {
            kernels: self.kernels,
            lane,
            query,
            dimensions: shape.dimensions,
            value_dimensions: shape.value_dimensions,
            first,
            count: block_queries(group).min(query.queries - first),
            group,
        }
    }

    /// Parts that each search's tiles are cut into: more than one only when there are too few searches for
    /// the threads (decoding: one query).
    fn splits(&self, query: &SoftQuery, blocks: usize) -> usize {
        let threads = self.pool.threads();
        let lane = self.read(0);
        let selects = matches!(query.strategy, Strategy::Selected { .. }) && lane.settled_tiles() > 0;
        let tiles = query.visible.min(query.window.unwrap_or(usize::MAX)) / LANES;
        if threads == 1 || selects || blocks > 1 || tiles < SPLIT_TILES {
            return 1;
        }
        let searches = self.lanes.len();
        if searches >= 4 * threads { 1 } else { threads }
    }
}

/// Merges partial results of the same rows into `scratch` by their log-sum-exp.
fn merge<T: Element>(kernels: &Kernels, scratch: &mut Scratch<T>, parts: impl Iterator<Item = Partial>) {
    for (number, part) in parts.enumerate() {
        if number == 0 {
            (scratch.output, scratch.largest, scratch.sum) = (part.output, part.largest, part.sum);
            continue;
        }
        let width = part.output.len() / part.sum.len();
        for row in 0..part.sum.len() {
            let top = scratch.largest[row].max(part.largest[row]);
            let (by, by_part) = ((scratch.largest[row] - top).exp2(), (part.largest[row] - top).exp2());
            let output = &mut scratch.output[row * width..][..width];
            for x in output.iter_mut() {
                *x *= by;
            }
            kernels.add_scaled(&part.output[row * width..][..width], by_part, output);
            scratch.sum[row] = scratch.sum[row] * by + part.sum[row] * by_part;
            scratch.largest[row] = top;
        }
    }
}

fn out_of_memory(error: OutOfMemory) -> Error {
    Error::OutOfMemory { bytes: error.bytes }
}
