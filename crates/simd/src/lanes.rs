//! Sixteen `f32` lanes at each SIMD level, and products of sixteen columns at once.

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
#[cfg(target_arch = "aarch64")]
pub(crate) mod neon;
pub(crate) mod scalar;

use crate::LANES;

/// Coefficients c1.. of polynomials that approximate 2^f - 1 on [0, 1), relative error 8.6e-5
/// (degree 3, below the rounding of bf16) and 8.3e-8 (degree 5, the limit of f32). Computed by
/// Remez exchange with c0 fixed to 1, so that 2^0 is exactly 1.
pub(crate) const EXP2_DEGREE_3: [f32; 3] = [0.695_116_8, 0.227_645, 0.077_067_04];
pub(crate) const EXP2_DEGREE_5: [f32; 5] = [0.693_151_3, 0.240_164_45, 0.055_799_914, 0.009_017_03, 0.001_867_13];

/// Below this exponent 2^x is taken as 0: subnormal results would slow all later arithmetic.
pub(crate) const EXP2_LOWEST: f32 = -126.0;

/// Sixteen lanes of `f32`.
///
/// # Safety
/// All functions may only be called where the level's CPU features are enabled: they are inlined
/// into functions that carry `#[target_feature]`. Pointers need no alignment, and must be valid for
/// sixteen elements unless stated otherwise.
pub(crate) trait Lanes: Copy {
    /// Sixteen f32.
    type F: Copy;
    /// Sixteen pairs of bf16.
    type Pairs: Copy;
    /// Rows and panels of the register tile of a matrix product, chosen so that the accumulators
    /// (ROWS x PANELS) and the operands fit the registers.
    const ROWS: usize;
    const PANELS: usize;

    unsafe fn zero() -> Self::F;
    unsafe fn splat(x: f32) -> Self::F;
    unsafe fn load(from: *const f32) -> Self::F;
    unsafe fn store(x: Self::F, to: *mut f32);
    unsafe fn add(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn sub(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn div(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn max(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn min(a: Self::F, b: Self::F) -> Self::F;
    /// a * b + c, rounded once (scalar: as the platform does).
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// a * b + c, rounded once at every level.
    #[inline(always)]
    unsafe fn fused(a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        // SAFETY: the trait's contract.
        unsafe { Self::fma(a, b, c) }
    }
    /// A step of a Walsh-Hadamard transform: of each two lanes that differ in the bit HALF (1, 2, 4 or 8) of their
    /// number, the lower one becomes the sum, the higher one lower less higher.
    #[inline(always)]
    unsafe fn butterfly<const HALF: usize>(x: Self::F) -> Self::F {
        let mut before = [0.0; LANES];
        // SAFETY: sixteen elements each.
        unsafe {
            Self::store(x, before.as_mut_ptr());
            let mut after = [0.0; LANES];
            for i in 0..LANES {
                let other = before[i ^ HALF];
                after[i] = if i & HALF == 0 { before[i] + other } else { other - before[i] };
            }
            Self::load(after.as_ptr())
        }
    }
    unsafe fn sum(x: Self::F) -> f32;
    /// Stores the sums of four: valid for four elements.
    #[inline(always)]
    unsafe fn sum_four(x: [Self::F; 4], to: *mut f32) {
        // SAFETY: valid for four elements by contract.
        unsafe {
            for i in 0..4 {
                *to.add(i) = Self::sum(x[i]);
            }
        }
    }
    unsafe fn largest(x: Self::F) -> f32;
    /// 2^x per lane, relative error 8.3e-8 or, if `ROUGH`, 8.6e-5; 0 below 2^-126, also for -inf; x at most 126.
    unsafe fn exp2<const ROUGH: bool>(x: Self::F) -> Self::F;
    /// Keeps lanes whose number is in `from..to`, makes the others -inf.
    unsafe fn keep(x: Self::F, from: u32, to: u32) -> Self::F;
    /// Where the candidate is larger (never for NaN): the candidate and its mark; elsewhere the best and its mark.
    /// Marks are copied as bits.
    unsafe fn larger(best: Self::F, mark: Self::F, candidate: Self::F, candidate_mark: Self::F) -> (Self::F, Self::F);
    /// Bit j is set if lane j of x is at least lane j of the threshold; never for NaN.
    unsafe fn at_least(x: Self::F, threshold: Self::F) -> u16;
    /// Rounds numbers in -127..=127 to nearest even, adds 128 and stores them as sixteen bytes.
    unsafe fn narrow_to_codes(x: Self::F, to: *mut u8);
    /// Rounds numbers in -127..=127 to nearest even and stores them as sixteen signed bytes.
    unsafe fn narrow_to_bytes(x: Self::F, to: *mut i8);
    /// Rounds numbers in 0..=255 to nearest even and stores them as sixteen unsigned bytes.
    unsafe fn narrow_to_weights(x: Self::F, to: *mut u8);
    /// Rounds to bf16, nearest even.
    unsafe fn narrow(x: Self::F, to: *mut u16);
    /// Rounds 32 numbers to bf16, nearest even.
    #[cfg_attr(
        not(all(target_arch = "x86_64", target_os = "linux")),
        allow(dead_code, reason = "kernels on tile registers take it")
    )]
    #[inline(always)]
    unsafe fn narrow_two(first: Self::F, second: Self::F, to: *mut u16) {
        // SAFETY: valid for 32 elements by contract.
        unsafe {
            Self::narrow(first, to);
            Self::narrow(second, to.add(LANES));
        }
    }
    /// Copies 64 bytes.
    #[cfg_attr(
        not(all(target_arch = "x86_64", target_os = "linux")),
        allow(dead_code, reason = "kernels on tile registers take it")
    )]
    #[inline(always)]
    unsafe fn copy_line(from: *const u8, to: *mut u8) {
        // SAFETY: valid for 64 bytes by contract.
        unsafe { to.cast::<[u8; 64]>().write_unaligned(from.cast::<[u8; 64]>().read_unaligned()) };
    }
    /// Reads sixteen bf16.
    unsafe fn widen(from: *const u16) -> Self::F;
    /// Reads 64 bytes `[16][4]` and takes number NUMBER (0 to 3) of each four: signed ones if SIGNED, else unsigned ones
    /// less 128.
    #[inline(always)]
    unsafe fn widen_codes<const NUMBER: usize, const SIGNED: bool>(from: *const i8) -> Self::F {
        // SAFETY: valid for 64 bytes by contract.
        unsafe {
            let codes = from.cast::<[[i8; 4]; LANES]>().read_unaligned();
            let number = |four: [i8; 4]| f32::from(if SIGNED { four[NUMBER] } else { four[NUMBER] ^ i8::MIN });
            Self::load(codes.map(number).as_ptr())
        }
    }
    /// Rounds to bf16, nearest even, and stores sixteen pairs: one number of `first`, one of `second`.
    #[inline(always)]
    unsafe fn narrow_pairs(first: Self::F, second: Self::F, to: *mut u16) {
        let (mut even, mut odd) = ([0_u16; LANES], [0_u16; LANES]);
        // SAFETY: valid for 32 elements by contract.
        unsafe {
            Self::narrow(first, even.as_mut_ptr());
            Self::narrow(second, odd.as_mut_ptr());
            for i in 0..LANES {
                *to.add(2 * i) = even[i];
                *to.add(2 * i + 1) = odd[i];
            }
        }
    }
    /// Reads sixteen i32, adds `start` to each (wrapping) and rounds to nearest even.
    #[cfg_attr(
        not(all(target_arch = "x86_64", target_os = "linux")),
        allow(dead_code, reason = "kernels on tile registers take it")
    )]
    #[inline(always)]
    unsafe fn from_sums(from: *const i32, start: i32) -> Self::F {
        // SAFETY: valid for sixteen elements by contract.
        unsafe {
            let sums = from.cast::<[i32; LANES]>().read_unaligned();
            Self::load(sums.map(|sum| sum.wrapping_add(start) as f32).as_ptr())
        }
    }
    /// Reads sixteen pairs (32 bf16), of each the first number.
    #[inline(always)]
    unsafe fn widen_first(from: *const u16) -> Self::F {
        // SAFETY: valid for 32 elements by contract.
        unsafe {
            let pairs = from.cast::<[[u16; 2]; LANES]>().read_unaligned();
            Self::load(pairs.map(|pair| f32::from_bits(u32::from(pair[0]) << 16)).as_ptr())
        }
    }
    /// Reads sixteen pairs (32 bf16), of each the second number.
    #[inline(always)]
    unsafe fn widen_second(from: *const u16) -> Self::F {
        // SAFETY: valid for 32 elements by contract.
        unsafe {
            let pairs = from.cast::<[[u16; 2]; LANES]>().read_unaligned();
            Self::load(pairs.map(|pair| f32::from_bits(u32::from(pair[1]) << 16)).as_ptr())
        }
    }
    /// Reads sixteen pairs (32 bf16).
    unsafe fn load_pairs(from: *const u16) -> Self::Pairs;
    /// One pair (2 bf16) to all lanes.
    unsafe fn splat_pair(from: *const u16) -> Self::Pairs;
    /// acc + a.0 * b.0 + a.1 * b.1 per lane, products in f32.
    unsafe fn dot_pairs(acc: Self::F, a: Self::Pairs, b: Self::Pairs) -> Self::F;
}

/// One step along k of a product: a row's scalar(s) times sixteen columns.
pub(crate) trait Product<L: Lanes> {
    /// Type of the stored numbers.
    type Scalar: Copy;
    /// Sixteen columns of one step.
    type Vector: Copy;
    /// Numbers along k that one step consumes.
    const STEP: usize;
    /// 2^x precise enough for weights of this type.
    const ROUGH_WEIGHTS: bool;

    unsafe fn load(from: *const Self::Scalar) -> Self::Vector;
    unsafe fn splat(from: *const Self::Scalar) -> Self::Vector;
    unsafe fn madd(acc: L::F, a: Self::Vector, b: Self::Vector) -> L::F;
    /// Stores sixteen f32 as sixteen stored numbers.
    unsafe fn narrow(x: L::F, to: *mut Self::Scalar);
    /// Sixteen stored numbers as sixteen f32.
    unsafe fn widen(from: *const Self::Scalar) -> L::F;
    /// Two rows along k of a panel, 32 stored numbers.
    unsafe fn two_rows(from: *const Self::Scalar) -> [L::F; 2];
}

/// Products of `f32`.
pub(crate) struct F32;

impl<L: Lanes> Product<L> for F32 {
    type Scalar = f32;
    type Vector = L::F;
    const STEP: usize = 1;
    const ROUGH_WEIGHTS: bool = false;

    #[inline(always)]
    unsafe fn load(from: *const f32) -> L::F {
        // SAFETY: the trait's contract.
        unsafe { L::load(from) }
    }
    #[inline(always)]
    unsafe fn splat(from: *const f32) -> L::F {
        // SAFETY: the trait's contract.
        unsafe { L::splat(*from) }
    }
    #[inline(always)]
    unsafe fn madd(acc: L::F, a: L::F, b: L::F) -> L::F {
        // SAFETY: the trait's contract.
        unsafe { L::fma(a, b, acc) }
    }
    #[inline(always)]
    unsafe fn narrow(x: L::F, to: *mut f32) {
        // SAFETY: the trait's contract.
        unsafe { L::store(x, to) }
    }
    #[inline(always)]
    unsafe fn widen(from: *const f32) -> L::F {
        // SAFETY: the trait's contract.
        unsafe { L::load(from) }
    }
    #[inline(always)]
    unsafe fn two_rows(from: *const f32) -> [L::F; 2] {
        // SAFETY: the trait's contract.
        unsafe { [L::load(from), L::load(from.add(LANES))] }
    }
}

/// Products of pairs of `bf16`, summed in `f32`.
pub(crate) struct Bf16;

impl<L: Lanes> Product<L> for Bf16 {
    type Scalar = u16;
    type Vector = L::Pairs;
    const STEP: usize = 2;
    const ROUGH_WEIGHTS: bool = true;

    #[inline(always)]
    unsafe fn load(from: *const u16) -> L::Pairs {
        // SAFETY: the trait's contract.
        unsafe { L::load_pairs(from) }
    }
    #[inline(always)]
    unsafe fn splat(from: *const u16) -> L::Pairs {
        // SAFETY: the trait's contract.
        unsafe { L::splat_pair(from) }
    }
    #[inline(always)]
    unsafe fn madd(acc: L::F, a: L::Pairs, b: L::Pairs) -> L::F {
        // SAFETY: the trait's contract.
        unsafe { L::dot_pairs(acc, a, b) }
    }
    #[inline(always)]
    unsafe fn narrow(x: L::F, to: *mut u16) {
        // SAFETY: the trait's contract.
        unsafe { L::narrow(x, to) }
    }
    #[inline(always)]
    unsafe fn widen(from: *const u16) -> L::F {
        // SAFETY: the trait's contract.
        unsafe { L::widen(from) }
    }
    #[inline(always)]
    unsafe fn two_rows(from: *const u16) -> [L::F; 2] {
        // SAFETY: the trait's contract.
        unsafe { [L::widen_first(from), L::widen_second(from)] }
    }
}

/// Products of sixteen keys' codes (u8) with queries (i8), four numbers of each at a time, in exact integers.
///
/// # Safety
/// As [`Lanes`].
pub(crate) trait Quads<L: Lanes> {
    /// Sixteen i32.
    type Sums: Copy;
    /// Four codes of each of sixteen keys, ready to be multiplied.
    type Keys: Copy;
    /// Four numbers of a query, ready to be multiplied with each key.
    type Query: Copy;
    /// Queries (at most 6) and tiles (1 or 3) of the register tile, chosen so that the sums and the operands
    /// fit the registers.
    const ROWS: usize;
    const TILES: usize;
    /// Tiles (1 or 4) that a single query takes at once.
    const TILES_OF_ONE: usize = 4;
    /// Rows (at most 8) and panels (1 or 3) of the register tile of a matrix product.
    const PRODUCT_ROWS: usize;
    const PRODUCT_PANELS: usize;
    /// Sums along k (1 or 4) of a product of one row: more than one where an addition takes longer than reading the
    /// next keys.
    const LINE_SUMS: usize = 1;

    /// The sums of a query of `quads` quads before its first product: zeros, or what the products will lack.
    unsafe fn start(query: *const i8, quads: usize) -> Self::Sums;
    /// The sums of a row before its first product, where `start` is -128 times the sum of the row's numbers: with it
    /// keys count as their codes less 128.
    unsafe fn started(start: i32) -> Self::Sums;
    /// Reads 64 bytes: `[16][4]`.
    unsafe fn keys(from: *const u8) -> Self::Keys;
    /// Reads 64 bytes and takes bits SHIFT and SHIFT + 1 (SHIFT 0, 2, 4 or 6) of each as a code of its own, 0 to 3.
    #[inline(always)]
    unsafe fn two_bits<const SHIFT: u32>(from: *const u8) -> Self::Keys {
        // SAFETY: valid for 64 bytes by contract.
        unsafe {
            let mut codes = from.cast::<[u8; 4 * LANES]>().read_unaligned();
            for code in &mut codes {
                *code = *code >> SHIFT & 3;
            }
            Self::keys(codes.as_ptr())
        }
    }
    /// Reads four bytes.
    unsafe fn query(from: *const i8) -> Self::Query;
    /// sums + keys x query per key, wrapping.
    unsafe fn add(sums: Self::Sums, keys: Self::Keys, query: Self::Query) -> Self::Sums;
    /// Reads 64 signed bytes: `[16][4]`, four keys of each of sixteen dimensions.
    unsafe fn values(from: *const i8) -> Self::Keys;
    /// Reads four unsigned bytes.
    unsafe fn weights(from: *const u8) -> Self::Query;
    /// sums + values x weights per dimension, wrapping: of sums that [`Self::started`] with 0.
    unsafe fn add_weighted(sums: Self::Sums, values: Self::Keys, weights: Self::Query) -> Self::Sums;
    /// a + b, wrapping.
    unsafe fn join(a: Self::Sums, b: Self::Sums) -> Self::Sums;
    /// Rounds to nearest even.
    unsafe fn to_f32(sums: Self::Sums) -> L::F;
}
