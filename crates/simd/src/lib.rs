//! The kernels under `IceFormer`: one table of function pointers per SIMD level, chosen once.
//!
//! Everything is built on sixteen lanes of `f32` ([`LANES`]): an AVX-512 register, two AVX2
//! registers or an array. The same generic code is compiled once per level, so a
//! level differs from the scalar one only by rounding. A *panel* is sixteen columns of a matrix (or
//! sixteen keys of an index) stored so that one step along `k` is one load:
//!
//! - `f32`: `[k][16]`
//! - `bf16`: `[k/2][16][2]`, pairs along `k` (the operand of `vdpbf16ps`, and of an AMX tile: sixteen
//!   pairs of rows are one 1 KB tile)
//! - codes of one byte: `[k/4][16][4]`, quads along k (the operand of `vpdpbusd`)
//!
//! `ICEFORMER_SIMD=scalar|neon|avx2|avx2-vnni|avx512|avx512-vnni|avx512-fp16|avx512-bf16|amx` forces a level
//! that the CPU has.

#![allow(clippy::inline_always, reason = "a kernel must end up inside the function that enables its CPU features")]
#![allow(clippy::needless_range_loop, reason = "loops over arrays of vectors must unroll into registers")]
#![allow(clippy::wildcard_imports, reason = "intrinsics, whose names cannot be mistaken")]
#![allow(
    clippy::missing_panics_doc,
    reason = "slices that do not fit each other are the caller's bug, at every kernel"
)]

mod aligned;
mod amx;
mod attention;
mod attention_i8;
mod byte_dot;
mod codes;
mod elementwise;
mod gemm;
mod gemm_i8;
mod hadamard;
mod halves;
mod kernels;
mod lanes;
mod level;
mod listed_rows;
mod masses;
mod moments;
mod nearest;
mod panels;
mod prefetch;
mod register_tile;
mod sketch;

pub use aligned::{AlignedBuffer, OutOfMemory, Zeroed};
pub use amx::{AmxUnavailable, amx};
pub use attention::{Attend, STEP_TILES, Tile};
pub use attention_i8::AttendCodes;
pub use byte_dot::BYTE_ROW;
pub use hadamard::HADAMARD_BLOCK;
pub use halves::HALF_GROUP;
pub use kernels::{Kernels, at_level, kernels, supported};
pub use level::Level;
pub use prefetch::prefetch;
pub use sketch::{SKETCH_GROUP, SKETCH_LINE, SKETCH_LINE_BYTES, SketchRow, sketch_group_bytes};

/// Lanes of a vector, columns of a panel, keys of a tile.
pub const LANES: usize = 16;
