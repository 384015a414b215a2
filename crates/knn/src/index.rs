//! The index: what is added, and how it is kept searchable.

use std::sync::Arc;

use iceformer_simd::{Kernels, kernels};
use iceformer_threads::ThreadPool;

use crate::average::{AverageOptions, Averages};
use crate::error::{Error, Result};
use crate::ids::IdTable;
use crate::keys::Storage;
use crate::metric::{Metric, check_finite};
use crate::search::{Neighbours, SearchOptions, Snapshot};
use crate::segment::{Rows, Segment, Shape};

/// The most dimensions of a vector or a value.
pub const MAX_DIMENSIONS: usize = 1 << 16;
/// The most vectors in an index.
pub const MAX_VECTORS: usize = u32::MAX as usize - 1024;

/// How an index finds neighbours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// Reads all vectors while there are few, and clusters once there are [`AUTO_CLUSTERS`].
    Auto,
    /// Reads all vectors, always.
    Exact,
    /// Groups vectors in clusters and reads the best for each query.
    Cluster,
}

/// Vectors from which [`Algorithm::Auto`] clusters: reading fewer is as quick as choosing.
pub const AUTO_CLUSTERS: usize = 16_384;

/// Vectors from which the growing end of an index is closed, when nothing is clustered.
const SEAL_PLAIN: usize = 4096;

/// What an index is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexOptions {
    /// Numbers in a vector, 1 to [`MAX_DIMENSIONS`].
    pub dimensions: usize,
    /// How vectors are compared.
    pub metric: Metric,
    /// How numbers are stored.
    pub storage: Storage,
    /// How neighbours are found.
    pub algorithm: Algorithm,
    /// Makes clusters repeatable: equal seeds and additions give equal results.
    pub seed: u64,
    /// Numbers in the value kept with each vector; 0 keeps none.
    pub value_dimensions: usize,
}

impl IndexOptions {
    /// An inner-product index of `f32` vectors without values that chooses its algorithm.
    #[must_use]
    pub fn new(dimensions: usize) -> Self {
        Self {
            dimensions,
            metric: Metric::InnerProduct,
            storage: Storage::F32,
            algorithm: Algorithm::Auto,
            seed: 0,
            value_dimensions: 0,
        }
    }
}

/// A dynamic index of vectors with ids.
///
/// New vectors go to a tail that searches read whole. A full tail is closed: with clustering it is merged
/// with neighbours of its size into clusters (as a log-structured merge tree does), so each vector is
/// clustered about log₂(n) times over the life of the index.
#[derive(Debug)]
pub struct Index {
    options: IndexOptions,
    shape: Shape,
    kernels: &'static Kernels,
    pool: ThreadPool,
    /// Closed segments, oldest first.
    closed: Vec<Arc<Segment>>,
    tail: Arc<Segment>,
    ids: IdTable,
}

impl Index {
    /// An empty index that works on `pool`.
    pub fn new(options: IndexOptions, pool: ThreadPool) -> Result<Self> {
        Self::with_kernels(options, pool, kernels())
    }

    /// An empty index with the kernels of a given SIMD level.
    pub fn with_kernels(options: IndexOptions, pool: ThreadPool, kernels: &'static Kernels) -> Result<Self> {
        let IndexOptions { dimensions, metric, storage, value_dimensions, .. } = options;
        if dimensions == 0 || dimensions > MAX_DIMENSIONS {
            return Err(Error::Dimensions { dimensions, max: MAX_DIMENSIONS });
        }
        if value_dimensions > MAX_DIMENSIONS {
            return Err(Error::Dimensions { dimensions: value_dimensions, max: MAX_DIMENSIONS });
        }
        let shape = Shape { dimensions, value_dimensions, metric, storage };
        let tail = Arc::new(Segment::empty(shape, 0)?);
        Ok(Self { options, shape, kernels, pool, closed: Vec::new(), tail, ids: IdTable::default() })
    }

    /// What the index was made with.
    #[must_use]
    pub fn options(&self) -> &IndexOptions {
        &self.options
    }

    /// Number of vectors.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tail.first() as usize + self.tail.len()
    }

    /// True when there are no vectors.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes held by the index.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.closed.iter().map(|segment| segment.bytes()).sum::<usize>() + self.tail.bytes() + self.ids.bytes()
    }

    /// Vectors that are in clusters; the rest are read whole by every search.
    #[must_use]
    pub fn clustered(&self) -> usize {
        self.closed.iter().filter(|segment| segment.clusters().is_some()).map(|segment| segment.len()).sum()
    }

    /// Adds one vector and returns its id; see [`Index::add_batch`].
    pub fn add(&mut self, vector: &[f32], id: Option<u64>, value: Option<&[f32]>) -> Result<u64> {
        if vector.len() != self.options.dimensions {
            return Err(Error::DimensionMismatch {
                what: "vector",
                actual: vector.len(),
                expected: self.options.dimensions,
            });
        }
        let ids = self.add_batch(vector, id.as_ref().map(std::slice::from_ref), value)?;
        Ok(ids[0])
    }

    /// Adds vectors, `[n][dimensions]`, with `ids`, `[n]` (by default those after the largest so far,
    /// beginning with 0), and `values`, `[n][value_dimensions]` (required if the index keeps values).
    /// Returns the ids.
    pub fn add_batch(&mut self, vectors: &[f32], ids: Option<&[u64]>, values: Option<&[f32]>) -> Result<Vec<u64>> {
        let IndexOptions { dimensions, metric, .. } = self.options;
        if !vectors.len().is_multiple_of(dimensions) {
            return Err(Error::RaggedBatch { what: "vectors", length: vectors.len(), dimensions });
        }
        let added = vectors.len() / dimensions;
        let size = self.len();
        if added > MAX_VECTORS - size {
            return Err(Error::Full { size, added, max: MAX_VECTORS });
        }
        if let Some(ids) = ids
            && ids.len() != added
        {
            return Err(Error::CountMismatch { what: "ids", actual: ids.len(), expected: added });
        }
        let values = self.check_values(values, added)?;
        let prepared = match metric {
            Metric::Cosine => {
                let mut prepared = Vec::new();
                prepared
                    .try_reserve_exact(vectors.len())
                    .map_err(|_| Error::OutOfMemory { bytes: size_of_val(vectors) })?;
                prepared.resize(vectors.len(), 0.0);
                let rows = prepared.chunks_exact_mut(dimensions).zip(vectors.chunks_exact(dimensions));
                for (row, (to, from)) in rows.enumerate() {
                    metric.prepare(from, to, "vector", row)?;
                }
                Some(prepared)
            }
            Metric::InnerProduct | Metric::L2 => {
                for (row, vector) in vectors.chunks_exact(dimensions).enumerate() {
                    metric.check(vector, "vector", row)?;
                }
                None
            }
        };
        let ids = match ids {
            Some(ids) => ids.to_vec(),
            None => self.ids.following(added)?,
        };
        if added == 0 {
            return Ok(ids);
        }
        // Everything that can fail comes before anything changes.
        let named = ids.iter().zip(size as u64..).any(|(&id, number)| id != number);
        if Arc::get_mut(&mut self.tail).is_none() {
            // A search still reads the tail: leave it that one.
            self.tail = Arc::new(self.tail.try_clone(added, named)?);
        }
        let Some(tail) = Arc::get_mut(&mut self.tail) else { unreachable!("the copy is ours alone") };
        tail.reserve(added, named)?;
        self.ids.insert(&ids, size as u64)?;
        let vectors = prepared.as_deref().unwrap_or(vectors);
        tail.append(self.kernels, &self.pool, Rows { vectors, ids: &ids, values });
        self.close_tail();
        Ok(ids)
    }

    fn check_values<'a>(&self, values: Option<&'a [f32]>, added: usize) -> Result<&'a [f32]> {
        let value_dimensions = self.options.value_dimensions;
        match values {
            None if value_dimensions == 0 => Ok(&[]),
            None => Err(Error::ValuesMissing { value_dimensions }),
            Some(_) if value_dimensions == 0 => Err(Error::NoValues),
            Some(values) if !values.len().is_multiple_of(value_dimensions) => {
                Err(Error::RaggedBatch { what: "values", length: values.len(), dimensions: value_dimensions })
            }
            Some(values) if values.len() != added * value_dimensions => {
                Err(Error::CountMismatch { what: "values", actual: values.len() / value_dimensions, expected: added })
            }
            Some(values) => {
                for (row, value) in values.chunks_exact(value_dimensions).enumerate() {
                    check_finite(value, "value", row)?;
                }
                Ok(values)
            }
        }
    }

    /// Closes the tail once it is long enough.
    fn close_tail(&mut self) {
        let size = self.len();
        let clusters = match self.options.algorithm {
            Algorithm::Exact => false,
            Algorithm::Cluster => true,
            Algorithm::Auto => size >= AUTO_CLUSTERS,
        };
        let enough = if clusters { seal_clusters(size) } else { SEAL_PLAIN };
        if self.tail.len() < enough {
            return;
        }
        let Ok(next) = Segment::empty(self.shape, size as u64) else { return };
        let full = std::mem::replace(&mut self.tail, Arc::new(next));
        if !clusters {
            self.closed.push(full);
            return;
        }
        // Merge with the neighbours that are not much larger, and with all that are not clustered yet.
        let mut length = full.len();
        let mut from = self.closed.len();
        while from > 0 && (self.closed[from - 1].clusters().is_none() || self.closed[from - 1].len() < 2 * length) {
            from -= 1;
            length += self.closed[from].len();
        }
        self.closed.push(full);
        let seed = self.options.seed;
        let built = Segment::clustered(&self.closed[from..], leaf_tiles(length), seed, self.kernels, &self.pool);
        // Without the memory to build clusters the vectors stay as they are: slower to search, not lost.
        if let Ok(segment) = built {
            self.closed.truncate(from);
            self.closed.push(Arc::new(segment));
        }
    }

    /// True when a vector has this id.
    #[must_use]
    pub fn has(&self, id: u64) -> bool {
        self.ids.find(id).is_some()
    }

    /// The largest id in the index.
    #[must_use]
    pub fn largest_id(&self) -> Option<u64> {
        self.ids.largest()
    }

    /// The vector with `id`, as stored: of length 1 for cosine, rounded for bf16.
    pub fn get(&self, id: u64) -> Result<Vec<f32>> {
        let (segment, position) = self.locate(id)?;
        let mut vector = vec![0.0; self.options.dimensions];
        segment.keys().read(position, &mut vector);
        Ok(vector)
    }

    /// The value kept with the vector `id`.
    pub fn value(&self, id: u64) -> Result<&[f32]> {
        if self.options.value_dimensions == 0 {
            return Err(Error::NoValues);
        }
        let (segment, position) = self.locate(id)?;
        Ok(segment.value(position))
    }

    fn locate(&self, id: u64) -> Result<(&Segment, usize)> {
        let ordinal = self.ids.find(id).ok_or(Error::UnknownId { id })?;
        let segment = if ordinal >= self.tail.first() {
            &self.tail
        } else {
            &self.closed[self.closed.partition_point(|segment| segment.first() <= ordinal) - 1]
        };
        Ok((segment, segment.position((ordinal - segment.first()) as usize)))
    }

    /// The index as it is now, to search while it changes.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let mut segments = self.closed.clone();
        if self.tail.len() > 0 {
            segments.push(Arc::clone(&self.tail));
        }
        Snapshot { shape: self.shape, kernels: self.kernels, pool: self.pool.clone(), segments, len: self.len() }
    }

    /// The k nearest of each query; `queries` is `[n][dimensions]`.
    pub fn search(&self, queries: &[f32], options: SearchOptions<'_>) -> Result<Neighbours> {
        self.snapshot().search(queries, options)
    }

    /// The weighted average of all values for each query; see [`Snapshot::soft_search`].
    pub fn soft_search(&self, queries: &[f32], options: AverageOptions<'_>) -> Result<Averages> {
        self.snapshot().soft_search(queries, options)
    }
}

/// Vectors from which the tail of an index of `size` is clustered. Every search reads the tail whole.
fn seal_clusters(size: usize) -> usize {
    (size / 16).clamp(512, 16_384)
}

/// Tiles per cluster in a segment of `length` vectors.
fn leaf_tiles(length: usize) -> usize {
    // Small clusters leave less to read, but there are more of them to choose from.
    match length {
        0..32_768 => 2,
        32_768..524_288 => 4,
        _ => 8,
    }
}
