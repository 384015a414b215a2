//! A change that fails leaves the index as it was, at whatever point it fails.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::file::Writer;
use crate::scan::{Clustering, Scan};
use crate::structure::{Bytes, Emit, Request};

/// A structure that runs out of memory in one of its next changes.
#[derive(Debug)]
struct Failing {
    inner: Box<dyn Structure>,
    /// Changes that still succeed; the one after fails.
    successes: Arc<AtomicUsize>,
}

impl Failing {
    fn attempt(&self) -> Result<()> {
        let spent = |successes: usize| if successes == 0 { Some(usize::MAX) } else { Some(successes - 1) };
        match self.successes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, spent) {
            Ok(0) => Err(Error::OutOfMemory { bytes: 1 }),
            _ => Ok(()),
        }
    }
}

impl Structure for Failing {
    fn fork(&self) -> Box<dyn Structure> {
        Box::new(Self { inner: self.inner.fork(), successes: Arc::clone(&self.successes) })
    }

    fn insert(&mut self, context: &Context, batch: Batch<'_>) -> Result<()> {
        self.attempt()?;
        self.inner.insert(context, batch)
    }

    fn remove(&mut self, context: &Context, slots: &[u32]) -> Result<()> {
        self.attempt()?;
        self.inner.remove(context, slots)
    }

    fn compact(&mut self, context: &Context, renumber: &[u32]) -> Result<()> {
        self.attempt()?;
        self.inner.compact(context, renumber)
    }

    fn read(&self, context: &Context, slot: u32, vector: &mut [f32]) {
        self.inner.read(context, slot, vector);
    }

    fn value(&self, slot: u32) -> &[f32] {
        self.inner.value(slot)
    }

    fn search(&self, context: &Context, request: &Request<'_>, emit: Emit<'_>) -> Result<()> {
        self.inner.search(context, request, emit)
    }

    fn save(&self, context: &Context, writer: &mut Writer<'_>, slots: usize) -> Result<()> {
        self.inner.save(context, writer, slots)
    }

    fn bytes(&self) -> Bytes {
        self.inner.bytes()
    }

    fn clusters(&self) -> usize {
        self.inner.clusters()
    }
}

fn index() -> (Index, Arc<AtomicUsize>) {
    let options = IndexOptions { algorithm: Algorithm::Exact, value_dimensions: 1, ..IndexOptions::new(2) };
    let plain = Index::new(options, ThreadPool::new(1)).unwrap();
    let context = Context::clone(&plain.now.context);
    let successes = Arc::new(AtomicUsize::new(usize::MAX));
    let structure =
        Failing { inner: Box::new(Scan::new(&context, Clustering::Never)), successes: Arc::clone(&successes) };
    let index = Index::of(Snapshot::new(options, context, Box::new(structure)));
    (index, successes)
}

/// Ids, vectors, values, largest id, and what a search finds.
type Seen = (Vec<u64>, Vec<Vec<f32>>, Vec<Vec<f32>>, Option<u64>, Neighbours);

/// Everything that can be seen of an index.
fn seen(index: &Index) -> Seen {
    let ids = index.ids();
    let vectors = ids.iter().map(|&id| index.get(id).unwrap()).collect();
    let values = ids.iter().map(|&id| index.value(id).unwrap()).collect();
    let found = index.search(&[1.0, 0.5], SearchOptions::nearest(index.len())).unwrap();
    (ids, vectors, values, index.largest_id(), found)
}

#[test]
fn a_change_that_fails_leaves_everything_as_it_was() {
    type Change = fn(&mut Index) -> Result<()>;
    let vectors = |n: u8| -> Vec<f32> { (0..2 * n).map(f32::from).collect() };
    let changes: [(Change, usize); 5] = [
        (|index| index.add_batch(&[9.0; 10], None, Some(&[3.0; 5])).map(drop), 1),
        (|index| index.add_batch(&[9.0; 4], Some(&[1 << 50, 2]), Some(&[3.0; 2])).map(drop), 1),
        (|index| index.upsert_batch(&[9.0; 8], &[0, 5, 77, 3], Some(&[3.0; 4])).map(drop), 2),
        (|index| index.remove_batch(&[0, 5, 6, 1000]).map(drop), 1),
        (Index::compact, 1),
    ];
    for shared in [false, true] {
        for (change, steps) in changes {
            for successes_before in 0..steps {
                let (mut index, successes) = index();
                index.add_batch(&vectors(8), None, Some(&[1.0; 8])).unwrap();
                index.remove_batch(&[2, 7]).unwrap();
                let before = seen(&index);
                let snapshot = shared.then(|| index.snapshot());
                successes.store(successes_before, Ordering::Relaxed);
                assert_eq!(change(&mut index), Err(Error::OutOfMemory { bytes: 1 }));
                assert_eq!(seen(&index), before);
                // And it works as if nothing had been tried: the same change, then another.
                change(&mut index).unwrap();
                let (mut other, _) = self::index();
                other.add_batch(&vectors(8), None, Some(&[1.0; 8])).unwrap();
                other.remove_batch(&[2, 7]).unwrap();
                change(&mut other).unwrap();
                for index in [&mut index, &mut other] {
                    index.add_batch(&vectors(6), None, Some(&[2.0; 6])).unwrap();
                }
                assert_eq!(seen(&index), seen(&other));
                drop(snapshot);
            }
        }
    }
}

#[test]
fn freed_slots_are_used_again_lowest_first() {
    let mut index = Index::new(IndexOptions::new(1), ThreadPool::new(1)).unwrap();
    index.add_batch(&[1.0; 10], None, None).unwrap();
    index.remove_batch(&[8, 1, 4]).unwrap();
    index.add_batch(&[2.0; 2], None, None).unwrap();
    let slot = |index: &Index, id: u64| index.now.table.find(id);
    assert_eq!([10, 11].map(|id| slot(&index, id)), [Some(1), Some(4)]);
    index.add_batch(&[3.0; 2], None, None).unwrap();
    assert_eq!([12, 13].map(|id| slot(&index, id)), [Some(8), Some(10)]);
    assert_eq!(index.now.table.slots(), 11);
}
