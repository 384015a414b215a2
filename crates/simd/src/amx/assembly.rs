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

#[cfg(test)]
mod tests {
    use super::*;

    /// True if the function begins, after at most sixteen bytes, with the instruction.
    fn holds(function: *const u8, instruction: &[u8]) -> bool {
        // SAFETY: behind a function lies the rest of the program.
        let code = unsafe { std::slice::from_raw_parts(function, 32) };
        code[..16 + instruction.len()].windows(instruction.len()).any(|bytes| bytes == instruction)
    }

    /// Each product that the kernels use, as Intel's manual encodes it: C4, the map 0F 38, vvvv (inverted) for B and
    /// the prefix F3, the opcode, and in `ModR/M` C and A.
    #[test]
    fn products_are_encoded_as_the_manual_says() {
        macro_rules! check {
            ($(($c:literal, $a:literal, $b:literal))*) => {$({
                #[inline(never)]
                unsafe extern "C" fn pairs() {
                    // SAFETY: never called.
                    unsafe { Assembly::multiply_bf16::<$c, $a, $b>() }
                }
                #[inline(never)]
                unsafe extern "C" fn codes() {
                    // SAFETY: never called.
                    unsafe { Assembly::multiply_i8_u8::<$c, $a, $b>() }
                }
                let behind = |opcode: u8| [0xc4, 0xe2, (!$b & 0x0f) << 3 | 0x02, opcode, 0xc0 | $c << 3 | $a];
                assert!(holds(pairs as *const u8, &behind(0x5c)), "tdpbf16ps {}, {}, {}", $c, $a, $b);
                assert!(holds(codes as *const u8, &behind(0x5e)), "tdpbsud {}, {}, {}", $c, $a, $b);
            })*};
        }
        check!((0, 4, 6)(1, 4, 7)(2, 5, 6)(3, 5, 7)(0, 2, 4)(1, 3, 4)(0, 5, 7)(1, 6, 7));
    }
}
