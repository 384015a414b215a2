//! Where walks begin: a random sample of the vectors, all of which are compared with the query.

use iceformer_simd::Kernels;

use super::codes::{CodedQuery, Codes};
use super::walk::Found;
use crate::chunked::Chunked;
use crate::error::Result;
use crate::random::counted;

/// Entries a walk begins with.
pub(super) const STARTS: usize = 8;
/// With at most this many vectors all are entries.
const FEWEST: usize = 64;
/// Entries compared at once.
const BLOCK: usize = 64;

/// A random sample of the vectors, about the square root of their number, with copies of their codes side by side.
#[derive(Debug, Clone)]
pub(super) struct Entries {
    slots: Vec<u32>,
    /// `[entries][width]`
    codes: Chunked<u8>,
    /// `[entries]`
    norms: Vec<f32>,
}

/// How many entries `len` vectors should have.
fn wanted(len: usize) -> usize {
    len.min(FEWEST).max(len.isqrt())
}

impl Entries {
    pub fn new(width: usize) -> Self {
        Self { slots: Vec::new(), codes: Chunked::new(width), norms: Vec::new() }
    }

    pub fn slots(&self) -> &[u32] {
        &self.slots
    }

    /// The entries with these slots.
    pub fn of(slots: Vec<u32>, codes: &Codes) -> Result<Self> {
        let mut entries = Self { slots, ..Self::new(codes.width()) };
        entries.refill(codes)?;
        Ok(entries)
    }

    /// Copies the codes again.
    pub fn refill(&mut self, codes: &Codes) -> Result<()> {
        self.codes.resize(self.slots.len(), 128)?;
        self.norms.clear();
        for (entry, &slot) in self.slots.iter().enumerate() {
            self.codes.row_mut(entry).copy_from_slice(codes.row(slot));
            self.norms.push(codes.norm(slot));
        }
        Ok(())
    }

    /// Offers vectors that were added to `len` others, so that entries stay a fair sample. `counter` is how many
    /// were ever added before.
    pub fn offer(&mut self, codes: &Codes, slots: &[u32], len: usize, seed: u64, counter: u64) -> Result<()> {
        for (i, &slot) in slots.iter().enumerate() {
            let size = len + i + 1;
            let entry = if self.slots.len() < wanted(size) {
                self.codes.resize(self.slots.len() + 1, 128)?;
                self.slots.push(slot);
                self.norms.push(0.0);
                self.slots.len() - 1
            } else {
                let place = counted(seed, counter + i as u64) % size as u64;
                if place >= self.slots.len() as u64 {
                    continue;
                }
                place as usize
            };
            self.slots[entry] = slot;
            self.codes.row_mut(entry).copy_from_slice(codes.row(slot));
            self.norms[entry] = codes.norm(slot);
        }
        Ok(())
    }

    /// Drops entries and takes others, if `len` vectors need them: `pick` gives a random slot in use.
    pub fn replace(
        &mut self,
        codes: &Codes,
        len: usize,
        keep: impl Fn(u32) -> bool,
        mut pick: impl FnMut() -> u32,
    ) -> Result<()> {
        let before = self.slots.len();
        self.slots.retain(|&slot| keep(slot));
        if self.slots.len() == before {
            return Ok(());
        }
        let wanted = wanted(len);
        self.slots.truncate(wanted.max(1));
        // Few vectors could be picked again and again: a missing entry does little harm.
        for _ in 0..4 * wanted {
            if self.slots.len() >= wanted {
                break;
            }
            let slot = pick();
            if !self.slots.contains(&slot) {
                self.slots.push(slot);
            }
        }
        self.refill(codes)
    }

    /// The nearest entries, nearest first, at most [`STARTS`].
    pub fn nearest(&self, kernels: &Kernels, query: &CodedQuery, starts: &mut Vec<Found>) {
        starts.clear();
        let mut products = [0; BLOCK];
        let mut rows = [std::ptr::null(); BLOCK];
        for first in (0..self.slots.len()).step_by(BLOCK) {
            let count = BLOCK.min(self.slots.len() - first);
            for (i, row) in rows[..count].iter_mut().enumerate() {
                *row = self.codes.row(first + i).as_ptr();
            }
            // SAFETY: each row has as many bytes as the query.
            unsafe { kernels.byte_dots(&query.bytes, &rows[..count], &mut products) };
            for (i, &product) in products[..count].iter().enumerate() {
                let found = Found::new(query.score(product, self.norms[first + i]), self.slots[first + i]);
                if starts.len() == STARTS {
                    if found >= starts[STARTS - 1] {
                        continue;
                    }
                    starts.pop();
                }
                let at = starts.partition_point(|&other| other < found);
                starts.insert(at, found);
            }
        }
    }

    pub fn bytes(&self) -> (usize, usize) {
        let codes = self.codes.bytes();
        (codes.0 + self.slots.len() * 8, codes.1 + self.slots.capacity() * 4 + self.norms.capacity() * 4)
    }
}
