//! Keys and values in tiles of sixteen, in the layout the kernels read, in memory that grows in place.
//!
//! A tile holds sixteen keys as a panel (f32 `[d][16]`, bf16 `[d/2][16][2]`) and behind it their values
//! as panels of sixteen dimensions (f32 `[dv/16][16][16]`, bf16 `[dv/16][8][16][2]`), or both in codes of one byte
//! with a scale for each vector ([`tile_codes`]). Tiles lie in chunks that are allocated as needed and never move.

use crate::element::Element;
use crate::summaries::Summary;
use crate::tile_codes;
use crate::tile_rows::TileShape;
use iceformer_simd::{AlignedBuffer, Kernels, LANES, OutOfMemory, Tile, Zeroed, prefetch};
use std::array;
use std::ops::Range;

/// Tiles in one allocation.
const CHUNK_TILES: usize = 64;

/// Vectors in one allocation.
pub(crate) const VECTORS_PER_CHUNK: usize = CHUNK_TILES * LANES;

/// Tiles of one store for a pass of the kernels.
#[derive(Debug)]
pub(crate) struct TileList<T> {
    /// Those of a store of numbers.
    pub numbers: Vec<Tile<T>>,
    /// Those of a store of codes.
    pub codes: Vec<Tile<i8>>,
}

impl<T> Default for TileList<T> {
    fn default() -> Self {
        Self { numbers: Vec::new(), codes: Vec::new() }
    }
}

impl<T> TileList<T> {
    pub fn clear(&mut self) {
        self.numbers.clear();
        self.codes.clear();
    }

    pub fn len(&self) -> usize {
        self.numbers.len() + self.codes.len()
    }
}

/// Tiles of keys with values.
#[derive(Debug)]
pub(crate) struct TileStore<T: Element> {
    /// Numbers per key, even.
    dimensions: usize,
    /// Numbers per value, a multiple of 16.
    value_dimensions: usize,
    chunks: Chunks<T>,
}

/// The memory of a store.
#[derive(Debug)]
enum Chunks<T: Element> {
    /// Each `[CHUNK_TILES][16 * (dimensions + value_dimensions)]`.
    Numbers(Vec<AlignedBuffer<T>>),
    /// Each `[CHUNK_TILES]` tiles of codes with their scales, see [`tile_codes`].
    Codes(Vec<AlignedBuffer<i8>>),
}

/// The numbers of a tile.
fn tile_of<N: Zeroed>(chunks: &[AlignedBuffer<N>], tile: usize, length: usize) -> &[N] {
    &chunks[tile / CHUNK_TILES][tile % CHUNK_TILES * length..][..length]
}

fn tile_of_mut<N: Zeroed>(chunks: &mut [AlignedBuffer<N>], tile: usize, length: usize) -> &mut [N] {
    &mut chunks[tile / CHUNK_TILES][tile % CHUNK_TILES * length..][..length]
}

/// Allocates what is missing for `keys` keys.
fn grow<N: Zeroed>(chunks: &mut Vec<AlignedBuffer<N>>, keys: usize, tile_length: usize) -> Result<(), OutOfMemory> {
    while chunks.len() * VECTORS_PER_CHUNK < keys {
        chunks.push(AlignedBuffer::try_new(CHUNK_TILES * tile_length)?);
    }
    Ok(())
}

impl<T: Element> TileStore<T> {
    /// An empty store for keys and values of these lengths, padded with zeros to what the kernels take; in codes
    /// of one byte if `coded`.
    pub fn new(dimensions: usize, value_dimensions: usize, coded: bool) -> Self {
        Self {
            dimensions: dimensions.next_multiple_of(2),
            value_dimensions: value_dimensions.next_multiple_of(LANES),
            chunks: if coded { Chunks::Codes(Vec::new()) } else { Chunks::Numbers(Vec::new()) },
        }
    }

    /// True if keys and values are codes of one byte.
    pub fn coded(&self) -> bool {
        matches!(self.chunks, Chunks::Codes(_))
    }

    /// How a tile lies.
    fn shape(&self) -> TileShape {
        match self.chunks {
            Chunks::Numbers(_) => Self::shape_of_numbers(self.dimensions, self.value_dimensions),
            Chunks::Codes(_) => tile_codes::shape(self.dimensions, self.value_dimensions),
        }
    }

    fn shape_of_numbers(dimensions: usize, value_dimensions: usize) -> TileShape {
        TileShape { step: T::STEP, keys: dimensions, values: value_dimensions, behind: 0 }
    }

    /// Numbers or bytes of a tile.
    fn tile_length(&self) -> usize {
        LANES * self.shape().row()
    }

    /// Bytes allocated.
    pub fn bytes(&self) -> usize {
        let chunk = CHUNK_TILES * self.tile_length();
        match &self.chunks {
            Chunks::Numbers(chunks) => chunks.len() * chunk * size_of::<T>(),
            Chunks::Codes(chunks) => chunks.len() * chunk,
        }
    }

    /// Bytes that one vector takes, padding and scales included.
    pub fn vector_bytes(dimensions: usize, value_dimensions: usize, coded: bool) -> usize {
        let store = Self::new(dimensions, value_dimensions, coded);
        store.tile_length() * if coded { 1 } else { size_of::<T>() } / LANES
    }

    /// Makes room for `keys` keys in all.
    pub fn reserve(&mut self, keys: usize) -> Result<(), OutOfMemory> {
        let length = self.tile_length();
        match &mut self.chunks {
            Chunks::Numbers(chunks) => grow(chunks, keys, length),
            Chunks::Codes(chunks) => grow(chunks, keys, length),
        }
    }

    /// Gives back what is not needed for `keys` keys.
    pub fn shrink(&mut self, keys: usize) {
        let needed = keys.div_ceil(VECTORS_PER_CHUNK);
        match &mut self.chunks {
            Chunks::Numbers(chunks) => chunks.truncate(needed),
            Chunks::Codes(chunks) => chunks.truncate(needed),
        }
    }

    /// Adds a tile to those of a pass; `masked` as in [`Tile`].
    pub fn list(&self, tile: usize, masked: bool, list: &mut TileList<T>) {
        let (length, start) = (self.tile_length(), (tile * LANES) as u32);
        match &self.chunks {
            Chunks::Numbers(chunks) => {
                let (keys, values) = tile_of(chunks, tile, length).split_at(LANES * self.dimensions);
                list.numbers.push(Tile { keys: keys.as_ptr(), values: values.as_ptr(), start, masked });
            }
            Chunks::Codes(chunks) => {
                let before = LANES * self.shape().keys;
                let (keys, values) = tile_of(chunks, tile, length).split_at(before);
                list.codes.push(Tile { keys: keys.as_ptr(), values: values.as_ptr(), start, masked });
            }
        }
    }

    /// Asks for a tile's memory, all of its lines at once, before it is written or read: both would wait for one line after
    /// the other. Does nothing where nothing is reserved.
    pub fn ask_for(&self, tile: usize) {
        let length = self.tile_length();
        let (start, bytes) = match &self.chunks {
            Chunks::Numbers(chunks) if tile / CHUNK_TILES < chunks.len() => {
                let numbers = tile_of(chunks, tile, length);
                (numbers.as_ptr().cast::<u8>(), size_of_val(numbers))
            }
            Chunks::Codes(chunks) if tile / CHUNK_TILES < chunks.len() => {
                (tile_of(chunks, tile, length).as_ptr().cast(), length)
            }
            _ => return,
        };
        for offset in (0..bytes).step_by(64) {
            prefetch(start.wrapping_add(offset));
        }
    }

    /// Stores `count` keys with their values at the slots from `start` on, which must be reserved; `vector(i)` is a key and
    /// its value, which may be shorter than padded.
    pub fn write<'v>(
        &mut self,
        kernels: &Kernels,
        start: usize,
        count: usize,
        vector: impl Fn(usize) -> (&'v [f32], &'v [f32]),
    ) {
        let shape = self.shape();
        match &mut self.chunks {
            Chunks::Numbers(chunks) => write(chunks, shape, start, count, |i, row| {
                let ((key, value), (key_row, value_row)) = (vector(i), row.split_at_mut(shape.keys));
                for (row, numbers) in [(key_row, key), (value_row, value)] {
                    T::convert(kernels, numbers, &mut row[..numbers.len()]);
                    row[numbers.len()..].fill(T::default());
                }
            }),
            Chunks::Codes(chunks) => write(chunks, shape, start, count, |i, row| {
                let (key, value) = vector(i);
                tile_codes::encode(kernels, shape, key, value, row);
            }),
        }
    }

    /// Reads the key and the value at `slot`; both may be shorter than padded.
    pub fn read(&self, slot: usize, key: &mut [f32], value: &mut [f32]) {
        let (length, lane, shape) = (self.tile_length(), slot % LANES, self.shape());
        match &self.chunks {
            Chunks::Numbers(chunks) => {
                let tile = tile_of(chunks, slot / LANES, length);
                let shape = Self::shape_of_numbers(self.dimensions, self.value_dimensions);
                for (i, x) in key.iter_mut().enumerate() {
                    *x = tile[shape.place(lane, i)].to_f32();
                }
                for (i, x) in value.iter_mut().enumerate() {
                    *x = tile[shape.place(lane, shape.keys + i)].to_f32();
                }
            }
            Chunks::Codes(chunks) => tile_codes::read(shape, tile_of(chunks, slot / LANES, length), lane, key, value),
        }
    }

    /// Copies the vectors of some tiles as they are stored.
    pub fn take(&self, tiles: Range<usize>, vectors: &mut StoredVectors<T>) {
        let shape = self.shape();
        // A tile is read column by column, which no processor foresees.
        let ask = |tile| self.ask_for(tile + 1);
        match &self.chunks {
            Chunks::Numbers(chunks) => take(chunks, shape, tiles, &mut vectors.numbers, ask),
            Chunks::Codes(chunks) => take(chunks, shape, tiles, &mut vectors.codes, ask),
        }
    }

    /// Writes the tiles from `first` on: sixteen of `vectors`, which must come from [`Self::take`], each, in the order that
    /// `order` lists them.
    pub fn put(&mut self, first: usize, order: &[u32], vectors: &StoredVectors<T>) {
        let shape = self.shape();
        match &mut self.chunks {
            Chunks::Numbers(chunks) => put(chunks, shape, first, order, &vectors.numbers),
            Chunks::Codes(chunks) => put(chunks, shape, first, order, &vectors.codes),
        }
    }

    /// The keys (`[n][dimensions]`) of vectors that come from [`Self::take`]; `dimensions` may be less than padded.
    pub fn keys(&self, kernels: &Kernels, vectors: &StoredVectors<T>, dimensions: usize, keys: &mut Vec<f32>) {
        let (shape, d) = (self.shape(), dimensions);
        let count = match self.chunks {
            Chunks::Numbers(_) => vectors.numbers.len() / shape.row(),
            Chunks::Codes(_) => vectors.codes.len() / shape.row(),
        };
        keys.resize(count * d, 0.0);
        match self.chunks {
            Chunks::Numbers(_) => {
                for (key, row) in keys.chunks_exact_mut(d).zip(vectors.numbers.chunks_exact(shape.row())) {
                    T::widen(kernels, &row[..d], key);
                }
            }
            Chunks::Codes(_) => {
                for (key, row) in keys.chunks_exact_mut(d).zip(vectors.codes.chunks_exact(shape.row())) {
                    tile_codes::decode_key(shape, row, key);
                }
            }
        }
    }

    /// Summarises a tile.
    pub fn summarize(&self, kernels: &Kernels, tile: usize, summary: &mut Summary) {
        let shape = self.shape();
        match &self.chunks {
            Chunks::Numbers(chunks) => {
                let (keys, values) = tile_of(chunks, tile, LANES * shape.row()).split_at(LANES * shape.keys);
                summary.take(shape.keys, shape.values, |means, variances, value_means| {
                    T::panel_moments(kernels, keys, means, variances);
                    T::value_means(kernels, values, value_means);
                });
            }
            Chunks::Codes(chunks) => {
                let (keys, values) = tile_of(chunks, tile, LANES * shape.row()).split_at(LANES * shape.keys);
                summary.take(shape.keys - tile_codes::SCALE, shape.values, |means, variances, value_means| {
                    kernels.code_moments(keys, means, variances);
                    kernels.code_value_means(values, value_means);
                });
            }
        }
    }
}

/// Stores `count` vectors at the slots from `start` on, whose rows `encode` writes.
fn write<N: Zeroed>(
    chunks: &mut [AlignedBuffer<N>],
    shape: TileShape,
    start: usize,
    count: usize,
    encode: impl Fn(usize, &mut [N]),
) {
    let row = shape.row();
    let mut rows = vec![N::default(); row * count.min(LANES)];
    let mut done = 0;
    while done < count {
        let (tile, lane) = ((start + done) / LANES, (start + done) % LANES);
        let together = (LANES - lane).min(count - done);
        for (i, row) in rows.chunks_exact_mut(row).take(together).enumerate() {
            encode(done + i, row);
        }
        let tile = tile_of_mut(chunks, tile, LANES * row);
        if together == LANES {
            shape.write(tile, &array::from_fn(|i| &rows[i * row..][..row]));
        } else {
            for (i, row) in rows.chunks_exact(row).take(together).enumerate() {
                shape.write_one(tile, lane + i, row);
            }
        }
        done += together;
    }
}

/// Copies the rows of some tiles, before each of which `ask` is called.
fn take<N: Zeroed>(
    chunks: &[AlignedBuffer<N>],
    shape: TileShape,
    tiles: Range<usize>,
    rows: &mut Vec<N>,
    ask: impl Fn(usize),
) {
    let length = LANES * shape.row();
    rows.resize(tiles.len() * length, N::default());
    for (tile, rows) in tiles.zip(rows.chunks_exact_mut(length)) {
        ask(tile);
        shape.read(tile_of(chunks, tile, length), rows);
    }
}

fn put<N: Zeroed>(chunks: &mut [AlignedBuffer<N>], shape: TileShape, first: usize, order: &[u32], rows: &[N]) {
    let row = shape.row();
    for (members, tile) in order.as_chunks::<LANES>().0.iter().zip(first..) {
        let rows = members.map(|number| &rows[number as usize * row..][..row]);
        shape.write(tile_of_mut(chunks, tile, LANES * row), &rows);
    }
}

/// Vectors out of their tiles, as they are stored: row by row, see [`TileShape`].
#[derive(Debug, Default)]
pub(crate) struct StoredVectors<T> {
    /// `[n][row]` of a store of numbers.
    numbers: Vec<T>,
    /// `[n][row]` of a store of codes.
    codes: Vec<i8>,
}

impl<T> StoredVectors<T> {
    /// Bytes allocated.
    pub fn bytes(&self) -> usize {
        self.numbers.capacity() * size_of::<T>() + self.codes.capacity()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;
    use iceformer_simd::kernels;

    #[test]
    fn reads_back_what_was_written() {
        fn check<T: Element>(coded: bool) {
            let mut store = TileStore::<T>::new(5, 20, coded);
            store.reserve(2000).unwrap();
            assert_eq!(store.bytes(), 2 * VECTORS_PER_CHUNK * TileStore::<T>::vector_bytes(5, 20, coded));
            // A largest magnitude of 127 makes codes of whole numbers exact.
            let key = |slot: usize| (0..5).map(move |i| if i == 4 { 127.0 } else { (slot % 50 + i) as f32 });
            let value = |slot: usize| (0..20).map(move |i| if i == 0 { 127.0 } else { -((slot % 30 + i) as f32) });
            let slots = [0, 1, 15, 16, 1023, 1024, 1999];
            for slot in slots {
                let (key, value) = (key(slot).collect::<Vec<_>>(), value(slot).collect::<Vec<_>>());
                store.write(kernels(), slot, 1, |_| (&key, &value));
            }
            for slot in slots {
                let (mut read_key, mut read_value) = ([0.0; 5], [0.0; 20]);
                store.read(slot, &mut read_key, &mut read_value);
                assert!(read_key.into_iter().map(f32::to_bits).eq(key(slot).map(f32::to_bits)), "{slot} {read_key:?}");
                let same = read_value.into_iter().map(f32::to_bits).eq(value(slot).map(f32::to_bits));
                assert!(same, "{slot} {read_value:?}");
            }
            let bytes = store.bytes();
            store.shrink(10);
            assert!(store.bytes() < bytes && store.bytes() > 0);
        }
        check::<f32>(false);
        check::<u16>(false);
        check::<u16>(true);
    }

    /// `count` random keys and values.
    fn vectors(count: usize, d: usize, dv: usize) -> Vec<(Vec<f32>, Vec<f32>)> {
        let mut random = Random::new(4);
        let mut vector = |length: usize| (0..length).map(|_| random.below(2001) as f32 / 300.0 - 3.0).collect();
        (0..count).map(|_| (vector(d), vector(dv))).collect()
    }

    fn read<T: Element>(store: &TileStore<T>, slot: usize, d: usize, dv: usize) -> (Vec<u32>, Vec<u32>) {
        let (mut key, mut value) = (vec![0.0; d], vec![0.0; dv]);
        store.read(slot, &mut key, &mut value);
        (key.into_iter().map(f32::to_bits).collect(), value.into_iter().map(f32::to_bits).collect())
    }

    #[test]
    fn whole_tiles_are_what_single_vectors_make() {
        fn check<T: Element>(coded: bool, d: usize, dv: usize) {
            let (mut runs, mut single) = (TileStore::<T>::new(d, dv, coded), TileStore::<T>::new(d, dv, coded));
            runs.reserve(1100).unwrap();
            single.reserve(1100).unwrap();
            let vectors = vectors(1100, d, dv);
            let vector = |slot: usize| (&vectors[slot].0[..], &vectors[slot].1[..]);
            // Parts of tiles, whole ones and over the end of an allocation.
            for run in [0..3, 3..16, 16..32, 32..85, 85..1090, 1090..1091, 1091..1100] {
                runs.write(kernels(), run.start, run.len(), |i| vector(run.start + i));
            }
            for slot in 0..1100 {
                single.write(kernels(), slot, 1, |_| vector(slot));
            }
            for slot in 0..1100 {
                assert_eq!(read(&runs, slot, d, dv), read(&single, slot, d, dv), "{d} {dv} {slot}");
            }
        }
        for (d, dv) in [(64, 64), (5, 20), (1, 16), (34, 7), (20, 33)] {
            check::<f32>(false, d, dv);
            check::<u16>(false, d, dv);
            check::<u16>(true, d, dv);
        }
    }

    #[test]
    fn what_moves_stays_the_same_to_the_last_bit() {
        fn check<T: Element>(coded: bool, d: usize, dv: usize) {
            let mut store = TileStore::<T>::new(d, dv, coded);
            store.reserve(1100).unwrap();
            let vectors = vectors(1100, d, dv);
            store.write(kernels(), 0, 1100, |slot| (&vectors[slot].0, &vectors[slot].1));
            let before: Vec<_> = (0..1100).map(|slot| read(&store, slot, d, dv)).collect();
            let (mut taken, mut keys) = (StoredVectors::default(), Vec::new());
            store.take(62..66, &mut taken);
            store.keys(kernels(), &taken, d, &mut keys);
            let order: Vec<u32> = (0..64).map(|i| i * 27 % 64).collect();
            store.put(62, &order, &taken);
            for slot in 0..1100 {
                let from = if (992..1056).contains(&slot) { 992 + order[slot - 992] as usize } else { slot };
                assert_eq!(read(&store, slot, d, dv), before[from], "{d} {dv} {slot}");
            }
            for (key, (expected, _)) in keys.chunks(d).zip(&before[992..1056]) {
                assert!(key.iter().map(|x| x.to_bits()).eq(expected.iter().copied()), "{d} {dv}");
            }
        }
        for (d, dv) in [(64, 64), (5, 20), (34, 7)] {
            check::<f32>(false, d, dv);
            check::<u16>(false, d, dv);
            check::<u16>(true, d, dv);
        }
    }

    #[test]
    fn a_summary_is_of_what_is_read_back() {
        fn check<T: Element>(coded: bool, d: usize, dv: usize) {
            let mut store = TileStore::<T>::new(d, dv, coded);
            store.reserve(32).unwrap();
            let vectors = vectors(32, d, dv);
            store.write(kernels(), 0, 32, |slot| (&vectors[slot].0, &vectors[slot].1));
            let stored: Vec<_> = (16..32).map(|slot| read(&store, slot, d, dv)).collect();
            let mut summary = Summary::default();
            store.summarize(kernels(), 1, &mut summary);
            let mean = |numbers: &dyn Fn(usize) -> f32| (0..LANES).map(numbers).sum::<f32>() / 16.0;
            for i in 0..d {
                let key = |lane: usize| f32::from_bits(stored[lane].0[i]);
                let expected = mean(&key);
                let variance = mean(&|lane| (key(lane) - expected).powi(2)) * std::f32::consts::LN_2 / 2.0;
                assert!((summary.mean[i] - expected).abs() < 1e-5, "{d} {i}");
                assert!((summary.variance[i] - variance).abs() < 1e-4, "{d} {i}");
            }
            for i in 0..dv {
                let expected = mean(&|lane| f32::from_bits(stored[lane].1[i]));
                assert!((summary.value[i] - expected).abs() < 1e-5, "{dv} {i}");
            }
            let padding = summary.mean[d..].iter().chain(&summary.variance[d..]).chain(&summary.value[dv..]);
            assert!(padding.copied().all(|x| x == 0.0));
        }
        for (d, dv) in [(64, 64), (5, 20), (34, 7)] {
            check::<f32>(false, d, dv);
            check::<u16>(false, d, dv);
            check::<u16>(true, d, dv);
        }
    }
}
