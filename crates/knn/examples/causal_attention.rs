//! Prints the time of causal attention over one layer of a small model, prefilled in chunks and then one query
//! at a time, exact and selected: `cargo run --release -p iceformer-knn --example causal_attention [tokens [threads]]`
#![allow(clippy::print_stdout, reason = "a measuring program prints")]

use iceformer_knn::{GroupShape, IndexGroup, SoftQuery, Storage, Strategy};
use iceformer_simd::kernels;
use iceformer_threads::ThreadPool;
use std::time::Instant;

const LANES: usize = 3;
const GROUP: usize = 3;
const D: usize = 64;
const CHUNK: usize = 512;
const RECENT: usize = 256;

fn main() {
    let mut arguments = std::env::args().skip(1).map(|a| a.parse::<usize>().expect("a number"));
    let n = arguments.next().unwrap_or(8192);
    let threads = arguments.next().unwrap_or(2);
    let mut state = 1_u64;
    let mut unit = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    // Topics that come and go, so that mass is spread over clusters.
    let topics: Vec<f32> = (0..64 * D).map(|_| 1.5 * unit()).collect();
    let mut vectors = |count: usize, scale: f32| -> Vec<f32> {
        let topic = |i: usize| i / count / D / 37 * 11 % 64;
        (0..n * count * D).map(|i| scale * (topics[topic(i) * D + i % D] + 0.7 * unit())).collect()
    };
    let (keys, values, queries) = (vectors(LANES, 1.0), vectors(LANES, 1.0), vectors(LANES * GROUP, 1.2));
    let mut output = vec![0.0; queries.len()];
    for storage in [Storage::F32, Storage::Bf16, Storage::I8] {
        for strategy in [Strategy::Exact, Strategy::selected(0.95)] {
            let shape = GroupShape { lanes: LANES, dimensions: D, value_dimensions: D, storage };
            let mut group = IndexGroup::new(shape, kernels(), ThreadPool::new(threads)).expect("a group");
            let (mut append, mut settle, mut search) = (0.0, 0.0, 0.0);
            let mut tiles = (0.0, 0.0);
            for start in (0..n).step_by(CHUNK) {
                let count = CHUNK.min(n - start);
                let at = |row: usize| start * row..(start + count) * row;
                let clock = Instant::now();
                group.append(&keys[at(LANES * D)], &values[at(LANES * D)]).expect("appended");
                append += clock.elapsed().as_secs_f64();
                let clock = Instant::now();
                if strategy != Strategy::Exact && start > RECENT {
                    group.settle(16, (start - RECENT) / 16 * 16).expect("settled");
                }
                settle += clock.elapsed().as_secs_f64();
                let query = SoftQuery {
                    queries: count,
                    scale: 0.125,
                    visible: start + 1,
                    causal: true,
                    window: None,
                    strategy,
                };
                let clock = Instant::now();
                let rows = at(LANES * GROUP * D);
                let report =
                    group.soft_search(&queries[rows.clone()], &mut output[rows], None, &query).expect("searched");
                search += clock.elapsed().as_secs_f64();
                tiles = (tiles.0 + report.tiles_read, tiles.1 + report.tiles_visible);
            }
            let mut decode = Vec::new();
            for _ in 0..50 {
                let query = SoftQuery { queries: 1, scale: 0.125, visible: n, causal: true, window: None, strategy };
                let clock = Instant::now();
                group
                    .soft_search(&queries[..LANES * GROUP * D], &mut output[..LANES * GROUP * D], None, &query)
                    .expect("searched");
                decode.push(clock.elapsed().as_secs_f64());
            }
            decode.sort_by(f64::total_cmp);
            let flop = 4.0 * (LANES * GROUP * D) as f64 * (n * n / 2) as f64;
            println!(
                "{n} tokens, {threads} threads, {storage:?} {strategy:?}: append {:.1} ms, settle {:.1} ms, search {:.1} ms ({:.0} GFLOP/s of dense), tiles {:.1} %, one query {:.0} us",
                append * 1e3,
                settle * 1e3,
                search * 1e3,
                flop / search / 1e9,
                100.0 * tiles.0 / tiles.1,
                decode[25] * 1e6,
            );
        }
    }
}
