//! An index that has changed many times finds as much as a fresh one and takes no more memory, and searches reach the
//! recall they are asked for.

mod common;
mod random;

use common::{Numbers, recall};
use iceformer_knn::{Algorithm, Index, IndexOptions, Metric, SearchOptions};
use iceformer_threads::ThreadPool;

const VECTORS: usize = 20_000;
const DIMENSIONS: usize = 32;
const QUERIES: usize = 200;
const ROUNDS: usize = 10;
const K: usize = 10;

fn options(algorithm: Algorithm) -> IndexOptions {
    IndexOptions { algorithm, metric: Metric::L2, ..IndexOptions::new(DIMENSIONS) }
}

fn index(algorithm: Algorithm) -> Index {
    Index::new(options(algorithm), ThreadPool::new(2)).unwrap()
}

/// Recall@10 at an effort.
fn recall_of(index: &Index, queries: &[f32], effort: f32) -> f64 {
    let exact = index.search(queries, SearchOptions { exact: true, ..SearchOptions::nearest(K) }).unwrap();
    let found = index.search(queries, SearchOptions { effort: Some(effort), ..SearchOptions::nearest(K) }).unwrap();
    recall(&exact, &found, K, Metric::L2)
}

fn survives_churn(algorithm: Algorithm, effort: f32) {
    let mut numbers = Numbers::new(5, 1.0);
    let mut index = index(algorithm);
    // Groups come and go, so that the places of the vectors move with time.
    let mut centres = numbers.vectors(60, DIMENSIONS, false);
    let mut vectors = numbers.around(&centres, VECTORS, DIMENSIONS, 0.4);
    let mut ids = index.add_batch(&vectors, None, None).unwrap();
    let held = index.snapshot();
    for _ in 0..ROUNDS {
        let fresh = numbers.vectors(12, DIMENSIONS, false);
        let moved = numbers.below(5) * fresh.len();
        centres[moved..moved + fresh.len()].copy_from_slice(&fresh);
        let mut removed = Vec::new();
        let mut kept_ids = Vec::new();
        let mut kept = Vec::new();
        for (&id, vector) in ids.iter().zip(vectors.chunks_exact(DIMENSIONS)) {
            if numbers.share() < 0.5 {
                removed.push(id);
            } else {
                kept_ids.push(id);
                kept.extend_from_slice(vector);
            }
        }
        assert_eq!(index.remove_batch(&removed).unwrap(), removed.len());
        let new = numbers.around(&centres, removed.len(), DIMENSIONS, 0.4);
        kept_ids.extend(index.add_batch(&new, None, None).unwrap());
        kept.extend(new);
        (ids, vectors) = (kept_ids, kept);
    }
    assert_eq!((index.len(), held.len()), (VECTORS, VECTORS));
    drop(held);
    let mut fresh = self::index(algorithm);
    fresh.add_batch(&vectors, Some(&ids), None).unwrap();
    let queries = numbers.around(&centres, QUERIES, DIMENSIONS, 0.4);
    let expected = recall_of(&fresh, &queries, effort);
    assert!(expected >= 0.6, "an effort of {effort} shows nothing: {expected}");
    let churned = recall_of(&index, &queries, effort);
    assert!(churned >= expected - 0.01, "recall {churned}, fresh {expected}");
    index.compact().unwrap();
    fresh.compact().unwrap();
    let compact = recall_of(&index, &queries, effort);
    assert!(compact >= expected - 0.01, "compact: recall {compact}, fresh {expected}");
    let (live, fresh_live) = (index.stats().live_bytes, fresh.stats().live_bytes);
    assert!(live as f64 <= 1.1 * fresh_live as f64, "{live} bytes live, fresh {fresh_live}");
    let (held, fresh_held) = (index.stats().reserved_bytes, fresh.stats().reserved_bytes);
    assert!(held as f64 <= 1.1 * fresh_held as f64, "{held} bytes held, fresh {fresh_held}");
}

#[test]
fn clusters_survive_churn() {
    survives_churn(Algorithm::Cluster, 0.02);
}

#[test]
fn graph_survives_churn() {
    survives_churn(Algorithm::Graph, 0.001);
}

/// Exact search has nothing to lose but memory.
#[test]
fn exact_gives_memory_back() {
    let mut numbers = Numbers::new(5, 1.0);
    let mut index = index(Algorithm::Exact);
    let vectors = numbers.vectors(VECTORS, DIMENSIONS, false);
    let mut ids = index.add_batch(&vectors, None, None).unwrap();
    let fresh = index.stats();
    for _ in 0..ROUNDS {
        let (gone, stay): (Vec<u64>, Vec<u64>) = ids.iter().partition(|_| numbers.share() < 0.5);
        assert_eq!(index.remove_batch(&gone).unwrap(), gone.len());
        ids = stay;
        ids.extend(index.add_batch(&vectors[..gone.len() * DIMENSIONS], None, None).unwrap());
    }
    // Freed slots and memory are used again at once.
    assert!(index.stats().reserved_bytes as f64 <= 1.3 * fresh.reserved_bytes as f64, "{:?}", index.stats());
    index.compact().unwrap();
    assert!(index.stats().live_bytes as f64 <= 1.1 * fresh.live_bytes as f64, "{:?} {fresh:?}", index.stats());
    index.remove_batch(&ids[100..]).unwrap();
    index.compact().unwrap();
    assert!(index.stats().reserved_bytes < fresh.reserved_bytes / 50, "{:?}", index.stats());
}

/// Asked for a recall, the index finds an effort for it by itself, also with filters.
#[test]
fn target_recall_is_reached() {
    for algorithm in [Algorithm::Auto, Algorithm::Cluster, Algorithm::Graph, Algorithm::Dci] {
        let mut numbers = Numbers::new(9, 1.0);
        let mut index = index(algorithm);
        let centres = numbers.vectors(60, DIMENSIONS, false);
        index.add_batch(&numbers.around(&centres, VECTORS, DIMENSIONS, 0.4), None, None).unwrap();
        let queries = numbers.around(&centres, QUERIES, DIMENSIONS, 0.4);
        let snapshot = index.snapshot();
        let odd: Vec<u64> = (0..VECTORS as u64).filter(|id| id % 4 == 1).collect();
        let odd = snapshot.filter(iceformer_knn::FilterKind::Ids(&odd), false);
        for target in [0.7, 0.9, 0.99] {
            for filter in [None, Some(&odd)] {
                let nearest = SearchOptions { recall: Some(target), filter, ..SearchOptions::nearest(K) };
                let exact = snapshot.search(&queries, SearchOptions { exact: true, ..nearest }).unwrap();
                let found = snapshot.search(&queries, nearest).unwrap();
                let reached = recall(&exact, &found, K, Metric::L2);
                assert!(reached >= f64::from(target) - 0.03, "{algorithm:?} {target}: {reached}");
                if filter.is_none() {
                    let estimate = f64::from(snapshot.recall(64, nearest).unwrap());
                    assert!((estimate - reached).abs() < 0.06, "{algorithm:?}: {estimate}, true {reached}");
                }
            }
        }
    }
}
