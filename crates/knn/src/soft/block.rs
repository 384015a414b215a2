//! A block of query rows against one lane: loading, exact search, results.

use super::scratch::Scratch;
use super::selection::{Light, Omission};
use super::stand_in::{Own, Wide};
use super::{BlockTiles, SoftQuery, SoftReport, Strategy};
use crate::element::Element;
use crate::lane::Lane;
use iceformer_simd::{Attend, AttendCodes, Kernels, LANES, STEP_TILES};
use std::f32::consts::{LN_2, LOG2_E};

/// Query rows that share a block, about: enough that a tile's load is paid back, few enough that a shared
/// selection stays sharp.
const BLOCK_ROWS: usize = 96;

/// From this many rows on a step of codes is copied as numbers for kernels that are faster with them; fewer rows read the
/// codes themselves.
const COPIED_ROWS: usize = 16;

/// Queries of a block that selects: neighbours in the text and of one head, since heads differ in what they look for.
const SELECTING_ROWS: usize = 64;

/// Queries per block, and rows per query in one, when `group` rows (heads) share a lane; `selects` if any lane
/// selects.
pub(crate) fn block_shape(group: usize, queries: usize, selects: bool) -> (usize, usize) {
    if selects && queries >= SELECTING_ROWS {
        return (SELECTING_ROWS, 1);
    }
    match BLOCK_ROWS / group {
        0..=3 => ((BLOCK_ROWS / group).max(1), group),
        n => ((n / 4 * 4).min(64), group),
    }
}

/// One block: some queries, all rows of a group each, against one lane.
pub(crate) struct Block<'a, T: Element> {
    pub kernels: &'a Kernels,
    pub lane: &'a Lane<T>,
    pub query: &'a SoftQuery,
    /// Numbers per key and per value, as given by the user.
    pub dimensions: usize,
    pub value_dimensions: usize,
    /// Number of the first query of the block.
    pub first: usize,
    /// Queries in the block.
    pub count: usize,
    /// First of the rows of a query that the block takes, of those that share the lane.
    pub head: usize,
    /// Rows per query in this block.
    pub group: usize,
    /// `[queries][2]`: first and after-last vector that each query sees, where the query's `visible`, `causal`
    /// and `window` do not say it.
    pub sights: Option<&'a [[u32; 2]]>,
    /// Tiles to read instead of selecting some.
    pub reused: Option<&'a BlockTiles>,
}

impl<T: Element> Block<'_, T> {
    pub(super) fn rows(&self) -> usize {
        self.count * self.group
    }

    pub(super) fn padded(&self) -> (usize, usize) {
        (self.dimensions.next_multiple_of(2), self.value_dimensions.next_multiple_of(LANES))
    }

    /// First and after-last vector that query `i` of the block sees.
    pub(super) fn sight(&self, i: usize) -> (usize, usize) {
        self.query.sight(self.sights, self.first + i)
    }

    /// First and after-last tile that any query of the block sees.
    pub fn tile_range(&self) -> (usize, usize) {
        let (from, _) = self.sight(0);
        let (_, to) = self.sight(self.count - 1);
        (from / LANES, to.div_ceil(LANES))
    }

    /// Loads the block's queries: `row(i)` gives the i-th row, query by query.
    pub fn load<'q>(&self, scratch: &mut Scratch<T>, row: impl Fn(usize) -> &'q [f32]) {
        let (rows, (d, dv)) = (self.rows(), self.padded());
        let factor = self.query.scale * LOG2_E;
        scratch.scaled.clear();
        scratch.scaled.resize(rows * d, 0.0);
        for (r, scaled) in scratch.scaled.chunks_mut(d).enumerate() {
            self.kernels.scale(row(r), factor, &mut scaled[..self.dimensions]);
        }
        T::convert(self.kernels, &scratch.scaled, scratch.queries.at_least(rows * d));
        if self.lane.store.coded() {
            self.quantize_queries(scratch);
        }
        scratch.from.clear();
        scratch.to.clear();
        for i in 0..self.count {
            let (from, to) = self.sight(i);
            scratch.from.extend(std::iter::repeat_n(from as u32, self.group));
            scratch.to.extend(std::iter::repeat_n(to as u32, self.group));
        }
        scratch.output.clear();
        scratch.output.resize(rows * dv, 0.0);
        scratch.largest.clear();
        scratch.largest.resize(rows, Attend::<T>::NO_SCORE);
        scratch.sum.clear();
        scratch.sum.resize(rows, 0.0);
    }

    /// The scaled queries as codes.
    pub(super) fn quantize_queries(&self, scratch: &mut Scratch<T>) {
        let (d, _) = self.padded();
        scratch.coded.quantize(self.kernels, &scratch.scaled, d, self.dimensions);
    }

    /// Continues the softmax over `scratch.tiles`.
    pub(super) fn attend(&self, scratch: &mut Scratch<T>) {
        let (rows, (d, dv)) = (self.rows(), self.padded());
        let width = STEP_TILES * LANES;
        macro_rules! block {
            ($queries:expr, $weights:expr) => {
                Attend {
                    rows,
                    dimensions: d,
                    value_panels: dv / LANES,
                    queries: $queries,
                    from: &scratch.from,
                    to: &scratch.to,
                    output: &mut scratch.output,
                    largest: &mut scratch.largest,
                    sum: &mut scratch.sum,
                    scores: scratch.scores.at_least(rows * width),
                    weights: $weights.at_least(rows * width),
                }
            };
        }
        // SAFETY (all): the tiles come from the lane's store, which has the same dimensions.
        if self.lane.store.coded() {
            if let Some(attend) = T::attend_copied(self.kernels).filter(|_| rows >= COPIED_ROWS) {
                let mut block = block!(scratch.queries.at_least(rows * d), scratch.weights);
                let copy = scratch.copy.at_least(STEP_TILES * LANES * (d + dv));
                // SAFETY: see above.
                unsafe { attend(self.kernels, &mut block, &scratch.tiles.codes, copy) };
                return;
            }
            let mut block = AttendCodes {
                rows,
                dimensions: d,
                value_panels: dv / LANES,
                queries: &scratch.coded.codes,
                query_scales: &scratch.coded.scales,
                query_starts: &scratch.coded.starts,
                from: &scratch.from,
                to: &scratch.to,
                output: &mut scratch.output,
                largest: &mut scratch.largest,
                sum: &mut scratch.sum,
            };
            // SAFETY: see above.
            unsafe { self.kernels.attend_i8(&mut block, &scratch.tiles.codes) };
        } else if T::widens(self.kernels) {
            let mut block = block!(&scratch.scaled, scratch.wide_weights);
            // SAFETY: see above.
            unsafe { T::attend_widened(self.kernels, &mut block, &scratch.tiles.numbers) };
        } else {
            let mut block = block!(scratch.queries.at_least(rows * d), scratch.weights);
            // SAFETY: see above.
            unsafe { T::attend(self.kernels, &mut block, &scratch.tiles.numbers) };
        }
    }

    /// Lists the tiles `range` of the block, masked where a row may not see all of one.
    pub(super) fn list_tiles(&self, scratch: &mut Scratch<T>, range: std::ops::Range<usize>) {
        let (settled_start, settled_end) = self.lane.settled();
        let (last_from, _) = self.sight(self.count - 1);
        let (_, first_to) = self.sight(0);
        for tile in range {
            let start = tile * LANES;
            let settled = start >= settled_start && start < settled_end;
            let masked = !settled && (start < last_from || start + LANES > first_to);
            self.lane.store.list(tile, masked, &mut scratch.tiles);
        }
    }

    /// Searches as the query says.
    pub fn search(&self, scratch: &mut Scratch<T>) -> SoftReport {
        match self.query.strategy {
            Strategy::Selected { mass_target, least_mass, least_tiles, most_tiles } if self.candidates() > 0 => {
                let limits = (least_tiles as usize, most_tiles as usize);
                let light = Light::of(mass_target, least_mass);
                let omission = Omission { light, limits };
                if T::widens(self.kernels) {
                    self.search_selected::<Wide>(scratch, omission)
                } else {
                    self.search_selected::<Own>(scratch, omission)
                }
            }
            Strategy::Window { sinks, recent } => self.search_window(scratch, sinks, recent),
            // The nearest keys are sought elsewhere: `group::top_k`.
            Strategy::Skip | Strategy::TopK { .. } => self.skip(),
            Strategy::Exact | Strategy::Selected { .. } => {
                // Nothing was there to choose from: what is remembered of this search says so, not what the scratch
                // memory held before.
                scratch.ranking.clear();
                scratch.candidates = 0;
                let (first, end) = self.tile_range();
                self.search_exactly(scratch, first..end);
                self.report_exact()
            }
        }
    }

    /// The report of a search that read nothing: [`Block::load`] left zeros.
    fn skip(&self) -> SoftReport {
        let (first, end) = self.tile_range();
        let rows = self.rows() as f64;
        SoftReport { rows, retained_mass: f64::NAN, tiles_read: 0.0, tiles_visible: rows * (end - first) as f64 }
    }

    /// The report of a search that left nothing out.
    pub fn report_exact(&self) -> SoftReport {
        let (first, end) = self.tile_range();
        let rows = self.rows() as f64;
        let tiles = rows * (end - first) as f64;
        SoftReport { rows, retained_mass: rows, tiles_read: tiles, tiles_visible: tiles }
    }

    /// Searches the tiles `range` exactly: all of the block's, or a part of them.
    pub fn search_exactly(&self, scratch: &mut Scratch<T>, range: std::ops::Range<usize>) {
        scratch.tiles.clear();
        self.list_tiles(scratch, range);
        self.attend(scratch);
    }

    /// Writes the block's results: `output(i)` and `lse(i)` take the i-th row's, query by query.
    pub fn finish(&self, scratch: &Scratch<T>, mut write: impl FnMut(usize, &[f32], f32, f32)) {
        let (_, dv) = self.padded();
        for row in 0..self.rows() {
            let sum = scratch.sum[row];
            // A row that sees nothing has no weights: zeros and minus infinity.
            let factor = if sum > 0.0 { 1.0 / sum } else { 0.0 };
            let lse = if sum > 0.0 { (scratch.largest[row] + sum.log2()) * LN_2 } else { f32::NEG_INFINITY };
            write(row, &scratch.output[row * dv..][..self.value_dimensions], factor, lse);
        }
    }
}
