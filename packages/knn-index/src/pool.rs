//! The process's thread pools, one per number of threads.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use iceformer_threads::ThreadPool;
use napi::bindgen_prelude::BigInt;
use napi_derive::napi;

/// The pool with this many threads, the calling one included; all available ones if 0. Pools live as long
/// as the process: Node workers and indexes that come and go share them.
pub fn shared_pool(threads: u32) -> ThreadPool {
    static POOLS: Mutex<BTreeMap<usize, ThreadPool>> = Mutex::new(BTreeMap::new());
    let threads = if threads == 0 { ThreadPool::available() } else { threads as usize };
    let mut pools = POOLS.lock().unwrap_or_else(PoisonError::into_inner);
    pools.entry(threads).or_insert_with(|| ThreadPool::new(threads)).clone()
}

/// The address of the pool with this many threads, for another addon of this process; 0 takes all
/// available threads.
#[napi(catch_unwind)]
#[must_use]
pub fn thread_pool(threads: u32) -> BigInt {
    // `descriptor` leaks a little each time, so each pool gives its address once.
    static ADDRESSES: Mutex<BTreeMap<usize, usize>> = Mutex::new(BTreeMap::new());
    let pool = shared_pool(threads);
    let mut addresses = ADDRESSES.lock().unwrap_or_else(PoisonError::into_inner);
    let address =
        *addresses.entry(pool.threads()).or_insert_with(|| std::ptr::from_ref(pool.descriptor()).expose_provenance());
    BigInt::from(address as u64)
}

/// The SIMD level in use: `scalar`, `neon`, `avx2`, `avx2-vnni`, `avx512`, `avx512-vnni`, `avx512-fp16`, `avx512-bf16` or `amx`.
#[napi(catch_unwind)]
#[must_use]
pub fn simd_level() -> String {
    iceformer_simd::kernels().level.to_string()
}
