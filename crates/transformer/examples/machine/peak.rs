//! The most multiply-adds that the machine does, from registers alone.

use std::hint::black_box;
use std::time::Duration;

use iceformer_simd::Level;
use iceformer_threads::ThreadPool;

/// What is multiplied; sums are of 32 bits.
#[derive(Clone, Copy, Debug)]
pub enum Operand {
    F32,
    Bf16,
    Int8,
}

const STEPS: usize = 100_000;
/// Sums in flight: more than latency times throughput.
const SUMS: usize = 12;

/// A loop, and the operations it does: two for each multiply-add.
struct Loop {
    run: unsafe fn() -> f32,
    operations: usize,
}

/// Operations per second, in 10⁹, of all threads together with the best instruction of a level, which this CPU must
/// support; None where there is no loop for it.
pub fn peak(level: Level, operand: Operand, pool: &ThreadPool, budget: Duration) -> Option<f64> {
    let Loop { run, operations } = loop_of(level, operand)?;
    let time = super::best(budget, || {
        pool.for_each(pool.threads(), |_, _| {
            // SAFETY: this CPU supports the level.
            black_box(unsafe { run() });
        });
    });
    Some((operations * pool.threads()) as f64 / time / 1e9)
}

#[cfg(not(target_arch = "x86_64"))]
fn loop_of(_: Level, _: Operand) -> Option<Loop> {
    None
}

#[cfg(target_arch = "x86_64")]
fn loop_of(level: Level, operand: Operand) -> Option<Loop> {
    use Operand::{Bf16, F32, Int8};
    let vectors = |run, operations: usize| Some(Loop { run, operations: operations * SUMS * STEPS });
    match (level, operand) {
        #[cfg(target_os = "linux")]
        (Level::Amx, Bf16) => Some(Loop { run: tiles::bf16, operations: tiles::SUMS * STEPS * 2 * 16 * 16 * 32 }),
        #[cfg(target_os = "linux")]
        (Level::Amx, Int8) => Some(Loop { run: tiles::int8, operations: tiles::SUMS * STEPS * 2 * 16 * 16 * 64 }),
        (Level::Avx512Bf16, Bf16) => vectors(vectors::bf16, 64),
        (Level::Avx512Bf16 | Level::Avx512Fp16 | Level::Avx512Vnni, Int8) => vectors(vectors::avx512_vnni, 128),
        (Level::Avx2Vnni, Int8) => vectors(vectors::avx2_vnni, 64),
        // Without that instruction, two: products of pairs in 16 bits, and their sum.
        (Level::Avx512, Int8) => vectors(vectors::avx512_pairs, 64),
        (Level::Avx2, Int8) => vectors(vectors::avx2_pairs, 32),
        // Without the instruction, pairs are widened and cost two multiply-adds: the limit is that of f32. So do products on
        // their own with half precision, whose peak is twice as high and which only layers use.
        (Level::Avx512 | Level::Avx512Vnni | Level::Avx512Fp16 | Level::Avx512Bf16 | Level::Amx, F32 | Bf16) => {
            vectors(vectors::avx512, 32)
        }
        (Level::Avx2 | Level::Avx2Vnni, F32 | Bf16) => vectors(vectors::avx2, 16),
        _ => None,
    }
}

/// Products of vectors.
#[cfg(target_arch = "x86_64")]
mod vectors {
    use std::arch::x86_64::{
        __m512bh, _mm256_add_epi32, _mm256_add_ps, _mm256_dpbusd_avx_epi32, _mm256_extract_epi32, _mm256_fmadd_ps,
        _mm256_madd_epi16, _mm256_set1_epi16, _mm256_set1_epi32, _mm256_set1_ps, _mm256_setzero_ps,
        _mm256_setzero_si256, _mm256_storeu_ps, _mm512_add_epi32, _mm512_dpbf16_ps, _mm512_dpbusd_epi32,
        _mm512_fmadd_ps, _mm512_madd_epi16, _mm512_reduce_add_epi32, _mm512_reduce_add_ps, _mm512_set1_epi16,
        _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_ps, _mm512_setzero_si512,
    };
    use std::hint::black_box;

    use super::{STEPS, SUMS};

    #[target_feature(enable = "avx512f,avx512bf16")]
    pub fn bf16() -> f32 {
        // SAFETY: both are 64 bytes of plain numbers.
        let operand: __m512bh = unsafe { std::mem::transmute(black_box(_mm512_set1_epi32(0x3f80_3f80))) };
        let mut sums = [black_box(_mm512_setzero_ps()); SUMS];
        for _ in 0..STEPS {
            for sum in &mut sums {
                *sum = _mm512_dpbf16_ps(*sum, operand, operand);
            }
        }
        sums.iter().map(|&sum| _mm512_reduce_add_ps(sum)).sum()
    }

    #[target_feature(enable = "avx512f,avx512vnni")]
    pub fn avx512_vnni() -> f32 {
        let operand = black_box(_mm512_set1_epi32(0x0101_0101));
        let mut sums = [black_box(_mm512_setzero_si512()); SUMS];
        for _ in 0..STEPS {
            for sum in &mut sums {
                *sum = _mm512_dpbusd_epi32(*sum, operand, operand);
            }
        }
        sums.iter().map(|&sum| _mm512_reduce_add_epi32(sum) as f32).sum()
    }

    #[target_feature(enable = "avx2,avxvnni")]
    pub fn avx2_vnni() -> f32 {
        let operand = black_box(_mm256_set1_epi32(0x0101_0101));
        let mut sums = [black_box(_mm256_setzero_si256()); SUMS];
        for _ in 0..STEPS {
            for sum in &mut sums {
                *sum = _mm256_dpbusd_avx_epi32(*sum, operand, operand);
            }
        }
        let total = sums.into_iter().reduce(|a, b| _mm256_add_epi32(a, b)).unwrap_or(operand);
        _mm256_extract_epi32::<0>(total) as f32
    }

    #[target_feature(enable = "avx512f,avx512bw")]
    pub fn avx512_pairs() -> f32 {
        let operand = black_box(_mm512_set1_epi16(1));
        let mut sums = [black_box(_mm512_setzero_si512()); SUMS];
        for _ in 0..STEPS {
            for sum in &mut sums {
                // Each depends on the one before, or the product would be taken out of the loop.
                *sum = _mm512_add_epi32(_mm512_madd_epi16(*sum, operand), operand);
            }
        }
        sums.iter().map(|&sum| _mm512_reduce_add_epi32(sum) as f32).sum()
    }

    #[target_feature(enable = "avx2")]
    pub fn avx2_pairs() -> f32 {
        let operand = black_box(_mm256_set1_epi16(1));
        let mut sums = [black_box(_mm256_setzero_si256()); SUMS];
        for _ in 0..STEPS {
            for sum in &mut sums {
                *sum = _mm256_add_epi32(_mm256_madd_epi16(*sum, operand), operand);
            }
        }
        let total = sums.into_iter().reduce(|a, b| _mm256_add_epi32(a, b)).unwrap_or(operand);
        _mm256_extract_epi32::<0>(total) as f32
    }

    #[target_feature(enable = "avx512f")]
    pub fn avx512() -> f32 {
        let operand = black_box(_mm512_set1_ps(0.5));
        let mut sums = [black_box(_mm512_setzero_ps()); SUMS];
        for _ in 0..STEPS {
            for sum in &mut sums {
                *sum = _mm512_fmadd_ps(*sum, operand, operand);
            }
        }
        sums.iter().map(|&sum| _mm512_reduce_add_ps(sum)).sum()
    }

    #[target_feature(enable = "avx2,fma")]
    pub fn avx2() -> f32 {
        let operand = black_box(_mm256_set1_ps(0.5));
        let mut sums = [black_box(_mm256_setzero_ps()); SUMS];
        for _ in 0..STEPS {
            for sum in &mut sums {
                *sum = _mm256_fmadd_ps(*sum, operand, operand);
            }
        }
        let mut lanes = [0.0_f32; 8];
        let total = sums.into_iter().reduce(|a, b| _mm256_add_ps(a, b)).unwrap_or(operand);
        // SAFETY: `lanes` holds eight numbers.
        unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), total) };
        lanes.iter().sum()
    }
}

/// Products of tiles (AMX). All tiles are 16 rows of 64 bytes, and zero: the time does not depend on the numbers.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod tiles {
    use std::arch::asm;

    use super::STEPS;

    /// Registers that sum; two more are the operands.
    pub const SUMS: usize = 6;

    /// What LDTILECFG reads.
    #[repr(C, align(64))]
    struct Shapes([u8; 64]);

    static SHAPES: Shapes = {
        let mut bytes = [0; 64];
        bytes[0] = 1;
        let mut tile = 0;
        while tile < 8 {
            bytes[16 + 2 * tile] = 64;
            bytes[48 + tile] = 16;
            tile += 1;
        }
        Shapes(bytes)
    };

    macro_rules! products {
        ($name:ident, $instruction:literal) => {
            /// # Safety
            /// The CPU has AMX and the system lets this process use it.
            pub unsafe fn $name() -> f32 {
                // SAFETY: AMX may be used; the configuration zeroes the registers, which only this block uses.
                unsafe {
                    asm!(
                        "ldtilecfg [{shapes}]",
                        "2:",
                        concat!($instruction, " tmm0, tmm6, tmm7"),
                        concat!($instruction, " tmm1, tmm6, tmm7"),
                        concat!($instruction, " tmm2, tmm6, tmm7"),
                        concat!($instruction, " tmm3, tmm6, tmm7"),
                        concat!($instruction, " tmm4, tmm6, tmm7"),
                        concat!($instruction, " tmm5, tmm6, tmm7"),
                        "dec {steps}",
                        "jnz 2b",
                        "tilerelease",
                        shapes = in(reg) &raw const SHAPES,
                        steps = inout(reg) STEPS => _,
                        options(nostack, readonly),
                    );
                }
                0.0
            }
        };
    }

    products!(bf16, "tdpbf16ps");
    products!(int8, "tdpbsud");
}
