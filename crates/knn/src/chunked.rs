//! A long array that is copied on write, a chunk at a time: a copy shares everything until one side changes.

use crate::error::Result;
use crate::file::{Buffer, Number, Reader, Writer};

/// An array of rows of `width` numbers in chunks of [`ROWS`] rows.
///
/// `clone` copies one pointer per chunk. A change copies the chunk if another copy of the array still holds it,
/// or if it lies in a mapped file.
#[derive(Debug)]
pub(crate) struct Chunked<T> {
    width: usize,
    rows: usize,
    /// Each `[ROWS][width]`, the last one only as long as it has to be.
    chunks: Vec<Buffer<T>>,
}

/// Rows of a chunk.
pub(crate) const ROWS: usize = 1024;

impl<T> Clone for Chunked<T> {
    fn clone(&self) -> Self {
        Self { width: self.width, rows: self.rows, chunks: self.chunks.clone() }
    }
}

impl<T: Copy + 'static> Chunked<T> {
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
        // Also what an attempt to lengthen left behind that ran out of memory.
        let kept = rows.min(self.rows);
        self.chunks.truncate(kept.div_ceil(ROWS));
        if let Some(last) = self.chunks.last_mut() {
            last.truncate((kept - (kept - 1) / ROWS * ROWS) * self.width);
        }
        self.rows = kept;
        let chunks = rows.div_ceil(ROWS);
        for chunk in (self.rows / ROWS)..chunks {
            let length = (rows - chunk * ROWS).min(ROWS) * self.width;
            if chunk == self.chunks.len() {
                self.chunks.push(Buffer::new());
            }
            let chunk = &mut self.chunks[chunk];
            // Amortised growth of small arrays, whole chunks for large ones.
            if rows > ROWS && length > chunk.len() {
                chunk.try_reserve_exact(ROWS * self.width - chunk.len())?;
            }
            chunk.resize(length, fill)?;
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
    ///
    /// # Panics
    ///
    /// If the chunk is shared and there is no memory for a copy of it: see [`Self::unshare`].
    #[inline]
    pub fn row_mut(&mut self, row: usize) -> &mut [T] {
        let start = row % ROWS * self.width;
        match self.chunks[row / ROWS].make_mut() {
            Ok(chunk) => &mut chunk[start..start + self.width],
            Err(error) => panic!("{error}"),
        }
    }

    /// Copies the chunk of a row if it is shared or mapped, so that changing the row needs no memory until the
    /// array is cloned again.
    pub fn unshare(&mut self, row: usize) -> Result<()> {
        self.chunks[row / ROWS].make_mut().map(|_| ())
    }

    /// Bytes in use, and bytes held.
    pub fn bytes(&self) -> (usize, usize) {
        let held: usize = self.chunks.iter().map(Buffer::reserved_bytes).sum();
        (self.rows * self.width * size_of::<T>(), held + self.chunks.capacity() * size_of::<Buffer<T>>())
    }

    /// Gives back what is reserved and not used.
    pub fn shrink(&mut self) {
        if let Some(last) = self.chunks.last_mut() {
            // Without the memory for a smaller copy the larger one stays.
            let _ = last.shrink();
        }
        self.chunks.shrink_to_fit();
    }
}

impl<T: Number> Chunked<T> {
    /// Writes the first `rows` rows as one section.
    pub fn save(&self, name: &'static str, writer: &mut Writer<'_>, rows: usize) -> Result<()> {
        writer.section_with(name, |section| {
            (0..rows.div_ceil(ROWS)).try_for_each(|chunk| {
                let rows = (rows - chunk * ROWS).min(ROWS);
                section.begin()?;
                section.push(&self.chunks[chunk][..rows * self.width])
            })
        })
    }

    /// Reads a section of `rows` rows of `width` numbers, as [`Self::save`] wrote it, `width` above 0. Any numbers can
    /// be in it.
    pub fn load(name: &'static str, reader: &mut Reader<'_>, rows: usize, width: usize) -> Result<Self> {
        let lengths = (0..rows.div_ceil(ROWS)).map(|chunk| (rows - chunk * ROWS).min(ROWS) * width);
        Ok(Self { width, rows, chunks: reader.parts(name, lengths)? })
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

    #[test]
    fn a_row_without_numbers_takes_no_memory() {
        let mut array = Chunked::<f32>::new(0);
        array.resize(5000, 0.0).unwrap();
        assert_eq!((array.len(), array.row(4999), array.clone().bytes().0), (5000, &[][..], 0));
    }
}
