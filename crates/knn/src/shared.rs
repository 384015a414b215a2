//! An index for several threads: one writes at a time, any number search.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use crate::error::Result;
use crate::index::Index;
use crate::search::Snapshot;

/// An [`Index`] behind locks that no search holds while it works.
///
/// A search takes a [`Snapshot`] and sees exactly the vectors that were in the index at that moment:
/// whole batches, never part of one. Writers queue.
#[derive(Debug)]
pub struct SharedIndex {
    writer: Mutex<Index>,
    /// The state to search; `None` when it is out of date.
    published: RwLock<Option<Arc<Snapshot>>>,
}

impl SharedIndex {
    /// Shares an index.
    #[must_use]
    pub fn new(index: Index) -> Self {
        Self { writer: Mutex::new(index), published: RwLock::new(None) }
    }

    /// The index as it is now. Waits for a running [`SharedIndex::write`], not for [`SharedIndex::write_beside`].
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        if let Some(snapshot) = &*self.published.read().unwrap_or_else(PoisonError::into_inner) {
            return Arc::clone(snapshot);
        }
        let index = self.lock();
        let mut published = self.published.write().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(published.get_or_insert_with(|| Arc::new(index.snapshot())))
    }

    /// Runs `read` on the index itself, after any write that runs.
    pub fn read<R>(&self, read: impl FnOnce(&Index) -> R) -> R {
        read(&self.lock())
    }

    /// Changes the index at once. New snapshots wait until it is done.
    pub fn write<R>(&self, change: impl FnOnce(&mut Index) -> Result<R>) -> Result<R> {
        let mut index = self.lock();
        // Let go of the old state first: what no search holds is changed in place, not copied.
        *self.published.write().unwrap_or_else(PoisonError::into_inner) = None;
        change(&mut index)
    }

    /// Changes the index while snapshots of the state before it can still be taken: for long changes on
    /// another thread. Copies the tail of the index.
    pub fn write_beside<R>(&self, change: impl FnOnce(&mut Index) -> Result<R>) -> Result<R> {
        let mut index = self.lock();
        {
            let mut published = self.published.write().unwrap_or_else(PoisonError::into_inner);
            published.get_or_insert_with(|| Arc::new(index.snapshot()));
        }
        let _outdate = Outdate(&self.published);
        change(&mut index)
    }

    fn lock(&self) -> MutexGuard<'_, Index> {
        // Poisoning would turn one panic into an error of every later call; the index checks its input
        // before it changes.
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Marks the published state as out of date when it is dropped, also by a panic.
struct Outdate<'a>(&'a RwLock<Option<Arc<Snapshot>>>);

impl Drop for Outdate<'_> {
    fn drop(&mut self) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = None;
    }
}
