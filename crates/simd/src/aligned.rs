//! Memory for kernels: aligned to a cache line, zeroed, and an error instead of an abort when there is none.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// The system refused an allocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutOfMemory {
    /// Bytes asked for.
    pub bytes: usize,
}

impl fmt::Display for OutOfMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes could not be allocated", self.bytes)
    }
}

impl std::error::Error for OutOfMemory {}

/// A number for which all bits zero is zero.
///
/// # Safety
/// All-zero bytes must be a valid value and the type must not need dropping.
pub unsafe trait Zeroed: Copy + Default + Send + Sync + 'static {}
// SAFETY: plain numbers.
unsafe impl Zeroed for f32 {}
// SAFETY: plain numbers.
unsafe impl Zeroed for u16 {}
// SAFETY: plain numbers.
unsafe impl Zeroed for u32 {}
// SAFETY: plain numbers.
unsafe impl Zeroed for i32 {}
// SAFETY: plain numbers.
unsafe impl Zeroed for i8 {}
// SAFETY: plain numbers.
unsafe impl Zeroed for u8 {}

/// A fixed-length buffer of numbers, 64-byte aligned and zeroed at first.
///
/// Large ones are pages that the system has not handed out yet: whoever writes a page first gets it, on all threads at
/// once, and what is never written takes no memory.
pub struct AlignedBuffer<T: Zeroed> {
    /// What was allocated, up to [`ALIGNMENT`] before the first element.
    allocation: NonNull<u8>,
    pointer: NonNull<T>,
    length: usize,
}

/// Bytes that a buffer's start is aligned to.
const ALIGNMENT: usize = 64;

/// Bytes that allocators align to anyway. Asked for more, Rust's clears the memory by hand, page after page on one
/// thread, instead of taking pages that are zero already.
const GIVEN_ALIGNMENT: usize = 16;

impl<T: Zeroed> AlignedBuffer<T> {
    /// A zeroed buffer of `length` elements.
    ///
    /// # Errors
    /// When the system has not that much memory.
    pub fn try_new(length: usize) -> Result<Self, OutOfMemory> {
        if length == 0 {
            return Ok(Self { allocation: NonNull::dangling(), pointer: NonNull::dangling(), length });
        }
        let layout = Self::layout(length)?;
        // SAFETY: the layout is not of size zero.
        let allocation = NonNull::new(unsafe { alloc_zeroed(layout) }).ok_or(OutOfMemory { bytes: layout.size() })?;
        let offset = allocation.as_ptr().align_offset(ALIGNMENT);
        // SAFETY: the layout has room for moving to the next aligned address, see `layout`.
        let pointer = unsafe { NonNull::new_unchecked(allocation.as_ptr().add(offset).cast::<T>()) };
        Ok(Self { allocation, pointer, length })
    }

    /// A zeroed buffer of `length` elements.
    ///
    /// # Panics
    /// When the system has not that much memory; for sizes that a user can drive take [`Self::try_new`].
    #[must_use]
    pub fn new(length: usize) -> Self {
        match Self::try_new(length) {
            Ok(buffer) => buffer,
            Err(error) => panic!("{error}"),
        }
    }

    /// What is allocated for `length` elements: room for them behind an aligned address.
    fn layout(length: usize) -> Result<Layout, OutOfMemory> {
        let bytes = length.saturating_mul(size_of::<T>()).saturating_add(ALIGNMENT - GIVEN_ALIGNMENT);
        Layout::from_size_align(bytes, GIVEN_ALIGNMENT).map_err(|_| OutOfMemory { bytes })
    }

    /// Number of elements.
    #[must_use]
    pub fn len(&self) -> usize {
        self.length
    }

    /// True when it holds nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// All elements.
    #[must_use]
    pub fn as_slice(&self) -> &[T] {
        // SAFETY: `length` elements were allocated and zeroed, which is a valid value of T.
        unsafe { std::slice::from_raw_parts(self.pointer.as_ptr(), self.length) }
    }

    /// All elements, to write.
    #[must_use]
    pub fn as_mut_slice(&mut self) -> &mut [T] {
        // SAFETY: as in `as_slice`, and we hold the only reference.
        unsafe { std::slice::from_raw_parts_mut(self.pointer.as_ptr(), self.length) }
    }
}

impl<T: Zeroed> Drop for AlignedBuffer<T> {
    fn drop(&mut self) {
        if self.length > 0
            && let Ok(layout) = Self::layout(self.length)
        {
            // SAFETY: allocated with the same layout in `try_new`.
            unsafe { dealloc(self.allocation.as_ptr(), layout) };
        }
    }
}

// SAFETY: the buffer owns its memory and T is Send.
unsafe impl<T: Zeroed> Send for AlignedBuffer<T> {}
// SAFETY: shared access only reads.
unsafe impl<T: Zeroed> Sync for AlignedBuffer<T> {}

impl<T: Zeroed> Deref for AlignedBuffer<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        self.as_slice()
    }
}

impl<T: Zeroed> DerefMut for AlignedBuffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        self.as_mut_slice()
    }
}

impl<T: Zeroed> fmt::Debug for AlignedBuffer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AlignedBuffer").field("length", &self.length).finish_non_exhaustive()
    }
}

impl<T: Zeroed> Clone for AlignedBuffer<T> {
    fn clone(&self) -> Self {
        let mut copy = Self::new(self.length);
        copy.as_mut_slice().copy_from_slice(self);
        copy
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aligned_and_zeroed() {
        for length in [0, 1, 5, 1000] {
            let buffer = AlignedBuffer::<f32>::new(length);
            assert_eq!(buffer.len(), length);
            assert!(length == 0 || (buffer.as_ptr() as usize).is_multiple_of(64));
            assert!(buffer.iter().all(|&x| x.to_bits() == 0));
        }
    }

    #[test]
    fn too_much_is_an_error() {
        assert!(AlignedBuffer::<f32>::try_new(usize::MAX / 4).is_err());
        assert!(AlignedBuffer::<u8>::try_new(1 << 60).is_err());
    }
}
