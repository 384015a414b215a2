//! Prints what AMX does on this CPU, one thread: products of tiles alone, and the kernels by shape beside those of
//! AVX-512; or why the CPU has no AMX level.
//! `cargo run --release -p iceformer-simd --example tile_rates`
#![allow(clippy::print_stdout, reason = "a measuring program prints")]

mod rate;

use iceformer_simd::{Kernels, LANES, Level, amx, at_level};
use rate::{attention_rate, product_rate, rate};

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod tiles {
    use std::arch::asm;

    pub const ROUNDS: usize = 100_000;

    /// Shapes of full tiles: palette 1, sixteen times 64 bytes at 16, sixteen times 16 rows at 48.
    #[repr(C, align(64))]
    struct Config([u8; 64]);

    /// Four products of full tiles a round, each into a tile of its own.
    ///
    /// # Safety
    /// The process may use AMX.
    pub unsafe fn products() {
        let mut config = Config([0; 64]);
        config.0[0] = 1;
        for tile in 0..8 {
            config.0[16 + 2 * tile] = 64;
            config.0[48 + tile] = 16;
        }
        // SAFETY: the caller's promise; registers are released at the end.
        unsafe {
            asm!(
                "ldtilecfg [{config}]",
                "2:",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "dec {rounds}",
                "jnz 2b",
                "tilerelease",
                config = in(reg) &raw const config,
                rounds = inout(reg) ROUNDS => _,
                options(nostack),
            );
        }
    }
}

fn gemm_rate(table: &Kernels, m: usize, k: usize, n: usize) -> f64 {
    product_rate(m, k, n, |a, b, c| {
        // SAFETY: buffers of this shape.
        unsafe { table.gemm_bf16(m, k, a, k, b, k * LANES, n / LANES, c, n, false) };
    })
}

fn main() {
    match amx() {
        Err(why) => println!("no AMX: {why}"),
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        Ok(()) => {
            let flop = (4 * 2 * 16 * 16 * 32 * tiles::ROUNDS) as f64;
            // SAFETY: the process may use AMX.
            println!("products of tiles, GFLOP/s: {:.0}", rate(flop, || unsafe { tiles::products() }));
        }
        #[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
        Ok(()) => {}
    }
    for table in [Level::Avx512Bf16, Level::Amx].into_iter().filter_map(at_level) {
        for (k, n) in [(576, 1536), (1536, 576), (2048, 2048)] {
            let rates: Vec<String> =
                [1, 4, 5, 8, 16, 32, 128].map(|m| format!("{m}: {:.0}", gemm_rate(table, m, k, n))).into();
            println!("{:12} bf16 [rows][{k}] x [{k}][{n}], GFLOP/s by rows: {}", table.level.name(), rates.join(", "));
        }
        for d in [64, 80, 128] {
            let rates: Vec<String> = [3, 8, 16, 32, 96]
                .map(|rows| {
                    // SAFETY: tiles of this shape.
                    let rate = attention_rate(rows, d, |block, tiles| unsafe { table.attend_bf16(block, tiles) });
                    format!("{rows}: {rate:.0}")
                })
                .into();
            println!("{:12} attention, {d} dimensions, GFLOP/s by rows: {}", table.level.name(), rates.join(", "));
        }
    }
}
