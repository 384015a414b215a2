//! Several indexes of one shape that grow and are searched together, for example one per attention head.
//!
//! A call appends to, settles or searches all lanes at once and spreads the work over the thread pool.
//! The vectors are numbered by insertion; searches see them "as of" a number, which is what causal
//! attention needs.

mod top_k;

use crate::algorithm::Algorithm;
use crate::error::{Error, Result};
use crate::lane::{Arrangement, Lane};
use crate::limits::MAX_K;
use crate::sketch::Sketches;
use crate::soft::{
    Block, BlockPlace, BlockTiles, FEW_ROWS, SKETCHED_DIMENSIONS, Scratch, Selection, SoftQuery, SoftReport, Stocks,
    Strategy, block_shape,
};
use crate::storage::Storage;
use crate::summaries::Summaries;
use crate::tiles::{Element, TileStore, VECTORS_PER_CHUNK};
use iceformer_simd::{Kernels, LANES, OutOfMemory};
use iceformer_threads::ThreadPool;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};
use top_k::{LaneRows, NearestKeys, Reach, Search};

/// Largest number of dimensions of a key or a value.
const MAX_DIMENSIONS: usize = 1024;

/// Longest key and longest query: their products, and products of their squares, stay far from where `f32` ends.
const MAX_KEY_LENGTH: f32 = 1e9;

/// Longest value: sums over all vectors stay far from where `f32` ends.
const MAX_VALUE_LENGTH: f32 = 1e18;

/// Tiles below which one exact search is not worth splitting between threads.
const SPLIT_TILES: usize = 64;

/// So few vectors are appended by one thread, lane by lane.
const ONE_BY_ONE: usize = 16;

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
    /// `[lanes]`: keys that are also in an index of their own, for [`Strategy::TopK`].
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

    /// Prepares a lane for [`Strategy::TopK`]: its keys are also kept in an index of this algorithm, which takes them in
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
        let summaries =
            |of: fn(usize, usize, usize) -> usize| of(d, dv, tiles).saturating_add(of(d, dv, tiles / LANES));
        let (vector, summary_bytes) = match shape.storage {
            Storage::F32 => (TileStore::<f32>::vector_bytes(d, dv, false), summaries(Summaries::<f32>::estimate_bytes)),
            storage => {
                let coded = storage == Storage::I8;
                (TileStore::<u16>::vector_bytes(d, dv, coded), summaries(Summaries::<u16>::estimate_bytes))
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

    /// Soft search of all lanes: `queries` is `[n][lanes * group][dimensions]` (row `lane * group + g` of a query
    /// searches `lane`), `output` is `[n][lanes * group][value_dimensions]`, `lse`, if asked for, `[n][lanes * group]`
    /// takes the natural logarithm of the sum of exponentials. n is `query.queries`, `group` follows from the lengths.
    ///
    /// # Errors
    /// Wrong lengths, a setting of the strategy out of range, a query that would see nothing or more than there is, or
    /// settled vectors that a query sees only in part (they have lost their order).
    pub fn soft_search(
        &self,
        queries: &[f32],
        output: &mut [f32],
        lse: Option<&mut [f32]>,
        query: &SoftQuery,
    ) -> Result<SoftReport> {
        let reports = self.soft_search_lanes(queries, output, lse, query, LaneDetail::default())?;
        let mut sum = SoftReport::default();
        for report in &reports {
            sum.add(report);
        }
        Ok(sum)
    }

    /// As [`IndexGroup::soft_search`], where lanes or queries differ from each other. Returns one report per lane.
    ///
    /// # Errors
    /// As [`IndexGroup::soft_search`]; with `sights` a query may see nothing.
    pub fn soft_search_lanes(
        &self,
        queries: &[f32],
        output: &mut [f32],
        lse: Option<&mut [f32]>,
        query: &SoftQuery,
        detail: LaneDetail<'_>,
    ) -> Result<Vec<SoftReport>> {
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
        if !query.scale.is_finite() {
            return Err(Error::SoftSearch { what: "scale", value: query.scale, allowed: "finite" });
        }
        let lanes: Vec<SoftQuery> = match detail.strategies {
            None => vec![*query; shape.lanes],
            Some(strategies) if strategies.len() == shape.lanes => {
                strategies.iter().map(|&strategy| SoftQuery { strategy, ..*query }).collect()
            }
            Some(strategies) => {
                let (actual, expected) = (strategies.len(), shape.lanes);
                return Err(Error::CountMismatch { what: "strategies", actual, expected });
            }
        };
        lanes.iter().try_for_each(|lane| check_strategy(lane.strategy, query.scale))?;
        let sight = self.check_sights(query, detail.sights)?;
        for (number, lane) in lanes.iter().enumerate() {
            let (start, end) = self.settled_lane(number);
            let cut = sight.least_to < end || sight.most_from > start;
            let in_order = matches!(lane.strategy, Strategy::Window { .. } | Strategy::TopK { .. });
            if end > start && (cut || in_order) {
                return Err(Error::SettledInPart { settled: end, visible: sight.least_to });
            }
        }
        each!(&self.lanes, lanes => check_rows(lanes.kernels, "query", queries, shape.dimensions, MAX_KEY_LENGTH))?;
        let mut lse = lse;
        let mut reports = each!(&self.lanes, own => {
            own.soft_search(shape, queries, output, lse.as_deref_mut(), &lanes, detail, &self.selection)
        });
        for (lane, own_query) in lanes.iter().enumerate() {
            let Strategy::TopK { k, recall, effort } = own_query.strategy else { continue };
            let Some(indexed) = &self.nearest[lane] else { return Err(Error::KeysNotIndexed { lane }) };
            let mut keys = indexed.keys.lock().unwrap_or_else(PoisonError::into_inner);
            let reach = Reach { k: k as usize, recall, effort };
            let group = rows / (query.queries * shape.lanes);
            let mut rows = LaneRows { lane, group, queries, output, lse: lse.as_deref_mut() };
            let search = Search { kernels: self.kernels, shape, query: own_query, sights: detail.sights, reach };
            reports[lane] = each!(&self.lanes, own => keys.search(&own.read(lane), &search, &mut rows))?;
        }
        Ok(reports)
    }

    /// Checks which vectors queries see.
    fn check_sights(&self, query: &SoftQuery, sights: Option<&[[u32; 2]]>) -> Result<Sight> {
        let len = self.len();
        let Some(sights) = sights else {
            let last = query.visible + if query.causal { query.queries - 1 } else { 0 };
            if query.visible == 0 || last > len || query.window == Some(0) {
                return Err(Error::Visible { visible: query.visible, last, len });
            }
            let most_from = query.window.map_or(0, |window| last.saturating_sub(window));
            return Ok(Sight { least_to: query.visible, most_from });
        };
        if sights.len() != query.queries {
            let (actual, expected) = (sights.len(), query.queries);
            return Err(Error::CountMismatch { what: "sights", actual, expected });
        }
        let rising = sights.windows(2).all(|pair| pair[0][0] <= pair[1][0] && pair[0][1] <= pair[1][1]);
        let (first, last) = (sights[0], sights[query.queries - 1]);
        if !rising || sights.iter().any(|[from, to]| from > to) || last[1] as usize > len {
            return Err(Error::Visible { visible: first[1] as usize, last: last[1] as usize, len });
        }
        Ok(Sight { least_to: first[1] as usize, most_from: last[0] as usize })
    }
}

/// Where the lanes or the queries of one soft search differ from each other.
#[derive(Debug, Clone, Copy, Default)]
pub struct LaneDetail<'a> {
    /// `[lanes]`: how each lane is searched, instead of the query's `strategy`.
    pub strategies: Option<&'a [Strategy]>,
    /// `[queries][2]`: first and after-last vector, by order of insertion, that each query sees, instead of what
    /// `visible`, `causal` and `window` say. Neither bound may fall from one query to the next. Equal bounds: the query
    /// sees nothing, its output is zero and its `lse` minus infinity.
    pub sights: Option<&'a [[u32; 2]]>,
    /// Tiles that an earlier search selected, of this group or of one that settled in the same order. Selecting lanes
    /// read these again where it has the same blocks and nothing has settled since, and else select.
    pub reused: Option<Reused<'a>>,
    /// True if [`IndexGroup::selection`] is to be what this search selects.
    pub remember: bool,
}

/// What a search reads again.
#[derive(Debug, Clone, Copy)]
pub struct Reused<'a> {
    /// The tiles.
    pub selection: &'a Selection,
    /// `[lanes]`: true for the lanes that reuse them.
    pub lanes: &'a [bool],
}

impl Reused<'_> {
    /// The tiles of a block, if the lane reuses some and has settled as it had then.
    fn tiles(&self, place: BlockPlace, settled: (usize, usize)) -> Option<&BlockTiles> {
        let lane = place.0;
        let same = self.lanes.get(lane) == Some(&true) && self.selection.settled.get(lane) == Some(&settled);
        if same { self.selection.blocks.get(&place) } else { None }
    }
}

/// What all queries of a search see at least.
struct Sight {
    /// Smallest after-last vector.
    least_to: usize,
    /// Largest first vector.
    most_from: usize,
}

fn check_strategy(strategy: Strategy, scale: f32) -> Result<()> {
    match strategy {
        Strategy::Selected { mass_target, .. } if !(mass_target > 0.0 && mass_target <= 1.0) => {
            Err(Error::SoftSearch { what: "massTarget", value: mass_target, allowed: "above 0 and at most 1" })
        }
        Strategy::Selected { least_tiles, most_tiles, .. } if least_tiles > most_tiles => {
            let allowed = "at least as large as the least number of tiles";
            Err(Error::SoftSearch { what: "mostTiles", value: most_tiles as f32, allowed })
        }
        Strategy::Window { recent: 0, .. } => {
            Err(Error::SoftSearch { what: "recent", value: 0.0, allowed: "at least 1" })
        }
        Strategy::TopK { k, .. } if k == 0 || k as usize > MAX_K => Err(Error::K { k: k as usize, max: MAX_K }),
        Strategy::TopK { .. } if scale <= 0.0 => {
            Err(Error::SoftSearch { what: "scale", value: scale, allowed: "above 0 where the nearest keys are sought" })
        }
        _ => Ok(()),
    }
}

/// Checks that all numbers are finite and every row (`[dimensions]`) is at most `longest` long.
fn check_rows(kernels: &Kernels, what: &'static str, rows: &[f32], dimensions: usize, longest: f32) -> Result<()> {
    for (row, numbers) in rows.chunks(dimensions).enumerate() {
        // One quick pass for both: the sum is not finite if a number is not.
        if kernels.dot(numbers, numbers) <= longest * longest {
            continue;
        }
        if let Some(position) = numbers.iter().position(|x| !x.is_finite()) {
            return Err(Error::NotFinite { what, row, position, value: numbers[position] });
        }
        let length = numbers.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
        return Err(Error::TooLarge { what, row, length, max: f64::from(longest) });
    }
    Ok(())
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
    stocks: Arc<Stocks<T>>,
}

impl<T: Element> LanesOf<T> {
    fn new(shape: &GroupShape, kernels: &'static Kernels, pool: ThreadPool) -> Self {
        let coded = shape.storage == Storage::I8;
        let lane = |_| RwLock::new(Lane::new(shape.dimensions, shape.value_dimensions, coded));
        Self { kernels, pool, lanes: (0..shape.lanes).map(lane).collect(), stocks: Stocks::shared() }
    }

    fn read(&self, lane: usize) -> RwLockReadGuard<'_, Lane<T>> {
        self.lanes[lane].read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `f` on every lane, in parallel if `parallel`.
    fn change(&self, parallel: bool, f: impl Fn(usize, &mut Lane<T>) + Sync) {
        let one = |lane: usize| self.change_one(lane, &f);
        if parallel {
            self.pool.for_each(self.lanes.len(), |_, lane| one(lane));
        } else {
            (0..self.lanes.len()).for_each(one);
        }
    }

    fn change_one(&self, lane: usize, f: impl Fn(usize, &mut Lane<T>)) {
        f(lane, &mut self.lanes[lane].write().unwrap_or_else(PoisonError::into_inner));
    }

    fn reserve(&mut self, vectors: usize) -> Result<()> {
        for lane in &mut self.lanes {
            let lane = lane.get_mut().unwrap_or_else(PoisonError::into_inner);
            lane.store.reserve(vectors).map_err(out_of_memory)?;
        }
        Ok(())
    }

    fn append(&mut self, shape: &GroupShape, keys: &[f32], values: &[f32], n: usize) -> Result<()> {
        if n <= ONE_BY_ONE {
            for lane in &mut self.lanes {
                let lane = lane.get_mut().unwrap_or_else(PoisonError::into_inner);
                lane.store.ask_for(lane.len() / LANES);
            }
        }
        check_rows(self.kernels, "key", keys, shape.dimensions, MAX_KEY_LENGTH)?;
        check_rows(self.kernels, "value", values, shape.value_dimensions, MAX_VALUE_LENGTH)?;
        let len = self.read(0).len();
        self.reserve(len + n)?;
        self.change(n > ONE_BY_ONE, |number, lane| {
            for i in 0..n {
                let row = i * shape.lanes + number;
                let key = &keys[row * shape.dimensions..][..shape.dimensions];
                lane.push(key, &values[row * shape.value_dimensions..][..shape.value_dimensions]);
            }
        });
        Ok(())
    }

    fn settle(&mut self, lanes: &[usize], sinks: usize, end: usize) -> Result<()> {
        let failed = Mutex::new(None);
        self.pool.for_each(lanes.len(), |_, item| {
            self.change_one(lanes[item], |_, lane| {
                if let Err(error) = lane.settle(self.kernels, sinks, end) {
                    *failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                }
            });
        });
        failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), |error| Err(out_of_memory(error)))
    }

    fn settle_like(&mut self, lane: usize, like: &Arrangement, sinks: usize) -> Result<()> {
        let kernels = self.kernels;
        let lane = self.lanes[lane].get_mut().unwrap_or_else(PoisonError::into_inner);
        lane.settle_like(kernels, like, sinks).map_err(out_of_memory)
    }

    /// Summarises what queries that select may see and that has no summary yet.
    fn summarize_recent(&self, by_lane: &[SoftQuery], sights: Option<&[[u32; 2]]>) {
        self.change(true, |number, lane| {
            let query = &by_lane[number];
            if matches!(query.strategy, Strategy::Selected { .. }) {
                let (_, end) = query.sight(sights, query.queries - 1);
                // Without memory for summaries the tiles stay without: they are read then.
                let _ = lane.summarize_recent(end);
            }
        });
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
        by_lane: &[SoftQuery],
        detail: LaneDetail<'_>,
        selection: &Mutex<Selection>,
    ) -> Vec<SoftReport> {
        let sights = detail.sights;
        let remembered = Mutex::new(Selection::default());
        let (d, dv, lanes) = (shape.dimensions, shape.value_dimensions, shape.lanes);
        let count = by_lane[0].queries;
        let group = queries.len() / (count * lanes * d);
        let selects = |query: &SoftQuery| matches!(query.strategy, Strategy::Selected { .. });
        let shape_of_blocks @ (per_block, heads) = block_shape(group, count, by_lane.iter().any(selects));
        let blocks = count.div_ceil(per_block);
        let output = Rows::new(output);
        let lse = lse.map(Rows::new);
        let reports = Mutex::new(vec![SoftReport::default(); lanes]);
        let add = |lane: usize, found: &SoftReport| {
            reports.lock().unwrap_or_else(PoisonError::into_inner)[lane].add(found);
        };
        // Row of the queries, and of the results, that is the i-th of a block.
        let row = |lane: usize, (first, head): (usize, usize), i: usize| {
            ((first + i / heads) * lanes + lane) * group + head + i % heads
        };
        let write = |block: &Block<'_, T>, lane: usize, scratch: &Scratch<T>| {
            block.finish(scratch, |i, sums, factor, log_sum| {
                let row = row(lane, (block.first, block.head), i);
                // SAFETY: every row belongs to one block of one lane.
                let (to, log) = unsafe { (output.range(row * dv, dv), lse.as_ref().map(|lse| lse.range(row, 1))) };
                self.kernels.scale(sums, factor, to);
                if let Some(log) = log {
                    log[0] = log_sum;
                }
            });
        };
        let search = |lane_number: usize, (first, head): (usize, usize)| {
            if matches!(by_lane[lane_number].strategy, Strategy::TopK { .. }) {
                // These come afterwards, see `IndexGroup::soft_search_lanes`.
                return;
            }
            let lane = self.read(lane_number);
            let mut block = self.block(shape, &lane, &by_lane[lane_number], sights, (first, head), shape_of_blocks);
            let place = (lane_number, first, head, block.count);
            block.reused = detail.reused.as_ref().and_then(|reused| reused.tiles(place, lane.settled()));
            let scratch = &mut *self.stocks.blocks.lend();
            block.load(scratch, |i| &queries[row(lane_number, (first, head), i) * d..][..d]);
            let found = block.search(scratch);
            write(&block, lane_number, scratch);
            add(lane_number, &found);
            if detail.remember && matches!(block.query.strategy, Strategy::Selected { .. }) {
                let mut remembered = remembered.lock().unwrap_or_else(PoisonError::into_inner);
                remembered.blocks.insert(place, BlockTiles::of(scratch));
            }
        };
        let reuses = detail.remember || detail.reused.is_some();
        let all_heads = blocks == 1 && heads == group && !reuses;
        if all_heads && self.reads_in_parts(shape, by_lane, count * group) {
            let splits = self.splits(&by_lane[0], sights);
            let parts: Vec<_> = (0..lanes * splits).map(|_| Mutex::new(self.stocks.parts.lend())).collect();
            let guards: Vec<_> = (0..lanes).map(|lane| self.read(lane)).collect();
            let block = |(lane, guard)| self.block(shape, guard, &by_lane[lane], sights, (0, 0), shape_of_blocks);
            let blocks: Vec<Block<'_, T>> = guards.iter().map(|guard| &**guard).enumerate().map(block).collect();
            let part = |item: usize| parts[item].lock().unwrap_or_else(PoisonError::into_inner);
            self.pool.for_each(lanes * splits, |_, item| {
                let (lane, part) = (item / splits, &mut **part(item));
                blocks[lane].load(&mut part.scratch, |i| &queries[row(lane, (0, 0), i) * d..][..d]);
                blocks[lane].read_near(part, item % splits, splits);
            });
            if blocks.iter().any(Block::selects) {
                for (lane, block) in blocks.iter().enumerate() {
                    let mut guards: Vec<_> = (lane * splits..(lane + 1) * splits).map(part).collect();
                    block.choose(&mut guards.iter_mut().map(|guard| &mut ***guard).collect::<Vec<_>>());
                }
                self.pool.for_each(lanes * splits, |_, item| blocks[item / splits].read_selected(&mut **part(item)));
            }
            for (lane, block) in blocks.iter().enumerate() {
                let mut guards: Vec<_> = (lane * splits..(lane + 1) * splits).map(part).collect();
                add(lane, &block.merge(&mut guards.iter_mut().map(|guard| &mut ***guard).collect::<Vec<_>>()));
                write(block, lane, &guards[0].scratch);
            }
        } else {
            self.summarize_recent(by_lane, sights);
            let parts = group / heads;
            self.pool.for_each(lanes * parts * blocks, |_, item| {
                // The last blocks see most, so they go first; lanes alternate.
                let (lane, part, block) = (item % lanes, item / lanes % parts, item / lanes / parts);
                search(lane, ((blocks - 1 - block) * per_block, part * heads));
            });
        }
        if detail.remember {
            let mut remembered = remembered.into_inner().unwrap_or_else(PoisonError::into_inner);
            remembered.settled = (0..lanes).map(|lane| self.read(lane).settled()).collect();
            *selection.lock().unwrap_or_else(PoisonError::into_inner) = remembered;
        }
        reports.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// The block of queries that begins with query `first`, against one lane.
    fn block<'a>(
        &self,
        shape: &GroupShape,
        lane: &'a Lane<T>,
        query: &'a SoftQuery,
        sights: Option<&'a [[u32; 2]]>,
        (first, head): (usize, usize),
        (queries, heads): (usize, usize),
    ) -> Block<'a, T> {
        Block {
            kernels: self.kernels,
            lane,
            query,
            dimensions: shape.dimensions,
            value_dimensions: shape.value_dimensions,
            first,
            count: queries.min(query.queries - first),
            head,
            group: heads,
            sights,
            reused: None,
        }
    }

    /// True if a search of so many rows goes by parts of lanes (see `soft::few`) rather than by blocks of queries.
    fn reads_in_parts(&self, shape: &GroupShape, by_lane: &[SoftQuery], rows: usize) -> bool {
        let selects_by_sketch = rows <= FEW_ROWS && shape.dimensions >= SKETCHED_DIMENSIONS;
        by_lane.iter().enumerate().all(|(number, lane)| match lane.strategy {
            Strategy::Exact => true,
            Strategy::Selected { .. } => selects_by_sketch || self.read(number).settled_tiles() == 0,
            Strategy::Window { .. } | Strategy::Skip | Strategy::TopK { .. } => false,
        })
    }

    /// Parts that the tiles of each lane are cut into for a search of few rows: more than one only when there are too
    /// few lanes for the threads.
    fn splits(&self, query: &SoftQuery, sights: Option<&[[u32; 2]]>) -> usize {
        let threads = self.pool.threads();
        let visible = match sights {
            Some(sights) => sights.last().map_or(0, |[from, to]| (to - from) as usize),
            None => query.visible.min(query.window.unwrap_or(usize::MAX)),
        };
        if threads == 1 || visible / LANES < SPLIT_TILES || self.lanes.len() >= 4 * threads { 1 } else { threads }
    }
}

fn out_of_memory(error: OutOfMemory) -> Error {
    Error::OutOfMemory { bytes: error.bytes }
}
