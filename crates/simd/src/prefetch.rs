//! Asking for memory before it is needed.

/// Bytes that memory delivers at once.
const CACHE_LINE: usize = 64;

/// How many steps of `count` numbers lie in a cache line, at least one: asking once for them is enough.
#[inline(always)]
pub(crate) fn steps_in_line<T>(count: usize) -> usize {
    (CACHE_LINE / (count * std::mem::size_of::<T>())).max(1)
}

/// Asks for the cache line at an address, which need not be valid.
#[inline(always)]
pub fn prefetch<T>(address: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: SSE is part of the architecture, and a prefetch never faults.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}
