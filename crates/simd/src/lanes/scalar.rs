//! Sixteen lanes as an array: the reference for every other level, and the level of CPUs without SIMD.

use super::{EXP2_DEGREE_3, EXP2_DEGREE_5, EXP2_LOWEST, Lanes, Quads};
use half::bf16;
use std::array;

/// See [`Lanes`].
#[derive(Clone, Copy)]
pub(crate) struct Scalar;

type V = [f32; 16];

#[inline(always)]
fn map2(a: V, b: V, f: impl Fn(f32, f32) -> f32) -> V {
    array::from_fn(|i| f(a[i], b[i]))
}

impl Lanes for Scalar {
    type F = V;
    type Pairs = [[f32; 2]; 16];
    const ROWS: usize = 2;
    const PANELS: usize = 1;

    #[inline(always)]
    unsafe fn zero() -> V {
        [0.0; 16]
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> V {
        [x; 16]
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> V {
        // SAFETY: valid for sixteen elements by contract.
        unsafe { from.cast::<V>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(x: V, to: *mut f32) {
        // SAFETY: valid for sixteen elements by contract.
        unsafe { to.cast::<V>().write_unaligned(x) };
    }
    #[inline(always)]
    unsafe fn add(a: V, b: V) -> V {
        map2(a, b, |a, b| a + b)
    }
    #[inline(always)]
    unsafe fn sub(a: V, b: V) -> V {
        map2(a, b, |a, b| a - b)
    }
    #[inline(always)]
    unsafe fn mul(a: V, b: V) -> V {
        map2(a, b, |a, b| a * b)
    }
    #[inline(always)]
    unsafe fn div(a: V, b: V) -> V {
        map2(a, b, |a, b| a / b)
    }
    #[inline(always)]
    unsafe fn max(a: V, b: V) -> V {
        map2(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    unsafe fn min(a: V, b: V) -> V {
        map2(a, b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    unsafe fn fma(a: V, b: V, c: V) -> V {
        // Not `mul_add`: without hardware that is a library call per lane.
        array::from_fn(|i| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    unsafe fn fused(a: V, b: V, c: V) -> V {
        array::from_fn(|i| a[i].mul_add(b[i], c[i]))
    }
    #[inline(always)]
    unsafe fn sum(x: V) -> f32 {
        let mut x = x;
        for width in [8, 4, 2, 1] {
            for i in 0..width {
                x[i] += x[i + width];
            }
        }
        x[0]
    }
    #[inline(always)]
    unsafe fn largest(x: V) -> f32 {
        x.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }
    #[inline(always)]
    unsafe fn exp2<const ROUGH: bool>(x: V) -> V {
        x.map(|x| {
            if x < EXP2_LOWEST {
                return 0.0;
            }
            let floor = x.floor();
            let f = x - floor;
            let coefficients: &[f32] = if ROUGH { &EXP2_DEGREE_3 } else { &EXP2_DEGREE_5 };
            let poly = coefficients.iter().rev().fold(0.0, |sum, c| sum * f + c) * f + 1.0;
            poly * f32::from_bits(((floor as i32 + 127) << 23) as u32)
        })
    }
    #[inline(always)]
    unsafe fn keep(x: V, from: u32, to: u32) -> V {
        array::from_fn(|i| if (i as u32) >= from && (i as u32) < to { x[i] } else { f32::NEG_INFINITY })
    }
    #[inline(always)]
    unsafe fn larger(best: V, mark: V, candidate: V, candidate_mark: V) -> (V, V) {
        (
            array::from_fn(|i| if candidate[i] > best[i] { candidate[i] } else { best[i] }),
            array::from_fn(|i| if candidate[i] > best[i] { candidate_mark[i] } else { mark[i] }),
        )
    }
    #[inline(always)]
    unsafe fn at_least(x: V, threshold: V) -> u16 {
        let mut mask = 0;
        for i in 0..16 {
            mask |= u16::from(x[i] >= threshold[i]) << i;
        }
        mask
    }
    #[inline(always)]
    unsafe fn narrow_to_codes(x: V, to: *mut u8) {
        // Adding 1.5 x 2^23 leaves the rounded number in the lowest bits.
        let codes: [u8; 16] = x.map(|x| ((x + 12_582_912.0).to_bits() as u8).wrapping_add(128));
        // SAFETY: valid for sixteen elements by contract.
        unsafe { to.cast::<[u8; 16]>().write_unaligned(codes) };
    }
    #[inline(always)]
    unsafe fn narrow_to_bytes(x: V, to: *mut i8) {
        let codes: [i8; 16] = x.map(|x| (x + 12_582_912.0).to_bits() as i8);
        // SAFETY: valid for sixteen elements by contract.
        unsafe { to.cast::<[i8; 16]>().write_unaligned(codes) };
    }
    #[inline(always)]
    unsafe fn narrow_to_weights(x: V, to: *mut u8) {
        let weights: [u8; 16] = x.map(|x| (x + 12_582_912.0).to_bits() as u8);
        // SAFETY: valid for sixteen elements by contract.
        unsafe { to.cast::<[u8; 16]>().write_unaligned(weights) };
    }
    #[inline(always)]
    unsafe fn narrow(x: V, to: *mut u16) {
        let bits: [u16; 16] = x.map(|x| bf16::from_f32(x).to_bits());
        // SAFETY: valid for sixteen elements by contract.
        unsafe { to.cast::<[u16; 16]>().write_unaligned(bits) };
    }
    #[inline(always)]
    unsafe fn widen(from: *const u16) -> V {
        // SAFETY: valid for sixteen elements by contract.
        let bits = unsafe { from.cast::<[u16; 16]>().read_unaligned() };
        bits.map(|b| f32::from_bits(u32::from(b) << 16))
    }
    #[inline(always)]
    unsafe fn load_pairs(from: *const u16) -> [[f32; 2]; 16] {
        // SAFETY: valid for 32 elements by contract.
        let bits = unsafe { from.cast::<[[u16; 2]; 16]>().read_unaligned() };
        bits.map(|pair| pair.map(|b| f32::from_bits(u32::from(b) << 16)))
    }
    #[inline(always)]
    unsafe fn splat_pair(from: *const u16) -> [[f32; 2]; 16] {
        // SAFETY: valid for two elements by contract.
        let bits = unsafe { from.cast::<[u16; 2]>().read_unaligned() };
        [bits.map(|b| f32::from_bits(u32::from(b) << 16)); 16]
    }
    #[inline(always)]
    unsafe fn dot_pairs(acc: V, a: [[f32; 2]; 16], b: [[f32; 2]; 16]) -> V {
        array::from_fn(|i| acc[i] + a[i][0] * b[i][0] + a[i][1] * b[i][1])
    }
}

impl Quads<Scalar> for Scalar {
    type Sums = [i32; 16];
    /// Of each key its four codes, the first one lowest: apart only when multiplied, which compilers turn into
    /// vectors.
    type Keys = [u32; 16];
    type Query = [i32; 4];
    const ROWS: usize = 1;
    const TILES: usize = 1;
    const PRODUCT_ROWS: usize = 1;
    const PRODUCT_PANELS: usize = 1;

    #[inline(always)]
    unsafe fn start(_: *const i8, _: usize) -> [i32; 16] {
        [0; 16]
    }
    #[inline(always)]
    unsafe fn started(start: i32) -> [i32; 16] {
        [start; 16]
    }
    #[inline(always)]
    unsafe fn keys(from: *const u8) -> [u32; 16] {
        // SAFETY: valid for 64 elements by contract.
        unsafe { from.cast::<[[u8; 4]; 16]>().read_unaligned() }.map(u32::from_le_bytes)
    }
    #[inline(always)]
    unsafe fn query(from: *const i8) -> [i32; 4] {
        // SAFETY: valid for four elements by contract.
        unsafe { from.cast::<[i8; 4]>().read_unaligned() }.map(i32::from)
    }
    #[inline(always)]
    unsafe fn add(sums: [i32; 16], keys: [u32; 16], query: [i32; 4]) -> [i32; 16] {
        array::from_fn(|j| {
            let code = |i: usize| (keys[j] >> (8 * i) & 0xff) as i32;
            let products = code(0) * query[0] + code(1) * query[1] + code(2) * query[2] + code(3) * query[3];
            sums[j].wrapping_add(products)
        })
    }
    #[inline(always)]
    unsafe fn values(from: *const i8) -> [u32; 16] {
        // SAFETY: valid for 64 elements by contract.
        unsafe { from.cast::<[[u8; 4]; 16]>().read_unaligned() }.map(u32::from_le_bytes)
    }
    #[inline(always)]
    unsafe fn weights(from: *const u8) -> [i32; 4] {
        // SAFETY: valid for four elements by contract.
        unsafe { from.cast::<[u8; 4]>().read_unaligned() }.map(i32::from)
    }
    #[inline(always)]
    unsafe fn add_weighted(sums: [i32; 16], values: [u32; 16], weights: [i32; 4]) -> [i32; 16] {
        array::from_fn(|j| {
            let code = |i: usize| i32::from((values[j] >> (8 * i)) as u8 as i8);
            let products = code(0) * weights[0] + code(1) * weights[1] + code(2) * weights[2] + code(3) * weights[3];
            sums[j].wrapping_add(products)
        })
    }
    #[inline(always)]
    unsafe fn join(a: [i32; 16], b: [i32; 16]) -> [i32; 16] {
        std::array::from_fn(|i| a[i].wrapping_add(b[i]))
    }
    #[inline(always)]
    unsafe fn to_f32(sums: [i32; 16]) -> V {
        sums.map(|sum| sum as f32)
    }
}
