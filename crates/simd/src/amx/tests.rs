//! The kernels on tiles through the model of the registers, on any machine, and through the instructions.

use super::model::{Model, registers};
use super::product::gemm_bf16;
use super::{Config, Tiles};
use crate::LANES;
use crate::lanes::scalar::Scalar;
use half::bf16;

/// A small deterministic generator (xorshift), so that failures repeat.
pub(super) struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
    pub fn unit(&mut self) -> f32 {
        ((self.next() >> 40) as f32 / (1 << 23) as f32) - 1.0
    }
    pub fn bf16(&mut self, n: usize) -> Vec<u16> {
        (0..n).map(|_| bf16::from_f32(self.unit()).to_bits()).collect()
    }
}

/// A row of 64 bytes that holds these numbers.
fn row(numbers: &[f32]) -> [u16; 32] {
    let mut row = [0; 32];
    row.iter_mut().zip(numbers).for_each(|(bits, x)| *bits = bf16::from_f32(*x).to_bits());
    row
}

/// One product of a row and a column of two pairs each, and a start, on registers of just that size.
fn single<T: Tiles>(start: f32, a: [f32; 4], b: [f32; 4]) -> f32 {
    let columns = [row(&b[..2]), row(&b[2..])];
    let mut c = start;
    // SAFETY: registers of one element, and buffers that hold their rows.
    unsafe {
        T::configure(&Config::new().with(0, 1, 4).with(1, 1, 8).with(2, 2, 4));
        T::load::<0>((&raw const c).cast(), 4);
        T::load::<1>(row(&a).as_ptr().cast(), 64);
        T::load::<2>(columns.as_ptr().cast(), 64);
        T::multiply_bf16::<0, 1, 2>();
        T::store::<0>((&raw mut c).cast(), 4);
        T::release();
    }
    c
}

/// What the manual prescribes for rounding and for subnormal numbers.
fn rounds_as_prescribed<T: Tiles>() {
    let tiny = f32::from_bits(0x0040_0000); // subnormal, and a bf16
    let least = f32::MIN_POSITIVE;
    let half_ulp = 2_f32.powi(-24);
    for (start, a, b, want, why) in [
        (1.0, [2.0, 3.0, 5.0, 7.0], [1.0, 10.0, 100.0, 1000.0], 7533.0, "a sum"),
        // Even products cancel before the odd ones are added.
        (0.0, [2_f32.powi(60), 1.0, -(2_f32.powi(60)), 1.0], [1.0; 4], 2.0, "even and odd apart"),
        // Even and odd before the start: 2^-24 + 2^-24 counts, each alone would be rounded away.
        (1.0, [half_ulp, half_ulp, 0.0, 0.0], [1.0; 4], 1.0 + 2.0 * half_ulp, "products before the start"),
        // Half of the last place goes to even.
        (1.0, [half_ulp, 0.0, 0.0, 0.0], [1.0; 4], 1.0, "to nearest even, down"),
        (1.0 + 2.0 * half_ulp, [half_ulp, 0.0, 0.0, 0.0], [1.0; 4], 1.0 + 4.0 * half_ulp, "to nearest even, up"),
        (0.0, [tiny, 0.0, 0.0, 0.0], [2.0_f32.powi(100); 4], 0.0, "subnormal in A"),
        (0.0, [2.0_f32.powi(100), 0.0, 0.0, 0.0], [tiny; 4], 0.0, "subnormal in B"),
        (tiny, [0.0; 4], [0.0; 4], 0.0, "subnormal in C"),
        (0.0, [least, 0.0, 0.0, 0.0], [0.5; 4], 0.0, "subnormal product"),
        (0.0, [1.5 * least, 0.0, 0.0, 0.0], [1.0; 4], 1.5 * least, "least normal product"),
        (0.0, [1.5 * least, -least, 0.0, 0.0], [1.0; 4], 0.0, "subnormal sum"),
        (1.5 * least, [-least, 0.0, 0.0, 0.0], [1.0; 4], 0.0, "subnormal sum with the start"),
        (0.0, [2_f32.powi(127), 0.0, 0.0, 0.0], [2.0, 0.0, 0.0, 0.0], f32::INFINITY, "overflow"),
    ] {
        let got = single::<T>(start, a, b);
        assert_eq!(got.to_bits(), f32::to_bits(want), "{why}: {got} instead of {want}");
    }
    assert!(single::<T>(0.0, [f32::INFINITY, 0.0, 0.0, 0.0], [0.0; 4]).is_nan());
    assert!(single::<T>(f32::NAN, [1.0; 4], [1.0; 4]).is_nan());
}

#[test]
fn the_model_rounds_as_prescribed() {
    rounds_as_prescribed::<Model>();
}

/// Panels `[panels][stride]`, of each `[lines][16][width]`, of a matrix `[lines x width][16 x panels]`; what lies
/// between panels is `gap`.
fn pack<N: Copy>(matrix: &[N], k: usize, panels: usize, width: usize, stride: usize, gap: N) -> Vec<N> {
    let n = panels * LANES;
    // The last panel ends with its numbers, so that a read behind it is a read behind the buffer.
    let mut packed = vec![gap; (panels - 1) * stride + k * LANES];
    for i in 0..k {
        for j in 0..n {
            packed[(j / LANES) * stride + (i / width) * LANES * width + (j % LANES) * width + i % width] =
                matrix[i * n + j];
        }
    }
    packed
}

/// Rows, numbers along the sum, panels, and what the strides of A (numbers), of the panels and of C are larger.
const SHAPES: [(usize, usize, usize, [usize; 3]); 16] = [
    (1, 64, 3, [0, 0, 0]),
    (4, 32, 2, [0, 0, 0]),
    (5, 2, 1, [0, 0, 0]),
    (5, 32, 2, [3, 0, 1]),
    (7, 34, 3, [0, 32, 0]),
    (15, 30, 1, [1, 0, 5]),
    (16, 64, 2, [0, 0, 0]),
    (16, 66, 5, [0, 0, 0]),
    (17, 62, 2, [0, 64, 7]),
    (31, 96, 4, [32, 0, 0]),
    (32, 128, 3, [0, 0, 0]),
    (33, 64, 2, [0, 0, 0]),
    (47, 80, 3, [5, 96, 0]),
    (64, 576, 2, [0, 0, 0]),
    (70, 100, 1, [0, 0, 3]),
    (96, 32, 6, [0, 0, 0]),
];

/// bf16 products of all shapes against double precision; returns all bits of the results.
fn products<T: Tiles>() -> Vec<u32> {
    let mut random = Random(7);
    let mut all = Vec::new();
    for (m, k, panels, [more_a, more_b, more_c]) in SHAPES {
        let n = panels * LANES;
        let (lda, stride, ldc) = (k + more_a, k * LANES + more_b, n + more_c);
        let nan = bf16::NAN.to_bits();
        let mut a = random.bf16(m * lda);
        // Rows end where k ends; what lies between them must not count.
        (0..m).for_each(|r| a[r * lda + k..(r + 1) * lda].fill(nan));
        a.truncate((m - 1) * lda + k);
        let matrix = random.bf16(k * n);
        let packed = pack(&matrix, k, panels, 2, stride, nan);
        for accumulate in [false, true] {
            let start: Vec<f32> =
                (0..(m - 1) * ldc + n).map(|_| if accumulate { random.unit() } else { f32::NAN }).collect();
            let mut c = start.clone();
            // SAFETY: shapes as packed above.
            unsafe {
                gemm_bf16::<T, Scalar>(
                    m,
                    k,
                    a.as_ptr(),
                    lda,
                    packed.as_ptr(),
                    stride,
                    panels,
                    c.as_mut_ptr(),
                    ldc,
                    accumulate,
                );
            }
            let wide = |bits: u16| bf16::from_bits(bits).to_f64();
            for r in 0..m {
                for j in 0..ldc.min(c.len() - r * ldc) {
                    let (got, before) = (c[r * ldc + j], start[r * ldc + j]);
                    if j >= n {
                        assert_eq!(got.to_bits(), before.to_bits(), "written beside C: {m} x {k} x {n}, {r}, {j}");
                        continue;
                    }
                    let sum: f64 = (0..k).map(|i| wide(a[r * lda + i]) * wide(matrix[i * n + j])).sum();
                    let want = sum + if accumulate { f64::from(before) } else { 0.0 };
                    assert!(
                        (f64::from(got) - want).abs() <= 1e-6 * k as f64 + 1e-6,
                        "{m} x {k} x {n} (+{more_a}, {more_b}, {more_c}), {r}, {j}: {got} instead of {want}"
                    );
                }
            }
            all.extend(c.iter().map(|x| x.to_bits()));
        }
    }
    assert!(!registers(|r| r.in_use()), "registers stay in use");
    all
}

#[test]
fn products_of_bf16() {
    products::<Model>();
}

/// The same through the assembly: on the CPU, or trapped. Equal to the model to the bit.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod assembled {
    use super::super::assembly::Assembly;
    use super::super::availability::linux::computes;
    use super::super::trap;
    use super::*;

    #[test]
    fn self_check() {
        trap::install();
        // SAFETY: tile instructions work after `install`.
        assert!(unsafe { computes::<Assembly>() });
    }

    #[test]
    fn rounding() {
        trap::install();
        rounds_as_prescribed::<Assembly>();
    }

    #[test]
    fn products_of_bf16() {
        trap::install();
        assert!(products::<Assembly>() == products::<Model>());
    }
}
