//! Vectors in the layout the kernels read: tiles of sixteen, one load per dimension.
//!
//! - `f32`: tile `[dimensions][16]`
//! - `bf16`: tile `[dimensions/2][16][2]`, an odd number of dimensions padded with zeros
//!
//! Places past the last vector hold zeros.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use iceformer_simd::{AlignedBuffer, Kernels, LANES};
use iceformer_threads::ThreadPool;

use crate::error::{Error, Result};
use crate::metric::{Metric, exact_score, sum_of};

/// How the numbers of a vector are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Storage {
    /// Four bytes each, as given.
    F32,
    /// Two bytes each, rounded to 8 significant bits. Scores are those of the rounded vector and the
    /// unrounded query.
    Bf16,
}

impl Storage {
    /// Bytes of one number.
    #[must_use]
    pub const fn bytes(self) -> usize {
        match self {
            Self::F32 => size_of::<f32>(),
            Self::Bf16 => size_of::<u16>(),
        }
    }
}

/// Tiles in one piece of memory.
#[derive(Debug, Clone)]
pub(crate) struct Keys {
    dimensions: usize,
    tiles: usize,
    data: Data,
}

#[derive(Debug, Clone)]
enum Data {
    F32(AlignedBuffer<f32>),
    Bf16(AlignedBuffer<u16>),
}

impl Keys {
    /// Room for `tiles` tiles, all zero.
    pub fn new(dimensions: usize, storage: Storage, tiles: usize) -> Result<Self> {
        let length = tiles * padded(dimensions, storage) * LANES;
        let data = match storage {
            Storage::F32 => AlignedBuffer::try_new(length).map(Data::F32),
            Storage::Bf16 => AlignedBuffer::try_new(length).map(Data::Bf16),
        };
        let data = data.map_err(|error| Error::OutOfMemory { bytes: error.bytes })?;
        Ok(Self { dimensions, tiles, data })
    }

    /// The same tiles with room for `tiles` of them.
    pub fn resized(&self, tiles: usize) -> Result<Self> {
        let mut other = Self::new(self.dimensions, self.storage(), tiles)?;
        match (&self.data, &mut other.data) {
            (Data::F32(from), Data::F32(to)) => {
                let common = from.len().min(to.len());
                to[..common].copy_from_slice(&from[..common]);
            }
            (Data::Bf16(from), Data::Bf16(to)) => {
                let common = from.len().min(to.len());
                to[..common].copy_from_slice(&from[..common]);
            }
            _ => unreachable!("the storage was copied"),
        }
        Ok(other)
    }

    pub fn storage(&self) -> Storage {
        match self.data {
            Data::F32(_) => Storage::F32,
            Data::Bf16(_) => Storage::Bf16,
        }
    }

    /// Number of tiles there is room for.
    pub fn tiles(&self) -> usize {
        self.tiles
    }

    /// Numbers in a row of queries that meets these tiles.
    pub fn padded(&self) -> usize {
        padded(self.dimensions, self.storage())
    }

    /// Bytes of one tile.
    pub fn bytes_per_tile(&self) -> usize {
        self.padded() * LANES * self.storage().bytes()
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.tiles * self.bytes_per_tile()
    }

    /// Stores the vectors that `source` gives for the positions `start..end`, and writes the squared length
    /// of each, as stored, to `squared`: `[16 * tiles]` from the tile of `start` on.
    pub fn fill<'a>(
        &mut self,
        kernels: &Kernels,
        pool: &ThreadPool,
        positions: Range<usize>,
        source: impl Fn(usize) -> &'a [f32] + Sync,
        squared: &mut [f32],
    ) {
        if positions.is_empty() {
            return;
        }
        let dimensions = self.dimensions;
        let length = self.padded() * LANES;
        let tiles = positions.start / LANES..positions.end.div_ceil(LANES);
        assert!(tiles.end <= self.tiles && squared.len() >= tiles.len() * LANES, "room for the vectors");
        let fill = |first: usize, data: TilesMut<'_>, squared: &mut [f32]| {
            let from = positions.start.max(first * LANES);
            let to = positions.end.min(first * LANES + squared.len());
            match data {
                TilesMut::F32(data) => {
                    for position in from..to {
                        let (tile, lane) = (position / LANES - first, position % LANES);
                        let tile = &mut data[tile * length..(tile + 1) * length];
                        write_f32(tile, lane, source(position));
                        squared[position - first * LANES] = squared_length(dimensions, |i| f32_at(&tile[lane..], i));
                    }
                }
                TilesMut::Bf16(data) => {
                    for position in from..to {
                        let (tile, lane) = (position / LANES - first, position % LANES);
                        let tile = &mut data[tile * length..(tile + 1) * length];
                        write_bf16(kernels, tile, lane, source(position));
                        squared[position - first * LANES] =
                            squared_length(dimensions, |i| bf16_at(&tile[lane * 2..], i));
                    }
                }
            }
        };
        let span = tiles.start * length..tiles.end * length;
        let chunks: Vec<TilesMut<'_>> = match &mut self.data {
            Data::F32(data) => data[span].chunks_mut(FILL_TILES * length).map(TilesMut::F32).collect(),
            Data::Bf16(data) => data[span].chunks_mut(FILL_TILES * length).map(TilesMut::Bf16).collect(),
        };
        let items: Vec<_> = chunks
            .into_iter()
            .zip(squared[..tiles.len() * LANES].chunks_mut(FILL_TILES * LANES))
            .map(|item| Mutex::new(Some(item)))
            .collect();
        pool.for_each(items.len(), |_, item| {
            let taken = items[item].lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some((data, squared)) = taken {
                fill(tiles.start + item * FILL_TILES, data, squared);
            }
        });
    }

    /// Reads the vector at `position` into `vector` (`[dimensions]`).
    pub fn read(&self, position: usize, vector: &mut [f32]) {
        match self.column(position) {
            Column::F32(column) => {
                for (i, to) in vector.iter_mut().enumerate() {
                    *to = f32_at(column, i);
                }
            }
            Column::Bf16(column) => {
                for (i, to) in vector.iter_mut().enumerate() {
                    *to = bf16_at(column, i);
                }
            }
        }
    }

    /// The exact score of `query`, `[dimensions]`, and the vector at `position`.
    pub fn score(&self, metric: Metric, query: &[f32], position: usize) -> f32 {
        let lane = position % LANES;
        let length = self.padded() * LANES;
        let tile = position / LANES * length..(position / LANES + 1) * length;
        match &self.data {
            Data::F32(data) => {
                let tile = &data[tile];
                let fours = tile.as_chunks::<LANES>().0.as_chunks::<4>().0;
                exact_score(
                    metric,
                    query,
                    fours.iter().map(|four| [four[0][lane], four[1][lane], four[2][lane], four[3][lane]]),
                    |i| f32_at(&tile[lane..], i),
                )
            }
            Data::Bf16(data) => {
                let tile = &data[tile];
                let fours = tile.as_chunks::<{ 2 * LANES }>().0.as_chunks::<2>().0;
                let widened =
                    fours.iter().map(|[a, b]| [a[2 * lane], a[2 * lane + 1], b[2 * lane], b[2 * lane + 1]].map(widen));
                exact_score(metric, query, widened, |i| bf16_at(&tile[lane * 2..], i))
            }
        }
    }

    /// The vector at `position`, in place: dimension `i` is found with [`f32_at`] or [`bf16_at`].
    #[inline]
    fn column(&self, position: usize) -> Column<'_> {
        let (tile, lane) = (position / LANES, position % LANES);
        let start = tile * self.padded() * LANES;
        match &self.data {
            Data::F32(data) => Column::F32(&data[start + lane..]),
            Data::Bf16(data) => Column::Bf16(&data[start + lane * 2..]),
        }
    }

    /// Inner products of `rows` queries with the vectors of `tiles` tiles from `first` on.
    ///
    /// `scores` is `[rows][16 * tiles]`.
    pub fn multiply(&self, kernels: &Kernels, queries: QueryRows<'_>, first: usize, tiles: usize, scores: &mut [f32]) {
        self.products(kernels, queries, first, tiles, scores, false);
    }

    /// Adds inner products to `scores`, see [`Keys::multiply`].
    pub fn multiply_add(
        &self,
        kernels: &Kernels,
        queries: QueryRows<'_>,
        first: usize,
        tiles: usize,
        scores: &mut [f32],
    ) {
        self.products(kernels, queries, first, tiles, scores, true);
    }

    fn products(
        &self,
        kernels: &Kernels,
        queries: QueryRows<'_>,
        first: usize,
        tiles: usize,
        scores: &mut [f32],
        accumulate: bool,
    ) {
        let padded = self.padded();
        let stride = padded * LANES;
        assert!(first + tiles <= self.tiles, "tiles in range");
        assert!(scores.len() >= queries.rows * tiles * LANES, "room for the scores");
        assert!(queries.stride >= padded, "rows of queries are as wide as the keys");
        assert!(queries.rows == 0 || queries.len() >= (queries.rows - 1) * queries.stride + padded, "all rows there");
        let columns = tiles * LANES;
        match (&self.data, queries.data) {
            // SAFETY: A holds `rows` rows of `padded` numbers at `stride`, B `tiles` panels of [padded][16]
            // from tile `first` on, C `rows` rows of `columns`: all asserted above.
            (Data::F32(data), RowData::F32(rows)) => unsafe {
                kernels.gemm_f32(
                    queries.rows,
                    padded,
                    rows.as_ptr(),
                    queries.stride,
                    data.as_ptr().add(first * stride),
                    stride,
                    tiles,
                    scores.as_mut_ptr(),
                    columns,
                    accumulate,
                );
            },
            // SAFETY: as above; panels are [padded/2][16][2] and `padded` is even.
            (Data::Bf16(data), RowData::Bf16(rows)) => unsafe {
                kernels.gemm_bf16(
                    queries.rows,
                    padded,
                    rows.as_ptr(),
                    queries.stride,
                    data.as_ptr().add(first * stride),
                    stride,
                    tiles,
                    scores.as_mut_ptr(),
                    columns,
                    accumulate,
                );
            },
            _ => unreachable!("queries were prepared for the storage of the keys"),
        }
    }
}

/// Tiles that one thread fills at a time.
const FILL_TILES: usize = 64;

enum TilesMut<'a> {
    F32(&'a mut [f32]),
    Bf16(&'a mut [u16]),
}

/// Writes `vector` into lane `lane` of `tile`, `[dimensions][16]`.
fn write_f32(tile: &mut [f32], lane: usize, vector: &[f32]) {
    for (to, from) in tile.iter_mut().skip(lane).step_by(LANES).zip(vector) {
        *to = *from;
    }
}

/// Writes `vector`, rounded, into lane `lane` of `tile`, `[dimensions/2][16][2]`.
fn write_bf16(kernels: &Kernels, tile: &mut [u16], lane: usize, vector: &[f32]) {
    const PART: usize = 64;
    let mut rounded = [0_u16; PART];
    for (index, part) in vector.chunks(PART).enumerate() {
        kernels.to_bf16(part, &mut rounded[..part.len()]);
        for (i, from) in rounded[..part.len()].iter().enumerate() {
            let dimension = index * PART + i;
            tile[dimension / 2 * 2 * LANES + lane * 2 + dimension % 2] = *from;
        }
    }
}

/// Row-major queries, `[rows]` of at least `[padded]` numbers, `stride` apart.
#[derive(Clone, Copy)]
pub(crate) struct QueryRows<'a> {
    pub rows: usize,
    pub stride: usize,
    pub data: RowData<'a>,
}

/// The numbers of [`QueryRows`], in the storage of the keys they meet.
#[derive(Clone, Copy)]
pub(crate) enum RowData<'a> {
    F32(&'a [f32]),
    Bf16(&'a [u16]),
}

impl QueryRows<'_> {
    fn len(&self) -> usize {
        match self.data {
            RowData::F32(data) => data.len(),
            RowData::Bf16(data) => data.len(),
        }
    }
}

/// A stored vector in place.
#[derive(Clone, Copy)]
enum Column<'a> {
    F32(&'a [f32]),
    Bf16(&'a [u16]),
}

/// Component `i` of an `f32` column.
#[inline]
fn f32_at(column: &[f32], i: usize) -> f32 {
    column[i * LANES]
}

/// Component `i` of a `bf16` column.
#[inline]
fn bf16_at(column: &[u16], i: usize) -> f32 {
    widen(column[i / 2 * 2 * LANES + i % 2])
}

fn widen(bf16: u16) -> f32 {
    f32::from_bits(u32::from(bf16) << 16)
}

/// Dimensions with padding.
pub(crate) fn padded(dimensions: usize, storage: Storage) -> usize {
    match storage {
        Storage::F32 => dimensions,
        Storage::Bf16 => dimensions.next_multiple_of(2),
    }
}

/// Squared length of a stored vector.
fn squared_length(dimensions: usize, at: impl Fn(usize) -> f32) -> f32 {
    sum_of(dimensions, |i| f64::from(at(i)) * f64::from(at(i))) as f32
}
