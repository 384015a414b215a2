//! What clustered search finds without being told how much to read, and that it stays so as an index grows.

use std::collections::HashSet;

use iceformer_knn::{Algorithm, Index, IndexOptions, Metric, SearchOptions, Storage};
use iceformer_threads::ThreadPool;

const DIMENSIONS: usize = 32;
const GROUPS: u64 = 60;

/// Numbers around 0 with variance 1 (sums of twelve uniform ones).
struct Normal(u64);

impl Normal {
    fn bits(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn next(&mut self) -> f32 {
        (0..12).map(|_| (self.bits() >> 40) as f32 / (1 << 24) as f32).sum::<f32>() - 6.0
    }

    /// `count` vectors, each near one of the centres.
    fn near(&mut self, centres: &[f32], count: usize) -> Vec<f32> {
        (0..count)
            .flat_map(|_| {
                let group = (self.bits() >> 20) as usize % GROUPS as usize;
                let centre = &centres[group * DIMENSIONS..(group + 1) * DIMENSIONS];
                centre.iter().map(|c| c + 0.4 * self.next()).collect::<Vec<_>>()
            })
            .collect()
    }
}

fn recall(found: &[u64], truth: &[u64], k: usize) -> f64 {
    let hits: usize = found
        .chunks_exact(k)
        .zip(truth.chunks_exact(k))
        .map(|(found, truth)| {
            let truth: HashSet<_> = truth.iter().collect();
            found.iter().filter(|id| truth.contains(id)).count()
        })
        .sum();
    hits as f64 / truth.len() as f64
}

#[test]
fn default_effort_finds_nine_of_ten() {
    for metric in [Metric::InnerProduct, Metric::Cosine, Metric::L2] {
        for storage in [Storage::F32, Storage::Bf16] {
            let mut normal = Normal(42);
            let centres: Vec<f32> = (0..GROUPS as usize * DIMENSIONS).map(|_| normal.next()).collect();
            let options = IndexOptions {
                metric,
                storage,
                algorithm: Algorithm::Cluster,
                seed: 1,
                ..IndexOptions::new(DIMENSIONS)
            };
            let mut index = Index::new(options, ThreadPool::new(2)).unwrap();
            let queries = normal.near(&centres, 200);
            // In one piece, then in many: the segments of a grown index must find as much.
            index.add_batch(&normal.near(&centres, 12_000), None, None).unwrap();
            for round in 0..60 {
                if round % 20 == 0 {
                    let truth =
                        index.search(&queries, SearchOptions { exact: true, ..SearchOptions::nearest(10) }).unwrap();
                    let found = index.search(&queries, SearchOptions::nearest(10)).unwrap();
                    let share = recall(&found.ids, &truth.ids, 10);
                    assert!(share >= 0.9, "{metric:?} {storage:?} {}: {share}", index.len());
                    // The test would prove nothing if everything were read.
                    let little = SearchOptions { effort: Some(0.002), ..SearchOptions::nearest(10) };
                    let little = index.search(&queries, little).unwrap();
                    assert!(recall(&little.ids, &truth.ids, 10) < share);
                }
                index.add_batch(&normal.near(&centres, 150), None, None).unwrap();
            }
            assert!(index.clustered() >= 20_000, "{}", index.clustered());
        }
    }
}

/// More effort never finds less on the whole, and all of it finds everything.
#[test]
fn effort_buys_recall() {
    let mut normal = Normal(7);
    let vectors: Vec<f32> = (0..20_000 * DIMENSIONS).map(|_| normal.next()).collect();
    let options = IndexOptions { algorithm: Algorithm::Cluster, ..IndexOptions::new(DIMENSIONS) };
    let mut index = Index::new(options, ThreadPool::new(2)).unwrap();
    index.add_batch(&vectors, None, None).unwrap();
    let queries: Vec<f32> = (0..100 * DIMENSIONS).map(|_| normal.next()).collect();
    let truth = index.search(&queries, SearchOptions { exact: true, ..SearchOptions::nearest(5) }).unwrap();
    let mut last = 0.0;
    for effort in [0.01, 0.1, 0.5, 1.0] {
        let found =
            index.search(&queries, SearchOptions { effort: Some(effort), ..SearchOptions::nearest(5) }).unwrap();
        let this = recall(&found.ids, &truth.ids, 5);
        assert!(this > last, "effort {effort}: {this} after {last}");
        last = this;
    }
    assert!((last - 1.0).abs() < f64::EPSILON);
}

/// The least effort still finds k, also when many segments end in a cluster of one vector.
#[test]
fn the_least_effort_finds_k() {
    let mut normal = Normal(11);
    let options = IndexOptions { algorithm: Algorithm::Cluster, ..IndexOptions::new(8) };
    let mut index = Index::new(options, ThreadPool::new(2)).unwrap();
    for size in [8193, 4001, 1985, 961] {
        let vectors: Vec<f32> = (0..size * 8).map(|_| normal.next()).collect();
        index.add_batch(&vectors, None, None).unwrap();
    }
    assert_eq!(index.clustered(), index.len());
    let queries: Vec<f32> = (0..40 * 8).map(|_| normal.next()).collect();
    for k in [1, 33, 64, 1000] {
        let little = SearchOptions { effort: Some(1e-6), ..SearchOptions::nearest(k) };
        let found = index.search(&queries, little).unwrap();
        assert!(found.ids.iter().all(|&id| id < index.len() as u64), "k {k}");
    }
}

/// Clusters and what describes them cost a few percent of the vectors.
#[test]
fn clusters_take_little_memory() {
    let mut normal = Normal(3);
    let vectors: Vec<f32> = (0..20_000 * 64).map(|_| normal.next()).collect();
    let options = IndexOptions { algorithm: Algorithm::Cluster, ..IndexOptions::new(64) };
    let mut index = Index::new(options, ThreadPool::new(1)).unwrap();
    index.add_batch(&vectors, None, None).unwrap();
    assert_eq!(index.clustered(), 20_000);
    assert!(index.bytes() < size_of_val(&*vectors) * 11 / 10, "{}", index.bytes());
}
