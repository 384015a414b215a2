//! Every kernel at every SIMD level of this CPU against double precision, over odd shapes and extreme values.

mod packed;
mod random;

use half::bf16;
use iceformer_simd::{Attend, LANES, STEP_TILES, Tile, supported};
use packed::pack_pairs;
use random::Random;

fn bits(x: &[f32]) -> Vec<u16> {
    x.iter().map(|&x| bf16::from_f32(x).to_bits()).collect()
}

fn close(level: &str, what: &str, got: f32, want: f64, tolerance: f64) {
    assert!((f64::from(got) - want).abs() <= tolerance, "{level} {what}: {got} instead of {want}");
}

/// Panels `[panels][k][16]` of a matrix `[k][n]`.
fn pack(matrix: &[f32], k: usize, n: usize) -> Vec<f32> {
    let panels = n.div_ceil(LANES);
    let mut packed = vec![0.0; panels * k * LANES];
    for i in 0..k {
        for j in 0..n {
            packed[(j / LANES) * k * LANES + i * LANES + j % LANES] = matrix[i * n + j];
        }
    }
    packed
}

#[test]
fn magnitudes_and_signed_codes() {
    for table in supported() {
        let level = table.level.name();
        let mut random = Random(12);
        assert_eq!(table.largest_magnitude(&[]).to_bits(), 0, "{level}");
        for n in [1, 5, 16, 20, 34, 64, 131] {
            let x = random.vector(n);
            let largest = x.iter().fold(0.0_f32, |largest, x| largest.max(x.abs()));
            assert_eq!(table.largest_magnitude(&x).to_bits(), largest.to_bits(), "{level} {n}");
            let by = 127.0 / largest;
            let mut codes = vec![99; n];
            table.to_signed_codes(&x, by, &mut codes);
            for (&code, &x) in codes.iter().zip(&x) {
                assert_eq!(code, (x * by).round_ties_even() as i8, "{level} {n} {x}");
            }
        }
        // Halves go to the even one.
        let halves: Vec<f32> = (0..20).map(|i| i as f32 - 9.5).collect();
        let mut codes = vec![99; 20];
        table.to_signed_codes(&halves, 1.0, &mut codes);
        assert_eq!(codes, (0..20).map(|i| (i as f32 - 9.5).round_ties_even() as i8).collect::<Vec<_>>(), "{level}");
    }
}

#[test]
fn products() {
    for table in supported() {
        let level = table.level.name();
        let mut random = Random(7);
        for (m, k, n) in
            [(1, 2, 16), (1, 64, 144), (2, 34, 48), (3, 6, 64), (7, 10, 80), (8, 64, 112), (17, 130, 32), (33, 2, 208)]
        {
            let (a, b) = (random.vector(m * k), random.vector(k * n));
            let (packed, pairs, a_bits) = (pack(&b, k, n), pack_pairs(&b, k, n, 0), bits(&a));
            for accumulate in [false, true] {
                let start = random.vector(m * n);
                let (mut c, mut d, mut e) = (start.clone(), start.clone(), start.clone());
                // SAFETY: shapes as packed above.
                unsafe {
                    table.gemm_f32(
                        m,
                        k,
                        a.as_ptr(),
                        k,
                        packed.as_ptr(),
                        k * LANES,
                        n / LANES,
                        c.as_mut_ptr(),
                        n,
                        accumulate,
                    );
                    table.gemm_bf16(
                        m,
                        k,
                        a_bits.as_ptr(),
                        k,
                        pairs.as_ptr(),
                        k * LANES,
                        n / LANES,
                        d.as_mut_ptr(),
                        n,
                        accumulate,
                    );
                    table.gemm_f32_bf16(
                        m,
                        k,
                        a.as_ptr(),
                        k,
                        pairs.as_ptr(),
                        k * LANES,
                        n / LANES,
                        e.as_mut_ptr(),
                        n,
                        accumulate,
                    );
                }
                for i in 0..m {
                    for j in 0..n {
                        let begin = if accumulate { f64::from(start[i * n + j]) } else { 0.0 };
                        let exact: f64 = (0..k).map(|l| f64::from(a[i * k + l]) * f64::from(b[l * n + j])).sum();
                        let rounded: f64 = (0..k)
                            .map(|l| bf16::from_f32(a[i * k + l]).to_f64() * bf16::from_f32(b[l * n + j]).to_f64())
                            .sum();
                        let widened: f64 =
                            (0..k).map(|l| f64::from(a[i * k + l]) * bf16::from_f32(b[l * n + j]).to_f64()).sum();
                        close(level, "gemm_f32_bf16", e[i * n + j], begin + widened, 1e-5 * (k as f64));
                        close(level, "gemm_f32", c[i * n + j], begin + exact, 1e-5 * (k as f64));
                        close(level, "gemm_bf16", d[i * n + j], begin + rounded, 1e-5 * (k as f64));
                    }
                }
            }
        }
    }
}

#[test]
fn sums_of_scattered_panels() {
    for table in supported() {
        let level = table.level.name();
        let mut random = Random(17);
        for (m, n, width) in [(1, 1, 1), (1, 7, 4), (2, 3, 2), (3, 5, 3), (7, 4, 5), (8, 13, 4), (21, 6, 1)] {
            // Each entry holds sixteen rows of a matrix with `width` panels of columns.
            let columns = width * LANES;
            let (weights, start) = (random.vector(m * n * LANES), random.vector(m * columns));
            let (mut c, mut d, mut e, weight_bits) = (start.clone(), start.clone(), start.clone(), bits(&weights));
            let matrices: Vec<Vec<f32>> = (0..n).map(|_| random.vector(LANES * columns)).collect();
            let entries: Vec<Vec<f32>> = matrices.iter().map(|matrix| pack(matrix, LANES, columns)).collect();
            let pair_entries: Vec<Vec<u16>> =
                matrices.iter().map(|matrix| pack_pairs(matrix, LANES, columns, 0)).collect();
            let list: Vec<*const f32> = entries.iter().map(Vec::as_ptr).collect();
            let pair_list: Vec<*const u16> = pair_entries.iter().map(Vec::as_ptr).collect();
            let stride = n * LANES;
            // SAFETY: shapes as packed above.
            unsafe {
                table.add_rows_by_panels_f32(m, weights.as_ptr(), stride, &list, width, c.as_mut_ptr(), columns);
                let to = e.as_mut_ptr();
                table.add_rows_by_panels_f32_bf16(m, weights.as_ptr(), stride, &pair_list, width, to, columns);
                let weights = weight_bits.as_ptr();
                table.add_rows_by_panels_bf16(m, weights, stride, &pair_list, width, d.as_mut_ptr(), columns);
            }
            for i in 0..m {
                for j in 0..columns {
                    let product = |l: usize| (weights[i * stride + l], matrices[l / LANES][l % LANES * columns + j]);
                    let exact: f64 = (0..stride).map(product).map(|(x, y)| f64::from(x) * f64::from(y)).sum();
                    let round = |x: f32| bf16::from_f32(x).to_f64();
                    let rounded: f64 = (0..stride).map(product).map(|(x, y)| round(x) * round(y)).sum();
                    let widened: f64 = (0..stride).map(product).map(|(x, y)| f64::from(x) * round(y)).sum();
                    let (begin, at) = (f64::from(start[i * columns + j]), i * columns + j);
                    close(level, "add_rows_by_panels_f32_bf16", e[at], begin + widened, 1e-5 * (stride as f64));
                    close(level, "add_rows_by_panels_f32", c[at], begin + exact, 1e-5 * (stride as f64));
                    close(level, "add_rows_by_panels_bf16", d[at], begin + rounded, 1e-5 * (stride as f64));
                }
            }
        }
    }
}

#[test]
fn single_passes() {
    for table in supported() {
        let level = table.level.name();
        let mut random = Random(11);
        for n in [1, 2, 15, 16, 17, 31, 64, 576, 1000] {
            let (x, y) = (random.vector(n), random.vector(n));
            let wide = |x: &[f32]| x.iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
            let (xd, yd) = (wide(&x), wide(&y));
            close(level, "dot", table.dot(&x, &y), xd.iter().zip(&yd).map(|(a, b)| a * b).sum(), 1e-4);
            close(
                level,
                "distance",
                table.squared_distance(&x, &y),
                xd.iter().zip(&yd).map(|(a, b)| (a - b).powi(2)).sum(),
                1e-3,
            );
            let mut out = vec![0.0; n];
            table.rms_norm(&x, &y, 1e-5, &mut out);
            let factor = (xd.iter().map(|x| x * x).sum::<f64>() / n as f64 + 1e-5).sqrt();
            (0..n).for_each(|i| close(level, "rms_norm", out[i], xd[i] / factor * yd[i], 1e-5));
            let gate: Vec<f32> = x.iter().map(|x| x * 100.0).collect();
            table.silu_mul(&gate, &y, &mut out);
            (0..n).for_each(|i| {
                let g = f64::from(gate[i]);
                close(level, "silu_mul", out[i], g / (1.0 + (-g).exp()) * yd[i], 1e-4);
            });
            let mut sum = x.clone();
            table.add(&mut sum, &y);
            (0..n).for_each(|i| close(level, "add", sum[i], xd[i] + yd[i], 1e-6));
            table.scale(&x, 3.0, &mut out);
            table.add_scaled(&y, -2.0, &mut out);
            (0..n).for_each(|i| close(level, "scale", out[i], xd[i] * 3.0 - 2.0 * yd[i], 1e-5));
            close(level, "largest", table.largest(&x), xd.iter().copied().fold(f64::NEG_INFINITY, f64::max), 0.0);
            close(level, "sum", table.sum(&x), xd.iter().sum(), 1e-4);
            let mut larger = y.clone();
            table.largest_scaled(&x, -1.5, &mut larger);
            (0..n).for_each(|i| close(level, "largest_scaled", larger[i], yd[i].max(xd[i] * -1.5), 1e-6));
            let both = [x.clone(), y.clone()].concat();
            for most in [-2.0, x[n / 2], 2.0] {
                let mut sums = [f32::NAN; 2];
                table.sums_at_most(&x, most, &both, &mut sums);
                for (row, sum) in [&xd, &yd].into_iter().zip(sums) {
                    let want = (0..n).filter(|&i| x[i] <= most).map(|i| row[i]).sum();
                    close(level, "sums_at_most", sum, want, 1e-4);
                }
            }
            let (cos, sin) = (random.vector(n), random.vector(n));
            let mut head = random.vector(2 * n);
            let before = head.clone();
            table.rotate_half(&mut head, &cos, &sin);
            for i in 0..n {
                let (a, b) = (f64::from(before[i]), f64::from(before[i + n]));
                let (c, s) = (f64::from(cos[i]), f64::from(sin[i]));
                close(level, "rotate", head[i], a * c - b * s, 1e-6);
                close(level, "rotate", head[i + n], b * c + a * s, 1e-6);
            }
            let scores: Vec<f32> = x.iter().map(|x| x * 20.0).collect();
            let top = table.largest(&scores);
            let mut weights = scores.clone();
            let sum = table.exp2_shifted(&mut weights, top);
            let want: Vec<f64> = scores.iter().map(|&x| (f64::from(x) - f64::from(top)).exp2()).collect();
            (0..n).for_each(|i| close(level, "exp2", weights[i], want[i], 3e-7));
            close(level, "exp2 sum", sum, want.iter().sum(), 1e-4);
        }
    }
}

#[test]
fn masses_of_tiles() {
    for table in supported() {
        let level = table.level.name();
        let mut random = Random(17);
        for (rows, n, padding) in [(1, 16, 0), (2, 48, 16), (4, 160, 0), (3, 1024, 48)] {
            let stride = n + padding;
            let (cap, share) = (20.0, 0.25);
            let (mut weights, mut weights_bf16) = (vec![f32::NAN; rows * stride], vec![0x7fc0; rows * stride]);
            let mut want = vec![0.0; rows * n];
            let mut inverses = Vec::new();
            for row in 0..rows {
                // Scores below and above what weighs 1, a column that is no tile, and one that weighs too much.
                let mut scores: Vec<f32> = random.vector(n).iter().map(|x| x * 20.0 - 10.0 * row as f32).collect();
                scores[n / 2] = -3.0e38;
                let (shift, most) = (3.0 - row as f32, 80.0);
                if row == 3 {
                    scores[0] = 90.0;
                }
                let want = &mut want[row * n..][..n];
                for (want, &score) in want.iter_mut().zip(&scores) {
                    *want = f64::from(score - shift).min(most).exp2();
                }
                let want_sum: f64 = want.iter().sum();
                let sum = table.weigh_f32(&scores, shift, &mut weights[row * stride..][..n]);
                close(level, "sum", sum, want_sum, 2e-4 * want_sum + 1e-9);
                (0..n).for_each(|i| close(level, "weight", weights[row * stride + i], want[i], 2e-4 * want[i] + 1e-30));
                let sum = table.weigh_bf16(&scores, shift, &mut weights_bf16[row * stride..][..n]);
                close(level, "sum", sum, want_sum, 1e-3 * want_sum + 1e-9);
                for i in 0..n {
                    let weight = bf16::from_bits(weights_bf16[row * stride + i]).to_f32();
                    close(level, "weight", weight, want[i], 5e-3 * want[i] + 1e-30);
                }
                inverses.push(random.unit().abs() / sum);
            }
            // Spreads from none to some that gain the most.
            let spreads: Vec<f32> = random.vector(n).iter().map(|y| (y.abs() * 3.0).powi(6)).collect();
            let before = random.vector(n);
            let (mut masses, mut masses_bf16) = (before.clone(), before.clone());
            let (mut means, mut means_bf16) = (before.clone(), before.clone());
            table.add_tile_masses_f32(&weights, stride, &inverses, &spreads, cap, share, &mut masses, &mut means);
            table.add_tile_masses_bf16(
                &weights_bf16,
                stride,
                &inverses,
                &spreads,
                cap,
                share,
                &mut masses_bf16,
                &mut means_bf16,
            );
            for i in 0..n {
                let gain = f64::from(spreads[i].min(cap)).exp2();
                let sum: f64 = (0..rows).map(|row| want[row * n + i] * f64::from(inverses[row])).sum();
                let mass = f64::from(share) * (gain * sum).min(rows as f64);
                close(level, "mass", masses[i], f64::from(before[i]) + mass, 1e-3 * mass + 1e-6);
                close(level, "mass", masses_bf16[i], f64::from(before[i]) + mass, 1e-2 * mass + 1e-6);
                let mean = f64::from(share) * sum;
                close(level, "mean's mass", means[i], f64::from(before[i]) + mean, 1e-3 * mean + 1e-6);
                close(level, "mean's mass", means_bf16[i], f64::from(before[i]) + mean, 1e-2 * mean + 1e-6);
            }
            let kept: Vec<f32> = (0..n).map(|i| f32::from(u8::from(i % 3 != 0))).collect();
            // The first panel goes to the sums, so that all behind it move.
            // Then fine ones are far apart: four panels without any go another way.
            let fine: Vec<bool> = (0..n / LANES).map(|panel| panel % if panel < 12 { 3 } else { 11 } == 1).collect();
            for row in 0..rows {
                let (row, row_bf16) = (&mut weights[row * stride..][..n], &mut weights_bf16[row * stride..][..n]);
                let want: Vec<f64> = row.iter().zip(&kept).map(|(&x, &kept)| f64::from(x) * f64::from(kept)).collect();
                let (mut coarse, mut coarse_bf16) = (vec![f32::NAN; fine.len()], vec![f32::NAN; fine.len()]);
                let total = table.thin_weights_f32(&kept, &fine, row, &mut coarse);
                let total_bf16 = table.thin_weights_bf16(&kept, &fine, row_bf16, &mut coarse_bf16);
                let want_sum: f64 = want.iter().sum();
                close(level, "kept", total, want_sum, 1e-5 * want_sum + 1e-9);
                close(level, "kept", total_bf16, want_sum, 5e-3 * want_sum + 1e-9);
                let mut moved = row.chunks_exact(LANES).zip(row_bf16.chunks_exact(LANES));
                for (panel, want) in want.chunks_exact(LANES).enumerate() {
                    let sum: f64 = if fine[panel] { 0.0 } else { want.iter().sum() };
                    close(level, "coarse", coarse[panel], sum, 1e-5 * sum + 1e-30);
                    close(level, "coarse", coarse_bf16[panel], sum, 5e-3 * sum + 1e-30);
                    if fine[panel] {
                        let (row, row_bf16) = moved.next().unwrap();
                        for (i, &want) in want.iter().enumerate() {
                            close(level, "kept weight", row[i], want, 1e-6 * want + 1e-30);
                            let weight = bf16::from_bits(row_bf16[i]).to_f32();
                            close(level, "kept weight", weight, want, 5e-3 * want + 1e-30);
                            assert!(want > 0.0 || row[i] == 0.0 && row_bf16[i] == 0, "{level}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn conversions_agree_to_the_bit() {
    let mut values: Vec<f32> =
        vec![0.0, -0.0, 1.0, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN_POSITIVE, 1.003_906_2, 1.011_718_8];
    let mut random = Random(3);
    values.extend((0..10_000).map(|_| {
        f32::from_bits(
            (random.unit().to_bits() & 0x807f_ffff)
                | 0x3f00_0000_u32.wrapping_add_signed((random.unit() * 40.0) as i32 * 0x80_0000) & 0x7f80_0000,
        )
    }));
    for table in supported() {
        let mut out = vec![0_u16; values.len()];
        table.to_bf16(&values, &mut out);
        for (&x, &b) in values.iter().zip(&out) {
            assert_eq!(b, bf16::from_f32(x).to_bits(), "{} {x:e}", table.level);
        }
        let mut back = vec![0.0; values.len()];
        table.from_bf16(&out, &mut back);
        assert!(back.iter().zip(&out).all(|(x, &b)| x.to_bits() >> 16 == u32::from(b)));
        let mut nan = [0_u16; 17];
        table.to_bf16(&[f32::NAN; 17], &mut nan);
        assert!(nan.iter().all(|&b| bf16::from_bits(b).is_nan()), "{} keeps NaN", table.level);
    }
}

/// A soft search written plainly: keys `[n][d]`, values `[n][dv]`, one query.
fn soft_search(query: &[f32], keys: &[f32], values: &[f32], d: usize, dv: usize, from: usize, to: usize) -> Vec<f64> {
    let score = |n: usize| (0..d).map(|i| f64::from(query[i]) * f64::from(keys[n * d + i])).sum::<f64>();
    let top = (from..to).map(score).fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = (from..to).map(|n| (score(n) - top).exp2()).collect();
    let sum: f64 = weights.iter().sum();
    (0..dv).map(|j| (from..to).map(|n| weights[n - from] * f64::from(values[n * dv + j])).sum::<f64>() / sum).collect()
}

macro_rules! block {
    ($rows:ident, $d:ident, $dv:ident, $queries:expr, $from:ident, $to:ident, $output:ident, $largest:ident, $sum:ident, $scores:ident, $weights:ident) => {
        Attend {
            rows: $rows,
            dimensions: $d,
            value_panels: $dv / LANES,
            queries: $queries,
            from: &$from,
            to: &$to,
            output: &mut $output,
            largest: &mut $largest,
            sum: &mut $sum,
            scores: &mut $scores,
            weights: &mut $weights,
        }
    };
}

#[test]
fn attention_over_tiles() {
    for table in supported() {
        let level = table.level.name();
        let mut random = Random(23);
        for (rows, d, dv, tiles, scale) in [
            (1, 64, 64, 1, 1.0),
            (3, 64, 64, 13, 4.0),
            (9, 32, 16, 24, 1.0),
            (13, 80, 48, 5, 30.0),
            (8, 128, 128, 26, 2.0),
            (2, 2, 80, 3, 500.0),
        ] {
            let n = tiles * LANES;
            let queries: Vec<f32> = random.vector(rows * d).iter().map(|x| x * scale).collect();
            let (keys, values) = (random.vector(n * d), random.vector(n * dv));
            let round = |x: &[f32]| x.iter().map(|&x| bf16::from_f32(x).to_f32()).collect::<Vec<_>>();
            // Row r sees from r to n - 2 r (at least one key).
            let from: Vec<u32> = (0..rows).map(|r| (r as u32).min(n as u32 / 2)).collect();
            let to: Vec<u32> = (0..rows).map(|r| ((n - 2 * r.min(n / 8)) as u32).max(from[r] + 1)).collect();
            let transposed = |t: usize| -> Vec<f32> {
                (0..d * LANES).map(|i| keys[(t * LANES + i % LANES) * d + i / LANES]).collect()
            };
            let key_panels: Vec<Vec<f32>> = (0..tiles).map(|t| pack(&transposed(t), d, LANES)).collect();
            let key_pairs: Vec<Vec<u16>> = (0..tiles).map(|t| pack_pairs(&transposed(t), d, LANES, 0)).collect();
            let value_panels: Vec<Vec<f32>> =
                (0..tiles).map(|t| pack(&values[t * LANES * dv..(t + 1) * LANES * dv], LANES, dv)).collect();
            let value_pairs: Vec<Vec<u16>> =
                (0..tiles).map(|t| pack_pairs(&values[t * LANES * dv..(t + 1) * LANES * dv], LANES, dv, 0)).collect();
            let mut scores = vec![f32::NAN; rows * STEP_TILES * LANES];
            let state = || (vec![0.0; rows * dv], vec![Attend::<f32>::NO_SCORE; rows], vec![0.0; rows]);

            let (mut output, mut largest, mut sum) = state();
            let mut weights = vec![f32::NAN; rows * STEP_TILES * LANES];
            let list: Vec<Tile<f32>> = (0..tiles)
                .map(|t| Tile {
                    keys: key_panels[t].as_ptr(),
                    values: value_panels[t].as_ptr(),
                    start: (t * LANES) as u32,
                    masked: true,
                })
                .collect();
            let mut block = block!(rows, d, dv, &queries, from, to, output, largest, sum, scores, weights);
            // SAFETY: tiles as packed above. Two calls: the state must carry over.
            unsafe {
                table.attend_f32(&mut block, &list[..tiles / 3]);
                table.attend_f32(&mut block, &list[tiles / 3..]);
            }
            for r in 0..rows {
                let want =
                    soft_search(&queries[r * d..(r + 1) * d], &keys, &values, d, dv, from[r] as usize, to[r] as usize);
                (0..dv).for_each(|j| close(level, "attend_f32", output[r * dv + j] / sum[r], want[j], 2e-4));
            }

            let (mut output, mut largest, mut sum) = state();
            let mut weights = vec![0x7fc0_u16; rows * STEP_TILES * LANES];
            let list: Vec<Tile<u16>> = (0..tiles)
                .map(|t| Tile {
                    keys: key_pairs[t].as_ptr(),
                    values: value_pairs[t].as_ptr(),
                    start: (t * LANES) as u32,
                    masked: true,
                })
                .collect();
            let query_bits = bits(&queries);
            let mut block = block!(rows, d, dv, &query_bits, from, to, output, largest, sum, scores, weights);
            // SAFETY: as above.
            unsafe { table.attend_bf16(&mut block, &list) };
            for r in 0..rows {
                let want = soft_search(
                    &round(&queries[r * d..(r + 1) * d]),
                    &round(&keys),
                    &round(&values),
                    d,
                    dv,
                    from[r] as usize,
                    to[r] as usize,
                );
                (0..dv).for_each(|j| close(level, "attend_bf16", output[r * dv + j] / sum[r], want[j], 1e-2));
            }

            // The same tiles with queries and weights in f32.
            let (mut output, mut largest, mut sum) = state();
            let mut weights = vec![f32::NAN; rows * STEP_TILES * LANES];
            let mut block = block!(rows, d, dv, &queries, from, to, output, largest, sum, scores, weights);
            // SAFETY: as above.
            unsafe {
                table.attend_f32_bf16(&mut block, &list[..tiles / 3]);
                table.attend_f32_bf16(&mut block, &list[tiles / 3..]);
            }
            for r in 0..rows {
                let query = &queries[r * d..(r + 1) * d];
                let (from, to) = (from[r] as usize, to[r] as usize);
                let want = soft_search(query, &round(&keys), &round(&values), d, dv, from, to);
                (0..dv).for_each(|j| close(level, "attend_f32_bf16", output[r * dv + j] / sum[r], want[j], 4e-4));
            }
        }
    }
}

#[test]
fn byte_products_of_scattered_rows() {
    let mut random = Random(11);
    for length in [64, 128, 384] {
        let mut query: Vec<i8> = (0..length).map(|_| (random.unit() * 128.0) as i8).collect();
        let mut bytes: Vec<u8> = (0..length * 9).map(|_| (random.unit().abs() * 256.0) as u8).collect();
        // Extremes, where a product of pairs in sixteen bits would saturate.
        query[..32].fill(-128);
        query[32..64].fill(127);
        bytes[..length].fill(255);
        bytes[length..2 * length].fill(0);
        for count in 0..=9 {
            let rows: Vec<*const u8> = (0..count).map(|r| bytes[(r * 5 % 9) * length..].as_ptr()).collect();
            for table in supported() {
                let mut out = vec![7; count + 1];
                // SAFETY: each row starts `length` bytes before the end or earlier.
                unsafe { table.byte_dots(&query, &rows, &mut out) };
                for r in 0..count {
                    let row = &bytes[(r * 5 % 9) * length..][..length];
                    let want: i32 = query.iter().zip(row).map(|(&q, &x)| i32::from(q) * i32::from(x)).sum();
                    assert_eq!(out[r], want, "{} length {length} row {r} of {count}", table.level.name());
                }
                assert_eq!(out[count], 7);
            }
        }
    }
}
