//! Products in half precision at every SIMD level of this CPU: rows to the bit, products against double precision.

mod packed;
mod random;

use half::{bf16, f16};
use iceformer_simd::{HALF_GROUP, Kernels, LANES, supported};
use packed::pack_pairs;
use random::Random;

/// Rows of f16 with the scales of their groups, `[m][k]` and `[m][groups]`.
fn rounded(table: &Kernels, rows: &[f32], k: usize) -> (Vec<u16>, Vec<f32>) {
    let groups = k.div_ceil(HALF_GROUP);
    let (mut halves, mut scales) = (vec![0xffff; rows.len()], vec![0.5; rows.len() / k * groups]);
    for (row, (halves, scales)) in rows.chunks(k).zip(halves.chunks_mut(k).zip(scales.chunks_mut(groups))) {
        table.to_halves(row, halves, scales);
    }
    (halves, scales)
}

/// The product `[m][n]` of rows that were rounded, into `c`.
fn product(table: &Kernels, rows: &[f32], k: usize, n: usize, matrix: &[f32], c: &mut [f32], accumulate: bool) {
    let (halves, scales) = rounded(table, rows, k);
    let packed = pack_pairs(matrix, k, n, 6);
    let (m, groups) = (rows.len() / k, k.div_ceil(HALF_GROUP));
    // SAFETY: shapes as made above.
    unsafe {
        table.gemm_halves(
            m,
            k,
            halves.as_ptr(),
            k,
            scales.as_ptr(),
            groups,
            packed.as_ptr(),
            k * LANES + 6,
            n / LANES,
            c.as_mut_ptr(),
            n,
            accumulate,
        );
    }
}

#[test]
fn rows_are_the_same_at_every_level() {
    let mut random = Random(21);
    for n in [1, 2, 15, 16, 17, 127, 128, 129, 300] {
        for size in [1.0, 1e-38, 3e-31, 2e-6, 700.0, 3e38] {
            let x: Vec<f32> = random.vector(n).iter().map(|x| x * size).collect();
            for table in supported() {
                let level = table.level.name();
                let (halves, scales) = rounded(table, &x, n);
                for (group, (x, halves)) in x.chunks(HALF_GROUP).zip(halves.chunks(HALF_GROUP)).enumerate() {
                    let largest = x.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
                    let scale = scales[group];
                    if largest < 1e-30 {
                        assert!(scale == 0.0 && halves.iter().all(|&half| half == 0), "{level} {n} {size}");
                        continue;
                    }
                    assert!(scale.log2().fract() == 0.0, "{level} {n} {size}: {scale} is a power of two");
                    assert!((32.0..64.0).contains(&(largest / scale)), "{level} {n} {size}: {scale}");
                    for (&half, &x) in halves.iter().zip(x) {
                        assert_eq!(half, f16::from_f32(x / scale).to_bits(), "{level} {n} {size}");
                    }
                }
            }
        }
    }
}

#[test]
fn rows_that_are_not_finite_are_marked() {
    for table in supported() {
        for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for at in [0, 17, 127, 130] {
                let mut x = vec![1.0; 140];
                x[at] = bad;
                let (halves, scales) = rounded(table, &x, x.len());
                let group = at / HALF_GROUP;
                assert!(scales[group].is_nan() && !scales[1 - group].is_nan(), "{} {bad} at {at}", table.level);
                assert!(halves.chunks(HALF_GROUP).nth(group).unwrap().iter().all(|&half| half == 0));
            }
        }
    }
}

/// Compares one shape at every level. Numbers of rows and of columns are `row_size` and `column_size` times those of -1 to
/// below 1; every eleventh of a row, and every thirteenth of a column, is `outlier` times as large.
fn compare(m: usize, k: usize, n: usize, [row_size, column_size, outlier]: [f32; 3]) {
    let mut random = Random::mixed((m * 1_000_003 + k * 1009 + n) as u64);
    let sized = |values: Vec<f32>, size: f32, every: usize| -> Vec<f32> {
        let larger = |i: usize| if i.is_multiple_of(every) { outlier } else { 1.0 };
        values.iter().enumerate().map(|(i, x)| x * size * larger(i)).collect()
    };
    let rows = sized(random.vector(m * k), row_size, 11);
    let round = |x: f32| bf16::from_f32(x).to_f32();
    let matrix: Vec<f32> = sized(random.vector(k * n), column_size, 13).into_iter().map(round).collect();
    let start = random.vector(m * n);
    for table in supported() {
        let (halves, scales) = rounded(table, &rows, k);
        let groups = k.div_ceil(HALF_GROUP);
        for accumulate in [false, true] {
            let mut c = start.clone();
            product(table, &rows, k, n, &matrix, &mut c, accumulate);
            for i in 0..m {
                for j in 0..n {
                    let begin = if accumulate { f64::from(start[i * n + j]) } else { 0.0 };
                    let term = |l: usize| {
                        let scale = f64::from(scales[i * groups + l / HALF_GROUP]);
                        f16::from_bits(halves[i * k + l]).to_f64() * scale * f64::from(matrix[l * n + j])
                    };
                    let exact: f64 = (0..k).map(term).sum();
                    // Each of at most 32 sums in half precision errs by half a unit of eleven bits of a part of what
                    // all terms may come to.
                    let all: f64 = (0..k).map(|l| term(l).abs()).sum();
                    let largest = matrix.iter().fold(0.0_f64, |most, x| most.max(f64::from(x.abs())));
                    let dropped: f64 = (0..k)
                        .filter(|&l| f64::from(matrix[l * n + j].abs()) < largest * 2.0_f64.powi(-17))
                        .map(|l| term(l).abs())
                        .sum();
                    let bound = all * 32.0 * 2.0_f64.powi(-12) + dropped + begin.abs() * 1e-6 + 1e-30;
                    let error = (f64::from(c[i * n + j]) - begin - exact).abs();
                    assert!(error <= bound, "{} [{m}, {k}, {n}] at ({i}, {j}): {error} > {bound}", table.level);
                    // What rounding without a bias comes to: far less than the bound.
                    let deviation = (0..k).map(|l| term(l).powi(2)).sum::<f64>().sqrt();
                    let usual = deviation * 0.006 + dropped + begin.abs() * 1e-6 + 1e-30;
                    assert!(error <= usual, "{} [{m}, {k}, {n}] at ({i}, {j}): {error} > {usual}", table.level);
                }
            }
        }
    }
}

#[test]
fn products_of_odd_shapes() {
    for m in [1, 2, 3, 7, 8, 9, 13, 24] {
        compare(m, 130, 64, [1.0, 1.0, 1.0]);
    }
    for k in [2, 4, 62, 64, 66, 126, 128, 254, 256, 576, 766, 768, 770, 1538] {
        compare(5, k, 48, [1.0, 0.1, 1.0]);
    }
    for panels in 1..=8 {
        compare(9, 70, panels * LANES, [1.0, 1.0, 1.0]);
    }
}

#[test]
fn products_of_extreme_sizes() {
    for sizes in [
        [1e4, 1e-3, 1.0],
        [1e-6, 1e3, 1.0],
        [1e-20, 1e-10, 1.0],
        [1e15, 1e15, 1.0],
        [1.0, 0.05, 500.0],
        [3.0, 1e-30, 50.0],
    ] {
        compare(9, 386, 48, sizes);
    }
    // All as large as they may be: no sum overflows. Equal terms round alike, so errors add up to near the bound.
    for table in supported() {
        let (m, k, n) = (3, 600, 32);
        let rows = vec![63.99; m * k];
        let matrix = vec![15.9; k * n];
        let mut c = vec![0.0; m * n];
        product(table, &rows, k, n, &matrix, &mut c, false);
        let exact = 64.0 * f64::from(bf16::from_f32(15.9)) * k as f64;
        assert!(c.iter().all(|&c| (f64::from(c) / exact - 1.0).abs() < 8e-3), "{}: {} for {exact}", table.level, c[0]);
    }
}

#[test]
fn what_is_not_finite_stays_so() {
    let (m, k, n) = (2, 140, 64);
    for table in supported() {
        let matrix = vec![1.0; k * n];
        let mut rows = vec![1.0; m * k];
        rows[k + 3] = f32::INFINITY;
        let mut c = vec![0.0; m * n];
        product(table, &rows, k, n, &matrix, &mut c, false);
        assert!(c[..n].iter().all(|c| c.is_finite()) && c[n..].iter().all(|c| c.is_nan()), "{}", table.level);
        for bad in [f32::INFINITY, f32::NAN, f32::NEG_INFINITY] {
            let mut matrix = matrix.clone();
            matrix[5 * n + 2] = bad;
            let rows = vec![1.0; m * k];
            product(table, &rows, k, n, &matrix, &mut c, false);
            assert!(!c[2].is_finite(), "{} {bad}: {}", table.level, c[2]);
        }
    }
}
