//! What a waiting thread fetches into its cache: memory that it will most likely read in the next job.

use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

/// Bytes of a cache line.
const LINE: usize = 64;

/// Cache lines that a waiting thread asks for before it looks for a job again.
const LINES_AT_ONCE: usize = 4;

/// What a waiting thread may fetch: an address, which need not be valid, and how many bytes from there.
#[derive(Default)]
pub(crate) struct Ahead {
    start: AtomicPtr<u8>,
    bytes: AtomicUsize,
}

impl Ahead {
    pub(crate) fn tell(&self, start: *const u8, bytes: usize) {
        self.bytes.store(bytes, Ordering::Relaxed);
        self.start.store(start.cast_mut(), Ordering::Release);
    }
}

/// Where a waiting thread is in what it fetches.
pub(crate) struct Fetch {
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
    pub(crate) fn some(&mut self, ahead: &Ahead) -> bool {
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
