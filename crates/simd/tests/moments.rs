//! Means and variances of tiles at every SIMD level against double precision.

mod random;

use half::bf16;
use iceformer_simd::{LANES, supported};
use random::Random;

/// Checks `got` against the mean, and if asked for the variance, of each of the rows, sixteen numbers each.
fn check(what: &str, rows: &[Vec<f32>], means: &[f32], variances: Option<&[f32]>) {
    for (i, row) in rows.iter().enumerate() {
        let mean = row.iter().map(|&x| f64::from(x)).sum::<f64>() / LANES as f64;
        let largest = row.iter().fold(1e-30, |largest: f32, x| largest.max(x.abs()));
        let tolerance = 1e-6 * f64::from(largest);
        assert!((f64::from(means[i]) - mean).abs() <= tolerance, "{what} {i}: {} instead of {mean}", means[i]);
        if let Some(variances) = variances {
            let variance = row.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / LANES as f64;
            let tolerance = 2e-6 * f64::from(largest).powi(2);
            let got = f64::from(variances[i]);
            assert!((got - variance).abs() <= tolerance, "{what} {i}: {got} instead of {variance}");
        }
    }
}

/// Rows `[count][16]`, far from zero and close to it.
fn random_rows(random: &mut Random, count: usize) -> Vec<Vec<f32>> {
    (0..count)
        .map(|i| (0..LANES).map(|_| (i % 5) as f32 * 3.0 + random.unit() * 2.0_f32.powi(i as i32 % 7 - 3)).collect())
        .collect()
}

fn rounded(rows: &[Vec<f32>]) -> Vec<Vec<f32>> {
    rows.iter().map(|row| row.iter().map(|&x| bf16::from_f32(x).to_f32()).collect()).collect()
}

#[test]
fn keys_of_a_panel() {
    for table in supported() {
        let mut random = Random(5);
        for k in [2, 4, 6, 20, 34, 64, 130] {
            let rows = random_rows(&mut random, k);
            let what = format!("{} {k}", table.level.name());
            let (mut means, mut variances) = (vec![7.0; k], vec![7.0; k]);
            table.panel_moments_f32(&rows.concat(), &mut means, &mut variances);
            check(&what, &rows, &means, Some(&variances));
            let mut pairs = vec![0; k * LANES];
            for (i, row) in rows.iter().enumerate() {
                for (j, &x) in row.iter().enumerate() {
                    pairs[(i / 2 * LANES + j) * 2 + i % 2] = bf16::from_f32(x).to_bits();
                }
            }
            table.panel_moments_bf16(&pairs, &mut means, &mut variances);
            check(&what, &rounded(&rows), &means, Some(&variances));
        }
    }
}

#[test]
fn values_of_a_tile() {
    for table in supported() {
        let mut random = Random(6);
        for n in [16, 32, 48, 80] {
            let rows = random_rows(&mut random, n);
            let what = format!("{} {n}", table.level.name());
            let (mut numbers, mut pairs) = (vec![0.0; n * LANES], vec![0; n * LANES]);
            for (i, row) in rows.iter().enumerate() {
                for (j, &x) in row.iter().enumerate() {
                    let panel = i / LANES * LANES * LANES;
                    numbers[panel + j * LANES + i % LANES] = x;
                    pairs[panel + (j / 2 * LANES + i % LANES) * 2 + j % 2] = bf16::from_f32(x).to_bits();
                }
            }
            let mut means = vec![7.0; n];
            table.value_means_f32(&numbers, &mut means);
            check(&what, &rows, &means, None);
            table.value_means_bf16(&pairs, &mut means);
            check(&what, &rounded(&rows), &means, None);
        }
    }
}

#[test]
fn tiles_of_codes() {
    for table in supported() {
        let mut random = Random(7);
        for (k, n) in [(4, 16), (20, 32), (36, 48), (64, 64)] {
            let what = format!("{} {k} {n}", table.level.name());
            let scales: Vec<f32> = (0..LANES).map(|j| if j == 3 { 0.0 } else { 0.01 + random.unit().abs() }).collect();
            let mut codes = |count: usize| -> Vec<Vec<i8>> {
                (0..count).map(|_| (0..LANES).map(|_| (random.unit() * 127.0) as i8).collect()).collect()
            };
            let (keys, values) = (codes(k), codes(n));
            let numbers = |codes: &[Vec<i8>]| -> Vec<Vec<f32>> {
                let row =
                    |row: &Vec<i8>| row.iter().zip(&scales).map(|(&code, scale)| f32::from(code) * scale).collect();
                codes.iter().map(row).collect()
            };
            let scale_bytes = || scales.iter().flat_map(|scale| scale.to_ne_bytes()).map(|byte| byte as i8);
            let mut key_bytes = vec![0; k * LANES];
            for (i, row) in keys.iter().enumerate() {
                for (j, &code) in row.iter().enumerate() {
                    key_bytes[(i / 4 * LANES + j) * 4 + i % 4] = code ^ i8::MIN;
                }
            }
            key_bytes.extend(scale_bytes());
            let (mut means, mut variances) = (vec![7.0; k], vec![7.0; k]);
            table.code_moments(&key_bytes, &mut means, &mut variances);
            check(&what, &numbers(&keys), &means, Some(&variances));
            let mut value_bytes = vec![0; n * LANES];
            for (i, row) in values.iter().enumerate() {
                for (j, &code) in row.iter().enumerate() {
                    let panel = i / LANES * LANES * LANES;
                    value_bytes[panel + (j / 4 * LANES + i % LANES) * 4 + j % 4] = code;
                }
            }
            value_bytes.extend(scale_bytes());
            let mut means = vec![7.0; n];
            table.code_value_means(&value_bytes, &mut means);
            check(&what, &numbers(&values), &means, None);
        }
    }
}
