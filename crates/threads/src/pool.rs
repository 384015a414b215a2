//! The pool: threads, and calls that run on them.

use crate::descriptor::{Descriptor, DescriptorError};
use crate::job::Shared;
use std::any::Any;
use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

struct Owner {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            thread.thread().unpark();
            // A worker never panics (tasks catch), and there is nobody to tell if it did.
            let _ = thread.join();
        }
    }
}

#[derive(Clone)]
enum Kind {
    Own(Arc<Owner>),
    Foreign(&'static Descriptor),
}

/// A pool of threads of which the caller is always worker 0. Cloning shares the pool.
#[derive(Clone)]
pub struct ThreadPool {
    kind: Kind,
}

impl std::fmt::Debug for ThreadPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ThreadPool").field("threads", &self.threads()).finish()
    }
}

/// What a call shares with the threads that run it.
struct Call<'a, F> {
    f: &'a F,
    failed: AtomicBool,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

/// # Safety
/// `data` points to a live `Call<F>`.
unsafe extern "C" fn call_item<F: Fn(usize, usize) + Sync>(data: *const c_void, worker: usize, item: usize) {
    // SAFETY: by contract.
    let call = unsafe { &*data.cast::<Call<'_, F>>() };
    if call.failed.load(Ordering::Relaxed) {
        return;
    }
    // A panic must not unwind through the C border: it is carried to the caller of `for_each`.
    if let Err(payload) = catch_unwind(AssertUnwindSafe(|| (call.f)(worker, item))) {
        call.failed.store(true, Ordering::Relaxed);
        *call.panic.lock().unwrap_or_else(PoisonError::into_inner) = Some(payload);
    }
}

impl ThreadPool {
    /// A pool of `threads` workers, the caller included; 0 counts as 1. Threads that the system
    /// refuses to start are done without.
    #[must_use]
    pub fn new(threads: usize) -> Self {
        let threads = threads.clamp(1, 1024);
        let shared = Arc::new(Shared::new(threads));
        let mut handles = Vec::new();
        for worker in 1..threads {
            let inner = Arc::clone(&shared);
            let spawned = thread::Builder::new().name(format!("iceformer-{worker}")).spawn(move || inner.work(worker));
            if let Ok(handle) = spawned {
                handles.push(handle);
            }
        }
        *shared.sleepers.lock().unwrap_or_else(PoisonError::into_inner) =
            handles.iter().map(|h| h.thread().clone()).collect();
        Self { kind: Kind::Own(Arc::new(Owner { shared, threads: handles })) }
    }

    /// As many threads as the process may use (affinity and cgroup limits count).
    #[must_use]
    pub fn available() -> usize {
        thread::available_parallelism().map_or(1, std::num::NonZero::get)
    }

    /// Number of workers, the caller included: worker numbers are below this.
    #[must_use]
    pub fn threads(&self) -> usize {
        match &self.kind {
            Kind::Own(owner) => owner.shared.threads,
            Kind::Foreign(descriptor) => descriptor.threads as usize,
        }
    }

    /// Runs `f(worker, item)` for every item below `items` and returns when all are done. Items are
    /// taken in order by whichever worker is free. Called from inside an item, it runs inline.
    ///
    /// # Panics
    /// Raises the first panic of `f` again on the caller; items not yet begun are then left out.
    pub fn for_each<F: Fn(usize, usize) + Sync>(&self, items: usize, f: F) {
        let call = Call { f: &f, failed: AtomicBool::new(false), panic: Mutex::new(None) };
        let data = (&raw const call).cast::<c_void>();
        match &self.kind {
            // SAFETY: `call` outlives the run, and `call_item::<F>` is its task.
            Kind::Own(owner) => unsafe { owner.shared.run(items, call_item::<F>, data) },
            // SAFETY: as above; the descriptor was checked when it was taken.
            Kind::Foreign(d) => unsafe { (d.run)(d.context, items, call_item::<F>, data) },
        }
        if let Some(payload) = call.panic.into_inner().unwrap_or_else(PoisonError::into_inner) {
            resume_unwind(payload);
        }
    }

    /// Says what `worker` will most likely read first in the next jobs. While it waits it fetches that into its cache, once;
    /// nothing happens to the caller, worker 0, which does not wait. It is a hint: the memory may be freed meanwhile.
    pub fn look_ahead(&self, worker: usize, memory: &[u8]) {
        let (start, bytes) = (memory.as_ptr(), memory.len());
        match &self.kind {
            Kind::Own(owner) => owner.shared.look_ahead(worker, start, bytes),
            // SAFETY: the descriptor was checked when it was taken.
            Kind::Foreign(d) => unsafe { (d.look_ahead)(d.context, worker, start, bytes) },
        }
    }

    /// Hands the pool to another addon. It then lives until the process ends.
    #[must_use]
    pub fn descriptor(&self) -> &'static Descriptor {
        match &self.kind {
            Kind::Foreign(descriptor) => descriptor,
            Kind::Own(owner) => {
                // Keeps the threads: another addon may hold the address for good.
                std::mem::forget(Arc::clone(owner));
                Descriptor::of(&owner.shared)
            }
        }
    }

    /// Uses the pool of another addon.
    ///
    /// # Errors
    /// If the address cannot be one or the layout differs.
    ///
    /// # Safety
    /// `address` must come from [`ThreadPool::descriptor`] in this process.
    pub unsafe fn from_descriptor(address: *const Descriptor) -> Result<Self, DescriptorError> {
        // SAFETY: the caller's promise.
        let descriptor = unsafe { Descriptor::at(address) }?;
        Ok(Self { kind: Kind::Foreign(descriptor) })
    }
}

#[cfg(test)]
mod tests;
