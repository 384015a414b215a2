//! A job, and how threads come to it: they spin, sleep, join it and take its items from one counter.

use crate::SPIN;
use crate::look_ahead::{Ahead, Fetch};
use std::cell::Cell;
use std::ffi::c_void;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError, TryLockError};
use std::thread;
use std::time::Instant;

/// One item of a job, run by a worker.
pub(crate) type Task = unsafe extern "C" fn(data: *const c_void, worker: usize, item: usize);

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

/// What waiting threads look at.
struct Posted {
    /// `generation << 32 | open << 31 | threads inside the job`.
    state: AtomicU64,
    /// Written only by the submitter while no thread is inside and the job is closed.
    job: std::cell::UnsafeCell<Job>,
}

pub(crate) struct Shared {
    posted: Apart<Posted>,
    next_item: Apart<AtomicUsize>,
    /// `[threads]`
    ahead: Vec<Apart<Ahead>>,
    sleeping: AtomicUsize,
    pub(crate) stop: AtomicBool,
    submit: Mutex<()>,
    pub(crate) sleepers: Mutex<Vec<thread::Thread>>,
    pub(crate) threads: usize,
}

// SAFETY: `job` is written only under `submit` while `state` says closed with nobody inside, and read
// only by threads that joined an open job; the other fields are atomics and mutexes.
unsafe impl Sync for Shared {}
// SAFETY: the raw pointer in `job` is only followed during the `run` call that published it.
unsafe impl Send for Shared {}

impl Shared {
    pub(crate) fn new(threads: usize) -> Self {
        Self {
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
        }
    }

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

    pub(crate) unsafe fn run(&self, items: usize, task: Task, data: *const c_void) {
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

    pub(crate) fn look_ahead(&self, worker: usize, start: *const u8, bytes: usize) {
        if let Some(ahead) = self.ahead.get(worker) {
            ahead.tell(start, bytes);
        }
    }

    pub(crate) fn work(&self, worker: usize) {
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

unsafe extern "C" fn never(_: *const c_void, _: usize, _: usize) {}
