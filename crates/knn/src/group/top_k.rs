//! Attention to the k keys of largest score of each query: the method of `IceFormer` (Mao, Ester, Li 2024), over
//! any algorithm of this crate.
//!
//! A lane's keys are also in an [`Index`] of their own, by order of insertion. A block of queries is searched in it
//! together; it holds the keys that all of them see, and those that only some see (a causal block's own keys) are
//! compared one by one. So what is found are the largest scores of all that a query sees, as far as the index finds
//! them. The softmax is over these k alone: nothing stands in for the rest.

use crate::algorithm::Algorithm;
use crate::element::Element;
use crate::error::Result;
use crate::filter::FilterKind;
use crate::index::{Index, IndexOptions};
use crate::lane::Lane;
use crate::metric::Metric;
use crate::search::SearchOptions;
use crate::soft::{SoftQuery, SoftReport};
use iceformer_simd::{Kernels, LANES};
use iceformer_threads::ThreadPool;
use std::ops::Range;

use super::GroupShape;

/// Queries that are searched together.
const BLOCK: usize = 64;

/// Keys that are read at once to be indexed.
const BATCH: usize = 4096;

/// A lane's keys in an index of their own; ids are numbers of insertion.
#[derive(Debug)]
pub(super) struct NearestKeys {
    index: Index,
}

/// How many keys a query attends to and how hard they are looked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reach {
    pub k: usize,
    /// As [`SearchOptions::recall`].
    pub recall: f32,
    /// As [`SearchOptions::effort`].
    pub effort: Option<f32>,
}

/// What all rows of one search against one lane have in common.
pub(super) struct Search<'a> {
    pub kernels: &'static Kernels,
    pub shape: &'a GroupShape,
    pub query: &'a SoftQuery,
    /// As in [`super::LaneDetail`].
    pub sights: Option<&'a [[u32; 2]]>,
    pub reach: Reach,
}

/// The queries of one search against one lane, and where the results go.
pub(super) struct LaneRows<'a> {
    pub lane: usize,
    /// Rows of a query in this lane.
    pub group: usize,
    /// `[queries][lanes * group][dimensions]`
    pub queries: &'a [f32],
    /// `[queries][lanes * group][value_dimensions]`
    pub output: &'a mut [f32],
    /// `[queries][lanes * group]`
    pub lse: Option<&'a mut [f32]>,
}

impl NearestKeys {
    pub fn new(
        shape: &GroupShape,
        algorithm: Algorithm,
        seed: u64,
        pool: ThreadPool,
        kernels: &'static Kernels,
    ) -> Result<Self> {
        let options = IndexOptions {
            dimensions: shape.dimensions,
            metric: Metric::InnerProduct,
            storage: shape.storage,
            algorithm,
            seed,
            value_dimensions: 0,
        };
        Ok(Self { index: Index::with_kernels(options, pool, kernels)? })
    }

    /// Bytes allocated.
    pub fn bytes(&self) -> usize {
        self.index.stats().reserved_bytes
    }

    /// Forgets keys from number `len` on.
    pub fn truncate(&mut self, len: usize) -> Result<()> {
        let gone: Vec<u64> = (len as u64..self.index.len() as u64).collect();
        self.index.remove_batch(&gone).map(|_| ())
    }

    /// Forgets all keys.
    pub fn clear(&mut self) {
        self.index.clear();
    }

    /// Takes the lane's keys before number `end` in.
    fn hold<T: Element>(&mut self, lane: &Lane<T>, shape: &GroupShape, end: usize) -> Result<()> {
        let (d, mut value) = (shape.dimensions, vec![0.0; shape.value_dimensions]);
        while self.index.len() < end {
            let numbers = self.index.len()..end.min(self.index.len() + BATCH);
            let mut keys = vec![0.0; numbers.len() * d];
            for (number, key) in numbers.clone().zip(keys.chunks_mut(d)) {
                lane.store.read(number, key, &mut value);
            }
            let ids: Vec<u64> = numbers.map(|number| number as u64).collect();
            self.index.add_batch(&keys, Some(&ids), None)?;
        }
        Ok(())
    }

    /// Searches all queries; the lane must be in the order of insertion.
    pub fn search<T: Element>(
        &mut self,
        lane: &Lane<T>,
        search: &Search<'_>,
        rows: &mut LaneRows<'_>,
    ) -> Result<SoftReport> {
        let Search { shape, query, sights, reach, .. } = *search;
        let mut report = SoftReport::default();
        for first in (0..query.queries).step_by(BLOCK) {
            let block = first..query.queries.min(first + BLOCK);
            let seen: Vec<Range<usize>> = block
                .clone()
                .map(|i| {
                    let (from, to) = query.sight(sights, i);
                    from..to
                })
                .collect();
            // What all of them see; neither bound falls.
            let common = seen[seen.len() - 1].start..seen[0].end;
            let found = self.find(lane, search, &common, &block, rows)?;
            for (i, seen) in block.clone().zip(&seen) {
                for g in 0..rows.group {
                    let row = (i * shape.lanes + rows.lane) * rows.group + g;
                    let own = found.as_ref().map_or(&[][..], |(ids, counts)| {
                        let row = (i - first) * rows.group + g;
                        &ids[row * reach.k..][..counts[row] as usize]
                    });
                    let alone = (seen.start..seen.end.min(common.start))
                        .chain(seen.start.max(common.end).max(common.start)..seen.end);
                    let keys = own.iter().map(|&id| id as usize).chain(alone);
                    let kept = attend(lane, search, keys, row, rows);
                    let all = kept == seen.len();
                    report.rows += 1.0;
                    report.retained_mass += if all { 1.0 } else { f64::NAN };
                    report.tiles_read += kept as f64 / LANES as f64;
                    report.tiles_visible += seen.len() as f64 / LANES as f64;
                }
            }
        }
        Ok(report)
    }

    /// Ids, `[rows][k]`, and counts, `[rows]`, of the nearest keys in `common` for each row of a block.
    fn find<T: Element>(
        &mut self,
        lane: &Lane<T>,
        search: &Search<'_>,
        common: &Range<usize>,
        block: &Range<usize>,
        rows: &LaneRows<'_>,
    ) -> Result<Option<(Vec<u64>, Vec<u32>)>> {
        let Search { shape, reach, .. } = *search;
        if common.is_empty() {
            return Ok(None);
        }
        self.hold(lane, shape, common.end)?;
        let snapshot = self.index.snapshot();
        let filter = (common.start > 0 || self.index.len() > common.end).then(|| {
            let ids: Vec<u64> = common.clone().map(|number| number as u64).collect();
            snapshot.filter(FilterKind::Ids(&ids), false)
        });
        let width = rows.group * shape.dimensions;
        let queries: Vec<f32> = block
            .clone()
            .flat_map(|i| &rows.queries[(i * shape.lanes + rows.lane) * width..][..width])
            .copied()
            .collect();
        let options = SearchOptions {
            recall: Some(reach.recall),
            effort: reach.effort,
            filter: filter.as_ref(),
            ..SearchOptions::nearest(reach.k)
        };
        let found = snapshot.search(&queries, options)?;
        Ok(Some((found.ids, found.counts)))
    }
}

/// Attends with one row to the k best of some keys; returns how many these are.
fn attend<T: Element>(
    lane: &Lane<T>,
    search: &Search<'_>,
    keys: impl Iterator<Item = usize>,
    row: usize,
    rows: &mut LaneRows<'_>,
) -> usize {
    let Search { kernels, shape, query: SoftQuery { scale, .. }, reach, .. } = *search;
    let query = &rows.queries[row * shape.dimensions..][..shape.dimensions];
    let (mut key, mut value) = (vec![0.0; shape.dimensions], vec![0.0; shape.value_dimensions]);
    let mut scored: Vec<(f64, usize)> = keys
        .map(|number| {
            lane.store.read(number, &mut key, &mut value);
            (f64::from(*scale) * kernels.exact_dot(query, &key), number)
        })
        .collect();
    scored.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    scored.truncate(reach.k);
    let top = scored.first().map_or(f64::NEG_INFINITY, |best| best.0);
    let sum: f64 = scored.iter().map(|(score, _)| (score - top).exp()).sum();
    let output = &mut rows.output[row * shape.value_dimensions..][..shape.value_dimensions];
    output.fill(0.0);
    for &(score, number) in &scored {
        lane.store.read(number, &mut key, &mut value);
        kernels.add_scaled(&value, ((score - top).exp() / sum) as f32, output);
    }
    if let Some(lse) = &mut rows.lse {
        // Of nothing: minus infinity, as `top`.
        lse[row] = if scored.is_empty() { f32::NEG_INFINITY } else { (top + sum.ln()) as f32 };
    }
    scored.len()
}
