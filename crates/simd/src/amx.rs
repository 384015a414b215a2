//! Products on AMX: eight tile registers of sixteen rows of 64 bytes, and one instruction that multiplies two of
//! them into a third.
//!
//! # What the machine allows
//!
//! One tile product (16 rows x 16 columns x 32 bf16 or 64 bytes along the sum) occupies the unit for 16 cycles,
//! however short the sum is (fewer *rows* make it cheaper: 10 cycles from eight rows down); a chain of products into
//! one tile costs no more. A tile load costs 8 cycles from the first-level cache, about 20 from the second, and 52 if
//! its rows cross cache lines. Blocks of 2 x 2 tiles ([`block`]) load as often as they multiply, half of what the
//! first-level cache delivers, so a block is bound by its products as long as one of its operands stays in that
//! cache: 16 x 16 x 32 x 2 / 16 = 1,024 floating-point operations a cycle in bf16, 2,048 integer operations in bytes.
//! Blocks of 2 x 1, where sums are no multiple of a tile, load three tiles for two products and stay below that
//! bound too (24 of 32 cycles). What remains is loading and storing the sums, about 30 cycles per tile of C and call:
//! at 576 numbers along the sum (18 products of 16 cycles) 9 % if nothing overlaps it. From memory at 4 bytes a cycle
//! a tile of weights takes 260 cycles, the products of 16 row tiles: below some 250 rows a product whose weights are
//! in no cache is bound by memory.
//!
//! # State
//!
//! Tile registers hold their contents and shapes per thread. Each kernel configures them when it begins (about 150
//! cycles) and releases them before it returns, so that the system has nothing to save when threads switch. The
//! compiler never uses tile registers, so what one instruction leaves in them the next one finds, as with the
//! numbered `_tile_*` intrinsics of C.
//!
//! All kernels are written over [`Tiles`], of which there are two implementations: the instructions, and a model of
//! them in plain Rust that tests run on any machine.

#[cfg(any(test, all(target_arch = "x86_64", target_os = "linux")))]
pub(crate) mod attention;
mod availability;
#[cfg(any(test, all(target_arch = "x86_64", target_os = "linux")))]
mod block;
#[cfg(any(test, all(target_arch = "x86_64", target_os = "linux")))]
pub(crate) mod byte_product;
#[cfg(any(test, all(target_arch = "x86_64", target_os = "linux")))]
pub(crate) mod product;
#[cfg(any(test, all(target_arch = "x86_64", target_os = "linux")))]
mod tiles;

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub(crate) mod assembly;
#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
#[cfg(all(test, target_arch = "x86_64", target_os = "linux"))]
mod trap;

pub use availability::{AmxUnavailable, amx};
#[cfg(any(test, all(target_arch = "x86_64", target_os = "linux")))]
use tiles::{Config, Tiles};
