//! One writer, many readers: a reader sees whole batches, and work can be stopped.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use iceformer_knn::{Algorithm, Error, Index, IndexOptions, SearchOptions, SharedIndex};
use iceformer_threads::ThreadPool;

const BATCH: usize = 300;

/// Batch number b holds BATCH vectors, all b + 1 long, so that a search tells which batches it saw.
fn batch(number: usize) -> Vec<f32> {
    let mut vectors = vec![0.0; BATCH * 4];
    vectors.iter_mut().step_by(4).for_each(|x| *x = (number + 1) as f32);
    vectors
}

#[test]
fn readers_see_whole_batches_while_a_writer_adds() {
    let options = IndexOptions { algorithm: Algorithm::Cluster, ..IndexOptions::new(4) };
    let shared = SharedIndex::new(Index::new(options, ThreadPool::new(2)).unwrap());
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for reader in 0..8 {
            let (shared, done) = (&shared, &done);
            scope.spawn(move || {
                let mut seen = 0;
                while !done.load(Ordering::Relaxed) {
                    let snapshot = shared.snapshot();
                    assert_eq!(snapshot.len() % BATCH, 0);
                    let batches = snapshot.len() / BATCH;
                    assert!(batches >= seen, "an index does not shrink");
                    seen = batches;
                    let k = snapshot.len() + 1;
                    let search = SearchOptions { exact: reader % 2 == 0, effort: None, ..SearchOptions::nearest(k) };
                    let found = snapshot.search(&[1.0, 0.0, 0.0, 0.0], search).unwrap();
                    assert_eq!(found.counts[0] as usize, snapshot.len());
                    for (place, (&id, &score)) in found.ids.iter().zip(&found.scores).take(snapshot.len()).enumerate() {
                        // Longest first: the last batch, in the order of insertion.
                        let number = batches - 1 - place / BATCH;
                        assert_eq!(id as usize, number * BATCH + place % BATCH);
                        assert!((score - (number + 1) as f32).abs() < f32::EPSILON);
                    }
                }
            });
        }
        for number in 0..40 {
            let vectors = batch(number);
            let change = |index: &mut Index| index.add_batch(&vectors, None, None);
            if number % 2 == 0 { shared.write(change) } else { shared.write_beside(change) }.unwrap();
        }
        done.store(true, Ordering::Relaxed);
    });
    assert_eq!(shared.read(Index::len), 40 * BATCH);
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
fn a_cancelled_search_stops_early() {
    let options = IndexOptions { algorithm: Algorithm::Exact, ..IndexOptions::new(64) };
    let mut index = Index::new(options, ThreadPool::new(2)).unwrap();
    let vectors: Vec<f32> = (0..40_000_u64 * 64).map(|i| ((i * 7919) % 1009) as f32 - 500.0).collect();
    index.add_batch(&vectors, None, None).unwrap();
    let cancel = AtomicBool::new(false);
    let search = SearchOptions { cancel: Some(&cancel), ..SearchOptions::nearest(10) };
    let start = Instant::now();
    thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(Duration::from_millis(30));
            cancel.store(true, Ordering::Relaxed);
        });
        // All against all: seconds of work.
        assert_eq!(index.search(&vectors, search), Err(Error::Cancelled));
    });
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
}
