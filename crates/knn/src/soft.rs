//! Soft search: the softmax-weighted sum of values over a lane, exactly or over selected tiles.
//!
//! Attention is this search: with keys as vectors and the scale in the query, the result is the attended
//! value (Vaswani et al. 2017), and the log-sum-exp is what merges partial results.
//!
//! A block of query rows is searched in four steps:
//! 1. sinks and recent vectors exactly;
//! 2. every settled tile's mass is estimated for every row from the mean and the diagonal variance of its
//!    keys, log 16 + q.mean + (q*q).var / 2 with the second-order term capped (the Gaussian moment of a tile),
//!    and averaged over the block after normalising each row;
//! 3. tiles are taken, heaviest first, until the estimated mass left out is at most 1 - `mass_target`, and
//!    searched exactly;
//! 4. each tile left out stands in as one key: its mean key plus log 16, its mean value (tail correction).

use crate::lane::{Lane, SUMMARY_CHUNK};
use crate::tiles::{Element, Gemm};
use iceformer_simd::{AlignedBuffer, Attend, Kernels, LANES, STEP_TILES, Tile};
use std::f32::consts::{LN_2, LOG2_E};

/// Query rows that share a block, about: enough that a tile's load is paid back, few enough that a shared
/// selection stays sharp.
const BLOCK_ROWS: usize = 96;

/// The second-order term of a tile's estimate may add at most this much (nats): outliers would eat the budget.
const VARIANCE_CAP: f32 = 16.0;

/// How to search.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Strategy {
    /// Every visible vector.
    Exact,
    /// Settled tiles by estimated mass.
    Selected {
        /// Share of the mass to keep, above 0, at most 1. At 1 every tile is read.
        mass_target: f32,
    },
}

/// What one soft search asks for.
#[derive(Debug, Clone, Copy)]
pub struct SoftQuery {
    /// Number of queries.
    pub queries: usize,
    /// Factor of every score before the softmax, for attention 1 / sqrt(d).
    pub scale: f32,
    /// Vectors visible to the first query, by order of insertion.
    pub visible: usize,
    /// True if query i sees i vectors more than the first one.
    pub causal: bool,
    /// A query sees only this many of the latest vectors visible to it.
    pub window: Option<usize>,
    /// How to search.
    pub strategy: Strategy,
}

/// What a soft search read and kept, summed over query rows.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct SoftReport {
    /// Query rows searched.
    pub rows: f64,
    /// Sum over rows of the share of (estimated) mass that was computed exactly.
    pub retained_mass: f64,
    /// Sum over rows of tiles computed exactly.
    pub tiles_read: f64,
    /// Sum over rows of tiles that the row's block could see.
    pub tiles_visible: f64,
}

impl SoftReport {
    pub(crate) fn add(&mut self, other: &Self) {
        self.rows += other.rows;
        self.retained_mass += other.retained_mass;
        self.tiles_read += other.tiles_read;
        self.tiles_visible += other.tiles_visible;
    }
}

/// A worker's memory, kept between searches.
#[derive(Debug, Default)]
pub(crate) struct Scratch<T: Element> {
    /// `[rows][dimensions]`: scaled queries.
    scaled: Vec<f32>,
    /// `[rows][dimensions]`: the scaled queries as the kernels take them.
    queries: Buffer<T>,
    /// `[rows][dimensions]`: squares of the scaled queries.
    squared: Buffer<T>,
    /// `[rows][settled tiles, padded]`: mass of the tiles left out.
    tail: Buffer<T>,
    weights: Buffer<T>,
    /// Weights where the kernels take f32.
    wide_weights: Buffer<f32>,
    /// `[rows][dimensions]`: squares of the scaled queries before they are converted.
    squares: Vec<f32>,
    scores: Buffer<f32>,
    from: Vec<u32>,
    to: Vec<u32>,
    pub output: Vec<f32>,
    pub largest: Vec<f32>,
    pub sum: Vec<f32>,
    tiles: Vec<Tile<T>>,
    /// `[rows][settled tiles, padded]`: scores of the mean keys.
    means: Buffer<f32>,
    /// `[rows][settled tiles, padded]`: second-order estimates.
    estimates: Buffer<f32>,
    /// `[settled tiles]`: mean mass over the block.
    masses: Vec<f32>,
    ranking: Vec<u32>,
}

// SAFETY: the tile list holds pointers only while a search runs, on the thread that runs it.
unsafe impl<T: Element> Send for Scratch<T> {}

/// An aligned buffer that grows when a larger one is asked for.
#[derive(Debug)]
struct Buffer<T: Element>(AlignedBuffer<T>);

impl<T: Element> Default for Buffer<T> {
    fn default() -> Self {
        Self(AlignedBuffer::new(0))
    }
}

impl<T: Element> Buffer<T> {
    fn at_least(&mut self, length: usize) -> &mut [T] {
        if self.0.len() < length {
            self.0 = AlignedBuffer::new(length.next_multiple_of(4096));
        }
        &mut self.0[..length]
    }
}

/// Queries per block when `group` rows (heads) share a lane.
pub(crate) fn block_queries(group: usize) -> usize {
    match BLOCK_ROWS / group {
        0..=3 => (BLOCK_ROWS / group).max(1),
        n => (n / 4 * 4).min(64),
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
    /// Rows per query.
    pub group: usize,
}

impl<T: Element> Block<'_, T> {
    fn rows(&self) -> usize {
        self.count * self.group
    }

    fn padded(&self) -> (usize, usize) {
        (self.dimensions.next_multiple_of(2), self.value_dimensions.next_multiple_of(LANES))
    }

    /// First and after-last vector that query `i` of the block sees.
    fn sight(&self, i: usize) -> (usize, usize) {
        let to = self.query.visible + if self.query.causal { self.first + i } else { 0 };
        let from = self.query.window.map_or(0, |window| to.saturating_sub(window));
        (from, to)
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

    /// Continues the softmax over `scratch.tiles`.
    fn attend(&self, scratch: &mut Scratch<T>) {
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
        // SAFETY (both): the tiles come from the lane's store, which has the same dimensions.
        if T::widens(self.kernels) {
            let mut block = block!(&scratch.scaled, scratch.wide_weights);
            // SAFETY: see above.
            unsafe { T::attend_widened(self.kernels, &mut block, &scratch.tiles) };
        } else {
            let mut block = block!(scratch.queries.at_least(rows * d), scratch.weights);
            // SAFETY: see above.
            unsafe { T::attend(self.kernels, &mut block, &scratch.tiles) };
        }
    }

    /// Lists the tiles `range` of the block, masked where a row may not see all of one.
    fn list_tiles(&self, scratch: &mut Scratch<T>, range: std::ops::Range<usize>) {
        let (settled_start, settled_end) = self.lane.settled();
        let (last_from, _) = self.sight(self.count - 1);
        let (_, first_to) = self.sight(0);
        for tile in range {
            let start = tile * LANES;
            let settled = start >= settled_start && start < settled_end;
            let masked = !settled && (start < last_from || start + LANES > first_to);
            scratch.tiles.push(self.lane.store.tile(tile, masked));
        }
    }

    /// Searches as the query says.
    pub fn search(&self, scratch: &mut Scratch<T>) -> SoftReport {
        match self.query.strategy {
            Strategy::Selected { mass_target } if self.lane.settled_tiles() > 0 => {
                self.search_selected(scratch, mass_target)
            }
            _ => {
                let (first, end) = self.tile_range();
                self.search_exactly(scratch, first..end);
                self.report_exact()
            }
        }
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

    /// Searches sinks and recent vectors exactly, settled tiles by estimated mass.
    fn search_selected(&self, scratch: &mut Scratch<T>, mass_target: f32) -> SoftReport {
        let rows = self.rows();
        let (settled_start, settled_end) = self.lane.settled();
        let (first, end) = self.tile_range();
        let settled = self.lane.settled_tiles();
        scratch.tiles.clear();
        self.list_tiles(scratch, first..end.min(settled_start / LANES));
        self.list_tiles(scratch, (settled_end / LANES).max(first)..end);
        self.attend(scratch);
        let mut tiles = scratch.tiles.len();

        let width = settled.next_multiple_of(LANES);
        self.estimate(scratch, settled, width);
        Self::select(scratch, settled, 1.0 - mass_target);
        scratch.tiles.clear();
        let base = settled_start / LANES;
        for i in 0..scratch.ranking.len() {
            let tile = base + scratch.ranking[i] as usize;
            scratch.tiles.push(self.lane.store.tile(tile, false));
        }
        tiles += scratch.tiles.len();
        self.attend(scratch);
        let retained_mass = self.correct_tail(scratch, settled, width);
        SoftReport {
            rows: rows as f64,
            retained_mass,
            tiles_read: (rows * tiles) as f64,
            tiles_visible: (rows * (end - first)) as f64,
        }
    }

    /// Fills `means` with every row's scores of the mean keys (base 2) and `masses` with the block's mean mass of
    /// every tile.
    fn estimate(&self, scratch: &mut Scratch<T>, settled: usize, width: usize) {
        let (rows, (d, _)) = (self.rows(), self.padded());
        scratch.squares.clear();
        scratch.squares.extend(scratch.scaled.iter().map(|x| x * x));
        T::convert(self.kernels, &scratch.squares, scratch.squared.at_least(rows * d));
        let means = scratch.means.at_least(rows * width);
        let estimates = scratch.estimates.at_least(rows * width);
        for (number, chunk) in self.lane.summaries().iter().enumerate() {
            let first = number * SUMMARY_CHUNK;
            let panels = (settled - first).min(SUMMARY_CHUNK).div_ceil(LANES);
            let product = |a: &[T], b: &[T], c: *mut f32| Gemm {
                rows,
                k: d,
                a: a.as_ptr(),
                a_stride: d,
                b: b.as_ptr(),
                panel_stride: d * LANES,
                panels,
                c,
                c_stride: width,
                accumulate: false,
            };
            // SAFETY: queries are [rows][d], a chunk holds 12 panels of [d][16], both results have room for
            // all panels from `first` on (width is `settled` padded to 16).
            unsafe {
                let to = means.as_mut_ptr().add(first);
                T::gemm(self.kernels, product(scratch.queries.at_least(rows * d), &chunk.means, to));
                let to = estimates.as_mut_ptr().add(first);
                T::gemm(self.kernels, product(scratch.squared.at_least(rows * d), &chunk.variances, to));
            }
        }
        scratch.masses.clear();
        scratch.masses.resize(settled, 0.0);
        for row in 0..rows {
            let means = &means[row * width..][..settled];
            let estimates = &mut estimates[row * width..][..settled];
            let top = self.kernels.capped_sum(means, estimates, VARIANCE_CAP * LOG2_E);
            // A tile stands for sixteen keys: + log2(16).
            let top = scratch.largest[row].max(top + 4.0);
            let far = self.kernels.exp2_shifted(estimates, top - 4.0);
            let near = scratch.sum[row] * (scratch.largest[row] - top).exp2();
            self.kernels.add_scaled(estimates, 1.0 / ((far + near) * rows as f32), &mut scratch.masses);
        }
    }

    /// Fills `ranking` with the tiles to read: the fewest whose omission leaves at most `left_out` of the mass.
    fn select(scratch: &mut Scratch<T>, settled: usize, left_out: f32) {
        let masses = &scratch.masses;
        scratch.ranking.clear();
        scratch.ranking.extend(0..settled as u32);
        if left_out <= 0.0 {
            return;
        }
        scratch.ranking.sort_unstable_by(|&a, &b| masses[b as usize].total_cmp(&masses[a as usize]).then(a.cmp(&b)));
        let mut left = 0.0;
        let mut keep = settled;
        while keep > 0 {
            left += masses[scratch.ranking[keep - 1] as usize];
            if left > left_out {
                break;
            }
            keep -= 1;
        }
        scratch.ranking.truncate(keep);
        // In memory order the tiles stream.
        scratch.ranking.sort_unstable();
    }

    /// Adds the tiles left out, each as one key: its mean key plus log 16, its mean value. (The second-order
    /// estimate serves selection only: where it is too high for one row, the tail would drown that row.)
    /// Returns the sum over rows of the share of mass that was exact.
    fn correct_tail(&self, scratch: &mut Scratch<T>, settled: usize, width: usize) -> f64 {
        let (rows, (_, dv)) = (self.rows(), self.padded());
        if scratch.ranking.len() == settled {
            return rows as f64;
        }
        let means = scratch.means.at_least(rows * width);
        let mut retained = 0.0;
        for row in 0..rows {
            let means = &mut means[row * width..][..width];
            for &tile in &scratch.ranking {
                means[tile as usize] = f32::NEG_INFINITY;
            }
            means[settled..].fill(f32::NEG_INFINITY);
            let exact_top = scratch.largest[row];
            let top = exact_top.max(self.kernels.largest(means) + 4.0);
            let tail = self.kernels.exp2_shifted(means, top - 4.0);
            let by_exact = (exact_top - top).exp2();
            if by_exact < 1.0 {
                scratch.output[row * dv..][..dv].iter_mut().for_each(|x| *x *= by_exact);
            }
            let exact = scratch.sum[row] * by_exact;
            retained += f64::from(exact) / f64::from(exact + tail);
            scratch.sum[row] = exact + tail;
            scratch.largest[row] = top;
        }
        let tail = scratch.tail.at_least(rows * width);
        T::convert(self.kernels, means, tail);
        for (number, chunk) in self.lane.summaries().iter().enumerate() {
            let first = number * SUMMARY_CHUNK;
            let product = Gemm {
                rows,
                k: (settled - first).min(SUMMARY_CHUNK).next_multiple_of(LANES),
                a: tail[first..].as_ptr(),
                a_stride: width,
                b: chunk.values.as_ptr(),
                panel_stride: SUMMARY_CHUNK * LANES,
                panels: dv / LANES,
                c: scratch.output.as_mut_ptr(),
                c_stride: dv,
                accumulate: true,
            };
            // SAFETY: weights are [rows][width] and `first + k` <= width; a chunk's values are dv / 16 panels of
            // [192][16], of which k rows are used; the output is [rows][dv].
            unsafe { T::gemm(self.kernels, product) };
        }
        retained
    }

    /// Writes the block's results: `output(i)` and `lse(i)` take the i-th row's, query by query.
    pub fn finish(&self, scratch: &Scratch<T>, mut write: impl FnMut(usize, &[f32], f32, f32)) {
        let (_, dv) = self.padded();
        for row in 0..self.rows() {
            let sum = scratch.sum[row];
            let lse = (scratch.largest[row] + sum.log2()) * LN_2;
            write(row, &scratch.output[row * dv..][..self.value_dimensions], 1.0 / sum, lse);
        }
    }
}
