//! Composite and simple indices: what vectors look like along random directions, and the order in which
//! Prioritized DCI retrieves them.
//!
//! A simple index is the order of all vectors along one direction; a composite index consists of several. For a
//! query, the method walks outwards from the query's place in every simple index, always taking the vector
//! with the smallest gap among all simple indices of a composite index; a vector is retrieved once it has been met
//! in all of them. That is: when the walk has come to the *largest* of its gaps. So a composite index
//! retrieves vectors in the order of their largest gap, and this is what is computed here, for all vectors of a
//! cell at once: in cells of some dozens of vectors that takes a fraction of walking sorted arrays with a priority
//! queue, and gives the same candidates. (The largest gap is a lower bound on the distance: hence the order.)

use std::sync::Arc;

use iceformer_simd::{Kernels, LANES};

use super::directions::directions;
use super::embedding::Embedding;
use super::options::DciOptions;
use crate::chunked::Chunked;
use crate::error::Result;
use crate::file::{Reader, Writer};
use crate::structure::Shape;

/// Directions, and the places of all vectors along them.
#[derive(Debug, Clone)]
pub(super) struct Projections {
    dimensions: usize,
    composite: usize,
    simple: usize,
    directions: Arc<Directions>,
    /// `[slots][composite * simple]`: without the part of the extra number, which changes with c.
    places: Chunked<f32>,
}

#[derive(Debug)]
struct Directions {
    /// `[panels][dimensions][16]`: direction 16 p + i is column i of panel p.
    panels: Vec<f32>,
    /// `[composite * simple]`: along the extra number.
    extra: Vec<f32>,
}

impl Projections {
    pub fn new(shape: Shape, embedding: Embedding, options: &DciOptions, seed: u64) -> Self {
        let (dimensions, count) = (shape.dimensions, options.composite * options.simple);
        let width = dimensions + usize::from(embedding.projects_extra());
        let all = directions(seed, count, width);
        let mut panels = vec![0.0; count.div_ceil(LANES) * dimensions * LANES];
        for (j, direction) in all.chunks(width).enumerate() {
            for (i, &x) in direction[..dimensions].iter().enumerate() {
                panels[(j / LANES * dimensions + i) * LANES + j % LANES] = x;
            }
        }
        let extra = all.chunks(width).map(|direction| direction.get(dimensions).copied().unwrap_or(0.0)).collect();
        Self {
            dimensions,
            composite: options.composite,
            simple: options.simple,
            directions: Arc::new(Directions { panels, extra }),
            places: Chunked::new(count),
        }
    }

    /// Directions there are.
    pub fn count(&self) -> usize {
        self.composite * self.simple
    }

    /// Makes room for slots below `slots`.
    pub fn reserve(&mut self, slots: usize) -> Result<()> {
        if slots > self.places.len() { self.places.resize(slots, 0.0) } else { Ok(()) }
    }

    /// Makes changing a slot need no memory, see [`Chunked::unshare`].
    pub fn unshare(&mut self, slot: u32) -> Result<()> {
        self.places.unshare(slot as usize)
    }

    /// Places of `m` vectors along all directions, one matrix product.
    ///
    /// `vectors` is `[m][stride]` with the vector first; the result is `[m][panels * 16]`.
    pub fn project(&self, kernels: &Kernels, m: usize, vectors: &[f32], stride: usize) -> Vec<f32> {
        assert!(vectors.len() >= m * stride && stride >= self.dimensions);
        let panels = self.count().div_ceil(LANES);
        let mut places = vec![0.0; m * panels * LANES];
        // SAFETY: `vectors` has m rows (asserted), `panels` is `[panels][dimensions][16]`, and `places` has m rows
        // of 16 numbers per panel.
        unsafe {
            kernels.gemm_f32(
                m,
                self.dimensions,
                vectors.as_ptr(),
                stride,
                self.directions.panels.as_ptr(),
                self.dimensions * LANES,
                panels,
                places.as_mut_ptr(),
                panels * LANES,
                false,
            );
        }
        places
    }

    /// Numbers of a row of what [`Self::project`] returns.
    pub fn stride(&self) -> usize {
        self.count().next_multiple_of(LANES)
    }

    /// Remembers the places of a slot, a row of what [`Self::project`] returned.
    pub fn store(&mut self, slot: u32, places: &[f32]) {
        let count = self.count();
        self.places.row_mut(slot as usize).copy_from_slice(&places[..count]);
    }

    /// The `wanted` vectors of `members` (slots, with their extra numbers) that Prioritized DCI retrieves first, in
    /// its order: the composite indices take turns, each giving its next vector by largest gap, which counts if no
    /// other index has given it before. Equal gaps are ordered by slot.
    ///
    /// `query` holds the places of the query, `[composite * simple]`.
    pub fn retrieve(&self, query: &[f32], members: &[(u32, f32)], wanted: usize, order: &mut Vec<u32>) {
        order.clear();
        let wanted = wanted.min(members.len());
        if wanted == 0 {
            return;
        }
        // (largest gap, position among the members)
        let mut gaps: Vec<Vec<(f32, u32)>> = (0..self.composite).map(|_| Vec::with_capacity(members.len())).collect();
        for (position, &(slot, extra)) in members.iter().enumerate() {
            let places = self.places.row(slot as usize);
            for (l, gaps) in gaps.iter_mut().enumerate() {
                let mut largest = 0.0_f32;
                for j in l * self.simple..(l + 1) * self.simple {
                    largest = largest.max((places[j] + self.directions.extra[j] * extra - query[j]).abs());
                }
                gaps.push((largest, position as u32));
            }
        }
        let slot = |position: u32| members[position as usize].0;
        let compare = |a: &(f32, u32), b: &(f32, u32)| a.0.total_cmp(&b.0).then(slot(a.1).cmp(&slot(b.1)));
        // Each index gives at most `wanted`, so no more of each has to be in order.
        for gaps in &mut gaps {
            if wanted < gaps.len() {
                gaps.select_nth_unstable_by(wanted - 1, compare);
                gaps.truncate(wanted);
            }
            gaps.sort_unstable_by(compare);
        }
        let mut given = vec![false; members.len()];
        for turn in 0..wanted {
            for gaps in &gaps {
                let position = gaps[turn].1;
                if !std::mem::replace(&mut given[position as usize], true) {
                    order.push(slot(position));
                    if order.len() == wanted {
                        return;
                    }
                }
            }
        }
    }

    /// Writes the places of slots below `slots`.
    pub fn save(&self, writer: &mut Writer<'_>, slots: usize) -> Result<()> {
        self.places.save("places", writer, slots)
    }

    /// Reads what [`Self::save`] wrote. Numbers are not checked: any give some order of candidates.
    pub fn load(&mut self, reader: &mut Reader<'_>, slots: usize) -> Result<()> {
        self.places = Chunked::load("places", reader, slots, self.count())?;
        Ok(())
    }

    /// Bytes in use, and bytes held.
    pub fn bytes(&self) -> (usize, usize) {
        let fixed = (self.directions.panels.len() + self.directions.extra.len()) * size_of::<f32>();
        let (live, reserved) = self.places.bytes();
        (live + fixed, reserved + fixed)
    }
}
