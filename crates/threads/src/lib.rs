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

mod descriptor;
mod job;
mod look_ahead;
mod pool;

pub use descriptor::{Descriptor, DescriptorError};
pub use pool::ThreadPool;
use std::time::Duration;

/// How long a waiting thread spins before it sleeps. Waking a sleeping thread costs about as much.
pub const SPIN: Duration = Duration::from_micros(100);
