//! Vectors by slot, one after another: for structures that visit single vectors in no order.

use iceformer_simd::Kernels;

use crate::chunked::Chunked;
use crate::error::Result;
use crate::file::accepted::{first_problem, value_problem, vector_problem};
use crate::file::{Reader, Writer};
use crate::row::{RowFormat, floats, prefetch_row};
use crate::storage::Storage;
use crate::structure::{Batch, Bytes, Context, Shape, SlotSet};

/// Rows, and values beside them, by slot. Copies share memory until one of them changes.
#[derive(Debug, Clone)]
pub(crate) struct Vectors {
    shape: Shape,
    format: RowFormat,
    /// `[slots][words]`
    rows: Chunked<u32>,
    /// `[slots][value_dimensions]`
    values: Chunked<f32>,
}

impl Vectors {
    pub fn new(shape: Shape) -> Self {
        let format = RowFormat { storage: shape.storage, dimensions: shape.dimensions };
        Self { shape, format, rows: Chunked::new(format.words()), values: Chunked::new(shape.value_dimensions) }
    }

    /// Makes room for slots below `slots`.
    pub fn reserve(&mut self, slots: usize) -> Result<()> {
        if slots > self.rows.len() {
            self.rows.resize(slots, 0)?;
            self.values.resize(slots, 0.0)?;
        }
        Ok(())
    }

    /// Stores vectors; there must be room.
    pub fn store(&mut self, context: &Context, batch: Batch<'_>) {
        let Shape { dimensions, value_dimensions, .. } = self.shape;
        for (i, &slot) in batch.slots.iter().enumerate() {
            let vector = &batch.vectors[i * dimensions..(i + 1) * dimensions];
            self.format.encode(context.kernels, vector, self.rows.row_mut(slot as usize));
            if value_dimensions > 0 {
                let value = &batch.values[i * value_dimensions..(i + 1) * value_dimensions];
                self.values.row_mut(slot as usize).copy_from_slice(value);
            }
        }
    }

    /// Renumbers: slot `old` becomes `renumber[old]`, those with `u32::MAX` go.
    pub fn renumbered(&self, renumber: &[u32], len: usize) -> Result<Self> {
        let mut other = Self::new(self.shape);
        other.reserve(len)?;
        for (old, &new) in renumber.iter().enumerate().filter(|(_, new)| **new != u32::MAX) {
            other.rows.row_mut(new as usize).copy_from_slice(self.rows.row(old));
            if self.shape.value_dimensions > 0 {
                other.values.row_mut(new as usize).copy_from_slice(self.values.row(old));
            }
        }
        other.rows.shrink();
        other.values.shrink();
        Ok(other)
    }

    /// The stored vector, `[dimensions]`.
    pub fn read(&self, kernels: &Kernels, slot: u32, vector: &mut [f32]) {
        self.format.decode(kernels, self.rows.row(slot as usize), vector);
    }

    /// The stored vector, `[dimensions]`: where it is, or read into `buffer`, at least as long.
    #[inline]
    pub fn floats<'a>(&'a self, kernels: &Kernels, slot: u32, buffer: &'a mut [f32]) -> &'a [f32] {
        let row = self.rows.row(slot as usize);
        if self.shape.storage == Storage::F32 {
            return floats(row);
        }
        let vector = &mut buffer[..self.shape.dimensions];
        self.format.decode(kernels, row, vector);
        vector
    }

    /// `[value_dimensions]`
    pub fn value(&self, slot: u32) -> &[f32] {
        if self.shape.value_dimensions == 0 { &[] } else { self.values.row(slot as usize) }
    }

    /// The exact rank of a slot for a query, `[dimensions]`.
    #[inline]
    pub fn rank(&self, kernels: &Kernels, query: &[f32], slot: u32) -> f32 {
        self.format.rank(kernels, self.shape.metric, query, self.rows.row(slot as usize))
    }

    /// Asks for the memory of a row.
    #[inline]
    pub fn prefetch(&self, slot: u32) {
        prefetch_row(self.rows.row(slot as usize));
    }

    pub fn bytes(&self) -> Bytes {
        let (rows, values) = (self.rows.bytes(), self.values.bytes());
        Bytes { live: rows.0 + values.0, reserved: rows.1 + values.1 }
    }

    /// Writes the vectors of slots below `slots`, and the values if there are any:
    /// `rows`, u32 `[slots][words]`, and `values`, f32 `[slots][value_dimensions]`.
    pub fn save(&self, writer: &mut Writer<'_>, slots: usize) -> Result<()> {
        self.rows.save("rows", writer, slots)?;
        if self.shape.value_dimensions > 0 { self.values.save("values", writer, slots) } else { Ok(()) }
    }

    /// Reads what [`Self::save`] wrote. If the reader verifies, the vectors and values of the taken slots are what
    /// an index accepts.
    pub fn load(context: &Context, reader: &mut Reader<'_>, slots: usize, taken: &SlotSet) -> Result<Self> {
        let Shape { metric, value_dimensions, .. } = context.shape;
        let mut vectors = Self::new(context.shape);
        let words = vectors.format.words();
        vectors.rows = Chunked::load("rows", reader, slots, words)?;
        if reader.verifies() {
            let problem = first_problem(&context.pool, slots, context.shape.dimensions, |slot, vector| {
                if !taken.contains(slot as u32) {
                    return None;
                }
                vectors.read(context.kernels, slot as u32, vector);
                vector_problem(metric, vector)
            });
            if let Some((slot, problem)) = problem {
                return Err(reader.invalid::<u32>("rows", slot * words, problem));
            }
        }
        if value_dimensions == 0 {
            vectors.values.resize(slots, 0.0)?;
            return Ok(vectors);
        }
        vectors.values = Chunked::load("values", reader, slots, value_dimensions)?;
        if reader.verifies() {
            let problem = first_problem(&context.pool, slots, 0, |slot, _| {
                taken.contains(slot as u32).then(|| value_problem(vectors.value(slot as u32))).flatten()
            });
            if let Some((slot, problem)) = problem {
                return Err(reader.invalid::<f32>("values", slot * value_dimensions, problem));
            }
        }
        Ok(vectors)
    }
}
