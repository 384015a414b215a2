//! The walk: from a few entries along links to the nearest, by codes.

use iceformer_simd::{BYTE_ROW, Kernels, prefetch};

use super::codes::{CodedQuery, Codes};
use crate::ascending::ascending;
use crate::chunked::Chunked;
use crate::stock::Lendable;

/// Links of a vector at most: two cache lines.
pub(super) const DEGREE: usize = 32;
/// No link.
pub(super) const NONE: u32 = u32::MAX;

/// What a walk reads.
#[derive(Clone, Copy)]
pub(super) struct Ground<'a> {
    pub kernels: &'static Kernels,
    pub codes: &'a Codes,
    /// `[slots][DEGREE]`, [`NONE`] after the last.
    pub links: &'a Chunked<u32>,
}

/// A vector that a walk knows, as one number that is smaller the nearer the vector is: the score from above, 31
/// bits; the slot, 32 bits; and whether its links were followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Found(u64);

impl Found {
    #[inline]
    pub fn new(score: f32, slot: u32) -> Self {
        Self(u64::from(!ascending(score) >> 1) << 33 | u64::from(slot) << 1)
    }

    #[inline]
    pub fn slot(self) -> u32 {
        (self.0 >> 1) as u32
    }

    #[inline]
    fn followed(self) -> bool {
        self.0 & 1 == 1
    }
}

/// Memory of a walk, reused by the next.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    /// `[slots]`: the number of the walk that saw the slot last.
    seen: Vec<u8>,
    walk: u8,
    /// The nearest so far, nearest first.
    pub pool: Vec<Found>,
    pub slots: Vec<u32>,
    pub rows: Rows,
    pub products: Vec<i32>,
}

/// Addresses of codes, valid only while they are used.
#[derive(Debug, Default)]
pub(super) struct Rows(pub Vec<*const u8>);

// SAFETY: the addresses are never followed except right after they were written.
unsafe impl Send for Rows {}

impl Lendable for Scratch {
    fn bytes(&self) -> usize {
        self.seen.capacity() + self.pool.capacity() * size_of::<Found>()
    }
}

impl Scratch {
    /// Forgets what was seen.
    fn begin(&mut self, slots: usize) {
        if self.seen.len() < slots {
            self.seen.resize(slots, 0);
        }
        self.walk = self.walk.wrapping_add(1);
        if self.walk == 0 {
            self.seen.fill(0);
            self.walk = 1;
        }
        self.pool.clear();
    }
}

impl Ground<'_> {
    /// Asks for the code of a slot.
    #[inline]
    fn prefetch(&self, row: &[u8], slot: u32, norm: bool) {
        for line in row.chunks_exact(BYTE_ROW) {
            prefetch(line.as_ptr());
        }
        if norm {
            prefetch(self.codes.norm_address(slot));
        }
    }

    /// Fills the scratch's pool with the `width` nearest that a walk finds, beginning at `starts`.
    pub fn walk(&self, scratch: &mut Scratch, query: &CodedQuery, starts: &[Found], width: usize) {
        let slots = self.links.len();
        scratch.begin(slots);
        let Scratch { seen, walk, pool, slots: near, rows: Rows(rows), products } = scratch;
        let walk = *walk;
        let seen = &mut seen[..slots];
        let norms = query.weight != 0.0;
        for &start in starts.iter().take(width) {
            let slot = start.slot() as usize;
            if seen[slot] != walk {
                seen[slot] = walk;
                pool.push(start);
            }
        }
        products.resize(DEGREE.max(products.len()), 0);
        let mut next = 0;
        while next < pool.len() {
            if pool[next].followed() {
                next += 1;
                continue;
            }
            pool[next].0 |= 1;
            let from = pool[next].slot();
            near.clear();
            rows.clear();
            for &slot in self.links.row(from as usize) {
                // Past the last link, too.
                let Some(mark) = seen.get_mut(slot as usize) else { break };
                if *mark != walk {
                    *mark = walk;
                    let row = self.codes.row(slot);
                    self.prefetch(row, slot, norms);
                    near.push(slot);
                    rows.push(row.as_ptr());
                }
            }
            if let Some(after) = pool[next + 1..].iter().find(|found| !found.followed()) {
                let links = self.links.row(after.slot() as usize);
                prefetch(links.as_ptr());
                prefetch(links[DEGREE / 2..].as_ptr());
            }
            // SAFETY: each row has as many bytes as the query.
            unsafe { self.kernels.byte_dots(&query.bytes, rows, products) };
            next += 1;
            for (&slot, &product) in near.iter().zip(products.iter()) {
                let norm = if norms { self.codes.norm(slot) } else { 0.0 };
                let found = Found::new(query.score(product, norm), slot);
                if pool.len() == width {
                    if found >= pool[width - 1] {
                        continue;
                    }
                    pool.pop();
                }
                let at = pool.partition_point(|&other| other < found);
                pool.insert(at, found);
                next = next.min(at);
            }
        }
    }
}
