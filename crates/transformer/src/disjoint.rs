//! A buffer that the workers of one parallel region write in disjoint pieces.

use std::marker::PhantomData;

/// A mutable slice shared by workers, each of which touches only its own elements.
#[derive(Clone, Copy)]
pub(crate) struct Disjoint<'a, T> {
    pointer: *mut T,
    length: usize,
    buffer: PhantomData<&'a mut [T]>,
}

// SAFETY: a `Disjoint` gives access only through unsafe methods whose callers promise that no two workers touch the
// same element at the same time, so sending or sharing it moves or shares elements of type `T` and nothing else.
unsafe impl<T: Send> Send for Disjoint<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Disjoint<'_, T> {}

impl<'a, T> Disjoint<'a, T> {
    pub(crate) fn new(buffer: &'a mut [T]) -> Self {
        Self { pointer: buffer.as_mut_ptr(), length: buffer.len(), buffer: PhantomData }
    }

    /// Elements `start..start + length`.
    ///
    /// # Safety
    /// While the slice lives, nobody else may touch these elements.
    #[expect(clippy::mut_from_ref, reason = "that is what the type is for; the caller promises disjointness")]
    pub(crate) unsafe fn slice(&self, start: usize, length: usize) -> &mut [T] {
        assert!(start <= self.length && length <= self.length - start);
        // SAFETY: in bounds as just checked; disjointness is the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.pointer.add(start), length) }
    }

    /// A pointer to element `start`, from which `length` elements lie inside the buffer.
    pub(crate) fn pointer(&self, start: usize, length: usize) -> *mut T {
        assert!(start <= self.length && length <= self.length - start);
        // SAFETY: in bounds as just checked.
        unsafe { self.pointer.add(start) }
    }
}
