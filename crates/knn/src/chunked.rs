//! A long array that is copied on write, a chunk at a time: a copy shares everything until one side changes.

use std::sync::Arc;

use crate::error::{Error, Result};

/// An array of rows of `width` numbers in chunks of [`ROWS`] rows.
///
/// `clone` copies one pointer per chunk. A change copies the chunk if another copy of the array still holds it.
#[derive(Debug)]
pub(crate) struct Chunked<T> {
    width: usize,
    rows: usize,
    chunks: Vec<Arc<Vec<T>>>,
}

/// Rows of a chunk.
pub(crate) const ROWS: usize = 1024;

impl<T> Clone for Chunked<T> {
    fn clone(&self) -> Self {
        Self { width: self.width, rows: self.rows, chunks: self.chunks.clone() }
    }
}

impl<T: Copy> Chunked<T> {
    /// An empty array of rows of `width` numbers.
    pub fn new(width: usize) -> Self {
        Self { width, rows: 0, chunks: Vec::new() }
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.rows
    }

    /// Lengthens with rows of `fill`, or shortens (and gives the memory of whole chunks back).
    pub fn resize(&mut self, rows: usize, fill: T) -> Result<()> {
        let chunks = rows.div_ceil(ROWS);
        if rows < self.rows {
            self.chunks.truncate(chunks);
            if let Some(last) = self.chunks.last_mut() {
                Arc::make_mut(last).truncate((rows - (chunks - 1) * ROWS) * self.width);
            }
            self.rows = rows;
            return Ok(());
        }
        for chunk in (self.rows / ROWS)..chunks {
            let length = (rows - chunk * ROWS).min(ROWS) * self.width;
            let bytes = length * size_of::<T>();
            if chunk == self.chunks.len() {
                self.chunks.push(Arc::new(Vec::new()));
            }
            let chunk = Arc::make_mut(&mut self.chunks[chunk]);
            // Amortised growth of small arrays, whole chunks for large ones.
            if rows > ROWS {
                let missing = (ROWS * self.width).saturating_sub(chunk.len());
                chunk.try_reserve_exact(missing).map_err(|_| Error::OutOfMemory { bytes })?;
            } else {
                chunk.try_reserve(length - chunk.len()).map_err(|_| Error::OutOfMemory { bytes })?;
            }
            chunk.resize(length, fill);
        }
        self.rows = rows;
        Ok(())
    }

    /// Row `row`, `[width]`.
    #[inline]
    pub fn row(&self, row: usize) -> &[T] {
        let start = row % ROWS * self.width;
        &self.chunks[row / ROWS][start..start + self.width]
    }

    /// Row `row`, `[width]`, to change.
    #[inline]
    pub fn row_mut(&mut self, row: usize) -> &mut [T] {
        let start = row % ROWS * self.width;
        &mut Arc::make_mut(&mut self.chunks[row / ROWS])[start..start + self.width]
    }

    /// Bytes in use, and bytes held.
    pub fn bytes(&self) -> (usize, usize) {
        let held: usize = self.chunks.iter().map(|chunk| chunk.capacity() * size_of::<T>()).sum();
        (self.rows * self.width * size_of::<T>(), held + self.chunks.capacity() * size_of::<Arc<Vec<T>>>())
    }

    /// Gives back what is reserved and not used.
    pub fn shrink(&mut self) {
        if let Some(last) = self.chunks.last_mut() {
            Arc::make_mut(last).shrink_to_fit();
        }
        self.chunks.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_share_until_they_change() {
        let mut array = Chunked::<u32>::new(2);
        array.resize(3000, 7).unwrap();
        array.row_mut(2999).copy_from_slice(&[1, 2]);
        let copy = array.clone();
        array.row_mut(0)[1] = 9;
        assert_eq!((copy.row(0), array.row(0), array.row(2999)), (&[7, 7][..], &[7, 9][..], &[1, 2][..]));
        array.resize(1025, 0).unwrap();
        array.resize(1027, 5).unwrap();
        assert_eq!((array.len(), array.row(1024), array.row(1026)), (1027, &[7, 7][..], &[5, 5][..]));
        assert_eq!(copy.row(2999), [1, 2]);
        array.resize(0, 0).unwrap();
        assert_eq!(array.bytes().0, 0);
    }
}
