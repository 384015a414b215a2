//! The centres of clusters, side by side, to choose clusters by.

use std::sync::{Mutex, PoisonError};

use iceformer_simd::{AlignedBuffer, LANES};

use crate::error::{Error, Result};
use crate::structure::Context;

/// Centres in the layout of a matrix product: panels of sixteen, `[panels][dimensions][16]`.
#[derive(Debug, Clone)]
pub(crate) struct Centres {
    dimensions: usize,
    len: usize,
    panels: AlignedBuffer<f32>,
    /// `[16 * panels]`: what is added to the product with a query; −∞ past the last.
    offsets: Vec<f32>,
    /// `[16 * panels]`: the largest distance of a cluster's vectors from its centre.
    radii: Vec<f32>,
}

impl Centres {
    /// Room for `len` centres, all zero.
    pub fn new(dimensions: usize, len: usize) -> Result<Self> {
        let panels = len.div_ceil(LANES);
        let numbers = AlignedBuffer::try_new(panels * dimensions * LANES)
            .map_err(|error| Error::OutOfMemory { bytes: error.bytes })?;
        let mut offsets = vec![f32::NEG_INFINITY; panels * LANES];
        offsets[..len].fill(0.0);
        Ok(Self { dimensions, len, panels: numbers, offsets, radii: vec![0.0; panels * LANES] })
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn panels(&self) -> usize {
        self.offsets.len() / LANES
    }

    /// Sets a centre, `[dimensions]`; `products`: clusters are chosen by inner product, otherwise by distance.
    pub fn set(&mut self, products: bool, index: usize, centre: &[f32], radius: f32) {
        let start = index / LANES * self.dimensions * LANES + index % LANES;
        for (i, &x) in centre.iter().enumerate() {
            self.panels[start + i * LANES] = x;
        }
        let squared: f64 = centre.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
        self.offsets[index] = if products { 0.0 } else { (-0.5 * squared) as f32 };
        self.radii[index] = radius;
    }

    pub fn get(&self, index: usize, centre: &mut [f32]) {
        let start = index / LANES * self.dimensions * LANES + index % LANES;
        centre.iter_mut().enumerate().for_each(|(i, x)| *x = self.panels[start + i * LANES]);
    }

    /// Changes the number of centres; new ones are zero.
    pub fn resize(&mut self, len: usize) -> Result<()> {
        let panels = len.div_ceil(LANES);
        if panels > self.panels.len() / (self.dimensions * LANES) {
            let room = panels + panels / 8;
            let mut numbers = AlignedBuffer::try_new(room * self.dimensions * LANES)
                .map_err(|error| Error::OutOfMemory { bytes: error.bytes })?;
            numbers[..self.panels.len()].copy_from_slice(&self.panels);
            self.panels = numbers;
        }
        self.offsets.truncate(len);
        self.offsets.resize(len, 0.0);
        self.offsets.resize(panels * LANES, f32::NEG_INFINITY);
        self.radii.truncate(len);
        self.radii.resize(panels * LANES, 0.0);
        self.len = len;
        Ok(())
    }

    pub fn offsets(&self) -> &[f32] {
        &self.offsets
    }

    pub fn radii(&self) -> &[f32] {
        &self.radii
    }

    /// Products of `rows` vectors, `[rows][dimensions]`, with all centres: `[rows][16 * panels]`.
    pub fn multiply(&self, context: &Context, vectors: &[f32], products: &mut [f32]) {
        let (step, width) = (self.step(), self.panels() * LANES);
        assert!(products.len() >= vectors.len() / self.dimensions * width);
        for first in (0..self.panels()).step_by(step) {
            let count = step.min(self.panels() - first);
            self.multiply_panels(context, vectors, first, count, width, &mut products[first * LANES..]);
        }
    }

    /// The nearest centre (by Euclidean distance, whatever the metric) of each of `[n][dimensions]` vectors, which
    /// `vectors(range, out)` gives; into `nearest`, `[n]`.
    pub fn assign(
        &self,
        context: &Context,
        nearest: &mut [u32],
        vectors: impl Fn(std::ops::Range<usize>, &mut [f32]) + Sync,
    ) {
        const ROWS: usize = 64;
        let d = self.dimensions;
        let width = self.panels() * LANES;
        let mut halves = vec![f32::NEG_INFINITY; width];
        let mut centre = vec![0.0; d];
        for (index, half) in halves[..self.len].iter_mut().enumerate() {
            self.get(index, &mut centre);
            let squared: f64 = centre.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
            *half = (-0.5 * squared) as f32;
        }
        let step = self.step();
        let parts: Vec<_> = nearest.chunks_mut(ROWS * 16).map(Mutex::new).collect();
        context.pool.for_each(parts.len(), |_, part| {
            let mut guard = parts[part].lock().unwrap_or_else(PoisonError::into_inner);
            let mut rows = vec![0.0_f32; ROWS * d];
            let mut products = vec![0.0_f32; ROWS * step * LANES];
            let mut scores = [0.0_f32; ROWS];
            for (chunk, nearest) in guard.chunks_mut(ROWS).enumerate() {
                let first = part * ROWS * 16 + chunk * ROWS;
                let rows = &mut rows[..nearest.len() * d];
                vectors(first..first + nearest.len(), rows);
                let scores = &mut scores[..nearest.len()];
                scores.fill(f32::NEG_INFINITY);
                nearest.fill(0);
                for panel in (0..self.panels()).step_by(step) {
                    let columns = step.min(self.panels() - panel) * LANES;
                    self.multiply_panels(context, rows, panel, columns / LANES, columns, &mut products);
                    let halves = &halves[panel * LANES..panel * LANES + columns];
                    let first = (panel * LANES) as u32;
                    context.kernels.nearest_columns(columns, &products, columns, halves, first, nearest, scores);
                }
            }
        });
    }

    /// So many panels that they stay in the cache while all rows of a product pass.
    fn step(&self) -> usize {
        ((64 << 10) / (self.dimensions * LANES * size_of::<f32>())).max(1)
    }

    /// Products of vectors, `[rows][dimensions]`, with `count` panels from `first` on: `[rows][stride]`, of which
    /// `16 * count` are written.
    fn multiply_panels(
        &self,
        context: &Context,
        vectors: &[f32],
        first: usize,
        count: usize,
        stride: usize,
        products: &mut [f32],
    ) {
        let d = self.dimensions;
        let rows = vectors.len() / d;
        assert!(first + count <= self.panels() && count * LANES <= stride);
        assert!(rows == 0 || products.len() >= (rows - 1) * stride + count * LANES);
        // SAFETY: `vectors` is [rows][d], the panels from `first` on are [count][d][16], and `products` has room for
        // [rows][16 * count], `stride` apart.
        unsafe {
            context.kernels.gemm_f32(
                rows,
                d,
                vectors.as_ptr(),
                d,
                self.panels[first * d * LANES..].as_ptr(),
                d * LANES,
                count,
                products.as_mut_ptr(),
                stride,
                false,
            );
        }
    }

    pub fn bytes(&self) -> usize {
        (self.panels.len() + self.offsets.capacity() + self.radii.capacity()) * size_of::<f32>()
    }
}
