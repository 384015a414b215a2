use super::*;
use crate::neighbour::Neighbour;
use crate::storage::Storage;
use crate::structure::{Effort, Shape};
use iceformer_threads::ThreadPool;
use std::sync::Mutex;
use std::time::Instant;

fn floats(path: &str) -> Vec<f32> {
    std::fs::read(path).unwrap().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}
fn ints(path: &str) -> Vec<i32> {
    std::fs::read(path).unwrap().as_chunks::<4>().0.iter().map(|b| i32::from_le_bytes(*b)).collect()
}
#[test]
fn bench() {
    let Ok(name) = std::env::var("KNN_DATA") else { return };
    let threads: usize = std::env::var("KNN_THREADS").map_or(1, |x| x.parse().unwrap());
    let dir = "/work/.scratch/knn-data";
    let (keys, queries, truth) = (
        floats(&format!("{dir}/{name}.keys.f32")),
        floats(&format!("{dir}/{name}.queries.f32")),
        ints(&format!("{dir}/{name}.truth.i32")),
    );
    let meta = std::fs::read_to_string(format!("{dir}/{name}.json")).unwrap();
    let get = |k: &str| -> usize {
        let i = meta.find(&format!("\"{k}\":")).unwrap();
        meta[i + k.len() + 3..].trim().split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap()
    };
    let (d, n, nq, t, k, sets) = (get("dimensions"), get("n"), get("queries"), get("truth"), get("k"), get("sets"));
    let sets: usize = std::env::var("KNN_SETS").map_or(sets, |x| x.parse().unwrap());
    for set in 0..sets {
        let (keys, queries, truth) = (
            &keys[set * n * d..(set + 1) * n * d],
            &queries[set * nq * d..(set + 1) * nq * d],
            &truth[set * nq * t..(set + 1) * nq * t],
        );
        let shape = Shape { dimensions: d, value_dimensions: 0, metric: Metric::InnerProduct, storage: Storage::F32 };
        let context = Context { shape, kernels: iceformer_simd::kernels(), pool: ThreadPool::new(threads), seed: 1 };
        let mut ids = Chunked::new(1);
        ids.resize(n, 0).unwrap();
        (0..n).for_each(|slot| ids.row_mut(slot)[0] = slot as u64);
        let slots: Vec<u32> = (0..n as u32).collect();
        for clustering in [Clustering::Never, Clustering::Always] {
            if std::env::var("KNN_ONLY").is_ok_and(|o| o != format!("{clustering:?}")) {
                continue;
            }
            let mut scan = Scan::new(&context, clustering);
            let start = Instant::now();
            scan.insert(&context, Batch { vectors: keys, values: &[], slots: &slots }).unwrap();
            let build = start.elapsed().as_secs_f64();
            println!(
                "{name}.{set} {clustering:?} build {build:.3} s, clusters {}, bytes/raw {:.3}",
                scan.clusters(),
                scan.bytes().reserved as f64 / (n * d * 4) as f64
            );
            let efforts: Vec<Effort> = if clustering == Clustering::Never || std::env::var("KNN_EXACT").is_ok() {
                vec![Effort::Exact]
            } else {
                std::env::var("KNN_EFFORTS")
                    .map_or(vec![0.002, 0.005, 0.01, 0.02, 0.04, 0.08], |e| {
                        e.split(',').map(|x| x.parse().unwrap()).collect()
                    })
                    .into_iter()
                    .map(Effort::Share)
                    .collect()
            };
            for effort in efforts {
                let found = Mutex::new(vec![Vec::<Neighbour>::new(); nq]);
                let request =
                    Request { queries, k, effort, floor: f32::NEG_INFINITY, allowed: None, ids: &ids, cancel: None };
                let start = Instant::now();
                scan.search(&context, &request, &|row, f| found.lock().unwrap()[row] = f.to_vec()).unwrap();
                let batch = start.elapsed().as_secs_f64();
                let found = found.into_inner().unwrap();
                let hits: usize = found
                    .iter()
                    .enumerate()
                    .map(|(row, f)| {
                        let t: std::collections::HashSet<u64> =
                            truth[row * t..row * t + k].iter().map(|&x| x as u64).collect();
                        f.iter().filter(|x| t.contains(&x.id)).count()
                    })
                    .sum();
                let mut lat = Vec::new();
                if n > 20000 {
                    for row in 0..500.min(nq) {
                        let request = Request { queries: &queries[row * d..(row + 1) * d], ..request };
                        let start = Instant::now();
                        scan.search(&context, &request, &|_, f| {
                            std::hint::black_box(f);
                        })
                        .unwrap();
                        lat.push(start.elapsed().as_secs_f64() * 1e6);
                    }
                    lat.sort_by(f64::total_cmp);
                }
                println!(
                    "   {effort:?} recall {:.4} batch {batch:.4} s ({:.0} q/s) single {:.1} us",
                    hits as f64 / (nq * k) as f64,
                    nq as f64 / batch,
                    lat.get(lat.len() / 2).unwrap_or(&0.0)
                );
            }
        }
    }
}
