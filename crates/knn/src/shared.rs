//! An index for several threads: one writes at a time, any number search.

use std::sync::Arc;

use crate::error::Result;
use crate::index::Index;
use crate::publication::{Publication, Stated};
use crate::snapshot::Snapshot;

impl Stated for Index {
    type State = Snapshot;
    fn state(&self) -> Snapshot {
        self.snapshot()
    }
}

/// An [`Index`] behind locks that no search holds while it works.
///
/// A search takes a [`Snapshot`] and sees exactly the vectors that were in the index at a moment between two
/// writes: all of a write or nothing of it, and never less than what had been written when it asked. Writers
/// queue.
#[derive(Debug)]
pub struct SharedIndex {
    publication: Publication<Index>,
}

impl SharedIndex {
    /// Shares an index.
    #[must_use]
    pub fn new(index: Index) -> Self {
        Self { publication: Publication::new(index) }
    }

    /// The index as it is now. Waits for a running [`SharedIndex::write`], not for [`SharedIndex::write_beside`].
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.publication.state()
    }

    /// Runs `read` on the index itself, after any write that runs.
    pub fn read<R>(&self, read: impl FnOnce(&Index) -> R) -> R {
        self.publication.read(read)
    }

    /// Changes the index at once. New snapshots wait until it is done.
    pub fn write<R>(&self, change: impl FnOnce(&mut Index) -> Result<R>) -> Result<R> {
        self.publication.write(change)
    }

    /// Changes the index while snapshots of the state before it can still be taken: for long changes on
    /// another thread. Copies the parts of the index that it changes.
    pub fn write_beside<R>(&self, change: impl FnOnce(&mut Index) -> Result<R>) -> Result<R> {
        self.publication.write_beside(change)
    }
}
