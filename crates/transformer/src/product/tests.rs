//! Products at every SIMD level against plain ones in f64, on shapes that fit nothing.

use half::bf16;
use iceformer_simd::{HADAMARD_BLOCK, supported};
use iceformer_threads::ThreadPool;

use super::MatrixProduct;
use crate::packed::PackedMatrix;
use crate::precision::{GROUP_INPUTS, Precision};
use crate::random::Random;

/// Values in -1..1, one sequence per seed.
fn values(seed: u64, count: usize) -> Vec<f32> {
    Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1).values(count, 1.0)
}

/// Blocks of 128, what is left in the largest powers of two.
fn hadamard(row: &[f32]) -> Vec<f32> {
    let mut row = row.to_vec();
    let mut start = 0;
    while start < row.len() {
        let length = HADAMARD_BLOCK.min(1 << (row.len() - start).ilog2());
        let block = &mut row[start..start + length];
        for stage in 0..length.ilog2() {
            let half = 1 << stage;
            for low in (0..length).filter(|i| i & half == 0) {
                let (a, b) = (block[low], block[low + half]);
                (block[low], block[low + half]) = (a + b, a - b);
            }
        }
        for x in block {
            *x *= 1.0 / (length as f32).sqrt();
        }
        start += length;
    }
    row
}

/// What a row is once stored.
fn stored(row: &[f32], precision: Precision) -> Vec<f64> {
    match precision {
        Precision::F32 => row.iter().map(|&x| f64::from(x)).collect(),
        Precision::Bf16 => row.iter().map(|&x| bf16::from_f32(x).to_f64()).collect(),
        Precision::Int8 => {
            let mut values = Vec::new();
            // A transform of both sides changes no product.
            for group in hadamard(row).chunks(GROUP_INPUTS) {
                let largest = group.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
                let code = |x: &f32| f64::from((x * (127.0 / largest)).round_ties_even());
                values.extend(group.iter().map(|x| code(x) * f64::from(largest / 127.0)));
            }
            values
        }
    }
}

/// Compares one shape at every level; the bound is what rounding each step of a sum in f32 can do.
fn compare(rows: usize, inputs: usize, outputs: usize, pool: &ThreadPool) {
    let x = values(1 + rows as u64, rows * inputs);
    let w = values(1000 + outputs as u64, outputs * inputs);
    for precision in [Precision::F32, Precision::Bf16, Precision::Int8] {
        for kernels in supported() {
            let factor = match precision {
                Precision::Bf16 if !kernels.level.multiplies_bf16() => Precision::F32,
                precision => precision,
            };
            let x_stored: Vec<_> = x.chunks_exact(inputs).map(|row| stored(row, factor)).collect();
            let w_stored: Vec<_> = w.chunks_exact(inputs).map(|row| stored(row, precision)).collect();
            let packed = PackedMatrix::from_values(outputs, inputs, &w, precision, kernels, pool).unwrap();
            let mut out = vec![f32::NAN; rows * outputs];
            MatrixProduct::new(rows, inputs, precision, kernels).unwrap().run(pool, &packed, &x, &mut out);
            for (row, (x, out)) in x_stored.iter().zip(out.chunks_exact(outputs)).enumerate() {
                for (output, (w, found)) in w_stored.iter().zip(out).enumerate() {
                    let terms = x.iter().zip(w).map(|(x, w)| x * w);
                    let (sum, size) = terms.fold((0.0, 0.0), |(sum, size), term| (sum + term, size + term.abs()));
                    // Int8 rounds twice more for each group: the product of two scales, and its product with the sum.
                    let bound = size * (inputs + 2) as f64 * f64::from(f32::EPSILON) / 2.0 + 1e-30;
                    let error = (f64::from(*found) - sum).abs();
                    assert!(
                        error <= bound,
                        "{} {precision:?} [{rows}, {inputs}, {outputs}] at ({row}, {output}): {found} for {sum}",
                        kernels.level
                    );
                }
            }
        }
    }
}

#[test]
fn every_level_on_odd_shapes() {
    let pool = ThreadPool::new(2);
    for rows in 1..=33 {
        compare(rows, 37 + rows % 3, 53, &pool);
    }
    for inputs in [1, 2, 3, 15, 16, 17, 31, 64, 255] {
        compare(5, inputs, 19, &pool);
    }
    for outputs in [1, 15, 16, 17, 31, 33, 48, 100, 129] {
        compare(3, 20, outputs, &pool);
        compare(49, 7, outputs, &pool);
    }
}

#[test]
fn every_level_where_sums_and_rows_are_cut() {
    let pool = ThreadPool::new(2);
    compare(48, 1201, 50, &pool);
    compare(131, 777, 65, &pool);
    compare(300, 130, 33, &pool);
    compare(1, 5000, 40, &pool);
}
