//! DCI against the algorithm as published and against brute force.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

use iceformer_simd::kernels;
use iceformer_threads::ThreadPool;

use super::directions::directions;
use super::layer::NONE;
use super::*;
use crate::error::Error;
use crate::file::{Description, Reader};
use crate::ids::IdTable;
use crate::metric::Metric;
use crate::neighbour::{Neighbour, keep_nearest};
use crate::random::mix;
use crate::storage::Storage;
use crate::structure::{Effort, Shape, SlotSet};

const METRICS: [Metric; 3] = [Metric::InnerProduct, Metric::Cosine, Metric::L2];

fn context(metric: Metric, storage: Storage, dimensions: usize, threads: usize) -> Context {
    let shape = Shape { dimensions, value_dimensions: 0, metric, storage };
    Context { shape, kernels: kernels(), pool: ThreadPool::new(threads), seed: 11 }
}

/// `[n][dimensions]` around some centres, in the form the index compares.
fn vectors(metric: Metric, seed: u64, n: usize, dimensions: usize) -> Vec<f32> {
    let uniform = |i: u64| (mix(seed ^ mix(i)) >> 40) as f32 / (1_u64 << 24) as f32 - 0.5;
    let mut all = Vec::with_capacity(n * dimensions);
    for i in 0..n as u64 {
        let centre = 1 + mix(seed ^ mix(i + (1 << 40))) % 8;
        let vector: Vec<f32> = (0..dimensions as u64)
            .map(|j| 2.0 * (mix(centre * 1000 + j) >> 40) as f32 / (1_u64 << 24) as f32 + uniform(i * 997 + j))
            .collect();
        let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
        let scale = if metric == Metric::Cosine { 1.0 / length } else { 1.0 };
        all.extend(vector.iter().map(|x| x * scale));
    }
    all
}

fn insert(dci: &mut Dci, context: &Context, vectors: &[f32], slots: &[u32]) {
    dci.insert(context, Batch { vectors, values: &[], slots }).unwrap();
}

/// Ids of slots: not in their order.
fn ids(slots: usize) -> IdTable {
    let mut ids = Chunked::new(1);
    ids.resize(slots, 0).unwrap();
    (0..slots).for_each(|slot| ids.row_mut(slot)[0] = 7 * slot as u64 % 1009 * 10_000 + slot as u64);
    IdTable::of(ids, u64::MAX).unwrap()
}

/// What is wrong, and what makes it so.
type Damage<'a> = (&'a str, &'a dyn Fn(&mut Dci));

struct Question<'a> {
    queries: &'a [f32],
    k: usize,
    effort: Effort,
    floor: f32,
    allowed: Option<&'a SlotSet>,
}

impl<'a> Question<'a> {
    fn new(queries: &'a [f32], k: usize, effort: Effort) -> Self {
        Self { queries, k, effort, floor: f32::NEG_INFINITY, allowed: None }
    }

    fn ask(&self, context: &Context, structure: &dyn Structure, slots: usize) -> Vec<Vec<Neighbour>> {
        let n = self.queries.len() / context.shape.dimensions;
        let (found, ids) = (Mutex::new(vec![None; n]), ids(slots));
        let Self { queries, k, effort, floor, allowed } = *self;
        let request = Request { queries, k, effort, floor, allowed, ids: &ids, cancel: None };
        let emit = |row: usize, near: &[Neighbour]| {
            assert!(found.lock().unwrap()[row].replace(near.to_vec()).is_none(), "row {row} twice");
        };
        structure.search(context, &request, &emit).unwrap();
        found.into_inner().unwrap().into_iter().map(Option::unwrap).collect()
    }

    /// The true nearest of `candidates`.
    fn brute(&self, context: &Context, dci: &Dci, candidates: impl Fn(usize) -> Vec<u32>) -> Vec<Vec<Neighbour>> {
        let ids = ids(dci.cell_of.len());
        let queries = self.queries.chunks(context.shape.dimensions).enumerate();
        queries
            .map(|(row, query)| {
                let near =
                    candidates(row).into_iter().filter(|&slot| self.allowed.is_none_or(|set| set.contains(slot)));
                let near = near
                    .map(|slot| Neighbour { rank: dci.vectors.rank(context.kernels, query, slot), id: ids.id(slot) });
                let mut near: Vec<Neighbour> = near.filter(|near| near.rank >= self.floor).collect();
                keep_nearest(&mut near, self.k);
                near
            })
            .collect()
    }

    fn exact(&self, context: &Context, dci: &Dci) -> Vec<Vec<Neighbour>> {
        self.brute(context, dci, |_| dci.slots().collect())
    }
}

fn recall(found: &[Vec<Neighbour>], truth: &[Vec<Neighbour>]) -> f64 {
    let hits = found.iter().zip(truth).map(|(found, truth)| {
        let found: BTreeSet<u64> = found.iter().map(|near| near.id).collect();
        truth.iter().filter(|near| found.contains(&near.id)).count()
    });
    hits.sum::<usize>() as f64 / truth.iter().map(Vec::len).sum::<usize>() as f64
}

/// What must be true of the levels; returns the share of vectors that are in the cell nearest to them.
fn check(context: &Context, dci: &Dci) -> f64 {
    let slots: Vec<u32> = dci.slots().collect();
    assert_eq!(slots.len(), dci.len);
    // Member, slot, cell.
    let mut members: Vec<(u32, u32, u32)> = slots.iter().map(|&s| (s, s, dci.cell_of.row(s as usize)[0])).collect();
    if dci.layers.is_empty() {
        assert!(members.iter().all(|&(_, _, cell)| cell == FLAT));
        return 1.0;
    }
    for (height, layer) in dci.layers.iter().enumerate() {
        assert_eq!(layer.cells().count(), layer.len());
        let owners: BTreeSet<u32> = layer.cells().map(|(_, cell)| cell.owner).collect();
        let promoted: BTreeSet<u32> = slots.iter().copied().filter(|&slot| dci.level(slot) > height).collect();
        assert_eq!(owners, promoted, "layer {height}");
        let mut listed: Vec<(u32, u32)> =
            layer.cells().flat_map(|(number, cell)| cell.members.iter().map(move |&m| (m, number))).collect();
        listed.sort_unstable();
        members.sort_unstable();
        assert_eq!(listed, members.iter().map(|&(member, _, cell)| (member, cell)).collect::<Vec<_>>());
        for &(_, slot, cell) in &members {
            assert!(!owners.contains(&slot) || layer.cell(cell).owner == slot, "an owner in another's cell");
        }
        members = layer.cells().map(|(number, cell)| (number, cell.owner, cell.parent)).collect();
    }
    assert!(members.iter().all(|&(_, _, parent)| parent == NONE));
    let mut at_home = 0;
    let vector = |slot: u32| {
        let mut vector = vec![0.0; dci.dimensions];
        dci.vectors.read(context.kernels, slot, &mut vector);
        vector
    };
    let owners: Vec<(Vec<f32>, f32, u32)> =
        dci.layers[0].cells().map(|(number, cell)| (vector(cell.owner), dci.extra(cell.owner), number)).collect();
    for &slot in &slots {
        let (own, child) = (vector(slot), dci.embedding.extra_of_child(dci.squared.row(slot as usize)[0]));
        let score = |(owner, extra, _): &&(Vec<f32>, f32, u32)| context.kernels.dot(owner, &own) + extra * child;
        let best = owners.iter().max_by(|a, b| score(a).total_cmp(&score(b))).unwrap();
        let home = dci.cell_of.row(slot as usize)[0];
        let at = owners.iter().find(|(_, _, number)| *number == home).unwrap();
        at_home += usize::from(score(&best) - score(&at) <= 1e-4 * score(&best).abs());
    }
    at_home as f64 / slots.len() as f64
}

/// The slots that Prioritized DCI retrieves, as it is published: a priority queue of the next vectors of the simple
/// indices of each composite index; a vector is retrieved when all simple indices have come to it. The composite
/// indices take turns, each walking until it retrieves a vector.
fn published(keys: &[Vec<f64>], query: &[f64], options: &DciOptions, seed: u64, wanted: usize) -> Vec<u32> {
    struct Composite {
        /// Of each simple index: (place, slot), ascending.
        sorted: Vec<Vec<(f64, u32)>>,
        places: Vec<f64>,
        /// Next position below and above.
        next: Vec<(isize, usize)>,
        /// (gap bits, simple index, slot): gaps are positive, so that their bits are in their order.
        queue: BinaryHeap<Reverse<(u64, usize, u32)>>,
        met: Vec<usize>,
    }
    impl Composite {
        fn push(&mut self, j: usize) {
            let (below, above) = self.next[j];
            let gap = |at: usize| (self.sorted[j][at].0 - self.places[j]).abs();
            let lower = (below >= 0).then(|| gap(below as usize));
            let upper = (above < self.sorted[j].len()).then(|| gap(above));
            let at = match (lower, upper) {
                (Some(l), Some(u)) if l <= u => below as usize,
                (Some(_), None) => below as usize,
                (_, Some(_)) => above,
                (None, None) => return,
            };
            if at as isize == below {
                self.next[j].0 -= 1;
            } else {
                self.next[j].1 += 1;
            }
            self.queue.push(Reverse((gap(at).to_bits(), j, self.sorted[j][at].1)));
        }

        fn retrieve(&mut self) -> Option<u32> {
            while let Some(Reverse((_, j, slot))) = self.queue.pop() {
                self.push(j);
                self.met[slot as usize] += 1;
                if self.met[slot as usize] == self.sorted.len() {
                    return Some(slot);
                }
            }
            None
        }
    }
    let all = directions(seed, options.composite * options.simple, query.len());
    let place = |j: usize, x: &[f64]| -> f64 {
        all[j * query.len()..(j + 1) * query.len()].iter().zip(x).map(|(&u, x)| f64::from(u) * x).sum()
    };
    let mut composites: Vec<Composite> = (0..options.composite)
        .map(|l| {
            let simple = l * options.simple..(l + 1) * options.simple;
            let sorted: Vec<Vec<(f64, u32)>> = simple
                .clone()
                .map(|j| {
                    let mut sorted: Vec<(f64, u32)> =
                        keys.iter().enumerate().map(|(slot, key)| (place(j, key), slot as u32)).collect();
                    sorted.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
                    sorted
                })
                .collect();
            let places: Vec<f64> = simple.map(|j| place(j, query)).collect();
            let next = sorted.iter().zip(&places).map(|(sorted, place)| {
                let above = sorted.partition_point(|(p, _)| p < place);
                (above as isize - 1, above)
            });
            let next = next.collect();
            let mut composite = Composite { sorted, places, next, queue: BinaryHeap::new(), met: vec![0; keys.len()] };
            (0..options.simple).for_each(|j| composite.push(j));
            composite
        })
        .collect();
    let mut retrieved: Vec<u32> = Vec::new();
    while retrieved.len() < wanted {
        for composite in &mut composites {
            let slot = composite.retrieve().filter(|slot| !retrieved.contains(slot));
            retrieved.extend(slot.filter(|_| retrieved.len() < wanted));
        }
    }
    retrieved
}

#[test]
fn candidates_are_those_of_the_published_algorithm() {
    let (n, m, dimensions, k) = (300, 12, 6, 10);
    for metric in METRICS {
        let context = context(metric, Storage::F32, dimensions, 1);
        let (keys, queries) = (vectors(metric, 1, n, dimensions), vectors(metric, 2, m, dimensions));
        let longest = keys.chunks(dimensions).map(|key| squared(key).sqrt()).fold(0.0, f64::max);
        // T_K and T_Q, times c.
        let embed = |x: &[f32], query: bool| -> Vec<f64> {
            let mut embedded: Vec<f64> = x.iter().map(|&x| f64::from(x)).collect();
            if metric == Metric::InnerProduct {
                let scale = if query { longest / squared(x).sqrt() } else { 1.0 };
                for x in &mut embedded {
                    *x *= scale;
                }
                embedded.push(if query { 0.0 } else { (longest * longest - squared(x)).max(0.0).sqrt() });
            }
            embedded
        };
        let embedded: Vec<Vec<f64>> = keys.chunks(dimensions).map(|key| embed(key, false)).collect();
        for (composite, simple) in [(1, 1), (1, 4), (2, 3), (3, 2)] {
            let options = DciOptions { composite, simple, levels: 1, ..DciOptions::default() };
            let mut dci = Dci::with_options(&context, options);
            insert(&mut dci, &context, &keys, &(0..n as u32).collect::<Vec<u32>>());
            for candidates in [10, 25, 150, 299] {
                let question = Question::new(&queries, k, Effort::Share((candidates as f32 - 0.5) / n as f32));
                let expected = question.brute(&context, &dci, |row| {
                    let query = embed(&queries[row * dimensions..(row + 1) * dimensions], true);
                    published(&embedded, &query, &options, context.seed, candidates)
                });
                let found = question.ask(&context, &dci, n);
                assert_eq!(found, expected, "{metric:?}, {composite} x {simple}, {candidates} candidates");
            }
        }
    }
}

fn squared(x: &[f32]) -> f64 {
    x.iter().map(|&x| f64::from(x) * f64::from(x)).sum()
}

#[test]
fn exact_is_exact_for_all_metrics_and_storages() {
    let (n, m, dimensions) = (700, 9, 19);
    for metric in METRICS {
        for storage in Storage::ALL {
            let context = context(metric, storage, dimensions, 2);
            let mut dci = Dci::new(&context);
            let queries = vectors(metric, 5, m, dimensions);
            let all = vectors(metric, 4, n, dimensions);
            insert(&mut dci, &context, &all, &(0..n as u32).collect::<Vec<u32>>());
            dci.remove(&context, &(0..n as u32).step_by(3).collect::<Vec<u32>>()).unwrap();
            let mut allowed = SlotSet::new(n);
            (0..n as u32).filter(|slot| slot % 7 < 2).for_each(|slot| allowed.insert(slot));
            for effort in [Effort::Exact, Effort::Share(1.0)] {
                for k in [1, 10, 2 * n] {
                    let mut question = Question::new(&queries, k, effort);
                    let truth = question.exact(&context, &dci);
                    assert_eq!(question.ask(&context, &dci, n), truth, "{metric:?} {storage:?}");
                    assert_eq!(truth[0].len(), k.min(dci.len));
                    question.allowed = Some(&allowed);
                    assert_eq!(question.ask(&context, &dci, n), question.exact(&context, &dci));
                    question.floor = truth[0][truth[0].len() / 2].rank;
                    assert_eq!(question.ask(&context, &dci, n), question.exact(&context, &dci));
                    question.allowed = None;
                    assert_eq!(question.ask(&context, &dci, n), question.exact(&context, &dci));
                }
            }
        }
    }
}

#[test]
fn recall_grows_with_effort_and_ends_at_one() {
    let (n, m, dimensions, k) = (3000, 40, 12, 10);
    for metric in METRICS {
        for storage in Storage::ALL {
            let context = context(metric, storage, dimensions, 2);
            let mut dci = Dci::new(&context);
            insert(&mut dci, &context, &vectors(metric, 6, n, dimensions), &(0..n as u32).collect::<Vec<u32>>());
            let queries = vectors(metric, 7, m, dimensions);
            let truth = Question::new(&queries, k, Effort::Exact).exact(&context, &dci);
            let mut last = 0.0;
            for (effort, least) in [(0.005, 0.2), (0.02, 0.5), (0.1, 0.85), (0.3, 0.95), (1.0, 1.0)] {
                let now = recall(&Question::new(&queries, k, Effort::Share(effort)).ask(&context, &dci, n), &truth);
                assert!(now >= last && now >= least, "{metric:?} {storage:?} effort {effort}: {now} after {last}");
                last = now;
            }
        }
    }
}

#[test]
fn as_many_candidates_as_asked_for() {
    let (n, m, dimensions) = (2500, 6, 8);
    for (cell_share, whole_cells) in [(1.0, true), (0.5, false)] {
        let context = context(Metric::InnerProduct, Storage::F32, dimensions, 1);
        let mut dci = Dci::with_options(&context, DciOptions { cell_share, ..DciOptions::default() });
        insert(
            &mut dci,
            &context,
            &vectors(Metric::InnerProduct, 8, n, dimensions),
            &(0..n as u32).collect::<Vec<_>>(),
        );
        let queries = vectors(Metric::InnerProduct, 9, m, dimensions);
        for candidates in [1, 3, 100, 1000, 2499] {
            // As many neighbours as candidates.
            for found in Question::new(&queries, candidates, Effort::Share(1e-6)).ask(&context, &dci, n) {
                if whole_cells {
                    assert_eq!(found.len(), candidates);
                } else {
                    // At least those of whole cells, half of each.
                    assert!(found.len() >= candidates.min(n / 2) && found.len() <= candidates, "{}", found.len());
                }
            }
        }
    }
}

#[test]
fn one_by_one_is_as_good_as_all_at_once() {
    let (n, m, dimensions, k) = (2500, 50, 10, 10);
    for metric in METRICS {
        let context = context(metric, Storage::F32, dimensions, 1);
        // Ever longer vectors: c grows all the time.
        let mut all = vectors(metric, 10, n, dimensions);
        if metric != Metric::Cosine {
            all.chunks_mut(dimensions)
                .enumerate()
                .for_each(|(i, x)| x.iter_mut().for_each(|x| *x *= 1.0 + i as f32 / 500.0));
        }
        let mut batch = Dci::new(&context);
        insert(&mut batch, &context, &all, &(0..n as u32).collect::<Vec<u32>>());
        let mut single = Dci::new(&context);
        for (slot, vector) in all.chunks(dimensions).enumerate() {
            insert(&mut single, &context, vector, &[slot as u32]);
        }
        assert!(check(&context, &batch) > 0.999);
        let home = check(&context, &single);
        assert!(home > 0.9, "{metric:?}: {home}");
        let queries = vectors(metric, 11, m, dimensions);
        let question = Question::new(&queries, k, Effort::Share(0.1));
        let truth = question.exact(&context, &batch);
        let (at_once, one_by_one) =
            (recall(&question.ask(&context, &batch, n), &truth), recall(&question.ask(&context, &single, n), &truth));
        assert!(one_by_one > at_once - 0.03, "{metric:?}: {one_by_one}, at once {at_once}");
    }
}

#[test]
fn removal_leaves_nothing_behind_and_recall_as_it_was() {
    let (n, m, dimensions, k) = (2500, 60, 10, 10);
    for metric in METRICS {
        let context = context(metric, Storage::F32, dimensions, 2);
        let mut dci = Dci::new(&context);
        insert(&mut dci, &context, &vectors(metric, 20, n, dimensions), &(0..n as u32).collect::<Vec<u32>>());
        let queries = vectors(metric, 21, m, dimensions);
        for round in 0..6 {
            let gone: Vec<u32> =
                (0..n as u32).filter(|&slot| mix(u64::from(slot) + 77 * round).is_multiple_of(2)).collect();
            dci.remove(&context, &gone).unwrap();
            assert!(check(&context, &dci) > 0.9);
            let ids = ids(n);
            let gone_ids: BTreeSet<u64> = gone.iter().map(|&slot| ids.id(slot)).collect();
            for effort in [Effort::Share(0.1), Effort::Exact] {
                for found in Question::new(&queries, 30, effort).ask(&context, &dci, n) {
                    assert!(found.len() == 30 && found.iter().all(|near| !gone_ids.contains(&near.id)));
                }
            }
            insert(&mut dci, &context, &vectors(metric, 30 + round, gone.len(), dimensions), &gone);
            assert!(check(&context, &dci) > 0.9);
        }
        // The same vectors in a fresh index.
        let mut all = vec![0.0; n * dimensions];
        all.chunks_mut(dimensions).enumerate().for_each(|(slot, row)| dci.read(&context, slot as u32, row));
        let mut fresh = Dci::new(&context);
        insert(&mut fresh, &context, &all, &(0..n as u32).collect::<Vec<u32>>());
        let question = Question::new(&queries, k, Effort::Share(0.1));
        let truth = question.exact(&context, &fresh);
        let (worn, new) =
            (recall(&question.ask(&context, &dci, n), &truth), recall(&question.ask(&context, &fresh, n), &truth));
        assert!(worn > new - 0.02, "{metric:?}: {worn}, fresh {new}");
        // Nothing at all.
        dci.remove(&context, &(0..n as u32).collect::<Vec<u32>>()).unwrap();
        assert_eq!((check(&context, &dci), dci.len, dci.layers.len()), (1.0, 0, 0));
        assert!(question.ask(&context, &dci, n).iter().all(Vec::is_empty));
    }
}

#[test]
fn compacting_renumbers_and_gives_memory_back() {
    let (n, dimensions) = (2000, 9);
    let context = context(Metric::L2, Storage::I8, dimensions, 2);
    let mut dci = Dci::new(&context);
    insert(&mut dci, &context, &vectors(Metric::L2, 40, n, dimensions), &(0..n as u32).collect::<Vec<u32>>());
    dci.remove(&context, &(0..n as u32).filter(|slot| slot % 4 > 0).collect::<Vec<u32>>()).unwrap();
    let before = dci.bytes();
    let mut kept = vec![0.0; dimensions];
    dci.read(&context, 400, &mut kept);
    let renumber: Vec<u32> = (0..n as u32).map(|slot| if slot % 4 == 0 { slot / 4 } else { u32::MAX }).collect();
    dci.compact(&context, &renumber).unwrap();
    let mut moved = vec![0.0; dimensions];
    dci.read(&context, 100, &mut moved);
    assert_eq!(moved, kept);
    assert!(check(&context, &dci) > 0.999);
    assert!(dci.bytes().reserved < before.reserved / 2 && dci.bytes().reserved >= dci.bytes().live);
    let mut fresh = Dci::new(&context);
    let mut all = vec![0.0; n / 4 * dimensions];
    all.chunks_mut(dimensions).enumerate().for_each(|(slot, row)| dci.read(&context, slot as u32, row));
    insert(&mut fresh, &context, &all, &(0..n as u32 / 4).collect::<Vec<u32>>());
    assert!(dci.bytes().reserved <= fresh.bytes().reserved * 11 / 10);
}

#[test]
fn the_same_whatever_the_threads() {
    let (n, m, dimensions) = (3000, 70, 16);
    let mut answers = Vec::new();
    for threads in [1, 2, 5] {
        let context = context(Metric::InnerProduct, Storage::F32, dimensions, threads);
        let mut dci = Dci::new(&context);
        let all = vectors(Metric::InnerProduct, 50, n, dimensions);
        let (first, second) = all.split_at(2000 * dimensions);
        insert(&mut dci, &context, first, &(0..2000).collect::<Vec<u32>>());
        insert(&mut dci, &context, second, &(2000..3000).collect::<Vec<u32>>());
        dci.remove(&context, &(500..900).collect::<Vec<u32>>()).unwrap();
        let queries = vectors(Metric::InnerProduct, 51, m, dimensions);
        let question = Question::new(&queries, 8, Effort::Share(0.05));
        answers.push(question.ask(&context, &dci, n));
        let one_by_one = queries.chunks(dimensions).map(|query| {
            Question { queries: query, ..Question::new(query, 8, Effort::Share(0.05)) }.ask(&context, &dci, n).remove(0)
        });
        answers.push(one_by_one.collect());
    }
    assert!(answers.windows(2).all(|pair| pair[0] == pair[1]));
    let mut context = context(Metric::InnerProduct, Storage::F32, dimensions, 1);
    context.seed = 12;
    let mut other = Dci::new(&context);
    insert(
        &mut other,
        &context,
        &vectors(Metric::InnerProduct, 50, 2000, dimensions),
        &(0..2000).collect::<Vec<u32>>(),
    );
    assert_ne!(other.layers[0].len(), 0);
    assert!((0..2000).any(|slot| other.level(slot) != Dci { seed: 11, ..other.clone() }.level(slot)));
}

#[test]
fn forks_do_not_see_changes() {
    let (n, dimensions) = (1500, 8);
    let context = context(Metric::Cosine, Storage::Bf16, dimensions, 1);
    let mut dci = Dci::new(&context);
    insert(&mut dci, &context, &vectors(Metric::Cosine, 60, n, dimensions), &(0..n as u32).collect::<Vec<u32>>());
    let queries = vectors(Metric::Cosine, 61, 10, dimensions);
    let question = Question::new(&queries, 5, Effort::Share(0.2));
    let before = question.ask(&context, &dci, 2 * n);
    let fork = dci.fork();
    dci.remove(&context, &(0..700).collect::<Vec<u32>>()).unwrap();
    insert(
        &mut dci,
        &context,
        &vectors(Metric::Cosine, 62, 900, dimensions),
        &(n as u32..n as u32 + 900).collect::<Vec<_>>(),
    );
    assert_ne!(question.ask(&context, &dci, 2 * n), before);
    assert_eq!(question.ask(&context, &*fork, 2 * n), before);
}

#[test]
fn filters_keep_their_recall() {
    let (n, m, dimensions) = (3000, 40, 10);
    let context = context(Metric::L2, Storage::F32, dimensions, 2);
    let mut dci = Dci::new(&context);
    insert(&mut dci, &context, &vectors(Metric::L2, 70, n, dimensions), &(0..n as u32).collect::<Vec<u32>>());
    let queries = vectors(Metric::L2, 71, m, dimensions);
    for one_in in [2, 10, 400] {
        let mut allowed = SlotSet::new(n);
        (0..n as u32).step_by(one_in).for_each(|slot| allowed.insert(slot));
        let question = Question { allowed: Some(&allowed), ..Question::new(&queries, 10, Effort::Share(0.2)) };
        let (found, truth) = (question.ask(&context, &dci, n), question.exact(&context, &dci));
        assert!(recall(&found, &truth) > 0.8, "one in {one_in}: {}", recall(&found, &truth));
    }
}

#[test]
fn a_cancelled_search_says_so() {
    let (n, dimensions) = (1000, 4);
    let context = context(Metric::L2, Storage::F32, dimensions, 1);
    let mut dci = Dci::new(&context);
    let all = vectors(Metric::L2, 80, n, dimensions);
    insert(&mut dci, &context, &all, &(0..n as u32).collect::<Vec<u32>>());
    let (cancel, ids) = (AtomicBool::new(true), ids(n));
    for effort in [Effort::Exact, Effort::Share(0.1)] {
        let request =
            Request { queries: &all, k: 3, effort, floor: -1.0, allowed: None, ids: &ids, cancel: Some(&cancel) };
        let found = dci.search(&context, &request, &|_, _| panic!("nothing was to be found"));
        assert_eq!(found, Err(Error::Cancelled));
    }
}

fn saved(dci: &Dci, slots: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = Writer::new(&mut bytes).unwrap();
    dci.write(&mut writer, slots).unwrap();
    let description = Description {
        dimensions: dci.dimensions as u32,
        value_dimensions: 0,
        metric: 0,
        storage: 0,
        algorithm: 0,
        structure: 0,
        seed: dci.seed,
        len: dci.len as u64,
        slots: slots as u64,
    };
    writer.finish(description).unwrap();
    bytes
}

#[test]
fn loads_what_was_saved_and_nothing_that_cannot_be() {
    let (n, dimensions) = (2600, 7);
    let context = context(Metric::InnerProduct, Storage::F32, dimensions, 1);
    let mut dci = Dci::new(&context);
    insert(&mut dci, &context, &vectors(Metric::InnerProduct, 90, n, dimensions), &(0..n as u32).collect::<Vec<u32>>());
    dci.remove(&context, &(0..n as u32).step_by(5).collect::<Vec<u32>>()).unwrap();
    assert!(dci.layers.len() == 2, "{}", dci.layers.len());
    let mut taken = SlotSet::new(n);
    dci.slots().for_each(|slot| taken.insert(slot));
    let load = |dci: &Dci| {
        let bytes = saved(dci, n);
        Dci::load(&context, &mut Reader::from_bytes(&bytes).unwrap(), &taken, n)
    };
    let mut loaded = load(&dci).unwrap();
    check(&context, &loaded);
    let queries = vectors(Metric::InnerProduct, 91, 20, dimensions);
    let question = Question::new(&queries, 12, Effort::Share(0.1));
    assert_eq!(question.ask(&context, &loaded, n), question.ask(&context, &dci, n));
    // It goes on like the one that was saved.
    let more = vectors(Metric::InnerProduct, 92, 300, dimensions);
    let slots: Vec<u32> = (0..n as u32).step_by(5).take(300).collect();
    insert(&mut loaded, &context, &more, &slots);
    loaded.remove(&context, &[1, 2, 3, 4, 5, 6]).unwrap();
    assert!(check(&context, &loaded) > 0.9);

    let first = dci.layers[0].cells().next().map(|(number, _)| number).unwrap();
    let owner = dci.layers[0].cell(first).owner;
    let other = dci.slots().find(|&slot| slot != owner).unwrap();
    let damages: [Damage<'_>; 10] = [
        ("a slot in no cell", &|dci| dci.cell_of.row_mut(other as usize)[0] = FREE),
        ("a slot in a cell beyond the last", &|dci| dci.cell_of.row_mut(other as usize)[0] = 1 << 20),
        ("a slot outside of all cells", &|dci| dci.cell_of.row_mut(other as usize)[0] = FLAT),
        ("an owner without its cell", &|dci| dci.cell_of.row_mut(owner as usize)[0] = first + 1),
        ("an owner that is no slot", &|dci| dci.layers[0].cell_mut(first).owner = n as u32 + 9),
        ("a free slot as owner", &|dci| dci.layers[0].cell_mut(first).owner = 0),
        ("a cell without a parent", &|dci| dci.layers[0].cell_mut(first).parent = NONE),
        ("a parent that is none", &|dci| dci.layers[0].cell_mut(first).parent = 1 << 20),
        ("a length that is none", &|dci| dci.embedding.longest = f32::NAN),
        ("a negative squared length", &|dci| dci.squared.row_mut(other as usize)[0] = -1.0),
    ];
    for (name, damage) in damages {
        let mut damaged = dci.clone();
        damage(&mut damaged);
        let error = load(&damaged).expect_err(name);
        assert_eq!(error.code(), "ERR_FILE_CORRUPT", "{name}: {error}");
    }
}
