//! Which of the near vectors to link: those that no nearer link leads to.

use std::cmp::Ordering;

use iceformer_simd::Kernels;

use super::codes::{CodedQuery, Codes};
use super::walk::{DEGREE, NONE, Rows};

/// A vector that may be linked.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Candidate {
    /// How far apart it is, see [`Codes::separation`].
    pub separation: f32,
    pub slot: u32,
}

impl Candidate {
    fn order(self, other: Self) -> Ordering {
        self.separation.total_cmp(&other.separation).then(self.slot.cmp(&other.slot))
    }
}

/// Memory of a choice, reused by the next.
#[derive(Debug)]
pub(super) struct Pruning {
    pub candidates: Vec<Candidate>,
    query: CodedQuery,
    slots: Vec<u32>,
    chosen: Vec<u32>,
    chosen_rows: Rows,
    rows: Rows,
    products: Vec<i32>,
}

impl Default for Pruning {
    fn default() -> Self {
        Self {
            candidates: Vec::new(),
            query: CodedQuery::empty(),
            slots: Vec::new(),
            chosen: Vec::new(),
            chosen_rows: Rows::default(),
            rows: Rows::default(),
            products: vec![0; DEGREE],
        }
    }
}

/// Chosen vectors that a candidate is compared with at once.
const AT_ONCE: usize = 8;

impl Pruning {
    /// Takes slots as candidates for the links of `slot`, which must not be among them, each once.
    pub fn measure(&mut self, kernels: &Kernels, codes: &Codes, slot: u32, slots: impl Iterator<Item = u32>) {
        self.slots.clear();
        self.slots.extend(slots);
        codes.query_of(slot, &mut self.query);
        codes.products(kernels, &self.query.bytes, &self.slots, &mut self.rows.0, &mut self.products);
        self.candidates.clear();
        let norm = codes.norm(slot);
        self.candidates.extend(self.slots.iter().zip(&self.products).map(|(&slot, &product)| Candidate {
            separation: codes.separation(self.query.score(product, codes.norm(slot)), norm),
            slot,
        }));
    }

    /// Cuts the candidates to the nearest.
    pub fn keep_nearest(&mut self, count: usize) {
        if self.candidates.len() > count {
            self.candidates.select_nth_unstable_by(count - 1, |x, y| x.order(*y));
            self.candidates.truncate(count);
        }
    }

    /// Chooses at most `most` links from the candidates and writes them, [`NONE`] after the last.
    pub fn choose(&mut self, kernels: &Kernels, codes: &Codes, most: usize, links: &mut [u32]) {
        self.candidates.sort_unstable_by(|x, y| x.order(*y));
        self.chosen.clear();
        self.chosen_rows.0.clear();
        for &candidate in &self.candidates {
            if self.chosen.len() == most {
                break;
            }
            codes.query_of(candidate.slot, &mut self.query);
            let norm = codes.norm(candidate.slot);
            let limit = candidate.separation / codes.detour();
            let mut products = [0; AT_ONCE];
            let detour = self.chosen.chunks(AT_ONCE).zip(self.chosen_rows.0.chunks(AT_ONCE)).any(|(slots, rows)| {
                // SAFETY: each row has as many bytes as the query.
                unsafe { kernels.byte_dots(&self.query.bytes, rows, &mut products) };
                slots.iter().zip(&products).any(|(&slot, &product)| {
                    codes.separation(self.query.score(product, codes.norm(slot)), norm) < limit
                })
            });
            if !detour {
                self.chosen.push(candidate.slot);
                self.chosen_rows.0.push(codes.row(candidate.slot).as_ptr());
            }
        }
        links.fill(NONE);
        links[..self.chosen.len()].copy_from_slice(&self.chosen);
    }
}
