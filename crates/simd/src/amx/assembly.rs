//! The tile instructions themselves, as inline assembly: their intrinsics are not stable in Rust.

use super::{Config, Tiles};
use std::arch::asm;

/// The tile registers of the CPU.
pub(crate) struct Assembly;

// SAFETY (all functions): the trait's contract: AMX may be used, registers are shaped, pointers are valid for the
// registers' rows. None touches the stack or the flags, and the compiler keeps nothing in tile registers.
#[allow(
    clippy::undocumented_unsafe_blocks,
    reason = "each function passes on its own contract: see SAFETY (all functions)"
)]
impl Tiles for Assembly {
    #[inline(always)]
    unsafe fn configure(config: &Config) {
        unsafe {
            asm!("ldtilecfg [{config}]", config = in(reg) config, options(nostack, preserves_flags, readonly));
        }
    }
    #[inline(always)]
    unsafe fn release() {
        unsafe { asm!("tilerelease", options(nostack, preserves_flags, nomem)) };
    }
    #[inline(always)]
    unsafe fn zero<const TILE: usize>() {
        unsafe { asm!("tilezero tmm{tile}", tile = const TILE, options(nostack, preserves_flags, nomem)) };
    }
    #[inline(always)]
    unsafe fn load<const TILE: usize>(from: *const u8, stride: usize) {
        unsafe {
            asm!(
                "tileloadd tmm{tile}, [{from} + {stride}*1]",
                tile = const TILE,
                from = in(reg) from,
                stride = in(reg) stride,
                options(nostack, preserves_flags, readonly),
            );
        }
    }
    #[inline(always)]
    unsafe fn store<const TILE: usize>(to: *mut u8, stride: usize) {
        unsafe {
            asm!(
                "tilestored [{to} + {stride}*1], tmm{tile}",
                tile = const TILE,
                to = in(reg) to,
                stride = in(reg) stride,
                options(nostack, preserves_flags),
            );
        }
    }
    #[inline(always)]
    unsafe fn multiply_bf16<const C: usize, const A: usize, const B: usize>() {
        unsafe {
            asm!(
                "tdpbf16ps tmm{c}, tmm{a}, tmm{b}",
                c = const C,
                a = const A,
                b = const B,
                options(nostack, preserves_flags, nomem),
            );
        }
    }
    #[inline(always)]
    unsafe fn multiply_i8_u8<const C: usize, const A: usize, const B: usize>() {
        unsafe {
            asm!(
                "tdpbsud tmm{c}, tmm{a}, tmm{b}",
                c = const C,
                a = const A,
                b = const B,
                options(nostack, preserves_flags, nomem),
            );
        }
    }
}
