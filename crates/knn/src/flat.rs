//! Vectors without any order: every search reads them all, one after another.

use crate::chunked::Chunked;
use crate::error::{Error, Result};
use crate::file::{Reader, Writer};
use crate::neighbour::{Neighbour, keep_nearest};
use crate::structure::{Batch, Bytes, Context, Emit, Request, SlotSet, Structure};
use crate::vectors::Vectors;

/// The plainest structure: what the others are compared with.
#[derive(Debug, Clone)]
pub(crate) struct Flat {
    vectors: Vectors,
    /// `[slots][1]`
    taken: Chunked<bool>,
}

impl Flat {
    pub fn new(context: &Context) -> Self {
        Self { vectors: Vectors::new(context.shape), taken: Chunked::new(1) }
    }

    /// Reads what [`Structure::save`] wrote.
    pub fn load(context: &Context, reader: &mut Reader<'_>, taken: &SlotSet, slots: usize) -> Result<Self> {
        let vectors = Vectors::load(context, reader, slots, taken)?;
        let mut flat = Self { vectors, taken: Chunked::new(1) };
        flat.taken.resize(slots, false)?;
        taken.iter().for_each(|slot| flat.taken.row_mut(slot as usize)[0] = true);
        Ok(flat)
    }
}

impl Structure for Flat {
    fn fork(&self) -> Box<dyn Structure> {
        Box::new(self.clone())
    }

    fn insert(&mut self, context: &Context, batch: Batch<'_>) -> Result<()> {
        let slots = batch.slots.iter().max().map_or(0, |&slot| slot as usize + 1);
        self.vectors.reserve(slots)?;
        if slots > self.taken.len() {
            self.taken.resize(slots, false)?;
        }
        self.vectors.store(context, batch);
        for &slot in batch.slots {
            self.taken.row_mut(slot as usize)[0] = true;
        }
        Ok(())
    }

    fn remove(&mut self, _: &Context, slots: &[u32]) -> Result<()> {
        for &slot in slots {
            self.taken.row_mut(slot as usize)[0] = false;
        }
        Ok(())
    }

    fn compact(&mut self, _: &Context, renumber: &[u32]) -> Result<()> {
        let len = renumber.iter().filter(|&&new| new != u32::MAX).count();
        self.vectors = self.vectors.renumbered(renumber, len)?;
        self.taken = Chunked::new(1);
        self.taken.resize(len, true)
    }

    fn read(&self, context: &Context, slot: u32, vector: &mut [f32]) {
        self.vectors.read(context.kernels, slot, vector);
    }

    fn value(&self, slot: u32) -> &[f32] {
        self.vectors.value(slot)
    }

    fn search(&self, context: &Context, request: &Request<'_>, emit: Emit<'_>) -> Result<()> {
        let dimensions = context.shape.dimensions;
        context.pool.for_each(request.queries.len() / dimensions, |_, row| {
            let query = &request.queries[row * dimensions..(row + 1) * dimensions];
            let mut near = Vec::new();
            for slot in 0..self.taken.len() as u32 {
                if slot % 256 == 0 && request.cancelled() {
                    return;
                }
                if !self.taken.row(slot as usize)[0] || !request.allowed.is_none_or(|allowed| allowed.contains(slot)) {
                    continue;
                }
                let rank = self.vectors.rank(context.kernels, query, slot);
                if rank >= request.floor {
                    near.push(Neighbour { rank, id: request.ids.row(slot as usize)[0] });
                }
            }
            keep_nearest(&mut near, request.k);
            emit(row, &near);
        });
        if request.cancelled() { Err(Error::Cancelled) } else { Ok(()) }
    }

    fn save(&self, _: &Context, writer: &mut Writer<'_>, slots: usize) -> Result<()> {
        self.vectors.save(writer, slots)
    }

    fn bytes(&self) -> Bytes {
        let (live, reserved) = self.taken.bytes();
        self.vectors.bytes() + Bytes { live, reserved }
    }

    fn clusters(&self) -> usize {
        0
    }
}
