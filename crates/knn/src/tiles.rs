//! Keys and values in tiles of sixteen, in the layout the kernels read, in memory that grows in place.
//!
//! A tile holds sixteen keys as a panel (f32 `[d][16]`, bf16 `[d/2][16][2]`) and behind it their values
//! as panels of sixteen dimensions (f32 `[dv/16][16][16]`, bf16 `[dv/16][8][16][2]`), or both in codes of one byte
//! with a scale for each vector ([`tile_codes`]). Tiles lie in chunks that are allocated as needed and never move.

use crate::moves::{Move, rearrange};
use crate::soft::SharedStocks;
use crate::tile_codes;
use half::bf16;
use iceformer_simd::{AlignedBuffer, Attend, Kernels, LANES, Level, OutOfMemory, STEP_TILES, Tile, Zeroed, prefetch};
use std::sync::{Mutex, Weak};

/// Tiles in one allocation.
const CHUNK_TILES: usize = 64;

/// Vectors in one allocation.
pub(crate) const VECTORS_PER_CHUNK: usize = CHUNK_TILES * LANES;

/// Continues a block's softmax over tiles of codes; the last argument is room for [`STEP_TILES`] tiles of numbers, each
/// `[16 x dimensions]` and behind it `[16 x 16 x value_panels]`.
///
/// # Safety
/// As [`Kernels::attend_f32`].
pub(crate) type AttendCopied<T> = unsafe fn(&Kernels, &mut Attend<'_, T>, &[Tile<i8>], &mut [T]);

/// Products of rows with panels that lie anywhere, see [`Kernels::rows_by_panels_f32`].
pub(crate) type RowsByPanels<T> = unsafe fn(&Kernels, usize, usize, *const T, usize, &[*const T], *mut f32, usize);

/// Sums of products with pieces that lie anywhere, see [`Kernels::add_rows_by_panels_f32`].
pub(crate) type AddRowsByPanels<T> = unsafe fn(&Kernels, usize, *const T, usize, &[*const T], usize, *mut f32, usize);

/// A number in which queries, weights and summaries are held, and keys and values where they are not codes.
pub(crate) trait Element: Zeroed {
    /// Numbers of one key that lie side by side.
    const STEP: usize;
    /// The kernel of [`Element::rows_by_panels`].
    const ROWS_BY_PANELS: RowsByPanels<Self>;
    /// The kernel of [`Element::add_rows_by_panels`].
    const ADD_ROWS_BY_PANELS: AddRowsByPanels<Self>;
    /// What searches work in.
    fn shared_stocks() -> &'static SharedStocks<Self>;
    fn from_f32(x: f32) -> Self;
    fn to_f32(self) -> f32;
    fn convert(kernels: &Kernels, x: &[f32], out: &mut [Self]);
    /// # Safety
    /// As [`Kernels::attend_f32`].
    unsafe fn attend(kernels: &Kernels, block: &mut Attend<'_, Self>, tiles: &[Tile<Self>]);
    /// True if these kernels are faster with queries and weights in f32: without products of bf16.
    fn widens(kernels: &Kernels) -> bool;
    /// The same with queries and weights in f32.
    ///
    /// # Safety
    /// As [`Kernels::attend_f32`].
    unsafe fn attend_widened(kernels: &Kernels, block: &mut Attend<'_, f32>, tiles: &[Tile<Self>]);
    /// How many rows go through tiles of codes if they are faster with a copy of them as numbers.
    fn attend_copied(kernels: &Kernels) -> Option<AttendCopied<Self>>;
    /// Scores of `rows` rows (`[rows][k]`) with panels that lie anywhere, `[rows][stride]`, see
    /// [`Kernels::rows_by_panels_f32`].
    ///
    /// # Safety
    /// As there.
    unsafe fn rows_by_panels(
        kernels: &Kernels,
        rows: usize,
        k: usize,
        a: &[Self],
        panels: &[*const Self],
        c: &mut [f32],
        stride: usize,
    ) {
        let columns = panels.len() * LANES;
        assert!(a.len() >= rows * k && stride >= columns && c.len() + stride >= rows * stride + columns);
        // SAFETY: lengths are checked, panels are the caller's promise.
        unsafe { Self::ROWS_BY_PANELS(kernels, rows, k, a.as_ptr(), k, panels, c.as_mut_ptr(), stride) }
    }

    /// Adds weighted values: weights are `[rows][stride]`, `c` is `[rows][16 x width]`, see
    /// [`Kernels::add_rows_by_panels_f32`].
    ///
    /// # Safety
    /// As there.
    unsafe fn add_rows_by_panels(
        kernels: &Kernels,
        rows: usize,
        weights: &[Self],
        stride: usize,
        list: &[*const Self],
        width: usize,
        c: &mut [f32],
    ) {
        let columns = width * LANES;
        assert!(weights.len() + stride >= rows * stride + list.len() * LANES && c.len() >= rows * columns);
        // SAFETY: lengths are checked, the list is the caller's promise.
        unsafe {
            Self::ADD_ROWS_BY_PANELS(kernels, rows, weights.as_ptr(), stride, list, width, c.as_mut_ptr(), columns);
        }
    }

    /// A row's weights from its scores, see [`Kernels::weigh_f32`].
    fn weigh(kernels: &Kernels, scores: &[f32], bits: f32, floor: f32, weights: &mut [Self]) -> (f32, f32);
    /// Adds the masses of tiles for some rows (`[rows][stride]`), see [`Kernels::add_tile_masses_f32`].
    #[allow(clippy::too_many_arguments, reason = "a formula's terms")]
    fn add_tile_masses(
        kernels: &Kernels,
        weights: &[Self],
        stride: usize,
        inverses: &[f32],
        spreads: &[f32],
        cap: f32,
        share: f32,
        masses: &mut [f32],
    );
    /// Takes out a row's weights that do not stay, see [`Kernels::keep_weights_f32`].
    fn keep_weights(kernels: &Kernels, kept: &[f32], weights: &mut [Self]) -> f32;
}

impl Element for f32 {
    const STEP: usize = 1;
    const ROWS_BY_PANELS: RowsByPanels<f32> = Kernels::rows_by_panels_f32;
    const ADD_ROWS_BY_PANELS: AddRowsByPanels<f32> = Kernels::add_rows_by_panels_f32;
    fn shared_stocks() -> &'static SharedStocks<Self> {
        static SHARED: SharedStocks<f32> = Mutex::new(Weak::new());
        &SHARED
    }
    fn from_f32(x: f32) -> Self {
        x
    }
    fn to_f32(self) -> f32 {
        self
    }
    fn convert(_: &Kernels, x: &[f32], out: &mut [f32]) {
        out.copy_from_slice(x);
    }
    unsafe fn attend(kernels: &Kernels, block: &mut Attend<'_, f32>, tiles: &[Tile<f32>]) {
        // SAFETY: passed on.
        unsafe { kernels.attend_f32(block, tiles) }
    }
    fn widens(_: &Kernels) -> bool {
        true
    }
    unsafe fn attend_widened(kernels: &Kernels, block: &mut Attend<'_, f32>, tiles: &[Tile<f32>]) {
        // SAFETY: passed on.
        unsafe { kernels.attend_f32(block, tiles) }
    }
    fn attend_copied(_: &Kernels) -> Option<AttendCopied<f32>> {
        None
    }
    fn weigh(kernels: &Kernels, scores: &[f32], bits: f32, floor: f32, weights: &mut [Self]) -> (f32, f32) {
        kernels.weigh_f32(scores, bits, floor, weights)
    }
    fn add_tile_masses(
        kernels: &Kernels,
        weights: &[Self],
        stride: usize,
        inverses: &[f32],
        spreads: &[f32],
        cap: f32,
        share: f32,
        masses: &mut [f32],
    ) {
        kernels.add_tile_masses_f32(weights, stride, inverses, spreads, cap, share, masses);
    }
    fn keep_weights(kernels: &Kernels, kept: &[f32], weights: &mut [Self]) -> f32 {
        kernels.keep_weights_f32(kept, weights)
    }
}

impl Element for u16 {
    const STEP: usize = 2;
    const ROWS_BY_PANELS: RowsByPanels<u16> = Kernels::rows_by_panels_bf16;
    const ADD_ROWS_BY_PANELS: AddRowsByPanels<u16> = Kernels::add_rows_by_panels_bf16;
    fn shared_stocks() -> &'static SharedStocks<Self> {
        static SHARED: SharedStocks<u16> = Mutex::new(Weak::new());
        &SHARED
    }
    fn from_f32(x: f32) -> Self {
        bf16::from_f32(x).to_bits()
    }
    fn to_f32(self) -> f32 {
        bf16::from_bits(self).to_f32()
    }
    fn convert(kernels: &Kernels, x: &[f32], out: &mut [u16]) {
        kernels.to_bf16(x, out);
    }
    unsafe fn attend(kernels: &Kernels, block: &mut Attend<'_, u16>, tiles: &[Tile<u16>]) {
        // SAFETY: passed on.
        unsafe { kernels.attend_bf16(block, tiles) }
    }
    fn widens(kernels: &Kernels) -> bool {
        !kernels.level.multiplies_bf16()
    }
    unsafe fn attend_widened(kernels: &Kernels, block: &mut Attend<'_, f32>, tiles: &[Tile<u16>]) {
        // SAFETY: passed on.
        unsafe { kernels.attend_f32_bf16(block, tiles) }
    }
    fn attend_copied(kernels: &Kernels) -> Option<AttendCopied<u16>> {
        // Tile registers multiply bf16 faster than vectors multiply bytes.
        (kernels.level == Level::Amx).then_some(attend_copied as AttendCopied<u16>)
    }
    fn weigh(kernels: &Kernels, scores: &[f32], bits: f32, floor: f32, weights: &mut [Self]) -> (f32, f32) {
        kernels.weigh_bf16(scores, bits, floor, weights)
    }
    fn add_tile_masses(
        kernels: &Kernels,
        weights: &[Self],
        stride: usize,
        inverses: &[f32],
        spreads: &[f32],
        cap: f32,
        share: f32,
        masses: &mut [f32],
    ) {
        kernels.add_tile_masses_bf16(weights, stride, inverses, spreads, cap, share, masses);
    }
    fn keep_weights(kernels: &Kernels, kept: &[f32], weights: &mut [Self]) -> f32 {
        kernels.keep_weights_bf16(kept, weights)
    }
}

/// Continues a block's softmax over tiles of codes, each step of which is first copied as numbers.
///
/// # Safety
/// As [`Kernels::attend_f32`].
unsafe fn attend_copied(kernels: &Kernels, block: &mut Attend<'_, u16>, tiles: &[Tile<i8>], copy: &mut [u16]) {
    let (d, panels) = (block.dimensions, block.value_panels);
    let key_numbers = LANES * d;
    let length = key_numbers + LANES * LANES * panels;
    for step in tiles.chunks(STEP_TILES) {
        let mut list = [Tile { keys: std::ptr::null(), values: std::ptr::null(), start: 0, masked: false }; STEP_TILES];
        for ((tile, copied), to) in step.iter().zip(&mut list).zip(copy.chunks_exact_mut(length)) {
            let (keys, values) = to.split_at_mut(key_numbers);
            // SAFETY: passed on.
            unsafe { kernels.dequantize_tile(d, panels, tile, keys, values) };
            *copied = Tile { keys: keys.as_ptr(), values: values.as_ptr(), start: tile.start, masked: tile.masked };
        }
        assert!(copy.len() >= step.len() * length);
        // SAFETY: each of these tiles was written above, in the block's shape.
        unsafe { kernels.attend_bf16(block, &list[..step.len()]) };
    }
}

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

/// Moves whole tiles: what is tile `first + order[i]` becomes tile `first + i`.
fn move_tiles<N: Zeroed>(chunks: &mut [AlignedBuffer<N>], length: usize, first: usize, order: &[u32]) {
    let mut aside = vec![N::default(); length];
    rearrange(order, |step| match step {
        Move::Aside(tile) => aside.copy_from_slice(tile_of(chunks, first + tile, length)),
        Move::To(from, to) => {
            let (from, to) = (first + from, first + to);
            let places = [from / CHUNK_TILES, to / CHUNK_TILES];
            let (from, to) = (from % CHUNK_TILES * length, to % CHUNK_TILES * length);
            match chunks.get_disjoint_mut(places) {
                Ok([source, target]) => target[to..][..length].copy_from_slice(&source[from..][..length]),
                Err(_) => chunks[places[0]].copy_within(from..from + length, to),
            }
        }
        Move::Back(tile) => tile_of_mut(chunks, first + tile, length).copy_from_slice(&aside),
    });
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

    /// Numbers or bytes of a tile.
    fn tile_length(&self) -> usize {
        match self.chunks {
            Chunks::Numbers(_) => LANES * (self.dimensions + self.value_dimensions),
            Chunks::Codes(_) => tile_codes::tile_bytes(self.dimensions, self.value_dimensions),
        }
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

    /// Moves whole tiles: what is tile `first + order[i]` becomes tile `first + i`.
    pub fn move_tiles(&mut self, first: usize, order: &[u32]) {
        let length = self.tile_length();
        match &mut self.chunks {
            Chunks::Numbers(chunks) => move_tiles(chunks, length, first, order),
            Chunks::Codes(chunks) => move_tiles(chunks, length, first, order),
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
                let before = tile_codes::key_bytes(self.dimensions);
                let (keys, values) = tile_of(chunks, tile, length).split_at(before);
                list.codes.push(Tile { keys: keys.as_ptr(), values: values.as_ptr(), start, masked });
            }
        }
    }

    /// Asks for a tile's memory, all of its lines at once, before it is written: stores would wait for one line after the
    /// other. Does nothing where nothing is reserved.
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

    /// Stores a key and its value at `slot`, which must be reserved; both may be shorter than padded.
    pub fn write(&mut self, slot: usize, key: &[f32], value: &[f32]) {
        let (length, lane, step) = (self.tile_length(), slot % LANES, T::STEP);
        let chunks = match &mut self.chunks {
            Chunks::Numbers(chunks) => chunks,
            Chunks::Codes(chunks) => {
                let tile = tile_of_mut(chunks, slot / LANES, length);
                return tile_codes::write(tile, self.dimensions, lane, key, value);
            }
        };
        let (keys, values) = tile_of_mut(chunks, slot / LANES, length).split_at_mut(LANES * self.dimensions);
        for (numbers, group) in key.chunks(step).zip(keys.chunks_exact_mut(LANES * step)) {
            for (to, &x) in group[lane * step..].iter_mut().zip(numbers) {
                *to = T::from_f32(x);
            }
        }
        let row = lane / step * LANES * step + lane % step;
        for (numbers, panel) in value.chunks(LANES).zip(values.chunks_exact_mut(LANES * LANES)) {
            for (to, &x) in panel[row..].iter_mut().step_by(step).zip(numbers) {
                *to = T::from_f32(x);
            }
        }
    }

    /// Reads the key and the value at `slot`; both may be shorter than padded.
    pub fn read(&self, slot: usize, key: &mut [f32], value: &mut [f32]) {
        let (length, lane, step) = (self.tile_length(), slot % LANES, T::STEP);
        let chunks = match &self.chunks {
            Chunks::Numbers(chunks) => chunks,
            Chunks::Codes(chunks) => {
                return tile_codes::read(tile_of(chunks, slot / LANES, length), self.dimensions, lane, key, value);
            }
        };
        let (keys, values) = tile_of(chunks, slot / LANES, length).split_at(LANES * self.dimensions);
        for (numbers, group) in key.chunks_mut(step).zip(keys.chunks_exact(LANES * step)) {
            for (x, from) in numbers.iter_mut().zip(&group[lane * step..]) {
                *x = from.to_f32();
            }
        }
        let row = lane / step * LANES * step + lane % step;
        for (numbers, panel) in value.chunks_mut(LANES).zip(values.chunks_exact(LANES * LANES)) {
            for (x, from) in numbers.iter_mut().zip(panel[row..].iter().step_by(step)) {
                *x = from.to_f32();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
                store.write(slot, &key(slot).collect::<Vec<_>>(), &value(slot).collect::<Vec<_>>());
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
}
