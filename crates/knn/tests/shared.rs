//! One writer, many readers: a reader sees whole batches, and work can be stopped.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use iceformer_knn::{Algorithm, Error, Index, IndexOptions, RadiusOptions, SearchOptions, SharedIndex};
use iceformer_threads::ThreadPool;

const READERS: usize = 24;
const BATCH: usize = 300;
const BATCHES: usize = 40;

/// Batch number b holds BATCH vectors, all b + 1 long, so that a search tells which batches it saw.
fn batch(number: usize) -> Vec<f32> {
    let mut vectors = vec![0.0; BATCH * 4];
    vectors.iter_mut().step_by(4).for_each(|x| *x = (number + 1) as f32);
    vectors
}

/// Looks at a snapshot, which holds some whole batches, each vector of which has the number of its batch. Returns
/// the number of the last.
fn look(shared: &SharedIndex, exact: bool) -> usize {
    let snapshot = shared.snapshot();
    assert_eq!(snapshot.len() % BATCH, 0);
    let k = snapshot.len() + 1;
    let search = SearchOptions { exact, effort: (!exact).then_some(0.5), ..SearchOptions::nearest(k) };
    let found = snapshot.search(&[1.0, 0.0, 0.0, 0.0], search).unwrap();
    assert_eq!(found.counts[0] as usize, snapshot.len());
    let numbers: Vec<usize> = found.scores[..snapshot.len()].iter().map(|&score| score as usize - 1).collect();
    for (place, (&id, &number)) in found.ids.iter().zip(&numbers).enumerate() {
        // Longest first, in the order of ids: whole batches in the order they were added, the last first.
        assert_eq!(number, numbers[place / BATCH * BATCH], "part of a batch");
        assert_eq!(id as usize, number * BATCH + place % BATCH);
    }
    numbers.first().map_or(0, |&last| last + 1)
}

#[test]
fn readers_see_whole_batches_while_a_writer_changes_the_index() {
    for algorithm in [Algorithm::Exact, Algorithm::Cluster, Algorithm::Graph, Algorithm::Dci] {
        let options = IndexOptions { algorithm, ..IndexOptions::new(4) };
        let shared = SharedIndex::new(Index::new(options, ThreadPool::new(2)).unwrap());
        let written = AtomicUsize::new(0);
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            for reader in 0..READERS {
                let (shared, written, done) = (&shared, &written, &done);
                scope.spawn(move || {
                    let mut seen = 0;
                    loop {
                        let last = done.load(Ordering::Acquire);
                        let at_least = written.load(Ordering::Acquire);
                        let number = look(shared, reader % 2 == 0);
                        assert!(number >= seen.max(at_least), "{number} after {seen} and {at_least}");
                        seen = number;
                        if last {
                            return;
                        }
                    }
                });
            }
            for number in 0..BATCHES {
                let vectors = batch(number);
                // Every batch comes alone, or takes the place of one that is a few older.
                let change = |index: &mut Index| {
                    index.add_batch(&vectors, None, None)?;
                    if let Some(old) = number.checked_sub(8) {
                        let ids: Vec<u64> = (old * BATCH..(old + 1) * BATCH).map(|id| id as u64).collect();
                        assert_eq!(index.remove_batch(&ids)?, BATCH);
                    }
                    if number % 10 == 9 { index.compact() } else { Ok(()) }
                };
                if number % 2 == 0 { shared.write(change) } else { shared.write_beside(change) }.unwrap();
                written.store(number + 1, Ordering::Release);
            }
            done.store(true, Ordering::Release);
        });
        assert_eq!(shared.read(Index::len), 8 * BATCH);
    }
}

#[test]
fn a_snapshot_can_be_taken_during_a_long_write() {
    let shared = SharedIndex::new(Index::new(IndexOptions::new(4), ThreadPool::new(1)).unwrap());
    shared.write(|index| index.add_batch(&batch(0), None, None)).unwrap();
    let entered = AtomicBool::new(false);
    let leave = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            shared
                .write_beside(|index| {
                    index.add_batch(&batch(1), None, None)?;
                    entered.store(true, Ordering::Release);
                    while !leave.load(Ordering::Acquire) {
                        thread::yield_now();
                    }
                    Ok(())
                })
                .unwrap();
        });
        while !entered.load(Ordering::Acquire) {
            thread::yield_now();
        }
        assert_eq!(shared.snapshot().len(), BATCH, "the state before the write");
        leave.store(true, Ordering::Release);
    });
    assert_eq!(shared.snapshot().len(), 2 * BATCH);
}

#[test]
fn a_panic_of_a_writer_leaves_the_index_usable() {
    for beside in [false, true] {
        let shared = SharedIndex::new(Index::new(IndexOptions::new(4), ThreadPool::new(1)).unwrap());
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let change = |index: &mut Index| -> iceformer_knn::Result<()> {
                index.add_batch(&batch(0), None, None)?;
                panic!("by the caller's code");
            };
            if beside { shared.write_beside(change) } else { shared.write(change) }
        }));
        assert!(panicked.is_err());
        assert_eq!(shared.snapshot().len(), BATCH);
        shared.write(|index| index.add_batch(&batch(1), None, None)).unwrap();
        assert_eq!(look(&shared, true), 2);
    }
}

#[test]
fn a_cancelled_search_stops() {
    for algorithm in [Algorithm::Exact, Algorithm::Cluster, Algorithm::Graph, Algorithm::Dci] {
        let options = IndexOptions { algorithm, ..IndexOptions::new(16) };
        let mut index = Index::new(options, ThreadPool::new(2)).unwrap();
        let vectors: Vec<f32> = (0..3000_u64 * 16).map(|i| ((i * 7919) % 1009) as f32 - 500.0).collect();
        index.add_batch(&vectors, None, None).unwrap();
        let cancel = AtomicBool::new(true);
        for exact in [true, false] {
            let effort = (!exact).then_some(0.5);
            let search = SearchOptions { cancel: Some(&cancel), exact, effort, ..SearchOptions::nearest(10) };
            assert_eq!(index.search(&vectors, search), Err(Error::Cancelled));
        }
        let search = SearchOptions { cancel: Some(&cancel), ..SearchOptions::nearest(10) };
        assert_eq!(index.search(&vectors, search), Err(Error::Cancelled), "while it measures itself");
        let radius = RadiusOptions { cancel: Some(&cancel), ..RadiusOptions::default() };
        assert_eq!(index.search_radius(&vectors, 1e9, radius), Err(Error::Cancelled));
    }
}

/// A search of seconds ends soon after it is told to: the test would take minutes otherwise.
#[test]
fn a_running_search_can_be_cancelled() {
    let options = IndexOptions { algorithm: Algorithm::Exact, ..IndexOptions::new(64) };
    let mut index = Index::new(options, ThreadPool::new(2)).unwrap();
    let vectors: Vec<f32> = (0..40_000_u64 * 64).map(|i| ((i * 7919) % 1009) as f32 - 500.0).collect();
    index.add_batch(&vectors, None, None).unwrap();
    let queries = vectors.repeat(4);
    let cancel = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(std::time::Duration::from_millis(20));
            cancel.store(true, Ordering::Relaxed);
        });
        let search = SearchOptions { cancel: Some(&cancel), ..SearchOptions::nearest(1) };
        assert_eq!(index.search(&queries, search), Err(Error::Cancelled));
    });
}
