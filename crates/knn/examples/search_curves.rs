//! Prints the time to build an index, and recall and time of searches at several efforts:
//! `cargo run --release -p iceformer-knn --example search_curves graph|cluster|dci ip|cosine|l2 dimensions keys.f32 queries.f32 [vectors [k]]`
//!
//! Files hold little-endian `f32`, one vector after another. One thread; times are those of the processor, so that
//! other work on the machine disturbs them less.
#![allow(clippy::print_stdout, reason = "a measuring program prints")]

use iceformer_knn::{Algorithm, Index, IndexOptions, Metric, SearchOptions};
use iceformer_threads::ThreadPool;
use std::collections::HashSet;

/// Queries measured.
const QUERIES: usize = 1000;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [algorithm, metric, dimensions, keys, queries, rest @ ..] = &arguments[..] else {
        println!("usage: search_curves graph|cluster|dci ip|cosine|l2 dimensions keys.f32 queries.f32 [vectors [k]]");
        return;
    };
    let algorithm = match &algorithm[..] {
        "graph" => Algorithm::Graph,
        "cluster" => Algorithm::Cluster,
        "dci" => Algorithm::Dci,
        _ => Algorithm::Exact,
    };
    let metric = match &metric[..] {
        "ip" => Metric::InnerProduct,
        "cosine" => Metric::Cosine,
        _ => Metric::L2,
    };
    let d: usize = dimensions.parse().expect("a number of dimensions");
    let numbers: Vec<usize> = rest.iter().map(|number| number.parse().expect("a number")).collect();
    let k = numbers.get(1).copied().unwrap_or(10);
    let keys = read(keys, d, numbers.first().copied().unwrap_or(usize::MAX));
    let queries = read(queries, d, QUERIES);
    let count = queries.len() / d;

    let mut options = IndexOptions::new(d);
    (options.metric, options.algorithm) = (metric, algorithm);
    let mut index = Index::new(options, ThreadPool::new(1)).expect("an index");
    let start = processor_seconds();
    index.add_batch(&keys, None, None).expect("added");
    let seconds = processor_seconds() - start;
    let bytes = index.stats().live_bytes as f64 / (index.len() * d * 4) as f64;
    println!("{} vectors, {seconds:.2} s to build, {bytes:.2} times the bytes of the vectors", index.len());

    let exact = SearchOptions { exact: true, ..SearchOptions::nearest(k) };
    let truth = index.search(&queries, exact).expect("found");
    println!("{:>10} {:>8} {:>14} {:>14}", "effort", "recall", "us, batch", "us, single");
    for wanted in [10, 20, 40, 60, 80, 120, 160, 240, 320, 480, 640, 1280, 2560] {
        let effort = wanted as f32 / index.len() as f32;
        if effort > 1.0 {
            break;
        }
        let options = SearchOptions { effort: Some(effort), ..SearchOptions::nearest(k) };
        let start = processor_seconds();
        let found = index.search(&queries, options).expect("found");
        let batch = (processor_seconds() - start) / count as f64;
        let snapshot = index.snapshot();
        let start = processor_seconds();
        for query in queries.chunks_exact(d) {
            snapshot.search(query, options).expect("found");
        }
        let single = (processor_seconds() - start) / count as f64;
        let mut hits = 0;
        for (found, truth) in found.ids.chunks_exact(k).zip(truth.ids.chunks_exact(k)) {
            let truth: HashSet<u64> = truth.iter().copied().collect();
            hits += found.iter().filter(|&id| truth.contains(id)).count();
        }
        let recall = hits as f64 / (count * k) as f64;
        println!("{wanted:>10} {recall:>8.4} {:>14.1} {:>14.1}", batch * 1e6, single * 1e6);
    }
}

/// Vectors of a file, at most `count`: `[n][d]`.
fn read(path: &str, d: usize, count: usize) -> Vec<f32> {
    let bytes = std::fs::read(path).expect("a readable file");
    let vectors = bytes.chunks_exact(4 * d).take(count);
    vectors.flat_map(|vector| vector.chunks_exact(4).map(|x| f32::from_le_bytes([x[0], x[1], x[2], x[3]]))).collect()
}

/// Seconds that a processor spent on this thread, where the system tells, and otherwise those on the clock.
fn processor_seconds() -> f64 {
    use std::time::{SystemTime, UNIX_EPOCH};
    let spent = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let spent = spent.and_then(|text| text.split(' ').next()?.parse::<f64>().ok());
    spent.map_or_else(
        || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64()),
        |nanoseconds| nanoseconds * 1e-9,
    )
}
