//! The thread pool under all native work.
//!
//! One pool serves every addon of a process: an addon that did not create it receives its address as a
//! [`Descriptor`] with a C layout, so that two separately compiled addons never keep two sets of
//! threads on the same cores.
//!
//! A job is a number of items that the caller and the pool's threads take from one atomic counter.
//! Waiting threads spin for at most [`SPIN`] and then sleep, so that a decode step finds them awake
//! and an idle process costs nothing. A thread that wakes too late for a small job is not waited for.
//!
//! What a thread will most likely read in the next job it can be told beforehand ([`ThreadPool::look_ahead`]): it then
//! fetches that into its cache while it waits, so that memory is never idle between jobs that wait for memory.
//!
//! A job does not wait for another one either: while the threads have one, the caller of a second works on
//! its own, so that a short search is not held up by a long one.

use std::any::Any;
use std::cell::Cell;
use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How long a waiting thread spins before it sleeps. Waking a sleeping thread costs about as much.
pub const SPIN: Duration = Duration::from_micros(100);

/// Layout version of [`Descriptor`]; a pool of another version is refused.
const DESCRIPTOR_VERSION: u32 = 2;

/// Bytes of a cache line.
const LINE: usize = 64;

/// Cache lines that a waiting thread asks for before it looks for a job again.
const LINES_AT_ONCE: usize = 4;

type Task = unsafe extern "C" fn(data: *const c_void, worker: usize, item: usize);

/// A pool as another addon sees it. Lives as long as the process once handed out.
#[repr(C)]
pub struct Descriptor {
    version: u32,
    threads: u32,
    context: *const c_void,
    run: unsafe extern "C" fn(context: *const c_void, items: usize, task: Task, data: *const c_void),
    look_ahead: unsafe extern "C" fn(context: *const c_void, worker: usize, start: *const u8, bytes: usize),
}

// SAFETY: the context is a leaked `Arc<Shared>`, which is Send + Sync, and the rest is plain data.
unsafe impl Send for Descriptor {}
// SAFETY: as above; nothing in it changes after creation.
unsafe impl Sync for Descriptor {}

/// Why a descriptor was refused.
#[derive(Debug, PartialEq, Eq)]
pub enum DescriptorError {
    /// The address is zero or not aligned.
    NotAnAddress,
    /// The pool was built by an incompatible version; holds the version found.
    Version(u32),
}

impl std::fmt::Display for DescriptorError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotAnAddress => write!(f, "the thread pool's address is not valid"),
            Self::Version(found) => {
                write!(f, "the thread pool has layout {found}, this build needs {DESCRIPTOR_VERSION}")
            }
        }
    }
}

impl std::error::Error for DescriptorError {}

thread_local! {
    /// True while this thread runs items, so that a nested `for_each` runs inline instead of deadlocking.
    static BUSY: Cell<bool> = const { Cell::new(false) };
}

/// A job as the threads see it.
#[derive(Clone, Copy)]
struct Job {
    task: Task,
    data: *const c_void,
    items: usize,
}

const OPEN: u64 = 1 << 31;
const JOINED: u64 = OPEN - 1;

/// Something that no other thread's data shares a cache line with: CPUs fetch lines in pairs.
#[repr(align(128))]
struct Apart<T>(T);

impl<T> std::ops::Deref for Apart<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}

/// What a waiting thread may fetch: an address, which need not be valid, and how many bytes from there.
#[derive(Default)]
struct Ahead {
    start: AtomicPtr<u8>,
    bytes: AtomicUsize,
}

/// What waiting threads look at.
struct Posted {
    /// `generation << 32 | open << 31 | threads inside the job`.
    state: AtomicU64,
    /// Written only by the submitter while no thread is inside and the job is closed.
    job: std::cell::UnsafeCell<Job>,
}

struct Shared {
    posted: Apart<Posted>,
    next_item: Apart<AtomicUsize>,
    /// `[threads]`
    ahead: Vec<Apart<Ahead>>,
    sleeping: AtomicUsize,
    stop: AtomicBool,
    submit: Mutex<()>,
    sleepers: Mutex<Vec<thread::Thread>>,
    threads: usize,
}

// SAFETY: `job` is written only under `submit` while `state` says closed with nobody inside, and read
// only by threads that joined an open job; the other fields are atomics and mutexes.
unsafe impl Sync for Shared {}
// SAFETY: the raw pointer in `job` is only followed during the `run` call that published it.
unsafe impl Send for Shared {}

impl Shared {
    /// Takes items until none is left.
    ///
    /// # Safety
    /// `job` must be the published one, its `data` alive.
    unsafe fn take_items(&self, job: Job, worker: usize) {
        BUSY.set(true);
        loop {
            let item = self.next_item.fetch_add(1, Ordering::Relaxed);
            if item >= job.items {
                break;
            }
            // SAFETY: the caller guarantees that task and data belong together and are alive.
            unsafe { (job.task)(job.data, worker, item) };
        }
        BUSY.set(false);
    }

    unsafe fn run(&self, items: usize, task: Task, data: *const c_void) {
        if self.threads == 1 || items <= 1 || BUSY.get() {
            for item in 0..items {
                // SAFETY: same contract as `run` itself.
                unsafe { task(data, 0, item) };
            }
            return;
        }
        let mut first = 0;
        let _turn = loop {
            match self.submit.try_lock() {
                Ok(turn) => break turn,
                Err(TryLockError::Poisoned(poisoned)) => break poisoned.into_inner(),
                // Another job has the threads. Waiting for it might take long; they may be free for the next item.
                Err(TryLockError::WouldBlock) => {
                    // SAFETY: same contract as `run` itself.
                    unsafe { task(data, 0, first) };
                    first += 1;
                    if first == items {
                        return;
                    }
                }
            }
        };
        let job = Job { task, data, items };
        // SAFETY: the previous job is closed and empty (see the wait below) and we hold `submit`.
        unsafe { *self.posted.job.get() = job };
        self.next_item.store(first, Ordering::Relaxed);
        let generation = (self.posted.state.load(Ordering::Relaxed) >> 32).wrapping_add(1) & 0xffff_ffff;
        self.posted.state.store(generation << 32 | OPEN, Ordering::SeqCst);
        if self.sleeping.load(Ordering::SeqCst) > 0 {
            for sleeper in self.sleepers.lock().unwrap_or_else(PoisonError::into_inner).iter() {
                sleeper.unpark();
            }
        }
        // SAFETY: `data` is alive for the whole call, which ends only when nobody is inside the job.
        unsafe { self.take_items(job, 0) };
        self.posted.state.fetch_and(!OPEN, Ordering::AcqRel);
        let mut spins = 0_u32;
        while self.posted.state.load(Ordering::Acquire) & JOINED != 0 {
            spins += 1;
            if spins < 2000 {
                std::hint::spin_loop();
            } else {
                // The thread we wait for may have lost its core: let it have ours.
                thread::yield_now();
            }
        }
    }

    fn look_ahead(&self, worker: usize, start: *const u8, bytes: usize) {
        if let Some(ahead) = self.ahead.get(worker) {
            ahead.bytes.store(bytes, Ordering::Relaxed);
            ahead.start.store(start.cast_mut(), Ordering::Release);
        }
    }

    fn work(&self, worker: usize) {
        let mut seen = 0_u64;
        let mut fetch = Fetch::default();
        loop {
            let mut spin_start: Option<Instant> = None;
            let mut spins = 0_u32;
            let job = loop {
                if self.stop.load(Ordering::Relaxed) {
                    return;
                }
                let state = self.posted.state.load(Ordering::Acquire);
                if state >> 32 != seen {
                    if state & OPEN == 0 {
                        seen = state >> 32;
                        continue;
                    }
                    if self
                        .posted
                        .state
                        .compare_exchange(state, state + 1, Ordering::AcqRel, Ordering::Relaxed)
                        .is_err()
                    {
                        continue;
                    }
                    seen = state >> 32;
                    // SAFETY: we joined an open job, so the submitter waits for us before it writes again.
                    break unsafe { *self.posted.job.get() };
                }
                if fetch.some(&self.ahead[worker]) {
                    continue;
                }
                std::hint::spin_loop();
                spins += 1;
                if spins.is_multiple_of(64) && spin_start.get_or_insert_with(Instant::now).elapsed() > SPIN {
                    self.sleeping.fetch_add(1, Ordering::SeqCst);
                    if self.posted.state.load(Ordering::SeqCst) >> 32 == seen && !self.stop.load(Ordering::SeqCst) {
                        thread::park();
                    }
                    self.sleeping.fetch_sub(1, Ordering::SeqCst);
                    spin_start = None;
                }
            };
            // SAFETY: joined above; the submitter keeps `data` alive until we leave.
            unsafe { self.take_items(job, worker) };
            self.posted.state.fetch_sub(1, Ordering::Release);
        }
    }
}

/// Where a waiting thread is in what it fetches.
struct Fetch {
    /// What it was told last.
    told: *const u8,
    next: *const u8,
    /// Bytes left.
    left: usize,
}

impl Default for Fetch {
    fn default() -> Self {
        Self { told: std::ptr::null(), next: std::ptr::null(), left: 0 }
    }
}

impl Fetch {
    /// Asks for the next few lines. Says whether there were any.
    fn some(&mut self, ahead: &Ahead) -> bool {
        let told = ahead.start.load(Ordering::Acquire).cast_const();
        if told != self.told {
            *self = Self { told, next: told, left: ahead.bytes.load(Ordering::Relaxed) };
        }
        if self.left == 0 {
            return false;
        }
        for line in 0..LINES_AT_ONCE {
            fetch(self.next.wrapping_add(line * LINE));
        }
        self.next = self.next.wrapping_add(LINES_AT_ONCE * LINE);
        self.left = self.left.saturating_sub(LINES_AT_ONCE * LINE);
        true
    }
}

/// Asks for a line, into the second-level cache. The address need not be valid.
fn fetch(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: SSE is part of the architecture, and a prefetch never faults.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T1 }>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

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

unsafe extern "C" fn run_shared(context: *const c_void, items: usize, task: Task, data: *const c_void) {
    // SAFETY: the context of a descriptor is a leaked `Arc<Shared>`.
    let shared = unsafe { &*context.cast::<Shared>() };
    // SAFETY: passed on from the caller.
    unsafe { shared.run(items, task, data) };
}

unsafe extern "C" fn look_ahead_shared(context: *const c_void, worker: usize, start: *const u8, bytes: usize) {
    // SAFETY: the context of a descriptor is a leaked `Arc<Shared>`.
    let shared = unsafe { &*context.cast::<Shared>() };
    shared.look_ahead(worker, start, bytes);
}

impl ThreadPool {
    /// A pool of `threads` workers, the caller included; 0 counts as 1. Threads that the system
    /// refuses to start are done without.
    #[must_use]
    pub fn new(threads: usize) -> Self {
        let threads = threads.clamp(1, 1024);
        let shared = Arc::new(Shared {
            posted: Apart(Posted {
                state: AtomicU64::new(0),
                job: std::cell::UnsafeCell::new(Job { task: never, data: std::ptr::null(), items: 0 }),
            }),
            next_item: Apart(AtomicUsize::new(0)),
            ahead: (0..threads).map(|_| Apart(Ahead::default())).collect(),
            sleeping: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            submit: Mutex::new(()),
            sleepers: Mutex::new(Vec::new()),
            threads,
        });
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
                Box::leak(Box::new(Descriptor {
                    version: DESCRIPTOR_VERSION,
                    threads: owner.shared.threads as u32,
                    context: Arc::as_ptr(&owner.shared).cast(),
                    run: run_shared,
                    look_ahead: look_ahead_shared,
                }))
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
        if address.is_null() || !address.is_aligned() {
            return Err(DescriptorError::NotAnAddress);
        }
        // SAFETY: by contract the address is a leaked descriptor.
        let descriptor = unsafe { &*address };
        if descriptor.version != DESCRIPTOR_VERSION {
            return Err(DescriptorError::Version(descriptor.version));
        }
        Ok(Self { kind: Kind::Foreign(descriptor) })
    }
}

unsafe extern "C" fn never(_: *const c_void, _: usize, _: usize) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_runs_once_on_a_known_worker() {
        for threads in [1, 2, 3, 8] {
            let pool = ThreadPool::new(threads);
            for items in [0, 1, 2, 7, 1000] {
                let counts: Vec<AtomicUsize> = (0..items).map(|_| AtomicUsize::new(0)).collect();
                pool.for_each(items, |worker, item| {
                    assert!(worker < threads);
                    counts[item].fetch_add(1, Ordering::Relaxed);
                });
                assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 1));
            }
        }
    }

    #[test]
    fn many_small_jobs_and_pauses() {
        let pool = ThreadPool::new(3);
        let total = AtomicUsize::new(0);
        for round in 0..2000 {
            pool.for_each(5, |_, _| {
                total.fetch_add(1, Ordering::Relaxed);
            });
            if round % 500 == 0 {
                thread::sleep(Duration::from_millis(2));
            }
        }
        assert_eq!(total.load(Ordering::Relaxed), 10_000);
    }

    #[test]
    fn two_callers_take_turns() {
        let pool = ThreadPool::new(2);
        let total = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        pool.for_each(10, |_, _| {
                            total.fetch_add(1, Ordering::Relaxed);
                        });
                    }
                });
            }
        });
        assert_eq!(total.load(Ordering::Relaxed), 8000);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_survives() {
        let pool = ThreadPool::new(2);
        let result = catch_unwind(AssertUnwindSafe(|| {
            pool.for_each(100, |_, item| assert!(item != 50, "item fifty"));
        }));
        assert!(result.is_err());
        let count = AtomicUsize::new(0);
        pool.for_each(10, |_, _| {
            count.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(count.load(Ordering::Relaxed), 10);
    }

    #[test]
    fn nested_calls_run_inline() {
        let pool = ThreadPool::new(2);
        let count = AtomicUsize::new(0);
        pool.for_each(4, |_, _| {
            pool.for_each(3, |_, _| {
                count.fetch_add(1, Ordering::Relaxed);
            });
        });
        assert_eq!(count.load(Ordering::Relaxed), 12);
    }

    #[test]
    fn a_job_does_not_wait_for_another() {
        let pool = ThreadPool::new(2);
        let (began, release) = (std::sync::Barrier::new(2), AtomicBool::new(false));
        thread::scope(|scope| {
            let long = pool.clone();
            let (began, release) = (&began, &release);
            scope.spawn(move || {
                long.for_each(2, |_, item| {
                    if item == 0 {
                        began.wait();
                    }
                    while !release.load(Ordering::Acquire) {
                        thread::yield_now();
                    }
                });
            });
            began.wait();
            let count = AtomicUsize::new(0);
            pool.for_each(100, |worker, item| {
                assert_eq!(worker, 0);
                assert_eq!(count.fetch_add(1, Ordering::Relaxed), item);
            });
            assert_eq!(count.into_inner(), 100);
            release.store(true, Ordering::Release);
        });
    }

    #[test]
    fn every_item_of_jobs_at_the_same_time_is_done_once() {
        let pool = ThreadPool::new(3);
        thread::scope(|scope| {
            for _ in 0..4 {
                let pool = pool.clone();
                scope.spawn(move || {
                    for _ in 0..200 {
                        let done: Vec<AtomicUsize> = (0..50).map(|_| AtomicUsize::new(0)).collect();
                        pool.for_each(50, |_, item| {
                            done[item].fetch_add(1, Ordering::Relaxed);
                        });
                        assert!(done.iter().all(|times| times.load(Ordering::Relaxed) == 1));
                    }
                });
            }
        });
    }

    #[test]
    fn what_is_looked_ahead_at_may_be_gone() {
        let pool = ThreadPool::new(3);
        let total = AtomicUsize::new(0);
        for round in 0..300 {
            let bytes = vec![1_u8; [0, 1, 10_000, 300_000][round % 4]];
            for worker in 0..5 {
                pool.look_ahead(worker, &bytes);
            }
            pool.for_each(3, |_, _| {
                total.fetch_add(1, Ordering::Relaxed);
            });
        }
        assert_eq!(total.into_inner(), 900);
    }

    #[test]
    fn a_descriptor_gives_the_same_pool() {
        let pool = ThreadPool::new(2);
        // SAFETY: the descriptor comes from a pool of this process.
        let other = unsafe { ThreadPool::from_descriptor(pool.descriptor()) }.unwrap();
        assert_eq!(other.threads(), 2);
        other.look_ahead(1, &[7; 5000]);
        let count = AtomicUsize::new(0);
        other.for_each(100, |_, _| {
            count.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(count.load(Ordering::Relaxed), 100);
        // SAFETY: a null address is refused before it is followed.
        let refused = unsafe { ThreadPool::from_descriptor(std::ptr::null()) };
        assert!(matches!(refused, Err(DescriptorError::NotAnAddress)));
    }
}
