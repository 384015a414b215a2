//! Hard search: the k nearest of each query.
//!
//! Queries go through in groups. A group draws up a list of what to read (everything, or the clusters its
//! queries chose), and each entry of the list is one matrix product: the queries that want those tiles
//! times the tiles. Whatever order that gives, the result is the same (see [`crate::topk`]).

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use iceformer_simd::{Kernels, LANES};
use iceformer_threads::ThreadPool;

use crate::cluster::Clusters;
use crate::error::{Error, Result};
use crate::keys::{QueryRows, RowData, Storage};
use crate::metric::Metric;
use crate::reading::{BLOCK_ROWS, ClusterPlace, Gathered, Group, MAX_STEP, Reading, step_tiles};
use crate::segment::{Segment, Shape};
use crate::sift::sift;
use crate::topk::{Candidate, Neighbour, TopK, keep_nearest, kth_largest};

/// The largest k of a search.
pub const MAX_K: usize = 1 << 24;

/// Queries of a group that reads everything: enough to make a tile worth its way from memory.
const GROUP_WHOLE: usize = 64;
/// Queries of a group that chooses clusters: enough for several to meet in one cluster.
const GROUP_CLUSTERS: usize = 512;
/// Tiles in one matrix product when keys are read: enough scores at once to set a good threshold.
const WHOLE_STEP: usize = 128;
/// Products below which handing work to another thread costs more than it saves.
const SHARD_PRODUCTS: usize = 1 << 22;
/// Products per thread, a few hundredths of a second, after which other searches get a turn.
const TURN_PRODUCTS: usize = 1 << 30;

/// What to search for.
#[derive(Debug, Clone, Copy)]
pub struct SearchOptions<'a> {
    /// Neighbours per query, 1 to [`MAX_K`].
    pub k: usize,
    /// Reads every vector, so that no neighbour is missed.
    pub exact: bool,
    /// Share of the clusters to read, above 0 and at most 1; `None` leaves it to the index.
    pub effort: Option<f32>,
    /// Set to true by another thread to make the search return [`Error::Cancelled`].
    pub cancel: Option<&'a AtomicBool>,
}

impl SearchOptions<'_> {
    /// The `k` nearest with the default effort.
    #[must_use]
    pub fn nearest(k: usize) -> Self {
        Self { k, exact: false, effort: None, cancel: None }
    }
}

/// The neighbours of a batch of queries, nearest first.
#[derive(Debug, Clone, PartialEq)]
pub struct Neighbours {
    /// Ids, `[queries][k]`; places past a query's count hold `u64::MAX`.
    pub ids: Vec<u64>,
    /// Scores, `[queries][k]`: inner products or cosines (largest first), or squared distances (smallest
    /// first). Places past a query's count hold NaN.
    pub scores: Vec<f32>,
    /// Neighbours found for each query: k, or the size of the index if that is smaller.
    pub counts: Vec<u32>,
}

/// The vectors of an index at one moment. Searching it needs no lock and sees no later change.
#[derive(Debug, Clone)]
pub struct Snapshot {
    pub(crate) shape: Shape,
    pub(crate) kernels: &'static Kernels,
    pub(crate) pool: ThreadPool,
    /// Oldest first; none is empty.
    pub(crate) segments: Vec<Arc<Segment>>,
    pub(crate) len: usize,
}

impl Snapshot {
    /// Number of vectors.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// True when there are no vectors.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The k nearest of each query; `queries` is `[n][dimensions]`.
    pub fn search(&self, queries: &[f32], options: SearchOptions<'_>) -> Result<Neighbours> {
        let SearchOptions { k, effort, .. } = options;
        let dimensions = self.shape.dimensions;
        if k == 0 || k > MAX_K {
            return Err(Error::K { k, max: MAX_K });
        }
        if let Some(effort) = effort
            && !(effort > 0.0 && effort <= 1.0)
        {
            return Err(Error::Effort { effort });
        }
        if !queries.len().is_multiple_of(dimensions) {
            return Err(Error::RaggedBatch { what: "queries", length: queries.len(), dimensions });
        }
        for (row, query) in queries.chunks_exact(dimensions).enumerate() {
            self.shape.metric.check(query, "query", row)?;
        }
        let count = queries.len() / dimensions;
        let mut found = Neighbours {
            ids: filled(count.saturating_mul(k), u64::MAX)?,
            scores: filled(count.saturating_mul(k), f32::NAN)?,
            counts: filled(count, k.min(self.len) as u32)?,
        };
        if count == 0 || self.len == 0 {
            return Ok(found);
        }
        self.search_groups(queries, options, &mut found)?;
        Ok(found)
    }

    fn search_groups(&self, queries: &[f32], options: SearchOptions<'_>, found: &mut Neighbours) -> Result<()> {
        let (k, dimensions) = (options.k, self.shape.dimensions);
        let count = queries.len() / dimensions;
        let probes = self.probes(&options);
        let threads = self.pool.threads();
        let group_rows = match probes {
            None => GROUP_WHOLE,
            // A batch that fills few groups per thread is still shared out.
            Some(_) => (count / (4 * threads)).clamp(GROUP_WHOLE, GROUP_CLUSTERS),
        };
        let groups = count.div_ceil(group_rows);
        let stop = || options.cancel.is_some_and(|cancel| cancel.load(Ordering::Relaxed));
        let outputs: Vec<_> = found
            .ids
            .chunks_mut(group_rows * k)
            .zip(found.scores.chunks_mut(group_rows * k))
            .map(|(ids, scores)| Mutex::new((ids, scores)))
            .collect();
        let write = |group: usize, row: usize, neighbours: &[Neighbour]| {
            let mut output = outputs[group].lock().unwrap_or_else(PoisonError::into_inner);
            let (ids, scores) = &mut *output;
            for (i, neighbour) in neighbours.iter().enumerate() {
                ids[row * k + i] = neighbour.id;
                // Not `-rank`: the distance of equal vectors is 0, not −0.
                scores[row * k + i] =
                    if self.shape.metric == Metric::L2 { 0.0 - neighbour.rank } else { neighbour.rank };
            }
        };
        let prepare = |group: usize| {
            let rows = group_rows.min(count - group * group_rows);
            let start = group * group_rows * dimensions;
            self.plan(&queries[start..start + rows * dimensions], probes, k)
        };
        if groups >= 2 * threads || self.products(1, probes) * count < 2 * SHARD_PRODUCTS {
            // In turns, so that other work of the process gets the pool in between.
            let turn = (TURN_PRODUCTS * threads / (self.products(1, probes) * group_rows).max(1)).max(2 * threads);
            for first in (0..groups).step_by(turn) {
                self.pool.for_each(turn.min(groups - first), |_, item| {
                    if stop() {
                        return;
                    }
                    let group = prepare(first + item);
                    for (row, neighbours) in self.read(&group, 0, 1, k, &stop).into_iter().enumerate() {
                        write(first + item, row, &neighbours);
                    }
                });
                if first + turn < groups {
                    std::thread::yield_now();
                }
            }
        } else {
            let shards =
                (self.products(1, probes) * count / groups / SHARD_PRODUCTS).clamp(1, 4 * threads.div_ceil(groups));
            let prepared: Vec<Mutex<Option<Arc<Group>>>> = (0..groups).map(|_| Mutex::new(None)).collect();
            self.pool.for_each(groups, |_, item| {
                *prepared[item].lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(prepare(item)));
            });
            let prepared: Vec<Arc<Group>> = prepared
                .into_iter()
                .filter_map(|group| group.into_inner().unwrap_or_else(PoisonError::into_inner))
                .collect();
            let partial: Vec<Mutex<Vec<Vec<Neighbour>>>> =
                (0..groups * shards).map(|_| Mutex::new(Vec::new())).collect();
            self.pool.for_each(groups * shards, |_, item| {
                if !stop() {
                    let read = self.read(&prepared[item / shards], item % shards, shards, k, &stop);
                    *partial[item].lock().unwrap_or_else(PoisonError::into_inner) = read;
                }
            });
            let mut partial = partial.into_iter().map(|part| part.into_inner().unwrap_or_else(PoisonError::into_inner));
            for (item, group) in prepared.iter().enumerate() {
                let mut merged = vec![Vec::new(); group.rows];
                for part in partial.by_ref().take(shards) {
                    for (merged, neighbours) in merged.iter_mut().zip(part) {
                        merged.extend(neighbours);
                    }
                }
                for (row, neighbours) in merged.iter_mut().enumerate() {
                    keep_nearest(neighbours, k);
                    write(item, row, neighbours);
                }
            }
        }
        if stop() { Err(Error::Cancelled) } else { Ok(()) }
    }

    /// Clusters that each query reads; `None` when it reads all.
    fn probes(&self, options: &SearchOptions<'_>) -> Option<usize> {
        if options.exact {
            return None;
        }
        let clusters = || self.segments.iter().filter_map(|segment| segment.clusters());
        let total: usize = clusters().map(Clusters::count).sum();
        let leaf = clusters().map(|clusters| clusters.leaf_tiles() * LANES).min()?;
        // Each segment's last cluster may hold as little as one vector.
        let needed = options.k.div_ceil(leaf) + clusters().count();
        let wanted = match options.effort {
            Some(effort) => (f64::from(effort) * total as f64).ceil() as usize,
            None => default_probes(total, options.k, leaf),
        };
        let probes = wanted.max(needed);
        (probes < total).then_some(probes)
    }

    /// Products of numbers that `count` queries take, roughly.
    fn products(&self, count: usize, probes: Option<usize>) -> usize {
        let keys: usize = self
            .segments
            .iter()
            .map(|segment| match (probes, segment.clusters()) {
                (Some(probes), Some(clusters)) => {
                    clusters.count() + probes.min(clusters.count()) * clusters.leaf_tiles() * LANES
                }
                _ => segment.len(),
            })
            .sum();
        count * keys * self.shape.dimensions
    }

    /// Brings queries into the form the kernels take and lists what they read.
    fn plan(&self, queries: &[f32], probes: Option<usize>, k: usize) -> Group {
        let mut group = self.prepare(queries);
        match probes {
            None => group.read_segments(&self.segments, |_| true),
            Some(probes) => {
                self.choose(&mut group, probes, k);
                group.read_segments(&self.segments, |segment| segment.clusters().is_none());
            }
        }
        group
    }

    /// Lets each query choose its clusters and lists them, each query's best ones before all others so
    /// that thresholds are high by the time the bulk is read.
    fn choose(&self, group: &mut Group, probes: usize, k: usize) {
        let mut chosen = self.best_clusters(group, probes);
        for choice in &mut chosen {
            choice.sort_unstable_by(|a, b| b.scan.total_cmp(&a.scan));
        }
        let places: Vec<Vec<ClusterPlace>> = chosen
            .iter()
            .map(|choice| choice.iter().map(|candidate| (candidate.segment, candidate.position)).collect())
            .collect();
        let leaf = |&(segment, _): &ClusterPlace| {
            self.segments[segment as usize].clusters().map_or(LANES, |clusters| clusters.leaf_tiles() * LANES)
        };
        let best = |row: usize| places[row].first().map_or(0, |place| k.div_ceil(leaf(place))).min(places[row].len());
        group.read_clusters(&self.segments, |row| &places[row][..best(row)]);
        group.read_clusters(&self.segments, |row| &places[row][best(row)..]);
    }

    /// The `probes` most promising clusters of each query of the group.
    fn best_clusters(&self, group: &Group, probes: usize) -> Vec<Vec<Candidate>> {
        let dimensions = self.shape.dimensions;
        let longest = self
            .segments
            .iter()
            .filter_map(|segment| segment.clusters())
            .fold(0.0_f64, |longest, clusters| longest.max(clusters.reach()));
        let mut best: Vec<TopK> = group
            .lengths
            .iter()
            .map(|&length| TopK::new(probes, error_bound(self.shape.metric, Storage::F32, dimensions, length, longest)))
            .collect();
        let step = step_tiles(dimensions * LANES * size_of::<f32>());
        let mut scores = vec![0.0_f32; BLOCK_ROWS * step * LANES];
        let mut masks = [0_u16; MAX_STEP];
        let exact = |row: usize, candidate: Candidate| self.cluster_rank(group, row, candidate);
        for start in (0..group.rows).step_by(BLOCK_ROWS) {
            let rows = BLOCK_ROWS.min(group.rows - start);
            let queries = QueryRows {
                rows,
                stride: dimensions,
                data: RowData::F32(&group.queries[start * dimensions..(start + rows) * dimensions]),
            };
            for (index, segment) in self.segments.iter().enumerate() {
                let Some(clusters) = segment.clusters() else { continue };
                for first in (0..clusters.means().tiles()).step_by(step) {
                    let tiles = step.min(clusters.means().tiles() - first);
                    clusters.means().multiply(self.kernels, queries, first, tiles, &mut scores);
                    let valid = clusters.count() - first * LANES;
                    for (row, scores) in scores.chunks_exact_mut(tiles * LANES).take(rows).enumerate() {
                        let offsets = if self.shape.metric == Metric::L2 {
                            clusters.offsets(first, tiles)
                        } else {
                            let length = group.lengths[start + row] as f32;
                            self.kernels.add_scaled(clusters.spreads(first, tiles), length, scores);
                            &[]
                        };
                        let top = &mut best[start + row];
                        sift(self.kernels.level, scores, offsets, top.threshold(), &mut masks[..tiles]);
                        offer(top, scores, &masks[..tiles], valid, index as u32, first, |top| {
                            top.shrink(|candidate| exact(start + row, candidate), |rank| rank);
                        });
                    }
                }
            }
        }
        best.into_iter().enumerate().map(|(row, top)| top.choose(|candidate| exact(row, candidate))).collect()
    }

    /// How promising a cluster is, exactly: what the kernels compute with rounding.
    ///
    /// For L2 the nearness of its mean. For inner products a key one standard deviation better than the
    /// mean, if its keys lie equally far from it in every direction: wide clusters hold better keys than
    /// their means say (on mixtures of Gaussians the clusters that miss a tenth of the neighbours without
    /// this miss a fourteenth with it; on attention keys it gains a quarter of a point).
    fn cluster_rank(&self, group: &Group, row: usize, candidate: Candidate) -> Neighbour {
        let dimensions = self.shape.dimensions;
        let query = &group.queries[row * dimensions..(row + 1) * dimensions];
        let position = candidate.position as usize;
        let rank = self.segments[candidate.segment as usize].clusters().map_or(0.0, |clusters| {
            let product = clusters.means().score(Metric::InnerProduct, query, position);
            let (tile, lane) = (position / LANES, position % LANES);
            if self.shape.metric == Metric::L2 {
                product + clusters.offsets(tile, 1)[lane]
            } else {
                product + group.lengths[row] as f32 * clusters.spreads(tile, 1)[lane]
            }
        });
        let ordinal = u64::from(candidate.segment) << 32 | u64::from(candidate.position);
        Neighbour { rank: rank + 0.0, ordinal, id: 0 }
    }

    /// Reads one of `shards` equal parts of the group's list; the nearest of each query found there.
    fn read(
        &self,
        group: &Group,
        shard: usize,
        shards: usize,
        k: usize,
        stop: &impl Fn() -> bool,
    ) -> Vec<Vec<Neighbour>> {
        let Shape { dimensions, metric, storage, .. } = self.shape;
        let longest = self.segments.iter().fold(0.0_f64, |longest, segment| longest.max(segment.longest()));
        let mut tops: Vec<TopK> = group
            .lengths
            .iter()
            .map(|&length| TopK::new(k, error_bound(metric, storage, dimensions, length, longest)))
            .collect();
        let exact = |row: usize, candidate: Candidate| {
            let query = &group.queries[row * dimensions..(row + 1) * dimensions];
            self.segments[candidate.segment as usize].neighbour(query, candidate.position as usize)
        };
        let as_scan = |row: usize, rank: f32| match metric {
            Metric::L2 => f64::midpoint(group.lengths[row] * group.lengths[row], f64::from(rank)) as f32,
            _ => rank,
        };
        let mut gathered = Gathered::default();
        let mut scores = Scores::take();
        let mut masks = [0_u16; WHOLE_STEP];
        let weight = |reading: &Reading| reading.tiles * group.count(reading);
        let total: usize = group.readings.iter().map(weight).sum();
        let mut done = 0;
        for reading in &group.readings {
            // A reading belongs to the shard in which it begins.
            let mine = done * shards / total.max(1) == shard;
            done += weight(reading);
            if !mine {
                continue;
            }
            if stop() {
                break;
            }
            let segment = &*self.segments[reading.segment as usize];
            let readers = group.readers(reading);
            let count = group.count(reading);
            for start in (0..count).step_by(BLOCK_ROWS) {
                let rows = BLOCK_ROWS.min(count - start);
                let queries = match readers {
                    None => group.block(self.shape, start, rows),
                    Some(readers) => gathered.block(self.shape, group, &readers[start..start + rows]),
                };
                for first in (reading.first..reading.first + reading.tiles).step_by(WHOLE_STEP) {
                    let tiles = WHOLE_STEP.min(reading.first + reading.tiles - first);
                    let scores = scores.room(rows * tiles * LANES);
                    segment.keys().multiply(self.kernels, queries, first, tiles, scores);
                    let valid = segment.len() - first * LANES;
                    for (i, scores) in scores.chunks_exact_mut(tiles * LANES).take(rows).enumerate() {
                        let row = readers.map_or(start + i, |readers| readers[start + i] as usize);
                        let top = &mut tops[row];
                        let masks = &mut masks[..tiles];
                        sift(self.kernels.level, scores, segment.offsets(first, tiles), top.threshold(), masks);
                        // Hits in most tiles: the threshold is not worth its name yet.
                        if masks.iter().filter(|mask| **mask != 0).count() > tiles / 2
                            && let Some(kth) = kth_of_groups(&scores[..valid.min(tiles * LANES)], top.k())
                        {
                            top.raise_to(kth);
                            sift(self.kernels.level, scores, &[], top.threshold(), masks);
                        }
                        offer(top, scores, masks, valid, reading.segment, first, |top| {
                            top.shrink(|candidate| exact(row, candidate), |rank| as_scan(row, rank));
                        });
                    }
                }
            }
        }
        tops.into_iter()
            .enumerate()
            .map(|(row, top)| top.finish(|candidate| exact(row, candidate), |rank| as_scan(row, rank)))
            .collect()
    }
}

/// A lower bound on the `k`th largest score, quickly: the scores are dealt to a few times `k` groups, and `k`
/// groups have a member at least as large as the `k`th largest of the groups' maxima. `None` if there are
/// too few scores.
fn kth_of_groups(scores: &[f32], k: usize) -> Option<f32> {
    let tiles = scores.as_chunks::<LANES>().0;
    let mut maxima = [[f32::NEG_INFINITY; LANES]; WHOLE_STEP / 2];
    let groups = (4 * k).div_ceil(LANES).min(tiles.len() / 2);
    let maxima = maxima.get_mut(..groups).filter(|maxima| maxima.len() * LANES >= 2 * k)?;
    for row in tiles.chunks(groups) {
        for (maxima, tile) in maxima.iter_mut().zip(row) {
            for (maximum, &score) in maxima.iter_mut().zip(tile) {
                *maximum = if score > *maximum { score } else { *maximum };
            }
        }
    }
    Some(kth_largest(maxima.iter().flatten().copied(), k))
}

/// Memory for scores that a thread keeps between searches: asking for it anew costs a page fault per 4 KiB.
struct Scores(Vec<f32>);

thread_local! {
    static SCORES: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

impl Scores {
    fn take() -> Self {
        Self(SCORES.take())
    }

    fn room(&mut self, length: usize) -> &mut [f32] {
        if self.0.len() < length {
            self.0.resize(length, 0.0);
        }
        &mut self.0[..length]
    }
}

impl Drop for Scores {
    fn drop(&mut self) {
        SCORES.set(std::mem::take(&mut self.0));
    }
}

/// Offers the scores whose bits are set, `[16 * masks.len()]`, the first `valid` of which are of keys.
#[inline]
fn offer(
    top: &mut TopK,
    scores: &[f32],
    masks: &[u16],
    valid: usize,
    segment: u32,
    first_tile: usize,
    shrink: impl Fn(&mut TopK),
) {
    for (quad, masks) in masks.chunks(4).enumerate() {
        // Four tiles at once: most have no hit.
        let mut hits = masks.iter().rev().fold(0_u64, |hits, &mask| hits << LANES | u64::from(mask));
        while hits != 0 {
            let column = quad * 4 * LANES + hits.trailing_zeros() as usize;
            hits &= hits - 1;
            // The threshold may have risen since the row was sifted.
            if column < valid && scores[column] >= top.threshold() {
                let position = (first_tile * LANES + column) as u32;
                if top.offer(Candidate { scan: scores[column], segment, position }) {
                    shrink(top);
                }
            }
        }
    }
}

/// Clusters to read when the caller does not say: a share that falls as the index grows, and enough to
/// choose `k` from.
fn default_probes(total: usize, k: usize, leaf: usize) -> usize {
    let root = (total as f64).sqrt().ceil() as usize;
    (3 * root).max(4 * k.div_ceil(leaf)).max(8)
}

/// Bound on the error of a kernel's score for a query of length `query` and keys of at most length `key`.
///
/// A sum of n products in any order is off by at most about n roundings of the sum of their magnitudes,
/// which is at most the product of the lengths (Higham 2002, §3.1).
fn error_bound(metric: Metric, storage: Storage, dimensions: usize, query: f64, key: f64) -> f32 {
    const ROUNDING: f64 = 1.0 / (1 << 24) as f64;
    // Rounding the query to the 8 bits of bf16; keys are compared as stored.
    let query_rounding = if storage == Storage::Bf16 { 1.0 / 256.0 } else { 0.0 };
    let product = query * key;
    let mut bound = product * ((dimensions + 16) as f64 * ROUNDING + query_rounding);
    if metric == Metric::L2 {
        bound += 4.0 * ROUNDING * (query + key) * (query + key);
    }
    // Kernels may take numbers below the normal range as zero.
    bound += dimensions as f64 * f64::from(f32::MIN_POSITIVE) * (1.0 + query + key);
    (1.01 * bound) as f32
}

/// A vector of `length` copies of `value`, or an error when there is no memory for it.
pub(crate) fn filled<T: Clone>(length: usize, value: T) -> Result<Vec<T>> {
    let mut vector = Vec::new();
    vector
        .try_reserve_exact(length)
        .map_err(|_| Error::OutOfMemory { bytes: length.saturating_mul(size_of::<T>()) })?;
    vector.resize(length, value);
    Ok(vector)
}
