//! Files of format version 1, written once: every later release must open them and find the same.
//!
//! `KNN_WRITE_GOLDEN=1 cargo test -p iceformer-knn --test golden` writes them. That is for a new version of the format
//! only, with new names: those that are there stay as they are.

use std::path::PathBuf;

use iceformer_knn::{Algorithm, Index, IndexOptions, Metric, OpenOptions, SearchOptions, Storage};
use iceformer_threads::ThreadPool;

const VECTORS: u64 = 48;

/// The `n`-th number of an endless row, a multiple of 1/64 from −1 to 1.
fn number(n: u64) -> f32 {
    ((n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33) % 129) as f32 / 64.0 - 1.0
}

fn vector(id: u64, dimensions: usize) -> Vec<f32> {
    (0..dimensions as u64).map(|i| number(id * 64 + i)).collect()
}

fn value(id: u64) -> f32 {
    number(id + (1 << 32))
}

/// An index of each structure, with storages and metrics of all kinds among them.
fn options() -> [(&'static str, IndexOptions); 4] {
    let options = |algorithm, metric, storage, dimensions, value_dimensions| IndexOptions {
        dimensions,
        metric,
        storage,
        algorithm,
        seed: 11,
        value_dimensions,
    };
    [
        ("exact", options(Algorithm::Exact, Metric::L2, Storage::F32, 5, 1)),
        ("cluster", options(Algorithm::Cluster, Metric::InnerProduct, Storage::I8, 3, 0)),
        ("graph", options(Algorithm::Graph, Metric::Cosine, Storage::F16, 6, 0)),
        ("dci", options(Algorithm::Dci, Metric::L2, Storage::Bf16, 6, 1)),
    ]
}

/// Ids in the file: in no order, with a gap.
fn ids() -> Vec<u64> {
    (0..VECTORS).map(|i| i * 29 % VECTORS + if i % 2 == 0 { 0 } else { 1 << 33 }).collect()
}

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(format!("{name}-1.knn"))
}

fn make(options: IndexOptions) -> Index {
    let mut index = Index::new(options, ThreadPool::new(1)).unwrap();
    let mut add = |ids: &[u64]| {
        let vectors: Vec<f32> = ids.iter().flat_map(|&id| vector(id, options.dimensions)).collect();
        let values: Vec<f32> = ids.iter().map(|&id| value(id)).collect();
        index.add_batch(&vectors, Some(ids), (options.value_dimensions > 0).then_some(&values)).unwrap();
    };
    // Enough for clusters, most of which are soon removed: the file has free slots.
    let many: Vec<u64> = (1000..2040).collect();
    add(if options.algorithm == Algorithm::Cluster { &many } else { &many[..8] });
    add(&ids());
    index.remove_batch(&many).unwrap();
    index
}

#[test]
fn files_of_version_1_open_for_ever() {
    if std::env::var_os("KNN_WRITE_GOLDEN").is_some() {
        for (name, options) in options() {
            make(options).save(path(name)).unwrap();
        }
    }
    for (name, expected) in options() {
        for mapped in [false, true] {
            let how = OpenOptions { mapped, ..OpenOptions::default() };
            let mut index = Index::open(path(name), how, ThreadPool::new(1)).unwrap();
            assert_eq!(index.options(), &expected);
            let mut sorted = ids();
            sorted.sort_unstable();
            assert_eq!((index.ids(), index.largest_id()), (sorted.clone(), Some((1 << 33) + 47)));
            assert_eq!(index.stats().clusters > 0, name == "cluster");
            let d = expected.dimensions;
            for &id in &sorted {
                let (stored, given) = (index.get(id).unwrap(), vector(id, d));
                let length = given.iter().map(|x| x * x).sum::<f32>().sqrt();
                let scale = if expected.metric == Metric::Cosine { length.recip() } else { 1.0 };
                for (stored, given) in stored.iter().zip(given) {
                    let error = (stored - given * scale).abs();
                    assert!(error <= if expected.storage == Storage::F32 { 0.0 } else { 0.005 }, "{name}: {error}");
                }
                if expected.value_dimensions > 0 {
                    assert_eq!(index.value(id).unwrap(), [value(id)]);
                }
            }
            check_search(&index);
            // It is an index like any other.
            assert_eq!(index.remove_batch(&sorted[..10]).unwrap(), 10);
            let given: Vec<f32> = (0..20).flat_map(|id| vector(id + 500, d)).collect();
            let values: Vec<f32> = (0..20).map(value).collect();
            index.add_batch(&given, None, (expected.value_dimensions > 0).then_some(&values)).unwrap();
            check_search(&index);
        }
    }
}

/// Compares exact search with reading all vectors.
fn check_search(index: &Index) {
    let options = index.options();
    for query in 0..10 {
        let query = vector(query + 9000, options.dimensions);
        let length = query.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
        let mut expected: Vec<(f64, u64)> = index
            .ids()
            .into_iter()
            .map(|id| {
                let stored = index.get(id).unwrap();
                let pairs = stored.iter().zip(&query).map(|(&x, &q)| (f64::from(x), f64::from(q)));
                let score = match options.metric {
                    Metric::InnerProduct => -pairs.map(|(x, q)| x * q).sum::<f64>(),
                    Metric::Cosine => -pairs.map(|(x, q)| x * q).sum::<f64>() / length,
                    Metric::L2 => pairs.map(|(x, q)| (x - q) * (x - q)).sum::<f64>(),
                };
                (score, id)
            })
            .collect();
        expected.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        let found = index.search(&query, SearchOptions { exact: true, ..SearchOptions::nearest(5) }).unwrap();
        for ((score, id), (expected, _)) in found.scores.iter().zip(&found.ids).zip(&expected) {
            let score = if options.metric == Metric::L2 { *score } else { -score };
            assert!((f64::from(score) - expected).abs() < 1e-5, "id {id}: {score}, expected {expected}");
            assert!(index.has(*id));
        }
    }
}
