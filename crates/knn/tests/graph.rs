//! The graph algorithm through the public interface: recall, updates, filters, forks, and the same answers whatever
//! the threads and the SIMD level.

mod common;
mod random;

use std::collections::{HashMap, HashSet};

use iceformer_knn::{Algorithm, FilterKind, Index, IndexOptions, Metric, Neighbours, SearchOptions, Storage};
use iceformer_simd::supported;
use iceformer_threads::ThreadPool;

use common::{METRICS, Numbers};

const D: usize = 32;
const K: usize = 10;

/// Vectors around centres of different weights, as attention keys are: a common mean, clusters, different lengths.
fn clustered(random: &mut Numbers, n: usize) -> Vec<f32> {
    clustered_anew(99, random, n)
}

/// The same around the centres of another seed.
fn clustered_anew(centres_seed: u64, random: &mut Numbers, n: usize) -> Vec<f32> {
    let mut fixed = Numbers::new(centres_seed, 1.0);
    let centres: Vec<f32> = (0..40 * D).map(|_| 2.0 * fixed.normal()).collect();
    let mean: Vec<f32> = (0..D).map(|_| 3.0 * fixed.normal()).collect();
    let mut vectors = Vec::with_capacity(n * D);
    for _ in 0..n {
        let centre = random.below(40);
        let spread = 0.4 + 0.02 * centre as f32;
        vectors.extend((0..D).map(|i| mean[i] + centres[centre * D + i] + spread * random.normal()));
    }
    vectors
}

fn make(metric: Metric, threads: usize) -> Index {
    let mut options = IndexOptions::new(D);
    (options.metric, options.algorithm) = (metric, Algorithm::Graph);
    Index::new(options, ThreadPool::new(threads)).unwrap()
}

fn walk(index: &Index, queries: &[f32], width: usize) -> Neighbours {
    let effort = Some((width as f32 / index.len() as f32).min(1.0));
    index.search(queries, SearchOptions { effort, ..SearchOptions::nearest(K) }).unwrap()
}

fn exactly(index: &Index, queries: &[f32]) -> Neighbours {
    index.search(queries, SearchOptions { exact: true, ..SearchOptions::nearest(K) }).unwrap()
}

/// Share of the nearest that a walk of this width finds.
fn recall(index: &Index, queries: &[f32], width: usize) -> f64 {
    let (found, truth) = (walk(index, queries, width), exactly(index, queries));
    let mut hits = 0;
    for (found, truth) in found.ids.chunks_exact(K).zip(truth.ids.chunks_exact(K)) {
        let truth: HashSet<u64> = truth.iter().copied().collect();
        hits += found.iter().filter(|&id| truth.contains(id)).count();
    }
    hits as f64 / truth.ids.len() as f64
}

#[test]
fn walks_find_the_nearest() {
    // The mean of several: by inner product recall depends on where the centres happen to be.
    const SEEDS: [u64; 4] = [1, 3, 5, 7];
    for metric in METRICS {
        let (mut narrow, mut wide) = (0.0, 0.0);
        for seed in SEEDS {
            let mut random = Numbers::new(seed, 1.0);
            let mut index = make(metric, 2);
            index.add_batch(&clustered_anew(seed + 100, &mut random, 8000), None, None).unwrap();
            let queries = clustered_anew(seed + 100, &mut random, 100);
            narrow += recall(&index, &queries, 40) / SEEDS.len() as f64;
            wide += recall(&index, &queries, 160) / SEEDS.len() as f64;
        }
        assert!(narrow > 0.9 && wide > 0.97, "{metric:?}: {narrow} {wide}");
    }
}

#[test]
fn exact_search_is_brute_force() {
    for metric in METRICS {
        let mut random = Numbers::new(2, 1.0);
        let (vectors, queries) = (clustered(&mut random, 3000), clustered(&mut random, 40));
        let mut index = make(metric, 2);
        index.add_batch(&vectors, None, None).unwrap();
        let mut options = *index.options();
        options.algorithm = Algorithm::Exact;
        let mut flat = Index::new(options, ThreadPool::new(1)).unwrap();
        flat.add_batch(&vectors, None, None).unwrap();
        assert_eq!(exactly(&index, &queries), exactly(&flat, &queries), "{metric:?}");
    }
}

#[test]
fn one_by_one_is_as_good_as_a_batch() {
    let mut random = Numbers::new(3, 1.0);
    let (vectors, queries) = (clustered(&mut random, 4000), clustered(&mut random, 100));
    let (mut batch, mut single) = (make(Metric::InnerProduct, 2), make(Metric::InnerProduct, 2));
    batch.add_batch(&vectors, None, None).unwrap();
    for vector in vectors.chunks_exact(D) {
        single.add(vector, None, None).unwrap();
    }
    let (batch, single) = (recall(&batch, &queries, 40), recall(&single, &queries, 40));
    assert!(single > batch - 0.02, "one by one {single}, at once {batch}");
}

#[test]
fn churn_keeps_recall() {
    for (metric, at_once) in [(Metric::InnerProduct, 2000), (Metric::Cosine, 2000), (Metric::L2, 25)] {
        let mut random = Numbers::new(4, 1.0);
        let mut index = make(metric, 2);
        let first = clustered(&mut random, 4000);
        let ids = index.add_batch(&first, None, None).unwrap();
        let mut live: HashMap<u64, Vec<f32>> =
            ids.into_iter().zip(first.chunks_exact(D).map(<[f32]>::to_vec)).collect();
        for _ in 0..5 * 2000 / at_once {
            let mut gone: Vec<u64> = live.keys().copied().collect();
            gone.sort_unstable();
            for i in 0..at_once {
                let j = i + random.below(gone.len() - i);
                gone.swap(i, j);
            }
            gone.truncate(at_once);
            assert_eq!(index.remove_batch(&gone).unwrap(), at_once);
            for id in &gone {
                drop(live.remove(id));
            }
            let fresh = clustered(&mut random, at_once);
            let ids = index.add_batch(&fresh, None, None).unwrap();
            live.extend(ids.into_iter().zip(fresh.chunks_exact(D).map(<[f32]>::to_vec)));
        }
        let mut anew = make(metric, 2);
        let mut ids: Vec<u64> = live.keys().copied().collect();
        ids.sort_unstable();
        let vectors: Vec<f32> = ids.iter().flat_map(|id| live[id].clone()).collect();
        anew.add_batch(&vectors, Some(&ids), None).unwrap();
        let queries = clustered(&mut random, 200);
        assert_eq!(exactly(&index, &queries), exactly(&anew, &queries));
        for width in [40, 80] {
            let (churned, fresh) = (recall(&index, &queries, width), recall(&anew, &queries, width));
            assert!(churned > fresh - 0.01, "{metric:?} {at_once} width {width}: {churned} after churn, {fresh} fresh");
        }
        index.compact().unwrap();
        let (compacted, fresh) = (recall(&index, &queries, 80), recall(&anew, &queries, 80));
        assert!(compacted > fresh - 0.01, "{metric:?} {at_once}: {compacted} compacted, {fresh} fresh");
        let (used, needed) = (index.stats().live_bytes, anew.stats().live_bytes);
        assert!(used as f64 <= 1.1 * needed as f64, "{used} bytes, fresh {needed}");
    }
}

#[test]
fn filters_find_only_what_is_allowed() {
    let mut random = Numbers::new(5, 1.0);
    let mut index = make(Metric::InnerProduct, 2);
    index.add_batch(&clustered(&mut random, 5000), None, None).unwrap();
    let queries = clustered(&mut random, 50);
    let snapshot = index.snapshot();
    for every in [2, 10, 1000] {
        let ids: Vec<u64> = (0..5000).step_by(every).collect();
        let filter = snapshot.filter(FilterKind::Ids(&ids), false);
        let options = SearchOptions { filter: Some(&filter), effort: Some(0.01), ..SearchOptions::nearest(K) };
        let found = snapshot.search(&queries, options).unwrap();
        let truth = snapshot.search(&queries, SearchOptions { exact: true, ..options }).unwrap();
        assert_eq!(found.counts, truth.counts);
        let mut hits = 0;
        for (row, (found, truth)) in found.ids.chunks_exact(K).zip(truth.ids.chunks_exact(K)).enumerate() {
            let count = truth.len().min(ids.len());
            assert!(found[..count].iter().all(|id| id.is_multiple_of(every as u64)), "query {row}");
            hits += found[..count].iter().filter(|id| truth.contains(id)).count();
        }
        let share = hits as f64 / (50 * K.min(ids.len())) as f64;
        assert!(share > 0.85, "every {every}th: {share}");
    }
}

#[test]
fn threads_and_levels_do_not_matter() {
    let mut random = Numbers::new(6, 1.0);
    let (vectors, queries) = (clustered(&mut random, 3000), clustered(&mut random, 64));
    for metric in METRICS {
        let mut all: Option<(Neighbours, Neighbours)> = None;
        for kernels in supported() {
            for threads in [1, 3] {
                let mut options = IndexOptions::new(D);
                (options.metric, options.algorithm, options.storage) = (metric, Algorithm::Graph, Storage::F32);
                let mut index = Index::with_kernels(options, ThreadPool::new(threads), kernels).unwrap();
                index.add_batch(&vectors[..2500 * D], None, None).unwrap();
                index.remove_batch(&(0..500).collect::<Vec<_>>()).unwrap();
                index.add_batch(&vectors[2500 * D..], None, None).unwrap();
                let single: Vec<Neighbours> = queries.chunks_exact(D).map(|query| walk(&index, query, 12)).collect();
                let found = walk(&index, &queries, 12);
                for (row, single) in single.iter().enumerate() {
                    assert_eq!(single.ids, found.ids[row * K..(row + 1) * K]);
                }
                let now = (found, walk(&index, &queries, 60));
                assert_eq!(*all.get_or_insert_with(|| now.clone()), now, "{metric:?} {:?} {threads}", kernels.level);
            }
        }
    }
}

#[test]
fn a_snapshot_stays_as_it_was() {
    let mut random = Numbers::new(7, 1.0);
    let mut index = make(Metric::L2, 2);
    index.add_batch(&clustered(&mut random, 3000), None, None).unwrap();
    let queries = clustered(&mut random, 30);
    let snapshot = index.snapshot();
    let options = SearchOptions { effort: Some(0.02), ..SearchOptions::nearest(K) };
    let before = snapshot.search(&queries, options).unwrap();
    index.remove_batch(&(0..1500).collect::<Vec<_>>()).unwrap();
    index.add_batch(&clustered(&mut random, 2500), None, None).unwrap();
    assert_eq!(snapshot.search(&queries, options).unwrap(), before);
    assert!(exactly(&index, &queries).ids.iter().all(|id| !(0..1500).contains(id)));
}

#[test]
fn an_index_read_back_finds_the_same() {
    for storage in Storage::ALL {
        let mut random = Numbers::new(8, 1.0);
        let mut options = IndexOptions::new(D);
        (options.algorithm, options.storage) = (Algorithm::Graph, storage);
        let mut index = Index::new(options, ThreadPool::new(2)).unwrap();
        index.add_batch(&clustered(&mut random, 2000), None, None).unwrap();
        index.remove_batch(&(100..400).collect::<Vec<_>>()).unwrap();
        let mut copy = Index::from_bytes(&index.to_bytes().unwrap(), ThreadPool::new(2)).unwrap();
        let queries = clustered(&mut random, 30);
        assert_eq!(walk(&copy, &queries, 30), walk(&index, &queries, 30), "{storage:?}");
        let more = clustered(&mut random, 500);
        index.add_batch(&more, None, None).unwrap();
        copy.add_batch(&more, None, None).unwrap();
        let (copied, original) = (recall(&copy, &queries, 60), recall(&index, &queries, 60));
        assert!((copied - original).abs() < 0.03, "{storage:?}: {copied} read back, {original}");
    }
}

#[test]
fn vectors_that_are_all_alike_or_few_are_found() {
    for metric in METRICS {
        let mut index = make(metric, 2);
        index.add(&[1.0; D], None, None).unwrap();
        assert_eq!(walk(&index, &[1.0; D], 4).ids[0], 0);
        index.add_batch(&vec![1.0; 700 * D], None, None).unwrap();
        let mut far = [-5.0; D];
        far[0] = 1.0;
        let last = index.add(&far, None, None).unwrap();
        assert_eq!(exactly(&index, &far).ids[0], last, "{metric:?}");
        assert_eq!(walk(&index, &[1.0; D], 12).counts, [K as u32]);
        index.remove_batch(&(0..=last).collect::<Vec<_>>()).unwrap();
        assert!(index.is_empty());
        index.add_batch(&vec![2.0; 5 * D], None, None).unwrap();
        assert_eq!(walk(&index, &[1.0; D], 12).counts, [5]);
    }
}
