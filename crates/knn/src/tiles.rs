//! Keys and values in tiles of sixteen, in the layout the kernels read, in memory that grows in place.
//!
//! A tile holds sixteen keys as a panel (f32 `[d][16]`, bf16 `[d/2][16][2]`) and behind it their values
//! as panels of sixteen dimensions (f32 `[dv/16][16][16]`, bf16 `[dv/16][8][16][2]`). Tiles lie in chunks that
//! are allocated as needed and never move.

use half::bf16;
use iceformer_simd::{AlignedBuffer, Attend, Kernels, LANES, OutOfMemory, Tile};

/// Tiles in one allocation.
const CHUNK_TILES: usize = 64;

/// Vectors in one allocation.
pub(crate) const VECTORS_PER_CHUNK: usize = CHUNK_TILES * LANES;

/// A number as keys and values are stored.
pub(crate) trait Element: iceformer_simd::Zeroed {
    /// Numbers of one key that lie side by side.
    const STEP: usize;
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
    /// # Safety
    /// As [`Kernels::gemm_f32`].
    unsafe fn gemm(kernels: &Kernels, product: Gemm<Self>);
}

/// A product of rows with panels, C = A x B or C += A x B.
pub(crate) struct Gemm<T> {
    pub rows: usize,
    /// Numbers along the sum, even.
    pub k: usize,
    /// `[rows][a_stride]`
    pub a: *const T,
    pub a_stride: usize,
    /// Panels of `[k][16]`, one every `panel_stride` numbers.
    pub b: *const T,
    pub panel_stride: usize,
    pub panels: usize,
    /// `[rows][c_stride]`
    pub c: *mut f32,
    pub c_stride: usize,
    pub accumulate: bool,
}

impl Element for f32 {
    const STEP: usize = 1;
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
    unsafe fn gemm(kernels: &Kernels, p: Gemm<Self>) {
        let (a, b) = ((p.a, p.a_stride), (p.b, p.panel_stride, p.panels));
        // SAFETY: passed on.
        unsafe { kernels.gemm_f32(p.rows, p.k, a.0, a.1, b.0, b.1, b.2, p.c, p.c_stride, p.accumulate) }
    }
}

impl Element for u16 {
    const STEP: usize = 2;
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
    unsafe fn gemm(kernels: &Kernels, p: Gemm<Self>) {
        let (a, b) = ((p.a, p.a_stride), (p.b, p.panel_stride, p.panels));
        // SAFETY: passed on.
        unsafe { kernels.gemm_bf16(p.rows, p.k, a.0, a.1, b.0, b.1, b.2, p.c, p.c_stride, p.accumulate) }
    }
}

/// Tiles of keys with values.
#[derive(Debug)]
pub(crate) struct TileStore<T: Element> {
    /// Numbers per key, even.
    dimensions: usize,
    /// Numbers per value, a multiple of 16.
    value_dimensions: usize,
    /// Each `[CHUNK_TILES][16 * (dimensions + value_dimensions)]`.
    chunks: Vec<AlignedBuffer<T>>,
}

impl<T: Element> TileStore<T> {
    /// An empty store for keys and values of these lengths, padded with zeros to what the kernels take.
    pub fn new(dimensions: usize, value_dimensions: usize) -> Self {
        Self {
            dimensions: dimensions.next_multiple_of(2),
            value_dimensions: value_dimensions.next_multiple_of(LANES),
            chunks: Vec::new(),
        }
    }

    fn tile_length(&self) -> usize {
        LANES * (self.dimensions + self.value_dimensions)
    }

    /// Bytes allocated.
    pub fn bytes(&self) -> usize {
        self.chunks.iter().map(|chunk| chunk.len() * size_of::<T>()).sum()
    }

    /// Makes room for `keys` keys in all.
    pub fn reserve(&mut self, keys: usize) -> Result<(), OutOfMemory> {
        while self.chunks.len() * CHUNK_TILES * LANES < keys {
            self.chunks.push(AlignedBuffer::try_new(CHUNK_TILES * self.tile_length())?);
        }
        Ok(())
    }

    /// Gives back what is not needed for `keys` keys.
    pub fn shrink(&mut self, keys: usize) {
        self.chunks.truncate(keys.div_ceil(CHUNK_TILES * LANES));
    }

    fn tile_slice(&self, tile: usize) -> &[T] {
        &self.chunks[tile / CHUNK_TILES][tile % CHUNK_TILES * self.tile_length()..][..self.tile_length()]
    }

    /// Keys and values of a tile for the kernels; `masked` as in [`Tile`].
    pub fn tile(&self, tile: usize, masked: bool) -> Tile<T> {
        let all = self.tile_slice(tile);
        let (keys, values) = all.split_at(LANES * self.dimensions);
        Tile { keys: keys.as_ptr(), values: values.as_ptr(), start: (tile * LANES) as u32, masked }
    }

    /// Stores a key and its value at `slot`, which must be reserved; both may be shorter than padded.
    pub fn write(&mut self, slot: usize, key: &[f32], value: &[f32]) {
        let length = self.tile_length();
        let key_numbers = LANES * self.dimensions;
        let tile = slot / LANES;
        let all = &mut self.chunks[tile / CHUNK_TILES][tile % CHUNK_TILES * length..][..length];
        let (keys, values) = all.split_at_mut(key_numbers);
        let (lane, step) = (slot % LANES, T::STEP);
        for (pair, numbers) in key.chunks(step).enumerate() {
            let at = pair * LANES * step + lane * step;
            for (offset, &x) in numbers.iter().enumerate() {
                keys[at + offset] = T::from_f32(x);
            }
        }
        let row = lane / step * LANES * step + lane % step;
        for (panel, numbers) in value.chunks(LANES).enumerate() {
            let panel = &mut values[panel * LANES * LANES..][..LANES * LANES];
            for (column, &x) in numbers.iter().enumerate() {
                panel[row + column * step] = T::from_f32(x);
            }
        }
    }

    /// Reads the key and the value at `slot`; both may be shorter than padded.
    pub fn read(&self, slot: usize, key: &mut [f32], value: &mut [f32]) {
        let (keys, values) = self.tile_slice(slot / LANES).split_at(LANES * self.dimensions);
        let (lane, step) = (slot % LANES, T::STEP);
        for (i, x) in key.iter_mut().enumerate() {
            *x = keys[i / step * LANES * step + lane * step + i % step].to_f32();
        }
        let row = lane / step * LANES * step + lane % step;
        for (i, x) in value.iter_mut().enumerate() {
            *x = values[i / LANES * LANES * LANES + row + i % LANES * step].to_f32();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_back_what_was_written() {
        fn check<T: Element>() {
            let mut store = TileStore::<T>::new(5, 20);
            store.reserve(2000).unwrap();
            for slot in [0, 1, 15, 16, 1023, 1024, 1999] {
                let key: Vec<f32> = (0..5).map(|i| (slot % 50 + i) as f32).collect();
                let value: Vec<f32> = (0..20).map(|i| -((slot % 30 + i) as f32)).collect();
                store.write(slot, &key, &value);
            }
            for slot in [0, 1, 15, 16, 1023, 1024, 1999] {
                let (mut key, mut value) = ([0.0; 5], [0.0; 20]);
                store.read(slot, &mut key, &mut value);
                assert!((0..5).all(|i| key[i].to_bits() == ((slot % 50 + i) as f32).to_bits()), "{slot} {key:?}");
                assert!(
                    (0..20).all(|i| value[i].to_bits() == (-((slot % 30 + i) as f32)).to_bits()),
                    "{slot} {value:?}"
                );
            }
            let bytes = store.bytes();
            store.shrink(10);
            assert!(store.bytes() < bytes && store.bytes() > 0);
        }
        check::<f32>();
        check::<u16>();
    }
}
