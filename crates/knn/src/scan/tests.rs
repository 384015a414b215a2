use std::sync::Mutex;

use iceformer_simd::supported;
use iceformer_threads::ThreadPool;

use super::*;
use crate::ids::IdTable;
use crate::neighbour::{Neighbour, keep_nearest};
use crate::random::Random;
use crate::storage::Storage;
use crate::structure::{Effort, Shape, SlotSet};

fn vector(random: &mut Random, d: usize, spread: f32) -> Vec<f32> {
    let centre = random.below(8) as f32;
    (0..d).map(|i| centre * (i % 3) as f32 + spread * ((random.below(2001) as f32) / 1000.0 - 1.0)).collect()
}

fn search(scan: &Scan, context: &Context, request: &Request<'_>) -> Vec<Vec<Neighbour>> {
    let rows = request.queries.len() / context.shape.dimensions;
    let found = Mutex::new(vec![Vec::new(); rows]);
    scan.search(context, request, &|row, neighbours| found.lock().unwrap()[row] = neighbours.to_vec()).unwrap();
    found.into_inner().unwrap()
}

/// Every search that promises to be exact finds what ranking every stored vector finds, whatever happened before.
#[test]
fn exact_search_is_exact_under_changes() {
    for (round, kernels) in supported().enumerate() {
        for metric in [Metric::InnerProduct, Metric::L2] {
            for storage in Storage::ALL {
                for clustering in [Clustering::Never, Clustering::Always] {
                    let d = [1, 7, 24][(round + storage as usize) % 3];
                    let shape = Shape { dimensions: d, value_dimensions: 1, metric, storage };
                    let context = Context { shape, kernels, pool: ThreadPool::new(2), seed: 1 };
                    let mut random = Random::new(round as u64);
                    let mut scan = Scan::new(&context, clustering);
                    let mut ids = Chunked::new(1);
                    ids.resize(4000, 0).unwrap();
                    (0..4000).for_each(|slot| ids.row_mut(slot)[0] = 5000 - slot as u64);
                    let ids = IdTable::of(ids, 5001).unwrap();
                    let mut taken = vec![false; 4000];
                    for step in 0..8 {
                        let slots: Vec<u32> =
                            (0..4000).filter(|&s| !taken[s as usize] && random.below(3) > 0).collect();
                        let slots = &slots[..slots.len().min([3, 1100, 1500, 1][step % 4])];
                        let vectors: Vec<f32> = slots.iter().flat_map(|_| vector(&mut random, d, 2.0)).collect();
                        let values: Vec<f32> = slots.iter().map(|&slot| slot as f32).collect();
                        scan.insert(&context, Batch { vectors: &vectors, values: &values, slots }).unwrap();
                        for &slot in slots {
                            taken[slot as usize] = true;
                        }
                        let before = scan.clone();
                        let gone: Vec<u32> = (0..4000)
                            .filter(|&s| taken[s as usize] && random.below([9, 2][step / 2 % 2]) == 0)
                            .collect();
                        let kept = before.len();
                        scan.remove(&context, &gone).unwrap();
                        assert_eq!(before.len(), kept);
                        for &slot in &gone {
                            taken[slot as usize] = false;
                        }
                        let live: Vec<u32> = (0..4000).filter(|&s| taken[s as usize]).collect();
                        assert_eq!(scan.len(), live.len());
                        let mut allowed = SlotSet::new(4000);
                        live.iter().filter(|slot| *slot % 3 == 0).for_each(|&slot| allowed.insert(slot));
                        let queries: Vec<f32> = (0..5).flat_map(|_| vector(&mut random, d, 3.0)).collect();
                        for (k, filter, floor) in [
                            (10, false, f32::NEG_INFINITY),
                            (1, true, f32::NEG_INFINITY),
                            (5000, false, f32::NEG_INFINITY),
                            (5000, true, if metric == Metric::L2 { -40.0 } else { 30.0 }),
                        ] {
                            let request = Request {
                                queries: &queries,
                                k,
                                effort: Effort::Exact,
                                floor,
                                allowed: filter.then_some(&allowed),
                                ids: &ids,
                                cancel: None,
                            };
                            let found = search(&scan, &context, &request);
                            for (query, found) in queries.chunks_exact(d).zip(found) {
                                let mut stored = vec![0.0; d];
                                let mut expected: Vec<Neighbour> = live
                                    .iter()
                                    .filter(|slot| !filter || allowed.contains(**slot))
                                    .map(|&slot| {
                                        scan.read(&context, slot, &mut stored);
                                        assert_eq!(scan.value(slot), [slot as f32]);
                                        let rank = crate::row::exact_rank(kernels, metric, query, &stored);
                                        Neighbour { rank, id: ids.id(slot) }
                                    })
                                    .filter(|neighbour| neighbour.rank >= floor)
                                    .collect();
                                keep_nearest(&mut expected, k);
                                assert_eq!(
                                    found, expected,
                                    "{:?} {metric:?} {storage:?} {clustering:?}",
                                    kernels.level
                                );
                            }
                        }
                    }
                    let renumber: Vec<u32> = (0..4000)
                        .scan(0, |next, slot: usize| {
                            let new = if taken[slot] { *next } else { u32::MAX };
                            *next += u32::from(taken[slot]);
                            Some(new)
                        })
                        .collect();
                    scan.compact(&context, &renumber).unwrap();
                    for (old, &new) in renumber.iter().enumerate().filter(|(_, new)| **new != u32::MAX) {
                        assert_eq!(scan.value(new), [old as f32]);
                    }
                    let bytes = scan.bytes();
                    assert!(bytes.reserved <= bytes.live * 11 / 10 + 4096, "{bytes:?}");
                }
            }
        }
    }
}
