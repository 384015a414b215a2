//! One stretch of memory for all packed weights of a model.
//!
//! Decoding reads every weight for every token. In pages of 4 KiB the CPU would have to look up tens of thousands of
//! addresses on the way, and its own prefetching ends with each page; so the stretch is asked for in large pages where
//! the system has them.

use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use iceformer_simd::{AlignedBuffer, OutOfMemory, Zeroed};
use memmap2::MmapMut;

/// Bytes that each part's start is aligned to: a cache line.
const ALIGNMENT: usize = 64;

/// Memory that is handed out from the start to the end, once.
pub(crate) struct WeightMemory {
    map: Arc<Stretch>,
    /// Bytes handed out.
    used: AtomicUsize,
}

/// The mapped pages. The map itself is only kept alive: parts write through the pointer.
struct Stretch {
    start: NonNull<u8>,
    length: usize,
    _pages: MmapMut,
}

// SAFETY: the pointer is only followed through parts, which do not overlap, and the map is never looked at.
unsafe impl Send for Stretch {}
// SAFETY: as above.
unsafe impl Sync for Stretch {}

impl WeightMemory {
    /// Room for `bytes` bytes in all, alignment included. Pages are taken from the system as they are written. If it
    /// gives none, no part is handed out, and whoever asks takes memory elsewhere.
    pub(crate) fn new(bytes: usize) -> Option<Self> {
        let mut pages = MmapMut::map_anon(bytes).ok()?;
        // A hint: where there are no large pages, small ones do.
        #[cfg(target_os = "linux")]
        let _ = pages.advise(memmap2::Advice::HugePage);
        let start = NonNull::new(pages.as_mut_ptr())?;
        let map = Stretch { start, length: pages.len(), _pages: pages };
        Some(Self { map: Arc::new(map), used: AtomicUsize::new(0) })
    }

    /// Bytes of the stretch that a part of `bytes` bytes takes at most.
    pub(crate) const fn taken(bytes: usize) -> usize {
        bytes.saturating_add(ALIGNMENT)
    }

    /// The next `length` numbers, all zero, if they are left.
    fn take<T: Zeroed>(&self, length: usize) -> Option<WeightBuffer<T>> {
        const { assert!(align_of::<T>() <= ALIGNMENT) };
        let bytes = length.checked_mul(size_of::<T>())?.checked_next_multiple_of(ALIGNMENT)?;
        let fits = |used: usize| used.checked_add(bytes).filter(|&end| end <= self.map.length);
        let first = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).ok()?;
        // SAFETY: `first` is inside the stretch, as just checked. It is a multiple of a cache line as all parts are, and
        // the stretch begins with a page.
        let start = unsafe { self.map.start.add(first) }.cast();
        Some(WeightBuffer {
            start,
            length,
            owner: Owner::Stretch { _alive: Arc::clone(&self.map) },
            numbers: PhantomData,
        })
    }
}

/// Who has a buffer's memory.
enum Owner<T: Zeroed> {
    Stretch { _alive: Arc<Stretch> },
    Own { _alive: AlignedBuffer<T> },
}

/// A fixed-length buffer of numbers that begins on a cache line, zeroed at first.
pub(crate) struct WeightBuffer<T: Zeroed> {
    start: NonNull<T>,
    length: usize,
    owner: Owner<T>,
    numbers: PhantomData<T>,
}

impl<T: Zeroed> WeightBuffer<T> {
    /// A part of `memory`, or of memory of its own where that has no room.
    pub(crate) fn try_new(length: usize, memory: Option<&WeightMemory>) -> Result<Self, OutOfMemory> {
        if let Some(part) = memory.and_then(|memory| memory.take(length)) {
            return Ok(part);
        }
        let mut own = AlignedBuffer::try_new(length)?;
        let start = NonNull::from(own.as_mut_slice()).cast();
        Ok(Self { start, length, owner: Owner::Own { _alive: own }, numbers: PhantomData })
    }
}

// SAFETY: the buffer is the only one with access to its numbers, and T is Send.
unsafe impl<T: Zeroed> Send for WeightBuffer<T> {}
// SAFETY: shared access only reads.
unsafe impl<T: Zeroed> Sync for WeightBuffer<T> {}

impl<T: Zeroed> Deref for WeightBuffer<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        // SAFETY: `length` numbers, zeroed or written, that nobody else has access to while the owner is alive.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.length) }
    }
}

impl<T: Zeroed> DerefMut for WeightBuffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`, and we hold the only reference.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.length) }
    }
}

impl<T: Zeroed> std::fmt::Debug for WeightBuffer<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let own = matches!(self.owner, Owner::Own { .. });
        f.debug_struct("WeightBuffer").field("length", &self.length).field("own", &own).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::{Owner, WeightBuffer, WeightMemory};

    #[test]
    fn parts_are_zero_aligned_and_apart() {
        let memory = WeightMemory::new(3 * WeightMemory::taken(100)).unwrap();
        let mut parts: Vec<WeightBuffer<u16>> =
            (0..3).map(|_| WeightBuffer::try_new(50, Some(&memory)).unwrap()).collect();
        for (number, part) in parts.iter_mut().enumerate() {
            assert!(matches!(part.owner, Owner::Stretch { .. }));
            assert!((part.as_ptr() as usize).is_multiple_of(64));
            assert_eq!(**part, [0; 50]);
            part.fill(number as u16 + 1);
        }
        drop(memory);
        for (number, part) in parts.iter().enumerate() {
            assert_eq!(**part, [number as u16 + 1; 50]);
        }
    }

    #[test]
    fn what_does_not_fit_has_memory_of_its_own() {
        let memory = WeightMemory::new(1).unwrap();
        // At least one page was mapped, but not that many.
        for length in [1 << 20, usize::MAX / 2] {
            match WeightBuffer::<f32>::try_new(length, Some(&memory)) {
                Ok(part) => assert!(matches!(part.owner, Owner::Own { .. }) && part.iter().all(|&x| x == 0.0)),
                Err(refused) => assert!(length > 1 << 20 && refused.bytes > length),
            }
        }
        assert_eq!(WeightBuffer::<f32>::try_new(0, None).unwrap().len(), 0);
    }
}
