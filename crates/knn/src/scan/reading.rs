//! Reading a block: the scores of its codes, and which of them are worth a closer look.

use iceformer_simd::{Kernels, LANES};

use crate::metric::Metric;
use crate::scan::Scan;
use crate::scan::block::Block;
use crate::scan::code_tiles::quads;
use crate::scan::nearest::{Candidate, Nearest, kth_largest};
use crate::scan::query::{Queries, QuerySize};
use crate::scan::search::Task;
use crate::structure::{Context, SlotSet};

/// Queries and tiles of one scan: the vectors stay in the second-level cache while all queries pass.
const SCAN_ROWS: usize = 32;
const SCAN_TILES: usize = 32;
/// Tiles to guess thresholds from when everything is read: about so many,
const SAMPLED_TILES: usize = 96;
/// but at most every so manieth one; where there are fewer vectors than these, nothing is guessed.
const LEAST_STRIDE: usize = 4;
const LEAST_SAMPLED: usize = 1024;

#[derive(Default)]
pub(super) struct ScanScratch {
    /// Rows that read the block, and the score of its centre.
    readers: Vec<(u32, f32)>,
    pub rows: Vec<u32>,
    /// `[SCAN_ROWS][4 * quads]`
    codes: Vec<i8>,
    /// `[SCAN_ROWS]`
    scales: Vec<f32>,
    thresholds: Vec<f32>,
    /// `[SCAN_ROWS]`: bound on the error of a score.
    bounds: Vec<f32>,
    /// `[SCAN_ROWS][SCAN_TILES][16]`
    values: Vec<f32>,
    /// `[SCAN_ROWS][SCAN_TILES]`
    masks: Vec<u16>,
    /// `[SCAN_ROWS]`: least scores of sampled vectors.
    lows: Vec<Vec<f32>>,
    /// The largest of every few of them.
    largest: Vec<f32>,
}

impl ScanScratch {
    /// Room for the most rows and tiles of a scan; a query has `width` bytes of codes.
    fn make_room(&mut self, width: usize) {
        self.codes.resize(SCAN_ROWS * width, 0);
        self.values.resize(SCAN_ROWS * SCAN_TILES * LANES, 0.0);
        self.masks.resize(SCAN_ROWS * SCAN_TILES, 0);
    }
}

impl Scan {
    /// Guesses for every row what score k vectors will reach, from a sample of the tiles: without that most of the
    /// vectors read first would be candidates until better ones come.
    pub(super) fn guess(
        &self,
        task: &Task<'_>,
        queries: &Queries<'_>,
        nearest: &mut [Nearest],
        scratch: &mut ScanScratch,
    ) {
        let d = task.context.shape.dimensions;
        let every = (self.len() / LANES / SAMPLED_TILES).max(LEAST_STRIDE);
        let allowed = task.request.allowed.map_or(self.len(), SlotSet::len);
        if self.len() < LEAST_SAMPLED || task.request.k > allowed / 64 {
            return;
        }
        let width = quads(d) * 4;
        scratch.make_room(width);
        let mut offsets = Vec::new();
        let mut lows = std::mem::take(&mut scratch.lows);
        lows.resize_with(SCAN_ROWS, Vec::new);
        for first in (0..queries.rows()).step_by(SCAN_ROWS) {
            let rows = SCAN_ROWS.min(queries.rows() - first);
            lows.iter_mut().for_each(Vec::clear);
            for block in &self.blocks {
                // Whole tiles only: what is past the last vector is no vector.
                let whole = block.len() / LANES;
                let count = whole.div_ceil(every).min(SCAN_TILES);
                if count == 0 {
                    continue;
                }
                let scores = BlockScores::of(task.context, block);
                scratch.scales.clear();
                scratch.scales.extend(queries.sizes[first..first + rows].iter().map(|size| scores.scale(size)));
                scratch.thresholds.clear();
                scratch.thresholds.resize(rows, f32::NEG_INFINITY);
                offsets.clear();
                if !block.offsets().is_empty() {
                    for tile in 0..count {
                        offsets.extend_from_slice(&block.offsets()[tile * every * LANES..(tile * every + 1) * LANES]);
                    }
                }
                // SAFETY: `count` tiles, `every` tiles apart, end before the block's codes do; the codes of the rows
                // are [rows][4 * quads], the others as long as in `read`.
                unsafe {
                    task.context.kernels.scan_u8(
                        rows,
                        width / 4,
                        queries.codes[first * width..].as_ptr(),
                        width,
                        count,
                        block.codes().as_ptr(),
                        every * width * LANES,
                        scratch.scales.as_ptr(),
                        scratch.thresholds.as_ptr(),
                        if offsets.is_empty() { std::ptr::null() } else { offsets.as_ptr() },
                        scratch.values.as_mut_ptr(),
                        scratch.masks.as_mut_ptr(),
                    );
                }
                for (row, lows) in lows.iter_mut().enumerate().take(rows) {
                    let size = &queries.sizes[first + row];
                    let query = &queries.moved()[(first + row) * d..(first + row + 1) * d];
                    let base = scores.base(task.context.kernels, query);
                    let shift = base - size.surplus * scratch.scales[row] - task.caution * scores.bound(size);
                    let values = &scratch.values[row * count * LANES..(row + 1) * count * LANES];
                    match task.request.allowed {
                        None => lows.extend(values.iter().map(|value| value + shift)),
                        Some(allowed) => {
                            for (tile, values) in values.as_chunks::<LANES>().0.iter().enumerate() {
                                let slots = &block.slots()[tile * every * LANES..(tile * every + 1) * LANES];
                                let found = slots.iter().zip(values).filter(|(slot, _)| allowed.contains(**slot));
                                lows.extend(found.map(|(_, value)| value + shift));
                            }
                        }
                    }
                }
            }
            for (row, lows) in lows.iter().enumerate().take(rows) {
                // So many of the sample should be among the k nearest; some more, because it is a sample.
                let share = task.request.k as f64 * lows.len() as f64 / allowed as f64;
                let rank = (share + 2.5 * share.sqrt() + 2.0).ceil() as usize;
                if rank < lows.len() {
                    nearest[first + row].guess(nearly_largest(lows, rank, &mut scratch.largest));
                }
            }
        }
        scratch.lows = lows;
    }

    /// Scans a block for some rows.
    pub(super) fn scan_block(
        &self,
        task: &Task<'_>,
        queries: &Queries<'_>,
        index: usize,
        rows: &[u32],
        nearest: &mut [Nearest],
        scratch: &mut ScanScratch,
    ) {
        let block = &self.blocks[index];
        let tiles = block.tiles();
        let width = quads(task.context.shape.dimensions) * 4;
        let scores = BlockScores::of(task.context, block);
        select_readers(task, queries, &scores, rows, nearest, &mut scratch.readers);
        let readers = std::mem::take(&mut scratch.readers);
        scratch.make_room(width);
        for readers in readers.chunks(SCAN_ROWS) {
            scratch.scales.clear();
            scratch.bounds.clear();
            for (i, &(row, _)) in readers.iter().enumerate() {
                let row = row as usize;
                scratch.codes[i * width..(i + 1) * width]
                    .copy_from_slice(&queries.codes[row * width..(row + 1) * width]);
                let size = &queries.sizes[row];
                scratch.scales.push(scores.scale(size));
                scratch.bounds.push(task.caution * scores.bound(size) + scores.slack(size.length));
            }
            for first in (0..tiles).step_by(SCAN_TILES) {
                let count = SCAN_TILES.min(tiles - first);
                scratch.thresholds.clear();
                for (i, &(row, base)) in readers.iter().enumerate() {
                    let surplus = queries.sizes[row as usize].surplus * scratch.scales[i];
                    let threshold = nearest[row as usize].threshold() - scratch.bounds[i] - base + surplus;
                    scratch.thresholds.push(threshold);
                }
                let offsets = if block.offsets().is_empty() {
                    std::ptr::null()
                } else {
                    block.offsets()[first * LANES..].as_ptr()
                };
                let codes = &block.codes()[first * width * LANES..(first + count) * width * LANES];
                // SAFETY: `codes` is [count][quads][16][4], the rows' codes [readers][4 * quads], scales and
                // thresholds [readers], offsets [16 * count] or null, and values and masks are as long as the most
                // rows and tiles of a scan take.
                unsafe {
                    task.context.kernels.scan_u8(
                        readers.len(),
                        width / 4,
                        scratch.codes.as_ptr(),
                        width,
                        count,
                        codes.as_ptr(),
                        width * LANES,
                        scratch.scales.as_ptr(),
                        scratch.thresholds.as_ptr(),
                        offsets,
                        scratch.values.as_mut_ptr(),
                        scratch.masks.as_mut_ptr(),
                    );
                }
                for (i, &(row, base)) in readers.iter().enumerate() {
                    let shift = base - queries.sizes[row as usize].surplus * scratch.scales[i];
                    let hits = Hits {
                        first: first * LANES,
                        masks: &scratch.masks[i * count..(i + 1) * count],
                        values: &scratch.values[i * count * LANES..(i + 1) * count * LANES],
                        shift,
                        bound: scratch.bounds[i],
                    };
                    offer(task, block, index, &hits, &mut nearest[row as usize]);
                }
            }
        }
        scratch.readers = readers;
    }
}

/// A score that at least `rank` of the scores reach, and not many more: the one of that rank among the largest of every
/// few. `largest` is scratch.
fn nearly_largest(scores: &[f32], rank: usize, largest: &mut Vec<f32>) -> f32 {
    const FEW: usize = 6;
    /// With so many groups for each of the rank, two of those in one group are rare: a tenth more scores reach it.
    const GROUPS: usize = 5;
    let groups = scores.len() / (FEW * LANES);
    if groups * LANES < GROUPS * rank {
        return kth_largest(scores.iter().copied(), rank);
    }
    largest.clear();
    for scores in scores.chunks(FEW * LANES) {
        let mut most = [f32::NEG_INFINITY; LANES];
        for scores in scores.as_chunks::<LANES>().0 {
            for (most, &score) in most.iter_mut().zip(scores) {
                *most = most.max(score);
            }
        }
        largest.extend_from_slice(&most);
    }
    kth_largest(largest.iter().copied(), rank)
}

/// Lists the rows for which the block can hold something, and the scores of its centre.
fn select_readers(
    task: &Task<'_>,
    queries: &Queries<'_>,
    scores: &BlockScores<'_>,
    rows: &[u32],
    nearest: &[Nearest],
    readers: &mut Vec<(u32, f32)>,
) {
    let d = task.context.shape.dimensions;
    readers.clear();
    for &row in rows {
        let size = &queries.sizes[row as usize];
        let query = &queries.moved()[row as usize * d..(row as usize + 1) * d];
        let base = scores.base(task.context.kernels, query);
        if scores.most(size, base) + scores.slack(size.length) >= nearest[row as usize].threshold() {
            readers.push((row, base));
        }
    }
}

/// What the scores of a block's vectors have in common.
struct BlockScores<'a> {
    block: &'a Block,
    metric: Metric,
    /// Squared length of the centre.
    centre_squared: f32,
    /// The lengths on a block's side whose rounding enters a score.
    reach: f32,
}

impl<'a> BlockScores<'a> {
    fn of(context: &Context, block: &'a Block) -> Self {
        let centre_squared = context.kernels.dot(block.centre(), block.centre());
        let reach = centre_squared.sqrt() + (2.0 + (context.shape.dimensions as f32).sqrt()) * block.radius();
        Self { block, metric: context.shape.metric, centre_squared, reach }
    }

    /// What one step of a product of codes stands for.
    #[inline]
    fn scale(&self, size: &QuerySize) -> f32 {
        size.step * self.block.step()
    }

    /// The score of the centre with a query, `[dimensions]`.
    #[inline]
    fn base(&self, kernels: &Kernels, query: &[f32]) -> f32 {
        let product = kernels.dot(query, self.block.centre());
        if self.metric == Metric::L2 { product - 0.5 * self.centre_squared } else { product }
    }

    /// The largest score within the radius (Cauchy and Schwarz; for L2 by the triangle inequality) of a centre whose
    /// score is `base`.
    #[inline]
    fn most(&self, size: &QuerySize, base: f32) -> f32 {
        let radius = self.block.radius();
        if self.metric == Metric::L2 {
            let away = (size.squared as f32 - 2.0 * base).max(0.0).sqrt();
            0.5 * size.squared as f32 - 0.5 * (away - radius).max(0.0).powi(2)
        } else {
            base + size.length * radius
        }
    }

    /// How far off the score of codes can be, rounding aside.
    #[inline]
    fn bound(&self, size: &QuerySize) -> f32 {
        size.coded * self.block.error() + size.missed * self.block.radius()
    }

    /// What rounding adds to the bound, as a share of the lengths that enter; for a query of this length.
    #[inline]
    fn slack(&self, length: f32) -> f32 {
        let squared = if self.metric == Metric::L2 { self.reach * self.reach + length * length } else { 0.0 };
        1e-6 * (length * self.reach + squared)
    }
}

/// What a scan found for one query.
struct Hits<'a> {
    /// Position of the first vector scanned.
    first: usize,
    /// `[tiles]`
    masks: &'a [u16],
    /// `[tiles][16]`, where the mask is not zero.
    values: &'a [f32],
    /// What makes a value a score, and how far off that may be.
    shift: f32,
    bound: f32,
}

/// Makes candidates of the vectors found.
fn offer(task: &Task<'_>, block: &Block, index: usize, hits: &Hits<'_>, nearest: &mut Nearest) {
    // Most tiles hold nothing: four of them are looked at at once.
    for (word, masks) in hits.masks.chunks(64 / LANES).enumerate() {
        let mut bits = masks.iter().rev().fold(0_u64, |bits, &mask| bits << LANES | u64::from(mask));
        while bits != 0 {
            let at = word * 64 + bits.trailing_zeros() as usize;
            bits &= bits - 1;
            let position = hits.first + at;
            if position >= block.len() {
                break;
            }
            if task.request.allowed.is_some_and(|allowed| !allowed.contains(block.slots()[position])) {
                continue;
            }
            let score = hits.values[at] + hits.shift;
            nearest.offer(Candidate {
                low: score - hits.bound,
                high: score + hits.bound,
                block: index as u32,
                position: position as u32,
            });
        }
    }
    nearest.tidy();
}
