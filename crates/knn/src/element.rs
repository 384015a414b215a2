//! The numbers that keys and values are stored in, f32 or bf16, and the kernels for each.

use crate::soft::SharedStocks;
use half::bf16;
use iceformer_simd::{Attend, Kernels, LANES, Level, STEP_TILES, Tile, Zeroed};
use std::sync::{Mutex, Weak};

/// Continues a block's softmax over tiles of codes; the last argument is room for [`STEP_TILES`] tiles of numbers, each
/// `[16 x dimensions]` and behind it `[16 x 16 x value_panels]`.
///
/// # Safety
/// As [`Kernels::attend_f32`].
pub(crate) type AttendCopied<T> = unsafe fn(&Kernels, &mut Attend<'_, T>, &[Tile<i8>], &mut [T]);

/// Sums of products with pieces that lie anywhere, see [`Kernels::add_rows_by_panels_f32`].
pub(crate) type AddRowsByPanels<A, B> =
    unsafe fn(&Kernels, usize, *const A, usize, &[*const B], usize, *mut f32, usize);

/// Means and variances of the rows of a panel, see [`Kernels::panel_moments_f32`].
pub(crate) type PanelMoments<T> = fn(&Kernels, &[T], &mut [f32], &mut [f32]);

/// Means of the values of a tile, see [`Kernels::value_means_f32`].
pub(crate) type ValueMeans<T> = fn(&Kernels, &[T], &mut [f32]);

/// A row's weights from its scores, see [`Kernels::weigh_f32`].
pub(crate) type Weigh<T> = fn(&Kernels, &[f32], f32, &mut [T]) -> f32;

/// The masses of tiles for some rows, see [`Kernels::add_tile_masses_f32`].
pub(crate) type AddTileMasses<T> = fn(&Kernels, &[T], usize, &[f32], &[f32], f32, f32, &mut [f32], &mut [f32]);

/// A row's weights that stay, single or by panels, see [`Kernels::thin_weights_f32`].
pub(crate) type ThinWeights<T> = fn(&Kernels, &[f32], &[bool], &mut [T], &mut [f32]) -> f32;

/// A number in which queries, weights and mean values are held, and keys and values where they are not codes.
pub(crate) trait Element: Zeroed {
    /// Numbers of one key that lie side by side.
    const STEP: usize;
    /// Adds weighted values.
    const ADD_ROWS_BY_PANELS: AddRowsByPanels<Self, Self>;
    /// The same with weights in f32.
    const ADD_WIDE_ROWS_BY_PANELS: AddRowsByPanels<f32, Self>;
    /// The kernel of [`Element::panel_moments`].
    const PANEL_MOMENTS: PanelMoments<Self>;
    /// The kernel of [`Element::value_means`].
    const VALUE_MEANS: ValueMeans<Self>;
    /// The kernel of [`Element::weigh`].
    const WEIGH: Weigh<Self>;
    /// The kernel of [`Element::add_tile_masses`].
    const ADD_TILE_MASSES: AddTileMasses<Self>;
    /// The kernel of [`Element::thin_weights`].
    const THIN_WEIGHTS: ThinWeights<Self>;
    /// What searches work in.
    fn shared_stocks() -> &'static SharedStocks<Self>;
    fn to_f32(self) -> f32;
    fn convert(kernels: &Kernels, x: &[f32], out: &mut [Self]);
    fn widen(kernels: &Kernels, x: &[Self], out: &mut [f32]);
    /// Means and variances of the rows of a panel, see [`Kernels::panel_moments_f32`].
    fn panel_moments(kernels: &Kernels, panel: &[Self], means: &mut [f32], variances: &mut [f32]) {
        Self::PANEL_MOMENTS(kernels, panel, means, variances);
    }
    /// Means of the values of a tile, see [`Kernels::value_means_f32`].
    fn value_means(kernels: &Kernels, values: &[Self], means: &mut [f32]) {
        Self::VALUE_MEANS(kernels, values, means);
    }
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
    /// A row's weights from its scores, see [`Kernels::weigh_f32`].
    fn weigh(kernels: &Kernels, scores: &[f32], shift: f32, weights: &mut [Self]) -> f32 {
        Self::WEIGH(kernels, scores, shift, weights)
    }

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
        mean_masses: &mut [f32],
    ) {
        Self::ADD_TILE_MASSES(kernels, weights, stride, inverses, spreads, cap, share, masses, mean_masses);
    }

    /// Takes out a row's weights that do not stay and parts the others, see [`Kernels::thin_weights_f32`].
    fn thin_weights(kernels: &Kernels, kept: &[f32], fine: &[bool], weights: &mut [Self], coarse: &mut [f32]) -> f32 {
        Self::THIN_WEIGHTS(kernels, kept, fine, weights, coarse)
    }
}

impl Element for f32 {
    const STEP: usize = 1;
    const ADD_ROWS_BY_PANELS: AddRowsByPanels<f32, f32> = Kernels::add_rows_by_panels_f32;
    const ADD_WIDE_ROWS_BY_PANELS: AddRowsByPanels<f32, f32> = Kernels::add_rows_by_panels_f32;
    const PANEL_MOMENTS: PanelMoments<f32> = Kernels::panel_moments_f32;
    const VALUE_MEANS: ValueMeans<f32> = Kernels::value_means_f32;
    const WEIGH: Weigh<f32> = Kernels::weigh_f32;
    const ADD_TILE_MASSES: AddTileMasses<f32> = Kernels::add_tile_masses_f32;
    const THIN_WEIGHTS: ThinWeights<f32> = Kernels::thin_weights_f32;
    fn shared_stocks() -> &'static SharedStocks<Self> {
        static SHARED: SharedStocks<f32> = Mutex::new(Weak::new());
        &SHARED
    }
    fn to_f32(self) -> f32 {
        self
    }
    fn convert(_: &Kernels, x: &[f32], out: &mut [f32]) {
        out.copy_from_slice(x);
    }
    fn widen(_: &Kernels, x: &[f32], out: &mut [f32]) {
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
}

impl Element for u16 {
    const STEP: usize = 2;
    const ADD_ROWS_BY_PANELS: AddRowsByPanels<u16, u16> = Kernels::add_rows_by_panels_bf16;
    const ADD_WIDE_ROWS_BY_PANELS: AddRowsByPanels<f32, u16> = Kernels::add_rows_by_panels_f32_bf16;
    const PANEL_MOMENTS: PanelMoments<u16> = Kernels::panel_moments_bf16;
    const VALUE_MEANS: ValueMeans<u16> = Kernels::value_means_bf16;
    const WEIGH: Weigh<u16> = Kernels::weigh_bf16;
    const ADD_TILE_MASSES: AddTileMasses<u16> = Kernels::add_tile_masses_bf16;
    const THIN_WEIGHTS: ThinWeights<u16> = Kernels::thin_weights_bf16;
    fn shared_stocks() -> &'static SharedStocks<Self> {
        static SHARED: SharedStocks<u16> = Mutex::new(Weak::new());
        &SHARED
    }
    fn to_f32(self) -> f32 {
        bf16::from_bits(self).to_f32()
    }
    fn convert(kernels: &Kernels, x: &[f32], out: &mut [u16]) {
        kernels.to_bf16(x, out);
    }
    fn widen(kernels: &Kernels, x: &[u16], out: &mut [f32]) {
        kernels.from_bf16(x, out);
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
