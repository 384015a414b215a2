//! Random sequences of operations against brute force: every algorithm, metric and storage, every SIMD level of this
//! machine, one to four threads.

mod common;
mod random;

use std::collections::HashSet;

use common::{METRICS, Model, Numbers};
use iceformer_knn::{
    Algorithm, Error, Filter, FilterKind, Index, IndexOptions, RadiusOptions, SearchOptions, Snapshot, Storage,
};
use iceformer_threads::ThreadPool;
use proptest::prelude::*;

#[derive(Debug, Clone)]
enum Step {
    Add {
        count: usize,
        ids: Ids,
        grid: bool,
    },
    /// Adds vectors, of which a share replaces others.
    Upsert {
        count: usize,
        replaced: f32,
        grid: bool,
    },
    /// Removes a share of the vectors, and some ids that are not there.
    Remove {
        share: f32,
    },
    Clear,
    Compact,
    /// Asks for something wrong.
    Wrong(Wrong),
    Search {
        queries: usize,
        k: usize,
        effort: How,
        filter: Option<Kind>,
        grid: bool,
    },
    Radius {
        limit: Option<usize>,
        filter: Option<Kind>,
        grid: bool,
    },
    /// Takes a snapshot and compares it at the end.
    Snapshot,
    /// Goes on with what was saved and opened again.
    Reopen,
}

#[derive(Debug, Clone, Copy)]
enum Ids {
    Default,
    /// In steps, downwards.
    Scattered,
    /// Very large and far apart.
    Huge,
}

#[derive(Debug, Clone, Copy)]
enum How {
    Exact,
    Effort(f32),
    Recall(f32),
    Default,
}

#[derive(Debug, Clone, Copy)]
struct Kind {
    bits: bool,
    exclude: bool,
    /// One in so many ids is named.
    one_in: u64,
}

#[derive(Debug, Clone, Copy)]
enum Wrong {
    Length,
    NotFinite,
    TakenId,
    RepeatedId,
    RepeatedUpsert,
    NoId,
    IdCount,
    Values,
    Query,
}

fn kind() -> impl Strategy<Value = Option<Kind>> {
    prop_oneof![
        2 => Just(None),
        3 => (any::<bool>(), any::<bool>(), prop_oneof![Just(2_u64), Just(7), Just(200), Just(1 << 60)])
            .prop_map(|(bits, exclude, one_in)| Some(Kind { bits, exclude, one_in })),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let wrong = prop::sample::select(vec![
        Wrong::Length,
        Wrong::NotFinite,
        Wrong::TakenId,
        Wrong::RepeatedId,
        Wrong::RepeatedUpsert,
        Wrong::NoId,
        Wrong::IdCount,
        Wrong::Values,
        Wrong::Query,
    ]);
    let ids = prop_oneof![3 => Just(Ids::Default), 2 => Just(Ids::Scattered), 1 => Just(Ids::Huge)];
    let count = || prop_oneof![1..5_usize, 20..80_usize, 400..1500_usize];
    let k = || prop_oneof![1..12_usize, 100..200_usize, 3000..3001_usize];
    let effort = prop_oneof![
        2 => Just(How::Exact),
        2 => (0.001_f32..1.0).prop_map(How::Effort),
        1 => (0.3_f32..1.0).prop_map(How::Recall),
        1 => Just(How::Default)
    ];
    let step = prop_oneof![
        5 => (count(), ids, any::<bool>()).prop_map(|(count, ids, grid)| Step::Add { count, ids, grid }),
        2 => (count(), 0.0_f32..1.0, any::<bool>())
            .prop_map(|(count, replaced, grid)| Step::Upsert { count, replaced, grid }),
        3 => prop_oneof![Just(0.01_f32), Just(0.5), Just(0.95), Just(1.0)].prop_map(|share| Step::Remove { share }),
        1 => Just(Step::Clear),
        1 => Just(Step::Compact),
        2 => wrong.prop_map(Step::Wrong),
        5 => (prop_oneof![1..3_usize, 20..30_usize], k(), effort, kind(), any::<bool>())
            .prop_map(|(queries, k, effort, filter, grid)| Step::Search { queries, k, effort, filter, grid }),
        2 => (prop::option::of(1..20_usize), kind(), any::<bool>())
            .prop_map(|(limit, filter, grid)| Step::Radius { limit, filter, grid }),
        1 => Just(Step::Snapshot),
        1 => Just(Step::Reopen),
    ];
    prop::collection::vec(step, 1..14)
}

struct Run {
    index: Index,
    model: Model,
    numbers: Numbers,
    snapshots: Vec<(Snapshot, Model)>,
}

impl Run {
    fn vectors(&mut self, count: usize, grid: bool) -> (Vec<f32>, Option<Vec<f32>>) {
        let IndexOptions { dimensions, value_dimensions, .. } = self.model.options;
        let vectors = self.numbers.vectors(count, dimensions, grid);
        let values = (value_dimensions > 0).then(|| self.numbers.vectors(count, value_dimensions, false));
        (vectors, values)
    }

    fn note(&mut self, ids: &[u64], vectors: &[f32], values: Option<&[f32]>) {
        let IndexOptions { dimensions, value_dimensions, .. } = self.model.options;
        for (i, &id) in ids.iter().enumerate() {
            let value = values.map_or(&[][..], |values| &values[i * value_dimensions..(i + 1) * value_dimensions]);
            self.model.note(&self.index, id, &vectors[i * dimensions..(i + 1) * dimensions], value);
        }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Add { count, ids, grid } => {
                let (vectors, values) = self.vectors(count, grid);
                let next = self.model.next;
                let chosen: Vec<u64> = match ids {
                    Ids::Default => (next..next + count as u64).collect(),
                    Ids::Scattered => (0..count as u64).map(|i| next + (count as u64 - i) * 3).collect(),
                    Ids::Huge => (0..count as u64).map(|i| next + i * (1 << 35) + (1 << 41)).collect(),
                };
                let given = (!matches!(ids, Ids::Default)).then_some(&chosen[..]);
                assert_eq!(self.index.add_batch(&vectors, given, values.as_deref()).unwrap(), chosen);
                self.note(&chosen, &vectors, values.as_deref());
                assert_eq!(self.index.largest_id(), chosen.iter().max().copied());
            }
            Step::Upsert { count, replaced, grid } => {
                let (vectors, values) = self.vectors(count, grid);
                let mut taken: Vec<u64> = self.model.vectors.keys().copied().collect();
                let mut next = self.model.next;
                let mut expected = 0;
                let ids: Vec<u64> = (0..count)
                    .map(|_| {
                        if self.numbers.share() < replaced && !taken.is_empty() {
                            expected += 1;
                            let at = self.numbers.below(taken.len());
                            return taken.swap_remove(at);
                        }
                        next += 1;
                        next
                    })
                    .collect();
                assert_eq!(self.index.upsert_batch(&vectors, &ids, values.as_deref()).unwrap(), expected);
                self.note(&ids, &vectors, values.as_deref());
            }
            Step::Remove { share } => {
                let mut ids: Vec<u64> =
                    self.model.vectors.keys().copied().filter(|_| self.numbers.share() < share).collect();
                for id in &ids {
                    self.model.vectors.remove(id);
                }
                let removed = ids.len();
                // Unknown ids, and one twice, change nothing.
                ids.extend([self.model.next, self.model.next + 5]);
                ids.extend(ids.first().copied());
                assert_eq!(self.index.remove_batch(&ids).unwrap(), removed);
                assert_eq!(self.index.remove_batch(&ids).unwrap(), 0);
            }
            Step::Clear => {
                self.index.clear();
                self.model.vectors.clear();
                self.model.next = 0;
                assert_eq!(self.index.largest_id(), None);
            }
            Step::Compact => {
                self.index.compact().unwrap();
                let stats = self.index.stats();
                assert!(stats.live_bytes <= stats.reserved_bytes, "{stats:?}");
            }
            Step::Wrong(wrong) => self.wrong(wrong),
            Step::Search { queries, k, effort, filter, grid } => {
                let queries = self.numbers.vectors(queries, self.model.options.dimensions, grid);
                check_search(&self.index.snapshot(), &self.model, &queries, k, effort, filter);
            }
            Step::Radius { limit, filter, grid } => self.radius(limit, filter, grid),
            Step::Snapshot => self.snapshots.push((self.index.snapshot(), self.model.clone())),
            Step::Reopen => {
                let bytes = self.index.to_bytes().unwrap();
                self.index = Index::from_bytes(&bytes, ThreadPool::new(2)).unwrap();
                assert_eq!(*self.index.options(), self.model.options);
                assert_eq!(self.index.largest_id(), self.model.next.checked_sub(1));
                assert!(bytes == self.index.to_bytes().unwrap(), "saved again, the same bytes");
            }
        }
    }

    fn wrong(&mut self, wrong: Wrong) {
        let IndexOptions { dimensions, value_dimensions, .. } = self.model.options;
        let (mut vectors, values) = self.vectors(3, false);
        let values = values.as_deref();
        let next = self.model.next;
        let ids = [next, next + 1, next + 2];
        let taken = self.model.vectors.keys().nth(self.model.vectors.len() / 2).copied();
        let index = &mut self.index;
        match wrong {
            Wrong::Length if dimensions > 1 => {
                let length = vectors.len() - 1;
                assert_eq!(
                    index.add_batch(&vectors[1..], Some(&ids), values),
                    Err(Error::RaggedBatch { what: "vectors", length, dimensions })
                );
            }
            Wrong::NotFinite => {
                vectors[3 * dimensions - 1] = f32::NAN;
                for error in [
                    index.add_batch(&vectors, None, values).unwrap_err(),
                    index.upsert_batch(&vectors, &ids, values).unwrap_err(),
                ] {
                    assert!(
                        matches!(error, Error::NotFinite { what: "vector", row: 2, position, .. } if position == dimensions - 1)
                    );
                }
            }
            Wrong::TakenId => {
                if let Some(id) = taken {
                    let ids = [ids[0], ids[1], id];
                    assert_eq!(index.add_batch(&vectors, Some(&ids), values), Err(Error::DuplicateId { id }));
                }
            }
            Wrong::RepeatedId => {
                let ids = [ids[2], ids[1], ids[2]];
                assert_eq!(index.add_batch(&vectors, Some(&ids), values), Err(Error::DuplicateId { id: ids[0] }));
            }
            Wrong::RepeatedUpsert => {
                let id = taken.unwrap_or(next);
                let ids = [id, next + 7, id];
                assert_eq!(index.upsert_batch(&vectors, &ids, values), Err(Error::DuplicateId { id }));
            }
            Wrong::NoId => {
                let ids = [ids[0], u64::MAX, ids[1]];
                assert_eq!(index.add_batch(&vectors, Some(&ids), values), Err(Error::Id { id: u64::MAX }));
            }
            Wrong::IdCount => {
                assert_eq!(
                    index.add_batch(&vectors, Some(&ids[1..]), values),
                    Err(Error::CountMismatch { what: "ids", actual: 2, expected: 3 })
                );
            }
            Wrong::Values => {
                let wrong = vec![0.5; 3 * value_dimensions + 1];
                let error = index.add_batch(&vectors, None, Some(&wrong)).unwrap_err();
                match value_dimensions {
                    0 => assert_eq!(error, Error::NoValues),
                    1 => assert_eq!(error, Error::CountMismatch { what: "values", actual: 4, expected: 3 }),
                    dimensions => {
                        let length = wrong.len();
                        assert_eq!(error, Error::RaggedBatch { what: "values", length, dimensions });
                    }
                }
                if value_dimensions > 0 {
                    assert_eq!(index.add_batch(&vectors, None, None), Err(Error::ValuesMissing { value_dimensions }));
                }
            }
            Wrong::Query | Wrong::Length => {
                vectors[0] = f32::INFINITY;
                let error = index.search(&vectors, SearchOptions::nearest(1)).unwrap_err();
                assert!(matches!(error, Error::NotFinite { what: "query", row: 0, position: 0, .. }));
            }
        }
        self.model.check_contents(&self.index.snapshot());
    }

    fn radius(&mut self, limit: Option<usize>, kind: Option<Kind>, grid: bool) {
        let dimensions = self.model.options.dimensions;
        let queries = self.numbers.vectors(3, dimensions, grid);
        let snapshot = self.index.snapshot();
        let (filter, named) = filter(&snapshot, &self.model, kind);
        // The distance of some vector, so that there is one on the edge.
        let query = self.model.as_compared(&queries[..dimensions]);
        let near = self.model.ranked(&query, |_| true);
        let rank = near.get(self.numbers.below(near.len() + 1)).map_or(0.0, |near| near.0);
        let options = RadiusOptions { limit, filter: filter.as_ref(), cancel: None };
        let found = snapshot.search_radius(&queries, self.model.score(rank), options).unwrap();
        assert_eq!(found.offsets.len(), 4);
        assert_eq!((found.ids.len(), found.scores.len()), (found.offsets[3], found.offsets[3]));
        for (row, query) in queries.chunks_exact(dimensions).enumerate() {
            let query = self.model.as_compared(query);
            let mut expected = self.model.ranked(&query, &named);
            expected.retain(|near| near.0 >= rank);
            expected.truncate(limit.unwrap_or(usize::MAX));
            let range = found.offsets[row]..found.offsets[row + 1];
            assert!(found.ids[range.clone()].iter().copied().eq(expected.iter().map(|near| near.1)));
            let scores = expected.iter().map(|near| self.model.score(near.0).to_bits());
            assert!(found.scores[range].iter().map(|score| score.to_bits()).eq(scores));
        }
    }
}

/// A filter of some of the ids, and which they are.
fn filter(snapshot: &Snapshot, model: &Model, kind: Option<Kind>) -> (Option<Filter>, impl Fn(u64) -> bool + use<>) {
    let Some(Kind { bits, exclude, one_in }) = kind else {
        return (None, Box::new(|_| true) as Box<dyn Fn(u64) -> bool>);
    };
    // Bits of large ids would be many.
    let bits = bits && model.next < 1 << 20;
    let mut ids: Vec<u64> = model.vectors.keys().copied().filter(|id| (id ^ (id >> 35)) % one_in == 0).collect();
    ids.reverse();
    ids.push(model.next + 3);
    let set: HashSet<u64> = ids.iter().copied().collect();
    let filter = if bits {
        let mut bytes = vec![0_u8; model.next as usize / 8 + 1];
        for id in ids.iter().filter(|id| **id / 8 < bytes.len() as u64).copied().collect::<Vec<_>>() {
            bytes[(id / 8) as usize] |= 1 << (id % 8);
        }
        snapshot.filter(FilterKind::Bitset(&bytes), exclude)
    } else {
        snapshot.filter(FilterKind::Ids(&ids), exclude)
    };
    let named: Box<dyn Fn(u64) -> bool> = Box::new(move |id| set.contains(&id) != exclude);
    assert_eq!(filter.len(), model.vectors.keys().filter(|id| named(**id)).count());
    (Some(filter), named)
}

fn check_search(snapshot: &Snapshot, model: &Model, queries: &[f32], k: usize, how: How, kind: Option<Kind>) {
    let (filter, named) = filter(snapshot, model, kind);
    let base = SearchOptions { filter: filter.as_ref(), ..SearchOptions::nearest(k) };
    let options = match how {
        How::Exact => SearchOptions { exact: true, ..base },
        How::Effort(effort) => SearchOptions { effort: Some(effort), ..base },
        How::Recall(recall) => SearchOptions { recall: Some(recall), ..base },
        How::Default => base,
    };
    let found = snapshot.search(queries, options).unwrap();
    // An index that reads everything promises all neighbours unless it is asked for less, or left to choose.
    let chosen = model.options.algorithm == Algorithm::Exact;
    let exact = match how {
        How::Exact => true,
        How::Effort(share) | How::Recall(share) => chosen && share >= 1.0,
        How::Default => chosen,
    };
    model.check_found(&found, queries, k, exact, named);
    let rows = found.counts.len();
    let (mut ids, mut scores, mut counts) = (vec![7; rows * k], vec![7.0; rows * k], vec![7; rows]);
    snapshot.search_into(queries, SearchOptions { exact: true, ..base }, &mut ids, &mut scores, &mut counts).unwrap();
    if exact {
        assert_eq!((ids, counts), (found.ids, found.counts));
    }
}

fn run(options: IndexOptions, steps: &[Step], seed: u64, size: f32, threads: usize) {
    for kernels in iceformer_simd::supported() {
        let mut run = Run {
            index: Index::with_kernels(options, ThreadPool::new(threads), kernels).unwrap(),
            model: Model::new(options, kernels),
            numbers: Numbers::new(seed, size),
            snapshots: Vec::new(),
        };
        for step in steps {
            run.step(step);
            run.model.check_contents(&run.index.snapshot());
        }
        // Whatever came after, a snapshot has what it had.
        let queries = run.numbers.vectors(3, options.dimensions, false);
        for (snapshot, model) in &run.snapshots {
            model.check_contents(snapshot);
            check_search(snapshot, model, &queries, 9, How::Exact, None);
            check_search(snapshot, model, &queries, 9, How::Effort(0.1), None);
        }
    }
}

fn agrees_with_brute_force(algorithm: Algorithm) {
    let config = ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() };
    let strategy = (
        (1..40_usize, prop::sample::select(METRICS.to_vec()), prop::sample::select(Storage::ALL.to_vec()), 0..4_usize),
        steps(),
        any::<u64>(),
        prop_oneof![3 => Just(1.0_f32), 1 => Just(1e-12), 1 => Just(1e15)],
        prop_oneof![Just(1_usize), Just(2), Just(4)],
    );
    proptest::test_runner::TestRunner::new(config)
        .run(&strategy, |((dimensions, metric, storage, value_dimensions), steps, seed, size, threads)| {
            let options = IndexOptions { dimensions, metric, storage, algorithm, seed, value_dimensions };
            run(options, &steps, seed, size, threads);
            Ok(())
        })
        .unwrap();
}

#[test]
fn exact_agrees_with_brute_force() {
    agrees_with_brute_force(Algorithm::Exact);
}

#[test]
fn auto_agrees_with_brute_force() {
    agrees_with_brute_force(Algorithm::Auto);
}

#[test]
fn clusters_agree_with_brute_force() {
    agrees_with_brute_force(Algorithm::Cluster);
}

#[test]
fn graph_agrees_with_brute_force() {
    agrees_with_brute_force(Algorithm::Graph);
}

#[test]
fn dci_agrees_with_brute_force() {
    agrees_with_brute_force(Algorithm::Dci);
}
