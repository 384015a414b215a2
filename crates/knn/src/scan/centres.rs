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
        let (d, panels) = (self.dimensions, self.panels());
        let rows = vectors.len() / d;
        assert!(products.len() >= rows * panels * LANES);
        // So many panels at a time that they stay in the cache while all rows pass.
        let step = (192 << 10) / (d * LANES * size_of::<f32>()).max(1);
        let step = step.max(1);
        for first in (0..panels).step_by(step) {
            let count = step.min(panels - first);
            // SAFETY: `vectors` is [rows][d], the panels from `first` on are [count][d][16], and the columns of
            // `products` from 16 * first on lie within its [rows][16 * panels].
            unsafe {
                context.kernels.gemm_f32(
                    rows,
                    d,
                    vectors.as_ptr(),
                    d,
                    self.panels.as_ptr().add(first * d * LANES),
                    d * LANES,
                    count,
                    products.as_mut_ptr().add(first * LANES),
                    panels * LANES,
                    false,
                );
            }
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
        let parts: Vec<_> = nearest.chunks_mut(ROWS * 16).map(Mutex::new).collect();
        context.pool.for_each(parts.len(), |_, part| {
            let mut guard = parts[part].lock().unwrap_or_else(PoisonError::into_inner);
            let mut rows = vec![0.0_f32; ROWS * d];
            let mut products = vec![0.0_f32; ROWS * width];
            for (chunk, nearest) in guard.chunks_mut(ROWS).enumerate() {
                let first = part * ROWS * 16 + chunk * ROWS;
                let rows = &mut rows[..nearest.len() * d];
                vectors(first..first + nearest.len(), rows);
                self.multiply(context, rows, &mut products);
                for (nearest, products) in nearest.iter_mut().zip(products.chunks_exact(width)) {
                    *nearest = largest_sum(products, &halves) as u32;
                }
            }
        });
    }

    pub fn bytes(&self) -> usize {
        (self.panels.len() + self.offsets.capacity() + self.radii.capacity()) * size_of::<f32>()
    }
}

/// Where `x[i] + y[i]` is largest; the first of equals. The length is a multiple of 16.
fn largest_sum(x: &[f32], y: &[f32]) -> usize {
    let mut best = [f32::NEG_INFINITY; LANES];
    let mut at = [0_u32; LANES];
    for (tile, (x, y)) in x.as_chunks::<LANES>().0.iter().zip(y.as_chunks::<LANES>().0).enumerate() {
        for lane in 0..LANES {
            let sum = x[lane] + y[lane];
            let better = sum > best[lane];
            best[lane] = if better { sum } else { best[lane] };
            at[lane] = if better { tile as u32 } else { at[lane] };
        }
    }
    let mut found = 0;
    for lane in 1..LANES {
        let earlier = best[lane] == best[found] && at[lane] < at[found];
        if best[lane] > best[found] || earlier {
            found = lane;
        }
    }
    at[found] as usize * LANES + found
}
