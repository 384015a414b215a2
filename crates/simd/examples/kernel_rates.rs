//! Prints the rate of the products, of attention and of scans of codes at every SIMD level of this CPU, one thread.
//! `cargo run --release -p iceformer-simd --example kernel_rates`
#![allow(clippy::print_stdout, reason = "a measuring program prints")]

mod rate;

use iceformer_simd::{AlignedBuffer, HALF_GROUP, Kernels, LANES, supported};
use rate::{attention_rate, product_rate, rate};

/// Share of a product's time that finding each row's best column takes on top, of vectors with 64 numbers.
fn nearest_share(table: &Kernels) -> f64 {
    let (m, k, n) = (64, 64, 1024);
    let (a, b) = (AlignedBuffer::<f32>::new(m * k), AlignedBuffer::<f32>::new(n * k));
    let (mut c, offsets) = (AlignedBuffer::<f32>::new(m * n), vec![0.0; n]);
    let product = rate(1.0, || {
        // SAFETY: shapes as allocated.
        unsafe { table.gemm_f32(m, k, a.as_ptr(), k, b.as_ptr(), k * LANES, n / LANES, c.as_mut_ptr(), n, false) };
    });
    let (mut best, mut best_scores) = (vec![0; m], vec![0.0; m]);
    let nearest = rate(1.0, || {
        best_scores.fill(f32::NEG_INFINITY);
        table.nearest_columns(n, &c, n, &offsets, 0, &mut best, &mut best_scores);
    });
    product / nearest
}

/// Codes that fit the second-level cache, and codes that fit no cache, in bytes.
const CACHED: usize = 256 << 10;
const STREAMED: usize = 128 << 20;

/// Products per nanosecond of `m` queries with `bytes` of codes, of which one key in a thousand passes.
fn scan_rate(table: &Kernels, m: usize, quads: usize, bytes: usize) -> f64 {
    let tiles = bytes / (quads * LANES * 4);
    let mut codes = AlignedBuffer::<u8>::new(tiles * quads * LANES * 4);
    codes.iter_mut().enumerate().for_each(|(i, code)| *code = (i.wrapping_mul(0x9e37_79b9) >> 24) as u8);
    let queries = vec![1_i8; m * quads * 4];
    let scales = vec![1.0; m];
    // Codes are uniform: three deviations above the mean.
    let numbers = (quads * 4) as f32;
    let thresholds = vec![numbers * 127.5 + 3.1 * numbers.sqrt() * 73.9; m];
    let offsets = vec![0.0; tiles * LANES];
    let (mut values, mut masks) = (vec![0.0; m * tiles * LANES], vec![0; m * tiles]);
    // Short runs, of which the best was not interrupted.
    let repeats = (20_000_000 / (m * bytes)).max(1);
    let products = (m * quads * 4 * tiles * LANES * repeats) as f64;
    rate(products, || {
        for _ in 0..repeats {
            // SAFETY: shapes as allocated.
            unsafe {
                table.scan_u8(
                    m,
                    quads,
                    queries.as_ptr(),
                    quads * 4,
                    tiles,
                    codes.as_ptr(),
                    quads * LANES * 4,
                    scales.as_ptr(),
                    thresholds.as_ptr(),
                    offsets.as_ptr(),
                    values.as_mut_ptr(),
                    masks.as_mut_ptr(),
                );
            }
        }
    })
}

fn main() {
    for table in supported() {
        for quads in [16, 96] {
            let rates: Vec<String> =
                [1, 4, 8, 16, 64].map(|m| format!("{m}: {:.0}", scan_rate(table, m, quads, CACHED))).into();
            println!(
                "{:12} scan of {} codes per key, products/ns by queries: {}; from memory, GB/s: {:.1}",
                table.level.name(),
                quads * 4,
                rates.join(", "),
                scan_rate(table, 1, quads, STREAMED)
            );
        }
        let (m, k, n) = (256, 576, 576);
        let f32_rate = product_rate(m, k, n, |a, b, c| {
            // SAFETY: buffers of this shape.
            unsafe { table.gemm_f32(m, k, a, k, b, k * LANES, n / LANES, c, n, false) };
        });
        let bf16_rate = product_rate(m, k, n, |a, b, c| {
            // SAFETY: buffers of this shape.
            unsafe { table.gemm_bf16(m, k, a, k, b, k * LANES, n / LANES, c, n, false) };
        });
        // Rows of f32 meet the same panels of bf16; where halves are multiplied, these rows in half precision.
        let widened_rows = AlignedBuffer::<f32>::new(m * k);
        let widened_rate = product_rate(m, k, n, |_: *const u16, b, c| {
            // SAFETY: buffers of this shape.
            unsafe {
                table.gemm_f32_bf16(m, k, widened_rows.as_ptr(), k, b, k * LANES, n / LANES, c, n, false);
            };
        });
        if table.level.multiplies_halves() {
            let groups = k.div_ceil(HALF_GROUP);
            let scales = vec![1.0; m * groups];
            // 128 rows, as the decoder cuts them.
            let halves_rate = product_rate(128, k, n, |a: *const u16, b, c| {
                // SAFETY: buffers of this shape.
                unsafe {
                    table.gemm_halves(128, k, a, k, scales.as_ptr(), groups, b, k * LANES, n / LANES, c, n, false);
                };
            });
            println!("{:12} GFLOP/s: 128 rows in half precision times bf16 {halves_rate:.0}", table.level.name());
        }
        // SAFETY: tiles of this shape.
        let attend_f32 = attention_rate(96, 64, |block, tiles| unsafe { table.attend_f32(block, tiles) });
        // SAFETY: tiles of this shape.
        let attend_bf16 = attention_rate(96, 64, |block, tiles| unsafe { table.attend_bf16(block, tiles) });
        println!(
            "{:12} GFLOP/s: gemm f32 {f32_rate:.0}, f32 by bf16 {widened_rate:.0}, bf16 {bf16_rate:.0}; attention f32 {attend_f32:.0}, bf16 {attend_bf16:.0}; nearest columns {:.0} % on top of a product",
            table.level.name(),
            100.0 * nearest_share(table)
        );
    }
}
