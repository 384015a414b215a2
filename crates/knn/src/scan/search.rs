//! Hard search: which blocks a query reads, and what it finds there.

use std::cell::RefCell;
use std::sync::{Mutex, PoisonError};

use iceformer_simd::LANES;

use crate::error::{Error, Result};
use crate::metric::Metric;
use crate::neighbour::{Neighbour, keep_nearest};
use crate::scan::Scan;
use crate::scan::block::quads;
use crate::scan::nearest::{Candidate, Nearest, kth_largest};
use crate::scan::query::{Queries, QuerySize};
use crate::structure::{Context, Effort, Emit, Request, SlotSet};

/// Queries that read blocks together: enough for many to meet in one cluster, so that its codes come from memory once.
const GROUP: usize = 1024;
/// Queries that choose clusters together: their products with all centres stay in the second-level cache.
const CHOOSE_ROWS: usize = 32;
/// Queries and tiles of one scan: the vectors stay in the second-level cache while all queries pass.
const SCAN_ROWS: usize = 32;
const SCAN_TILES: usize = 32;
/// Tiles to guess thresholds from when everything is read.
const SAMPLED_TILES: usize = 64;
/// Bytes of codes from which one query is worth the work of all threads.
const SHARED_BYTES: usize = 4 << 20;
/// Rank vectors one by one if fewer than one in so many may be found.
const FEW_ALLOWED: usize = 16;
/// Errors of a scan rarely line up: without a promise of exactness this many standard deviations are allowed for
/// (the bound divided by the root of the dimensions is about one).
const DEVIATIONS: f32 = 1.5;
/// How far the vectors of a cluster are taken to reach towards the query, as a share of its radius, when clusters
/// are chosen. Measured on keys of attention and on embeddings of sentences.
const REACH: f32 = 0.4;

/// Memory of a thread for searching, kept from call to call.
#[derive(Default)]
struct Scratch {
    /// `[rows][16 * panels]`: products of queries and centres, then estimates.
    products: Vec<f32>,
    /// Largest estimate of each panel.
    largest: Vec<f32>,
    /// Blocks chosen by a query; the best first.
    chosen: Vec<u32>,
    /// Block and row, for each row and block chosen.
    pairs: Vec<(u32, u32)>,
    /// Where the pairs of each block begin, and the pairs in that order.
    starts: Vec<u32>,
    sorted: Vec<(u32, u32)>,
    nearest: Vec<Nearest>,
    found: Vec<Neighbour>,
    scan: ScanScratch,
}

#[derive(Default)]
struct ScanScratch {
    /// Rows that read the block, and the score of its centre.
    readers: Vec<(u32, f32)>,
    rows: Vec<u32>,
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
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch::default());
}

/// What all queries of a request have in common.
struct Task<'a> {
    context: &'a Context,
    request: &'a Request<'a>,
    /// Clusters to read; `None`: all.
    probes: Option<usize>,
    /// Share of the full bound to keep candidates by.
    caution: f32,
}

impl Scan {
    pub(super) fn find(&self, context: &Context, request: &Request<'_>, emit: Emit<'_>) -> Result<()> {
        let d = context.shape.dimensions;
        let rows = request.queries.len() / d;
        if let Some(allowed) = request.allowed
            && allowed.len() <= self.len() / FEW_ALLOWED
        {
            return self.rank_allowed(context, request, allowed, emit);
        }
        let probes = match (request.effort, &self.centres) {
            (Effort::Share(share), Some(centres)) => {
                let probes = (f64::from(share) * centres.len() as f64).ceil() as usize;
                (probes < centres.len()).then_some(probes.max(1))
            }
            _ => None,
        };
        let caution = if request.effort == Effort::Exact { 1.0 } else { (DEVIATIONS / (d as f32).sqrt()).min(1.0) };
        let task = Task { context, request, probes, caution };
        let threads = context.pool.threads();
        let read = probes.map_or(self.len(), |probes| probes * self.target) * d;
        if rows < threads && read >= SHARED_BYTES {
            for row in 0..rows {
                self.find_one_on_all_threads(&task, row, emit);
            }
        } else {
            // Groups of one size, and so many that no thread waits for another for long.
            let rounds = rows.div_ceil(GROUP * threads).max(2);
            let group = rows.div_ceil(rounds * threads).max(1);
            context.pool.for_each(rows.div_ceil(group), |_, item| {
                let first = item * group;
                self.find_group(&task, first, group.min(rows - first), emit);
            });
        }
        if request.cancelled() { Err(Error::Cancelled) } else { Ok(()) }
    }

    /// Ranks every allowed vector.
    fn rank_allowed(&self, context: &Context, request: &Request<'_>, allowed: &SlotSet, emit: Emit<'_>) -> Result<()> {
        let d = context.shape.dimensions;
        let rows = request.queries.len() / d;
        let places: Vec<(u32, u32)> = allowed
            .iter()
            .filter_map(|slot| {
                let block = self.place(slot)?;
                Some((block, self.blocks[block as usize].position(slot)? as u32))
            })
            .collect();
        context.pool.for_each(rows, |_, row| {
            let query = &request.queries[row * d..(row + 1) * d];
            let mut found = Vec::new();
            let mut floor = request.floor;
            for (i, &(block, position)) in places.iter().enumerate() {
                if i % 4096 == 0 && request.cancelled() {
                    return;
                }
                let neighbour = self.rank(context, request, query, block, position);
                if neighbour.rank >= floor {
                    found.push(neighbour);
                    if found.len() >= request.k.saturating_mul(2).saturating_add(64) {
                        keep_nearest(&mut found, request.k);
                        floor = found[request.k - 1].rank;
                    }
                }
            }
            keep_nearest(&mut found, request.k);
            emit(row, &found);
        });
        if request.cancelled() { Err(Error::Cancelled) } else { Ok(()) }
    }

    #[inline]
    fn rank(&self, context: &Context, request: &Request<'_>, query: &[f32], block: u32, position: u32) -> Neighbour {
        let block = &self.blocks[block as usize];
        let row = block.row(self.format.words(), position as usize);
        let rank = self.format.rank(context.kernels, context.shape.metric, query, row);
        Neighbour { rank, id: request.ids.row(block.slots()[position as usize] as usize)[0] }
    }

    fn find_group(&self, task: &Task<'_>, first: usize, rows: usize, emit: Emit<'_>) {
        let d = task.context.shape.dimensions;
        let queries = Queries::new(task.context, &task.request.queries[first * d..(first + rows) * d], &self.origin);
        SCRATCH.with_borrow_mut(|scratch| {
            let Scratch { pairs, nearest, scan, .. } = scratch;
            reset(task, &queries, nearest);
            if task.probes.is_none() && self.centres.is_none() {
                let mut all = std::mem::take(&mut scan.rows);
                all.clear();
                all.extend(0..rows as u32);
                self.guess(task, &queries, nearest, scan);
                // A second time for those whose guess was too high.
                while !all.is_empty() {
                    for block in 0..self.blocks.len() {
                        if task.request.cancelled() {
                            return;
                        }
                        self.read(task, &queries, block, &all, nearest, scan);
                    }
                    all.retain(|&row| !nearest[row as usize].is_sure());
                    for &row in &all {
                        restart(task, &queries.sizes[row as usize], &mut nearest[row as usize]);
                    }
                }
                scan.rows = all;
            } else {
                pairs.clear();
                self.choose(task, &queries, scratch);
                let Scratch { pairs, nearest, scan, .. } = scratch;
                let mut rows = std::mem::take(&mut scan.rows);
                for run in pairs.chunk_by(|a, b| a.0 == b.0) {
                    if task.request.cancelled() {
                        return;
                    }
                    rows.clear();
                    rows.extend(run.iter().map(|pair| pair.1));
                    self.read(task, &queries, (run[0].0 & !LATER) as usize, &rows, nearest, scan);
                }
                scan.rows = rows;
            }
            let Scratch { nearest, found, .. } = scratch;
            for (row, nearest) in nearest.iter_mut().take(rows).enumerate() {
                self.finish(task, &queries, row, nearest, found);
                emit(first + row, found);
            }
        });
    }

    fn find_one_on_all_threads(&self, task: &Task<'_>, row: usize, emit: Emit<'_>) {
        let d = task.context.shape.dimensions;
        let queries = Queries::new(task.context, &task.request.queries[row * d..(row + 1) * d], &self.origin);
        let pairs: Vec<(u32, u32)> = if task.probes.is_none() && self.centres.is_none() {
            (0..self.blocks.len() as u32).map(|block| (block, 0)).collect()
        } else {
            SCRATCH.with_borrow_mut(|scratch| {
                scratch.pairs.clear();
                self.choose(task, &queries, scratch);
                scratch.pairs.clone()
            })
        };
        let threads = task.context.pool.threads();
        let parts: Vec<Mutex<Nearest>> = (0..threads).map(|_| Mutex::new(Nearest::default())).collect();
        task.context.pool.for_each(threads, |_, part| {
            SCRATCH.with_borrow_mut(|scratch| {
                let Scratch { nearest, scan, .. } = scratch;
                reset(task, &queries, nearest);
                for pair in pairs.iter().skip(part).step_by(threads) {
                    if task.request.cancelled() {
                        return;
                    }
                    self.read(task, &queries, (pair.0 & !LATER) as usize, &[0], nearest, scan);
                }
                std::mem::swap(&mut *parts[part].lock().unwrap_or_else(PoisonError::into_inner), &mut nearest[0]);
            });
        });
        let mut parts = parts.into_iter().map(|part| part.into_inner().unwrap_or_else(PoisonError::into_inner));
        let Some(mut all) = parts.next() else { return };
        parts.for_each(|part| all.join(part));
        let mut found = Vec::new();
        self.finish(task, &queries, 0, &mut all, &mut found);
        emit(row, &found);
    }

    fn finish(
        &self,
        task: &Task<'_>,
        queries: &Queries<'_>,
        row: usize,
        nearest: &mut Nearest,
        found: &mut Vec<Neighbour>,
    ) {
        let d = task.context.shape.dimensions;
        let query = &queries.exact[row * d..(row + 1) * d];
        let (metric, size) = (task.context.shape.metric, &queries.sizes[row]);
        nearest.finish(
            task.request.floor,
            |candidate| self.rank(task.context, task.request, query, candidate.block, candidate.position),
            |rank| size.score(metric, rank),
            found,
        );
    }

    /// Lists what to read in `scratch.pairs`: for every row its best blocks, then (marked [`LATER`]) the others,
    /// both in the order of blocks.
    fn choose(&self, task: &Task<'_>, queries: &Queries<'_>, scratch: &mut Scratch) {
        let Some(centres) = &self.centres else { return };
        let (metric, width) = (task.context.shape.metric, centres.panels() * LANES);
        let probes = task.probes.unwrap_or(centres.len()).min(centres.len());
        let lead = task.request.k.div_ceil(self.target).saturating_add(1).min(probes);
        let d = task.context.shape.dimensions;
        scratch.products.resize(CHOOSE_ROWS.min(queries.rows()) * width, 0.0);
        for first in (0..queries.rows()).step_by(CHOOSE_ROWS) {
            let rows = CHOOSE_ROWS.min(queries.rows() - first);
            let moved = &queries.moved()[first * d..(first + rows) * d];
            centres.multiply(task.context, moved, &mut scratch.products);
            for (row, estimates) in scratch.products.chunks_exact_mut(width).take(rows).enumerate() {
                let size = &queries.sizes[first + row];
                estimate(metric, estimates, centres.offsets(), centres.radii(), size, &mut scratch.largest);
                let chosen = &mut scratch.chosen;
                best(estimates, &scratch.largest, centres.len(), probes, chosen);
                if lead < chosen.len() {
                    chosen.select_nth_unstable_by(lead, |&a, &b| {
                        estimates[b as usize].total_cmp(&estimates[a as usize]).then(a.cmp(&b))
                    });
                }
                let mark = |i: usize| if i < lead { 0 } else { LATER };
                let pairs = chosen.iter().enumerate().map(|(i, &block)| (block | mark(i), (first + row) as u32));
                scratch.pairs.extend(pairs);
            }
        }
        // By block, the rows in order: by counting, which for many pairs is several times quicker than comparing.
        let count = self.blocks.len();
        let place = |pair: u32| (pair & !LATER) as usize + if pair & LATER == 0 { 0 } else { count };
        if scratch.pairs.len() < count {
            scratch.pairs.sort_unstable();
            return;
        }
        scratch.starts.clear();
        scratch.starts.resize(2 * count + 1, 0);
        for &(block, _) in &scratch.pairs {
            scratch.starts[place(block) + 1] += 1;
        }
        for i in 0..2 * count {
            scratch.starts[i + 1] += scratch.starts[i];
        }
        scratch.sorted.clear();
        scratch.sorted.resize(scratch.pairs.len(), (0, 0));
        for &pair in &scratch.pairs {
            let next = &mut scratch.starts[place(pair.0)];
            scratch.sorted[*next as usize] = pair;
            *next += 1;
        }
        std::mem::swap(&mut scratch.pairs, &mut scratch.sorted);
    }

    /// Guesses for every row what score k vectors will reach, from a sample of the tiles: without that most of the
    /// vectors read first would be candidates until better ones come.
    fn guess(&self, task: &Task<'_>, queries: &Queries<'_>, nearest: &mut [Nearest], scratch: &mut ScanScratch) {
        let Shaped { d, quads, metric } = Shaped::of(task.context);
        let every = self.len() / LANES / SAMPLED_TILES;
        let allowed = task.request.allowed.map_or(self.len(), SlotSet::len);
        if every < 4 || task.request.k > allowed / 64 {
            return;
        }
        let width = quads * 4;
        scratch.codes.resize(SCAN_ROWS * width, 0);
        scratch.values.resize(SCAN_ROWS * SCAN_TILES * LANES, 0.0);
        scratch.masks.resize(SCAN_ROWS * SCAN_TILES, 0);
        let mut offsets = Vec::new();
        let mut lows: Vec<Vec<f32>> = vec![Vec::new(); SCAN_ROWS];
        for first in (0..queries.rows()).step_by(SCAN_ROWS) {
            let rows = SCAN_ROWS.min(queries.rows() - first);
            lows.iter_mut().for_each(Vec::clear);
            for block in &self.blocks {
                let (centre, step) = (block.centre(), block.step());
                let centre_squared = task.context.kernels.dot(centre, centre);
                scratch.scales.clear();
                scratch.scales.extend(queries.sizes[first..first + rows].iter().map(|size| size.step * step));
                scratch.thresholds.clear();
                scratch.thresholds.resize(rows, f32::NEG_INFINITY);
                // Whole tiles only: what is past the last vector is no vector.
                let whole = block.len() / LANES;
                let count = whole.div_ceil(every).min(SCAN_TILES);
                if count == 0 {
                    continue;
                }
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
                        quads,
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
                    let mut shift = task.context.kernels.dot(query, centre) - size.surplus * scratch.scales[row];
                    if metric == Metric::L2 {
                        shift -= 0.5 * centre_squared;
                    }
                    shift -= task.caution * (size.coded * block.error() + size.missed * block.radius());
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
                let rank = (share + 3.0 * share.sqrt() + 3.0).ceil() as usize;
                if rank < lows.len() {
                    nearest[first + row].guess(kth_largest(lows.iter().copied(), rank));
                }
            }
        }
    }

    /// Scans a block for some rows.
    fn read(
        &self,
        task: &Task<'_>,
        queries: &Queries<'_>,
        index: usize,
        rows: &[u32],
        nearest: &mut [Nearest],
        scratch: &mut ScanScratch,
    ) {
        let Shaped { d, quads, metric } = Shaped::of(task.context);
        let block = &self.blocks[index];
        let (len, tiles) = (block.len(), block.tiles());
        let centre = block.centre();
        let centre_squared = task.context.kernels.dot(centre, centre);
        let centre_length = centre_squared.sqrt();
        let (radius, error, step) = (block.radius(), block.error(), block.step());
        let width = quads * 4;
        scratch.readers.clear();
        let root = (d as f32).sqrt();
        // Rounding of what is not bounded elsewhere, as a share of the lengths that enter.
        let slack = |length: f32| {
            let reach = centre_length + (2.0 + root) * radius;
            let squared = if metric == Metric::L2 { reach * reach + length * length } else { 0.0 };
            1e-6 * (length * reach + squared)
        };
        for &row in rows {
            let size = &queries.sizes[row as usize];
            let query = &queries.moved()[row as usize * d..(row as usize + 1) * d];
            let mut base = task.context.kernels.dot(query, centre);
            let most = if metric == Metric::L2 {
                base -= 0.5 * centre_squared;
                let away = (size.squared as f32 - 2.0 * base).max(0.0).sqrt();
                0.5 * size.squared as f32 - 0.5 * (away - radius).max(0.0).powi(2)
            } else {
                base + size.length * radius
            };
            if most + slack(size.length) >= nearest[row as usize].threshold() {
                scratch.readers.push((row, base));
            }
        }
        let readers = std::mem::take(&mut scratch.readers);
        scratch.codes.resize(SCAN_ROWS * width, 0);
        scratch.values.resize(SCAN_ROWS * SCAN_TILES * LANES, 0.0);
        scratch.masks.resize(SCAN_ROWS * SCAN_TILES, 0);
        for readers in readers.chunks(SCAN_ROWS) {
            scratch.scales.clear();
            scratch.bounds.clear();
            for (i, &(row, _)) in readers.iter().enumerate() {
                let row = row as usize;
                scratch.codes[i * width..(i + 1) * width]
                    .copy_from_slice(&queries.codes[row * width..(row + 1) * width]);
                let size = &queries.sizes[row];
                scratch.scales.push(size.step * step);
                let bound = size.coded * error + size.missed * radius;
                scratch.bounds.push(task.caution * bound + slack(size.length));
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
                        quads,
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
                    let masks = &scratch.masks[i * count..(i + 1) * count];
                    let nearest = &mut nearest[row as usize];
                    let bound = scratch.bounds[i];
                    let shift = base - queries.sizes[row as usize].surplus * scratch.scales[i];
                    for (tile, &mask) in masks.iter().enumerate().filter(|(_, mask)| **mask != 0) {
                        let mut mask = mask;
                        while mask != 0 {
                            let lane = mask.trailing_zeros() as usize;
                            mask &= mask - 1;
                            let position = (first + tile) * LANES + lane;
                            if position >= len {
                                break;
                            }
                            if task.request.allowed.is_some_and(|allowed| !allowed.contains(block.slots()[position])) {
                                continue;
                            }
                            let score = scratch.values[(i * count + tile) * LANES + lane] + shift;
                            nearest.offer(Candidate {
                                low: score - bound,
                                high: score + bound,
                                block: index as u32,
                                position: position as u32,
                            });
                        }
                    }
                    nearest.tidy();
                }
            }
        }
        scratch.readers = readers;
    }
}

/// Set in the block number of pairs that are read after all others.
const LATER: u32 = 1 << 31;

struct Shaped {
    d: usize,
    quads: usize,
    metric: Metric,
}

impl Shaped {
    fn of(context: &Context) -> Self {
        let d = context.shape.dimensions;
        Self { d, quads: quads(d), metric: context.shape.metric }
    }
}

fn reset(task: &Task<'_>, queries: &Queries<'_>, nearest: &mut Vec<Nearest>) {
    if nearest.len() < queries.rows() {
        nearest.resize_with(queries.rows(), Nearest::default);
    }
    for (nearest, size) in nearest.iter_mut().zip(&queries.sizes) {
        restart(task, size, nearest);
    }
}

fn restart(task: &Task<'_>, size: &QuerySize, nearest: &mut Nearest) {
    nearest.reset(task.request.k, size.score(task.context.shape.metric, task.request.floor));
}

/// Turns products with centres into estimates of the best score in each cluster, and notes the largest of each
/// panel.
fn estimate(
    metric: Metric,
    products: &mut [f32],
    offsets: &[f32],
    radii: &[f32],
    size: &QuerySize,
    largest: &mut Vec<f32>,
) {
    largest.clear();
    let tiles = products.as_chunks_mut::<LANES>().0.iter_mut();
    let tiles = tiles.zip(offsets.as_chunks::<LANES>().0).zip(radii.as_chunks::<LANES>().0);
    let (length, squared) = (size.length * REACH, size.squared as f32);
    for ((products, offsets), radii) in tiles {
        if metric == Metric::L2 {
            for lane in 0..LANES {
                let score = products[lane] + offsets[lane];
                let away = (squared - 2.0 * score).max(0.0).sqrt();
                products[lane] = score + REACH * away * radii[lane];
            }
        } else {
            for lane in 0..LANES {
                products[lane] = products[lane] + offsets[lane] + length * radii[lane];
            }
        }
        let mut most = products[0];
        for &product in &products[1..] {
            most = if product > most { product } else { most };
        }
        largest.push(most);
    }
}

/// The `count` largest of the first `len` estimates, in no particular order.
fn best(estimates: &[f32], largest: &[f32], len: usize, count: usize, chosen: &mut Vec<u32>) {
    chosen.clear();
    if count >= len {
        chosen.extend(0..len as u32);
        return;
    }
    // So many panels have an estimate of at least this, so the `count`-th largest estimate is no less.
    let least = if count <= largest.len() { kth_largest(largest.iter().copied(), count) } else { f32::NEG_INFINITY };
    for (panel, (estimates, &most)) in estimates.as_chunks::<LANES>().0.iter().zip(largest).enumerate() {
        if most >= least {
            for (lane, &estimate) in estimates.iter().enumerate() {
                if estimate >= least && panel * LANES + lane < len {
                    chosen.push((panel * LANES + lane) as u32);
                }
            }
        }
    }
    if chosen.len() > count {
        chosen.select_nth_unstable_by(count - 1, |&a, &b| {
            estimates[b as usize].total_cmp(&estimates[a as usize]).then(a.cmp(&b))
        });
        chosen.truncate(count);
    }
}
