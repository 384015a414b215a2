//! A run of vectors added one after another, stored together.
//!
//! An index is a list of segments. Only the last, the tail, still grows; the others never change, so a
//! search can hold on to them while the index moves on. A segment is either in the order of insertion and
//! read whole, or cut into clusters, of which a search reads the best.

use std::sync::Arc;

use iceformer_simd::{AlignedBuffer, Kernels, LANES};
use iceformer_threads::ThreadPool;

use crate::cluster::{Clusters, split};
use crate::error::{Error, Result};
use crate::keys::{Keys, Storage};
use crate::metric::Metric;
use crate::topk::Neighbour;

/// What all segments of an index have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    pub dimensions: usize,
    pub value_dimensions: usize,
    pub metric: Metric,
    pub storage: Storage,
}

/// Vectors number `first..first + len` in the order of insertion, at positions `0..len`.
#[derive(Debug)]
pub(crate) struct Segment {
    shape: Shape,
    first: u64,
    len: usize,
    keys: Keys,
    /// Minus half the squared length of each key, by position `[16 * tiles]`; only for L2.
    offsets: Vec<f32>,
    /// The length of the longest key.
    longest: f64,
    /// By position; empty while every id is its vector's number of insertion.
    ids: Vec<u64>,
    /// `[len][value_dimensions]`, by position.
    values: Vec<f32>,
    clustering: Option<Clustering>,
}

/// The order of a segment that is cut into clusters.
#[derive(Debug)]
struct Clustering {
    clusters: Clusters,
    /// Number of insertion, less `first`, by position.
    numbers: Vec<u32>,
    /// Position by number of insertion less `first`.
    positions: Vec<u32>,
}

/// Vectors about to be added, checked and in the form the index compares.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    /// `[n][dimensions]`.
    pub vectors: &'a [f32],
    /// `[n]`.
    pub ids: &'a [u64],
    /// `[n][value_dimensions]`.
    pub values: &'a [f32],
}

impl Segment {
    /// A segment without vectors; the next vector of the index is number `first`.
    pub fn empty(shape: Shape, first: u64) -> Result<Self> {
        Ok(Self {
            shape,
            first,
            len: 0,
            keys: Keys::new(shape.dimensions, shape.storage, 0)?,
            offsets: Vec::new(),
            longest: 0.0,
            ids: Vec::new(),
            values: Vec::new(),
            clustering: None,
        })
    }

    pub fn first(&self) -> u64 {
        self.first
    }

    pub fn len(&self) -> usize {
        self.len
    }

    /// Tiles in use.
    pub fn tiles(&self) -> usize {
        self.len.div_ceil(LANES)
    }

    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// What is added to the inner product of the keys from tile `first` on: empty, or `[16 * tiles]`.
    pub fn offsets(&self, first: usize, tiles: usize) -> &[f32] {
        self.offsets.get(first * LANES..(first + tiles) * LANES).unwrap_or(&[])
    }

    pub fn longest(&self) -> f64 {
        self.longest
    }

    pub fn clusters(&self) -> Option<&Clusters> {
        self.clustering.as_ref().map(|clustering| &clustering.clusters)
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        let clustering = self.clustering.as_ref().map_or(0, |clustering| {
            clustering.clusters.bytes() + (clustering.numbers.capacity() + clustering.positions.capacity()) * 4
        });
        self.keys.bytes()
            + (self.offsets.capacity() + self.values.capacity()) * size_of::<f32>()
            + self.ids.capacity() * size_of::<u64>()
            + clustering
    }

    /// Makes room for `additional` vectors, whose ids are `named` if they are not their numbers of
    /// insertion, or fails with nothing changed.
    pub fn reserve(&mut self, additional: usize, named: bool) -> Result<()> {
        let tiles = (self.len + additional).div_ceil(LANES);
        if self.shape.metric == Metric::L2 {
            let missing = (tiles * LANES).saturating_sub(self.offsets.len());
            reserve(&mut self.offsets, missing)?;
        }
        if named || !self.ids.is_empty() {
            let unnamed = self.len - self.ids.len();
            reserve(&mut self.ids, unnamed + additional)?;
        }
        reserve(&mut self.values, additional * self.shape.value_dimensions)?;
        if tiles > self.keys.tiles() {
            // Doubling keeps adding one by one linear; a first batch gets what it needs.
            self.keys = self.keys.resized(tiles.max(self.keys.tiles() * 2))?;
        }
        Ok(())
    }

    /// A copy of a tail with room for `additional` more vectors.
    pub fn try_clone(&self, additional: usize, named: bool) -> Result<Self> {
        debug_assert!(self.clustering.is_none(), "only a tail grows");
        let mut copy = Self::empty(self.shape, self.first)?;
        copy.reserve(self.len + additional, named || !self.ids.is_empty())?;
        copy.keys = self.keys.resized(copy.keys.tiles())?;
        copy.offsets.extend_from_slice(&self.offsets);
        copy.ids.extend_from_slice(&self.ids);
        copy.values.extend_from_slice(&self.values);
        copy.len = self.len;
        copy.longest = self.longest;
        Ok(copy)
    }

    /// Appends vectors for which [`Segment::reserve`] made room.
    pub fn append(&mut self, kernels: &Kernels, pool: &ThreadPool, rows: Rows<'_>) {
        debug_assert!(self.clustering.is_none(), "only a tail grows");
        let dimensions = self.shape.dimensions;
        let start = self.len;
        let end = start + rows.ids.len();
        for (number, &id) in (self.first + start as u64..).zip(rows.ids) {
            if self.ids.is_empty() && id != number {
                self.ids.extend(self.first..number);
                self.ids.push(id);
            } else if !self.ids.is_empty() {
                self.ids.push(id);
            }
        }
        self.values.extend_from_slice(rows.values);
        let first_tile = start / LANES;
        let mut squared = vec![0.0; (end.div_ceil(LANES) - first_tile) * LANES];
        self.keys.fill(
            kernels,
            pool,
            start..end,
            |position| &rows.vectors[(position - start) * dimensions..(position - start + 1) * dimensions],
            &mut squared,
        );
        self.len = end;
        self.measure(start, &squared);
    }

    /// Takes in the squared lengths of the keys from `start` on; `squared` begins at the tile of `start`.
    fn measure(&mut self, start: usize, squared: &[f32]) {
        let skip = start % LANES;
        let new = &squared[skip..skip + self.len - start];
        let longest = new.iter().fold(0.0_f32, |longest, &x| longest.max(x));
        self.longest = self.longest.max(f64::from(longest).sqrt());
        if self.shape.metric == Metric::L2 {
            self.offsets.resize(self.tiles() * LANES, 0.0);
            for (to, &squared) in self.offsets[start..].iter_mut().zip(new) {
                *to = -0.5 * squared;
            }
        }
    }

    /// One segment of clusters from neighbouring segments, oldest first.
    pub fn clustered(
        parts: &[Arc<Self>],
        leaf_tiles: usize,
        seed: u64,
        kernels: &Kernels,
        pool: &ThreadPool,
    ) -> Result<Self> {
        let shape = parts[0].shape;
        let (dimensions, value_dimensions) = (shape.dimensions, shape.value_dimensions);
        let len: usize = parts.iter().map(|part| part.len).sum();
        let mut built = Self::empty(shape, parts[0].first)?;
        built.len = len;
        built.keys = Keys::new(dimensions, shape.storage, len.div_ceil(LANES))?;
        let mut rows = AlignedBuffer::<f32>::try_new(len * dimensions)
            .map_err(|error| Error::OutOfMemory { bytes: error.bytes })?;
        let mut numbers: Vec<u32> = Vec::new();
        let mut positions: Vec<u32> = Vec::new();
        reserve(&mut numbers, len)?;
        reserve(&mut positions, len)?;
        reserve(&mut built.values, len * value_dimensions)?;
        let named = parts.iter().any(|part| !part.ids.is_empty());
        reserve(&mut built.ids, if named { len } else { 0 })?;

        let mut row = 0;
        for part in parts {
            for number in 0..part.len {
                part.keys.read(part.position(number), &mut rows[row * dimensions..(row + 1) * dimensions]);
                row += 1;
            }
        }
        numbers.extend(0..len as u32);
        split(&rows, dimensions, &mut numbers, leaf_tiles * LANES, seed, pool);
        let row_of = |position: usize| {
            let number = numbers[position] as usize;
            &rows[number * dimensions..(number + 1) * dimensions]
        };
        let mut squared = vec![0.0; len.next_multiple_of(LANES)];
        built.keys.fill(kernels, pool, 0..len, row_of, &mut squared);
        built.measure(0, &squared);
        let mut clusters = Clusters::summarise(dimensions, len, leaf_tiles, row_of, kernels, pool)?;

        let starts: Vec<usize> = parts
            .iter()
            .scan(0, |start, part| {
                let this = *start;
                *start += part.len;
                Some(this)
            })
            .collect();
        positions.resize(len, 0);
        for (position, &number) in numbers.iter().enumerate() {
            positions[number as usize] = position as u32;
            let part = starts.partition_point(|&start| start <= number as usize) - 1;
            let from = parts[part].position(number as usize - starts[part]);
            if named {
                built.ids.push(parts[part].id(from));
            }
            built.values.extend_from_slice(parts[part].value(from));
        }
        if value_dimensions > 0 {
            clusters.summarise_values(&built.values, value_dimensions)?;
        }
        built.clustering = Some(Clustering { clusters, numbers, positions });
        Ok(built)
    }

    /// Where the vector with `number` (of insertion, less `first`) is.
    pub fn position(&self, number: usize) -> usize {
        self.clustering.as_ref().map_or(number, |clustering| clustering.positions[number] as usize)
    }

    /// The number of vectors added to the index before the one at `position`.
    pub fn ordinal(&self, position: usize) -> u64 {
        let number = self.clustering.as_ref().map_or(position, |clustering| clustering.numbers[position] as usize);
        self.first + number as u64
    }

    /// The id of the vector at `position`.
    pub fn id(&self, position: usize) -> u64 {
        self.ids.get(position).copied().unwrap_or_else(|| self.ordinal(position))
    }

    /// The values of the vectors from `position` on, `[rest][value_dimensions]`.
    pub fn values_from(&self, position: usize) -> &[f32] {
        &self.values[position * self.shape.value_dimensions..]
    }

    /// The value of the vector at `position`, `[value_dimensions]`.
    pub fn value(&self, position: usize) -> &[f32] {
        &self.values[position * self.shape.value_dimensions..(position + 1) * self.shape.value_dimensions]
    }

    /// Scores the vector at `position` exactly against `query`, `[dimensions]`.
    pub fn neighbour(&self, query: &[f32], position: usize) -> Neighbour {
        let metric = self.shape.metric;
        let score = self.keys.score(metric, query, position);
        // Adding zero turns −0 into 0, so that both are one tie.
        Neighbour { rank: metric.rank(score) + 0.0, ordinal: self.ordinal(position), id: self.id(position) }
    }
}

/// Reserves room for `additional` more elements.
fn reserve<T>(vector: &mut Vec<T>, additional: usize) -> Result<()> {
    vector.try_reserve(additional).map_err(|_| Error::OutOfMemory { bytes: additional.saturating_mul(size_of::<T>()) })
}
