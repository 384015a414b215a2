//! One writer, many readers: readers get a state that never changes again.
//!
//! Only `sync` is used from outside, so that the model checker's locks can take the place of the real ones (see
//! `tests/publication.rs`).

use super::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

/// Something that is written, and whose states are read.
pub(crate) trait Stated {
    /// A state that later writes do not change.
    type State;
    /// The state now.
    fn state(&self) -> Self::State;
}

/// A writer's object behind locks that no reader holds while it works.
///
/// A reader gets a state between two writes: all of a write or nothing of it, never older than the last write
/// that had ended when it asked.
#[derive(Debug)]
pub(crate) struct Publication<W: Stated> {
    writer: Mutex<W>,
    /// The state to read; `None` when it is out of date. Changed only by who holds `writer`.
    published: RwLock<Option<Arc<W::State>>>,
}

impl<W: Stated> Publication<W> {
    pub fn new(writer: W) -> Self {
        Self { writer: Mutex::new(writer), published: RwLock::new(None) }
    }

    /// The state now. Waits for a running [`Self::write`], not for [`Self::write_beside`].
    pub fn state(&self) -> Arc<W::State> {
        if let Some(state) = &*self.published.read().unwrap_or_else(PoisonError::into_inner) {
            return Arc::clone(state);
        }
        let writer = self.lock();
        self.publish(&writer)
    }

    /// Runs `read` on the object itself, after any write that runs.
    pub fn read<R>(&self, read: impl FnOnce(&W) -> R) -> R {
        read(&self.lock())
    }

    /// Changes the object; states are waited for until it is done.
    pub fn write<R>(&self, change: impl FnOnce(&mut W) -> R) -> R {
        let mut writer = self.lock();
        // Let go of the old state first: what no reader holds is changed in place, not copied.
        self.outdate();
        change(&mut writer)
    }

    /// Changes the object while readers can still have the state before.
    pub fn write_beside<R>(&self, change: impl FnOnce(&mut W) -> R) -> R {
        let mut writer = self.lock();
        self.publish(&writer);
        let outdate = Outdate(self);
        let changed = change(&mut writer);
        // Before the writer is free: the next one must not find the old state.
        drop(outdate);
        changed
    }

    fn publish(&self, writer: &W) -> Arc<W::State> {
        let mut published = self.published.write().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(published.get_or_insert_with(|| Arc::new(writer.state())))
    }

    fn outdate(&self) {
        *self.published.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn lock(&self) -> MutexGuard<'_, W> {
        // Poisoning would turn one panic into an error of every later call.
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Marks the published state as out of date when it is dropped, also by a panic.
struct Outdate<'a, W: Stated>(&'a Publication<W>);

impl<W: Stated> Drop for Outdate<'_, W> {
    fn drop(&mut self) {
        self.0.outdate();
    }
}
