//! A contiguous array that is copied on write, in memory of its own or in a mapped file.

use std::alloc::{Layout, alloc, alloc_zeroed, dealloc};
use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use memmap2::Mmap;

use crate::error::{Error, Result};

/// Every buffer starts at a multiple of this many bytes: a cache line, and the widest vector register.
pub(crate) const ALIGNMENT: usize = 64;

/// `[len]` elements one after another, aligned to [`ALIGNMENT`] bytes.
///
/// A clone shares the memory until one of the two changes; a buffer over a mapped file is copied into memory at
/// its first change. So every change may allocate, and fails with [`Error::OutOfMemory`], changing nothing.
pub(crate) struct Buffer<T> {
    /// The first element; dangling but aligned if there is no memory.
    pointer: NonNull<T>,
    len: usize,
    memory: Memory,
    elements: PhantomData<T>,
}

/// Who keeps the elements alive.
#[derive(Clone)]
enum Memory {
    Nothing,
    Owned(Arc<Allocation>),
    Mapped(#[expect(dead_code, reason = "holds the mapping, is never read")] Arc<Mmap>),
}

/// Aligned bytes.
struct Allocation {
    pointer: NonNull<u8>,
    /// Bytes, above 0.
    size: usize,
}

// SAFETY: plain memory. It is written only while it has a single owner.
unsafe impl Send for Allocation {}
// SAFETY: as above.
unsafe impl Sync for Allocation {}

impl Allocation {
    /// `size` bytes, at least 1, zeros if asked for.
    fn new(size: usize, zeroed: bool) -> Result<Self> {
        let full = || Error::OutOfMemory { bytes: size };
        let layout = Layout::from_size_align(size, ALIGNMENT).map_err(|_| full())?;
        // SAFETY: the size is not zero.
        let pointer = unsafe { if zeroed { alloc_zeroed(layout) } else { alloc(layout) } };
        Ok(Self { pointer: NonNull::new(pointer).ok_or_else(full)?, size })
    }
}

impl Drop for Allocation {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout, which was valid there.
        unsafe { dealloc(self.pointer.as_ptr(), Layout::from_size_align_unchecked(self.size, ALIGNMENT)) };
    }
}

// SAFETY: elements are read through a shared reference and written through an exclusive one, as in a `Vec<T>`.
unsafe impl<T: Send + Sync> Send for Buffer<T> {}
// SAFETY: as above.
unsafe impl<T: Send + Sync> Sync for Buffer<T> {}

impl<T> Clone for Buffer<T> {
    fn clone(&self) -> Self {
        Self { pointer: self.pointer, len: self.len, memory: self.memory.clone(), elements: PhantomData }
    }
}

impl<T> Deref for Buffer<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        // SAFETY: `len` elements have been written there (or checked, in a mapped file), and `memory` keeps them.
        unsafe { std::slice::from_raw_parts(self.pointer.as_ptr(), self.len) }
    }
}

impl<T: Copy + 'static> Default for Buffer<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: fmt::Debug> fmt::Debug for Buffer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 8;
        f.debug_struct("Buffer")
            .field("len", &self.len)
            .field("mapped", &matches!(self.memory, Memory::Mapped(_)))
            .field("first", &&self[..self.len.min(SHOWN)])
            .finish_non_exhaustive()
    }
}

impl<T: Copy + 'static> Buffer<T> {
    /// Bytes of an element.
    const SIZE: usize = {
        assert!(size_of::<T>() > 0 && align_of::<T>() <= ALIGNMENT);
        size_of::<T>()
    };

    /// An empty buffer; allocates nothing.
    #[must_use]
    pub const fn new() -> Self {
        // SAFETY: the alignment is not zero.
        let pointer = unsafe { NonNull::new_unchecked(std::ptr::without_provenance_mut(ALIGNMENT)) };
        Self { pointer, len: 0, memory: Memory::Nothing, elements: PhantomData }
    }

    /// `len` elements of a mapped file, from a byte offset.
    ///
    /// # Safety
    ///
    /// Any bytes must be a valid `T`, and nobody may change those bytes of the file while the buffer, or a clone
    /// of it, is in use.
    ///
    /// # Panics
    ///
    /// If the range is not within the map, or the offset not aligned.
    pub unsafe fn mapped(map: &Arc<Mmap>, offset: usize, len: usize) -> Self {
        let bytes = &map[offset..offset + len.checked_mul(Self::SIZE).expect("within the map")];
        let pointer = NonNull::from(bytes).cast::<T>();
        assert!(pointer.is_aligned(), "section is not aligned");
        Self { pointer, len, memory: Memory::Mapped(Arc::clone(map)), elements: PhantomData }
    }

    /// The elements, to change: copies them first if they are shared or mapped.
    #[inline]
    pub fn make_mut(&mut self) -> Result<&mut [T]> {
        if !self.unique() {
            self.relocate(self.len)?;
        }
        // SAFETY: as in `deref`; nobody else refers to the memory, and it is not a file's.
        Ok(unsafe { std::slice::from_raw_parts_mut(self.pointer.as_ptr(), self.len) })
    }

    /// The elements, to change, if that needs no copy: after [`Self::make_mut`] with no clone since, it does not.
    #[inline]
    pub fn get_mut(&mut self) -> Option<&mut [T]> {
        // SAFETY: as in `make_mut`.
        self.unique().then(|| unsafe { std::slice::from_raw_parts_mut(self.pointer.as_ptr(), self.len) })
    }

    /// Makes room for `additional` more elements, and half as many again as there are, so that repeated growth
    /// copies each element a constant number of times.
    pub fn try_reserve(&mut self, additional: usize) -> Result<()> {
        let needed = self.needed(additional)?;
        if self.unique() && needed <= self.capacity() { Ok(()) } else { self.relocate(needed.max(self.len / 2 * 3)) }
    }

    /// Makes room for `additional` more elements and no more.
    pub fn try_reserve_exact(&mut self, additional: usize) -> Result<()> {
        let needed = self.needed(additional)?;
        if self.unique() && needed <= self.capacity() { Ok(()) } else { self.relocate(needed) }
    }

    /// Appends; grows as [`Self::try_reserve`] does if there is no room.
    pub fn push_slice(&mut self, values: &[T]) -> Result<()> {
        self.try_reserve(values.len())?;
        // SAFETY: there is room for the values after the elements, in memory that no slice refers to.
        unsafe {
            self.pointer.as_ptr().add(self.len).copy_from_nonoverlapping(values.as_ptr(), values.len());
        }
        self.len += values.len();
        Ok(())
    }

    /// Lengthens with `fill`, as [`Self::push_slice`] does, or shortens.
    pub fn resize(&mut self, len: usize, fill: T) -> Result<()> {
        if len <= self.len {
            self.truncate(len);
            return Ok(());
        }
        let additional = len - self.len;
        self.try_reserve(additional)?;
        for i in self.len..len {
            // SAFETY: within the room that was reserved.
            unsafe { self.pointer.as_ptr().add(i).write(fill) };
        }
        self.len = len;
        Ok(())
    }

    /// Shortens; the memory stays reserved.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Gives back what is reserved and not used. Leaves a mapped or shared buffer as it is.
    pub fn shrink(&mut self) -> Result<()> {
        if self.len == 0 {
            *self = Self::new();
        } else if self.unique() && self.len < self.capacity() {
            self.relocate(self.len)?;
        }
        Ok(())
    }

    /// Elements there is room for; 0 if mapped.
    pub fn capacity(&self) -> usize {
        self.reserved_bytes() / Self::SIZE
    }

    /// Whether the elements are in a mapped file.
    #[cfg(test)]
    pub fn is_mapped(&self) -> bool {
        matches!(self.memory, Memory::Mapped(_))
    }

    /// Bytes of the elements.
    pub fn live_bytes(&self) -> usize {
        self.len * Self::SIZE
    }

    /// Bytes of memory held: 0 if mapped, as the system takes those pages back whenever it wants to.
    pub fn reserved_bytes(&self) -> usize {
        match &self.memory {
            Memory::Owned(allocation) => allocation.size,
            Memory::Nothing | Memory::Mapped(_) => 0,
        }
    }

    /// Whether the memory may be written. (Nothing may: there is none.)
    #[inline]
    fn unique(&mut self) -> bool {
        match &self.memory {
            Memory::Nothing => true,
            // There are no weak references, and nobody can make another strong one meanwhile. The fence orders
            // what the last of the other owners read before what is written next.
            Memory::Owned(allocation) => {
                let alone = Arc::strong_count(allocation) == 1;
                fence(Ordering::Acquire);
                alone
            }
            Memory::Mapped(_) => false,
        }
    }

    fn needed(&self, additional: usize) -> Result<usize> {
        self.len.checked_add(additional).ok_or(Error::OutOfMemory { bytes: usize::MAX })
    }

    /// Moves to memory of its own with room for `capacity` elements, at least `len`.
    fn relocate(&mut self, capacity: usize) -> Result<()> {
        if capacity == 0 {
            *self = Self::new();
            return Ok(());
        }
        let bytes = capacity.checked_mul(Self::SIZE).ok_or(Error::OutOfMemory { bytes: usize::MAX })?;
        let allocation = Allocation::new(bytes, false)?;
        let pointer = allocation.pointer.cast::<T>();
        // SAFETY: the new memory has room for `len` elements and is no one's yet.
        unsafe { pointer.as_ptr().copy_from_nonoverlapping(self.pointer.as_ptr(), self.len) };
        self.pointer = pointer;
        self.memory = Memory::Owned(Arc::new(allocation));
        Ok(())
    }
}

impl<T: super::Number> Buffer<T> {
    /// `len` zeros, with no room for more. The system hands out pages of zeros when they are first written.
    pub fn try_zeroed(len: usize) -> Result<Self> {
        if len == 0 {
            return Ok(Self::new());
        }
        let bytes = len.checked_mul(Self::SIZE).ok_or(Error::OutOfMemory { bytes: usize::MAX })?;
        let allocation = Allocation::new(bytes, true)?;
        // Zero bytes are a valid number of every kind.
        Ok(Self {
            pointer: allocation.pointer.cast(),
            len,
            memory: Memory::Owned(Arc::new(allocation)),
            elements: PhantomData,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;

    fn mapped(values: &[u32]) -> Buffer<u32> {
        let path = std::env::temp_dir().join(format!("knn-buffer-{}-{}", std::process::id(), values.len()));
        let mut file = std::fs::File::create_new(&path).unwrap();
        for value in values {
            file.write_all(&value.to_le_bytes()).unwrap();
        }
        drop(file);
        // SAFETY: nobody knows the file.
        let map = Arc::new(unsafe { Mmap::map(&std::fs::File::open(&path).unwrap()) }.unwrap());
        std::fs::remove_file(path).unwrap();
        // SAFETY: as above.
        unsafe { Buffer::mapped(&map, 0, values.len()) }
    }

    #[test]
    fn a_mapped_buffer_becomes_owned_when_it_changes() {
        let values: Vec<u32> = (0..777).collect();
        let mut buffer = mapped(&values);
        let copy = buffer.clone();
        assert!(buffer.is_mapped() && buffer[..] == values[..] && buffer.reserved_bytes() == 0);
        buffer.truncate(500);
        assert!(buffer.is_mapped() && buffer.len() == 500 && buffer.get_mut().is_none());
        buffer.make_mut().unwrap()[3] = 99;
        assert!(!buffer.is_mapped() && buffer[3] == 99 && buffer[4] == 4 && buffer.reserved_bytes() == 2000);
        assert_eq!(copy[..], values[..]);
    }

    #[test]
    fn sizes_that_do_not_exist_are_errors() {
        let mut buffer = Buffer::<u64>::new();
        buffer.push_slice(&[1, 2]).unwrap();
        assert_eq!(buffer.try_reserve(usize::MAX), Err(Error::OutOfMemory { bytes: usize::MAX }));
        assert_eq!(buffer.try_reserve_exact(usize::MAX / 2), Err(Error::OutOfMemory { bytes: usize::MAX }));
        assert!(matches!(buffer.resize(usize::MAX / 16, 0), Err(Error::OutOfMemory { .. })));
        assert!(matches!(Buffer::<u64>::try_zeroed(usize::MAX / 16), Err(Error::OutOfMemory { .. })));
        assert_eq!(buffer[..], [1, 2]);
    }

    #[test]
    fn shrinking_gives_memory_back() {
        let mut buffer = Buffer::<u8>::new();
        buffer.try_reserve_exact(1000).unwrap();
        assert_eq!((buffer.capacity(), buffer.live_bytes()), (1000, 0));
        buffer.push_slice(&[5; 10]).unwrap();
        buffer.shrink().unwrap();
        assert_eq!((buffer.reserved_bytes(), &buffer[..]), (10, &[5; 10][..]));
        buffer.truncate(0);
        buffer.shrink().unwrap();
        assert_eq!(buffer.reserved_bytes(), 0);
    }

    proptest! {
        /// Behaves as a vector does, and so does every clone.
        #[test]
        fn like_a_vector(steps in proptest::collection::vec((0..8_u8, 0..70_usize, any::<u16>()), 1..60)) {
            let mut pairs: Vec<(Buffer<u16>, Vec<u16>)> = vec![(Buffer::new(), Vec::new())];
            for (step, n, value) in steps {
                let which = n % pairs.len();
                let (buffer, vector) = &mut pairs[which];
                match step {
                    0 => {
                        buffer.push_slice(&[value]).unwrap();
                        vector.push(value);
                    }
                    1 => {
                        let values: Vec<u16> = (0..n as u16).map(|i| i ^ value).collect();
                        buffer.push_slice(&values).unwrap();
                        vector.extend(values);
                    }
                    2 => {
                        buffer.resize(n * 2, value).unwrap();
                        vector.resize(n * 2, value);
                    }
                    3 => {
                        buffer.truncate(n);
                        vector.truncate(n);
                    }
                    4 => {
                        if let (Some(to), Some(from)) = (buffer.make_mut().unwrap().get_mut(n), vector.get_mut(n)) {
                            *to = value;
                            *from = value;
                        }
                    }
                    5 => buffer.shrink().unwrap(),
                    6 => {
                        let copy = (buffer.clone(), vector.clone());
                        pairs.push(copy);
                    }
                    _ => buffer.try_reserve_exact(n).unwrap(),
                }
                for (buffer, vector) in &pairs {
                    prop_assert_eq!(&buffer[..], &vector[..]);
                    prop_assert_eq!(buffer.as_ptr() as usize % ALIGNMENT, 0);
                    prop_assert!(buffer.is_mapped() || buffer.reserved_bytes() >= buffer.live_bytes());
                }
            }
        }
    }
}
