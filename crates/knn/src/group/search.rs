//! Search of all lanes at once: by blocks of queries, or, where there are few rows, by parts of the lanes.

use super::lanes::LanesOf;
use super::rounds::Rounds;
use super::{GroupShape, LaneDetail};
use crate::element::Element;
use crate::lane::Lane;
use crate::soft::{
    Block, BlockTiles, FEW_ROWS, Part, SKETCHED_DIMENSIONS, Scratch, Selection, SoftQuery, SoftReport, Strategy,
    block_shape,
};
use crate::stock::Loan;
use iceformer_simd::LANES;
use std::sync::{Mutex, PoisonError};

/// Tiles below which one exact search is not worth splitting between threads.
const SPLIT_TILES: usize = 64;

/// One search.
pub(super) struct LaneSearch<'a, T: Element> {
    lanes: &'a LanesOf<T>,
    shape: &'a GroupShape,
    /// `[queries][lanes * group][dimensions]`
    queries: &'a [f32],
    /// `[queries][lanes * group][value_dimensions]`
    output: Rows<'a>,
    /// `[queries][lanes * group]`
    lse: Option<Rows<'a>>,
    /// `[lanes]`
    by_lane: &'a [SoftQuery],
    detail: LaneDetail<'a>,
    /// Rows of a query that search the same lane.
    group: usize,
    /// Queries per block, and rows per query in one.
    block_shape: (usize, usize),
}

impl<'a, T: Element> LaneSearch<'a, T> {
    pub fn new(
        lanes: &'a LanesOf<T>,
        shape: &'a GroupShape,
        queries: &'a [f32],
        output: &'a mut [f32],
        lse: Option<&'a mut [f32]>,
        by_lane: &'a [SoftQuery],
        detail: LaneDetail<'a>,
    ) -> Self {
        let count = by_lane[0].queries;
        let group = queries.len() / (count * shape.lanes * shape.dimensions);
        let selects = |query: &SoftQuery| matches!(query.strategy, Strategy::Selected { .. });
        Self {
            lanes,
            shape,
            queries,
            output: Rows::new(output),
            lse: lse.map(Rows::new),
            by_lane,
            detail,
            group,
            block_shape: block_shape(group, count, by_lane.iter().any(selects)),
        }
    }

    /// Searches all lanes but those of [`Strategy::TopK`], which come afterwards, see
    /// [`super::IndexGroup::soft_search_lanes`]. Returns one report per lane.
    pub fn run(self, selection: &Mutex<Selection>) -> Vec<SoftReport> {
        let (per_block, heads) = self.block_shape;
        let count = self.by_lane[0].queries;
        let reuses = self.detail.remember || self.detail.reused.is_some();
        let one_block = count <= per_block && heads == self.group && !reuses;
        if one_block && self.reads_in_parts(count * self.group) {
            return self.by_parts();
        }
        let (reports, mut remembered) = self.by_blocks();
        if self.detail.remember {
            remembered.settled = (0..self.shape.lanes).map(|lane| self.lanes.read(lane).settled()).collect();
            *selection.lock().unwrap_or_else(PoisonError::into_inner) = remembered;
        }
        reports
    }

    /// Searches block by block; returns one report per lane, and what is to be remembered.
    fn by_blocks(&self) -> (Vec<SoftReport>, Selection) {
        let remembered = Mutex::new(Selection::default());
        self.lanes.summarize_recent(self.by_lane, self.detail.sights);
        let (lanes, (per_block, heads)) = (self.shape.lanes, self.block_shape);
        let (parts, blocks) = (self.group / heads, self.by_lane[0].queries.div_ceil(per_block));
        let items = lanes * parts * blocks;
        let found = Mutex::new(vec![SoftReport::default(); items]);
        self.lanes.pool.for_each(items, |_, item| {
            // The last blocks see most, so they go first; lanes alternate.
            let (lane, part, block) = (item % lanes, item / lanes % parts, item / lanes / parts);
            let report = self.search_block(lane, ((blocks - 1 - block) * per_block, part * heads), &remembered);
            found.lock().unwrap_or_else(PoisonError::into_inner)[item] = report;
        });
        // In the order of the items, so that sums do not depend on which thread was first.
        let mut reports = vec![SoftReport::default(); lanes];
        for (item, found) in found.into_inner().unwrap_or_else(PoisonError::into_inner).iter().enumerate() {
            reports[item % lanes].add(found);
        }
        (reports, remembered.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    fn search_block(
        &self,
        lane_number: usize,
        (first, head): (usize, usize),
        remembered: &Mutex<Selection>,
    ) -> SoftReport {
        if matches!(self.by_lane[lane_number].strategy, Strategy::TopK { .. }) {
            return SoftReport::default();
        }
        let lane = self.lanes.read(lane_number);
        let mut block = self.block(lane_number, &lane, (first, head));
        let place = (lane_number, first, head, block.count);
        block.reused = self.detail.reused.as_ref().and_then(|reused| reused.tiles(place, lane.settled()));
        let scratch = &mut *self.lanes.stocks.blocks.lend();
        block.load(scratch, |i| self.query(lane_number, &block, i));
        let found = block.search(scratch);
        self.write(&block, lane_number, scratch);
        if self.detail.remember && matches!(block.query.strategy, Strategy::Selected { .. }) {
            let mut remembered = remembered.lock().unwrap_or_else(PoisonError::into_inner);
            remembered.blocks.insert(place, BlockTiles::of(scratch));
        }
        found
    }

    /// Searches all queries as one block per lane, whose tiles several threads read in two rounds, the second where tiles
    /// are selected. Returns one report per lane.
    fn by_parts(&self) -> Vec<SoftReport> {
        let (lanes, splits) = (self.shape.lanes, self.splits());
        let parts: Vec<_> = (0..lanes * splits).map(|_| Mutex::new(self.lanes.stocks.parts.lend())).collect();
        let guards: Vec<_> = (0..lanes).map(|lane| self.lanes.read(lane)).collect();
        let blocks: Vec<Block<'_, T>> =
            guards.iter().enumerate().map(|(lane, guard)| self.block(lane, guard, (0, 0))).collect();
        let part = |item: usize| parts[item].lock().unwrap_or_else(PoisonError::into_inner);
        let found = Mutex::new(vec![SoftReport::default(); lanes]);
        // What needs all parts of a lane, in their order.
        let choose = |lane: usize| with_parts(&parts[lane * splits..][..splits], |parts| blocks[lane].choose(parts));
        let merge = |lane: usize| {
            with_parts(&parts[lane * splits..][..splits], |parts| {
                let merged = blocks[lane].merge(parts);
                self.write(&blocks[lane], lane, &parts[0].scratch);
                found.lock().unwrap_or_else(PoisonError::into_inner)[lane] = merged;
            });
        };
        let read_near = |item: usize| {
            let (lane, part) = (item / splits, &mut **part(item));
            blocks[lane].load(&mut part.scratch, |i| self.query(lane, &blocks[lane], i));
            blocks[lane].read_near(part, item % splits, splits);
        };
        let (items, rounds) = (lanes * splits, Rounds::new(lanes, splits));
        let selects = blocks.iter().any(Block::selects);
        self.lanes.pool.for_each(if selects { 2 * items } else { items }, |_, item| {
            let lane = item % items / splits;
            if item >= items {
                rounds.second(lane, || blocks[lane].read_selected(&mut part(item - items)), || merge(lane));
            } else if selects {
                rounds.first(lane, || read_near(item), || choose(lane));
            } else {
                rounds.first(lane, || read_near(item), || merge(lane));
            }
        });
        found.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// Row of the queries, and of the results, that is the i-th of a block.
    fn row(&self, lane: usize, block: &Block<'_, T>, i: usize) -> usize {
        let (_, heads) = self.block_shape;
        ((block.first + i / heads) * self.shape.lanes + lane) * self.group + block.head + i % heads
    }

    /// The i-th query row of a block.
    fn query(&self, lane: usize, block: &Block<'_, T>, i: usize) -> &'a [f32] {
        let d = self.shape.dimensions;
        &self.queries[self.row(lane, block, i) * d..][..d]
    }

    /// Writes the results of a block.
    fn write(&self, block: &Block<'_, T>, lane: usize, scratch: &Scratch<T>) {
        let dv = self.shape.value_dimensions;
        block.finish(scratch, |i, sums, factor, log_sum| {
            let row = self.row(lane, block, i);
            // SAFETY: every row belongs to one block of one lane.
            let (to, log) =
                unsafe { (self.output.range(row * dv, dv), self.lse.as_ref().map(|lse| lse.range(row, 1))) };
            self.lanes.kernels.scale(sums, factor, to);
            if let Some(log) = log {
                log[0] = log_sum;
            }
        });
    }

    /// The block that begins with query `first` and its row `head`, against one lane.
    fn block<'b>(&'b self, number: usize, lane: &'b Lane<T>, (first, head): (usize, usize)) -> Block<'b, T> {
        let (queries, heads) = self.block_shape;
        let query = &self.by_lane[number];
        Block {
            kernels: self.lanes.kernels,
            lane,
            query,
            dimensions: self.shape.dimensions,
            value_dimensions: self.shape.value_dimensions,
            first,
            count: queries.min(query.queries - first),
            head,
            group: heads,
            sights: self.detail.sights,
            reused: None,
        }
    }

    /// True if a search of so many rows goes by parts of lanes (see `soft::few`) rather than by blocks of queries.
    fn reads_in_parts(&self, rows: usize) -> bool {
        let selects_by_sketch = rows <= FEW_ROWS && self.shape.dimensions >= SKETCHED_DIMENSIONS;
        self.by_lane.iter().enumerate().all(|(number, lane)| match lane.strategy {
            Strategy::Exact => true,
            Strategy::Selected { .. } => selects_by_sketch || self.lanes.read(number).settled_tiles() == 0,
            Strategy::Window { .. } | Strategy::Skip | Strategy::TopK { .. } => false,
        })
    }

    /// Parts that the tiles of each lane are cut into for a search of few rows: more than one only when there are too
    /// few lanes for the threads.
    fn splits(&self) -> usize {
        let (threads, query) = (self.lanes.pool.threads(), &self.by_lane[0]);
        let visible = match self.detail.sights {
            Some(sights) => sights.last().map_or(0, |[from, to]| (to - from) as usize),
            None => query.visible.min(query.window.unwrap_or(usize::MAX)),
        };
        if threads == 1 || visible / LANES < SPLIT_TILES || self.shape.lanes >= 4 * threads { 1 } else { threads }
    }
}

/// Calls `f` with all of some parts.
fn with_parts<T: Element>(parts: &[Mutex<Loan<'_, Part<T>>>], f: impl FnOnce(&mut [&mut Part<T>])) {
    let mut guards: Vec<_> = parts.iter().map(|part| part.lock().unwrap_or_else(PoisonError::into_inner)).collect();
    f(&mut guards.iter_mut().map(|guard| &mut ***guard).collect::<Vec<_>>());
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
