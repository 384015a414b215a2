//! Products of a block of queries with vectors by slot.

use iceformer_simd::{Kernels, LANES};

use super::Dci;
use super::layer::PAGE_PANELS;

/// Members of a cell that are compared at once.
pub(super) const GROUP: usize = PAGE_PANELS * LANES;

/// Up to so many queries of a cell are compared with one member after another: laying members out for a matrix
/// product would take longer.
const FEW: usize = 4;

/// Vectors that look for near ones: queries, or keys that look for a cell.
#[derive(Clone, Copy)]
pub(super) struct Block<'a> {
    /// `[m][dimensions + 1]`, the last one the extra number.
    pub rows: &'a [f32],
    pub m: usize,
    /// Whether products include the extra number.
    pub extra: bool,
}

impl<'a> Block<'a> {
    /// Rows `start..end`.
    pub fn part(self, width: usize, start: usize, end: usize) -> Self {
        Self { rows: &self.rows[start * width..end * width], m: end - start, extra: self.extra }
    }

    pub fn row(self, width: usize, i: usize) -> &'a [f32] {
        &self.rows[i * width..(i + 1) * width]
    }
}

/// Room to work in.
pub(super) struct Scorer<'a> {
    dci: &'a Dci,
    kernels: &'static Kernels,
    /// Numbers of a row: dimensions + 1.
    width: usize,
    /// `[4][width][16]`: members laid out for a product.
    panels: Vec<f32>,
    /// `[queries][width]`: the queries of a cell, one after another.
    gathered: Vec<f32>,
    /// `[queries][64]`
    scores: Vec<f32>,
    /// `[width]`
    vector: Vec<f32>,
}

impl<'a> Scorer<'a> {
    pub fn new(dci: &'a Dci, kernels: &'static Kernels) -> Self {
        let width = dci.dimensions + 1;
        Self {
            dci,
            kernels,
            width,
            panels: vec![0.0; PAGE_PANELS * width * LANES],
            gathered: Vec::new(),
            scores: Vec::new(),
            vector: vec![0.0; width],
        }
    }

    /// Scores up to [`GROUP`] vectors for some rows of a block (`None`: all) and hands `sink` each row and its scores,
    /// `[slots]`.
    pub fn score(
        &mut self,
        block: Block<'_>,
        rows: Option<&[u32]>,
        slots: &[u32],
        mut sink: impl FnMut(usize, &[f32]),
    ) {
        let count = rows.map_or(block.m, <[u32]>::len);
        if count == 0 || slots.is_empty() {
            return;
        }
        assert!(slots.len() <= GROUP);
        let row_at = |i: usize| rows.map_or(i, |rows| rows[i] as usize);
        if count <= FEW {
            for i in 0..count {
                let row = row_at(i);
                self.score_one(block, row, slots, &mut sink);
            }
            return;
        }
        self.lay_out(slots);
        let width = self.width;
        let panels = slots.len().div_ceil(LANES);
        let stride = panels * LANES;
        let a = match rows {
            None => block.rows,
            Some(rows) => {
                self.gathered.clear();
                for &row in rows {
                    self.gathered.extend_from_slice(block.row(width, row as usize));
                }
                &self.gathered
            }
        };
        assert!(a.len() >= count * width && self.panels.len() >= panels * width * LANES);
        if self.scores.len() < count * stride {
            self.scores.resize(count * stride, 0.0);
        }
        // SAFETY: `a` has `count` rows of `width` numbers, `panels` so many panels of `width` rows (both asserted),
        // `scores` `count` rows of `stride` numbers, and the inner length is at most `width`.
        unsafe {
            self.kernels.gemm_f32(
                count,
                width - usize::from(!block.extra),
                a.as_ptr(),
                width,
                self.panels.as_ptr(),
                width * LANES,
                panels,
                self.scores.as_mut_ptr(),
                stride,
                false,
            );
        }
        for (i, scores) in self.scores.chunks_exact(stride).take(count).enumerate() {
            sink(row_at(i), &scores[..slots.len()]);
        }
    }

    /// Scores any number of vectors for one row of a block, without a matrix product.
    pub fn score_one(&mut self, block: Block<'_>, row: usize, slots: &[u32], sink: &mut impl FnMut(usize, &[f32])) {
        let query = block.row(self.width, row);
        let (query, extra) = query.split_at(self.width - 1);
        for slots in slots.chunks(GROUP) {
            let mut scores = [0.0_f32; GROUP];
            for (score, &slot) in scores.iter_mut().zip(slots) {
                *score = self.kernels.dot(query, self.dci.vectors.floats(self.kernels, slot, &mut self.vector));
                if block.extra {
                    *score += extra[0] * self.dci.extra(slot);
                }
            }
            sink(row, &scores[..slots.len()]);
        }
    }

    /// Copies vectors into columns of the panels.
    fn lay_out(&mut self, slots: &[u32]) {
        let (width, dimensions) = (self.width, self.width - 1);
        for (column, &slot) in slots.iter().enumerate() {
            let first = column / LANES * width * LANES + column % LANES;
            let vector = self.dci.vectors.floats(self.kernels, slot, &mut self.vector);
            let panel = &mut self.panels[first..];
            for (i, &x) in vector.iter().enumerate() {
                panel[i * LANES] = x;
            }
            panel[dimensions * LANES] = self.dci.extra(slot);
        }
    }
}
