//! The threads of asynchronous calls.
//!
//! Not libuv's: those are four for the whole process, and a few long searches on them would hold up Node's file
//! system and DNS calls. A call's thread is worker 0 of the index's pool while it works.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use iceformer_threads::ThreadPool;
use napi::Env;
use napi::bindgen_prelude::{Object, ToNapiValue};
use napi_derive::napi;

use crate::error::{Fault, Result, from_napi};

/// Calls that run at the same time, at least; more wait their turn.
const MIN_THREADS: usize = 4;
/// A thread without work ends after this.
const IDLE: Duration = Duration::from_secs(5);

struct Job {
    cancel: Option<Arc<AtomicBool>>,
    run: Box<dyn FnOnce() + Send>,
}

#[derive(Default)]
struct Jobs {
    waiting: VecDeque<Job>,
    threads: usize,
    idle: usize,
}

static JOBS: Mutex<Jobs> = Mutex::new(Jobs { waiting: VecDeque::new(), threads: 0, idle: 0 });
static WORK: Condvar = Condvar::new();

fn jobs() -> MutexGuard<'static, Jobs> {
    JOBS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs a job on a thread of its own, now or when one is free.
fn run(job: Job) {
    let mut jobs = jobs();
    jobs.waiting.push_back(job);
    if jobs.idle >= jobs.waiting.len() {
        WORK.notify_one();
    } else if jobs.threads < ThreadPool::available().max(MIN_THREADS) {
        let spawned = thread::Builder::new().name("iceformer-call".to_owned()).spawn(work);
        jobs.threads += usize::from(spawned.is_ok());
        if jobs.threads == 0 {
            // The system has no thread left for us: better late than never.
            let job = jobs.waiting.pop_back();
            drop(jobs);
            if let Some(job) = job {
                (job.run)();
            }
        }
    }
}

fn work() {
    let mut guard = jobs();
    loop {
        if let Some(job) = guard.waiting.pop_front() {
            drop(guard);
            (job.run)();
            guard = jobs();
            continue;
        }
        guard.idle += 1;
        let (woken, timeout) = WORK.wait_timeout(guard, IDLE).unwrap_or_else(PoisonError::into_inner);
        guard = woken;
        guard.idle -= 1;
        if timeout.timed_out() && guard.waiting.is_empty() {
            guard.threads -= 1;
            return;
        }
    }
}

/// A promise of what `compute` gives on another thread. `resolve` makes the JavaScript value, back on the thread of
/// `env`: it must be quick.
pub fn promise<T, J>(
    env: &Env,
    cancel: Option<Arc<AtomicBool>>,
    compute: impl FnOnce() -> std::result::Result<T, Fault> + Send + 'static,
    resolve: impl FnOnce(T) -> J + Send + 'static,
) -> Result<Object<'_>>
where
    T: Send + 'static,
    J: ToNapiValue + 'static,
{
    let (deferred, promise) = env.create_deferred().map_err(from_napi)?;
    let flag = cancel.clone();
    let run_job = move || {
        let cancelled = flag.as_ref().is_some_and(|flag| flag.load(Ordering::Relaxed));
        let outcome = if cancelled {
            drop(compute);
            Err(Fault::from(iceformer_knn::Error::Cancelled))
        } else {
            // A panic is an error of this call, not the end of the thread.
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(compute)).unwrap_or(Err(Fault::Panic))
        };
        deferred.resolve(move |_: Env| outcome.map(resolve).map_err(|fault| fault.rejection()));
    };
    run(Job { cancel, run: Box::new(run_job) });
    Ok(promise)
}

/// Stops the work it is handed to.
#[napi]
#[derive(Default)]
pub struct NativeCancel {
    flag: Arc<AtomicBool>,
}

#[napi]
impl NativeCancel {
    /// A token that has not been used.
    #[napi(constructor, catch_unwind)]
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Stops the work within milliseconds, also if it still waits for a thread.
    #[napi(catch_unwind)]
    pub fn cancel(&self) {
        self.flag.store(true, Ordering::Relaxed);
        let mut jobs = jobs();
        let (cancelled, waiting) = std::mem::take(&mut jobs.waiting)
            .into_iter()
            .partition(|job| job.cancel.as_ref().is_some_and(|flag| Arc::ptr_eq(flag, &self.flag)));
        jobs.waiting = waiting;
        drop(jobs);
        for job in cancelled {
            // It sees the flag and rejects at once.
            (job.run)();
        }
    }

    /// What the work looks at.
    pub(crate) fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.flag)
    }
}

impl Drop for NativeCancel {
    fn drop(&mut self) {
        // Nobody waits any more: its worker thread has ended.
        self.flag.store(true, Ordering::Relaxed);
    }
}
