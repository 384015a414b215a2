//! Soft search of one index against the plain formula in f64.

use iceformer_knn::{Algorithm, AverageOptions, Error, Index, IndexOptions, Metric, Storage};
use iceformer_threads::ThreadPool;

fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    (0..count)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}

/// Average, log-sum-exp by the definition, over the vectors as stored.
fn plain(index: &Index, query: &[f32], scale: f64) -> (Vec<f64>, f64) {
    let IndexOptions { metric, value_dimensions, .. } = *index.options();
    let length = query.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt();
    let exponents: Vec<f64> = (0..index.len() as u64)
        .map(|id| {
            let vector = index.get(id).unwrap();
            let pairs = query.iter().zip(&vector).map(|(&q, &x)| (f64::from(q), f64::from(x)));
            scale
                * match metric {
                    Metric::L2 => -pairs.map(|(q, x)| (q - x) * (q - x)).sum::<f64>(),
                    Metric::InnerProduct => pairs.map(|(q, x)| q * x).sum::<f64>(),
                    Metric::Cosine => pairs.map(|(q, x)| q * x).sum::<f64>() / length,
                }
        })
        .collect();
    let largest = exponents.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = exponents.iter().map(|exponent| (exponent - largest).exp()).sum();
    let mut average = vec![0.0; value_dimensions];
    for (id, exponent) in exponents.iter().enumerate() {
        let weight = (exponent - largest).exp() / sum;
        for (to, x) in average.iter_mut().zip(index.value(id as u64).unwrap()) {
            *to += weight * f64::from(x);
        }
    }
    (average, largest + sum.ln())
}

fn filled(options: IndexOptions, count: usize, threads: usize, kernels: &'static iceformer_simd::Kernels) -> Index {
    let mut index = Index::with_kernels(options, ThreadPool::new(threads), kernels).unwrap();
    let vectors = numbers(count * options.dimensions, 3);
    let values = numbers(count * options.value_dimensions, 4);
    index.add_batch(&vectors, None, Some(&values)).unwrap();
    index
}

fn options(metric: Metric, storage: Storage) -> IndexOptions {
    IndexOptions { metric, storage, algorithm: Algorithm::Cluster, value_dimensions: 19, ..IndexOptions::new(21) }
}

const EXACT: AverageOptions<'static> = AverageOptions { scale: 1.5, mass_target: 1.0, cancel: None };

#[test]
fn agrees_with_the_formula() {
    let queries = numbers(70 * 21, 5);
    for metric in [Metric::InnerProduct, Metric::Cosine, Metric::L2] {
        for storage in [Storage::F32, Storage::Bf16] {
            // Unclustered, clustered, and clustered with a tail.
            for count in [3, 700, 1801] {
                for kernels in iceformer_simd::supported() {
                    let index = filled(options(metric, storage), count, 2, kernels);
                    let found = index.soft_search(&queries, EXACT).unwrap();
                    for row in [0, 1, 69] {
                        let (average, log) = plain(&index, &queries[row * 21..(row + 1) * 21], 1.5);
                        assert!((f64::from(found.log_sum_exp[row]) - log).abs() < 2e-4, "{metric:?} {storage:?}");
                        for (found, expected) in found.values[row * 19..(row + 1) * 19].iter().zip(average) {
                            assert!((f64::from(*found) - expected).abs() < 2e-4, "{metric:?} {storage:?} {count}");
                        }
                        assert!((found.retained_mass[row] - 1.0).abs() < f32::EPSILON);
                    }
                }
            }
        }
    }
}

#[test]
fn threads_do_not_change_the_sums() {
    let queries = numbers(70 * 21, 6);
    for mass_target in [1.0, 0.8] {
        let results: Vec<_> = [1, 2, 4]
            .into_iter()
            .map(|threads| {
                let index =
                    filled(options(Metric::InnerProduct, Storage::F32), 3000, threads, iceformer_simd::kernels());
                index.soft_search(&queries, AverageOptions { mass_target, ..EXACT }).unwrap()
            })
            .collect();
        assert!(results.iter().all(|result| *result == results[0]));
    }
}

#[test]
fn l2_reads_everything() {
    let index = filled(options(Metric::L2, Storage::F32), 2000, 2, iceformer_simd::kernels());
    let queries = numbers(42, 2);
    let exact = index.soft_search(&queries, EXACT).unwrap();
    assert_eq!(index.soft_search(&queries, AverageOptions { mass_target: 0.5, ..EXACT }).unwrap(), exact);
}

/// Sharp weights on clustered keys: few clusters hold the mass, and the rest stands in by means.
#[test]
fn a_mass_target_keeps_most_of_the_mass() {
    for metric in [Metric::InnerProduct, Metric::Cosine] {
        let options = IndexOptions { value_dimensions: 4, ..options(metric, Storage::F32) };
        let centres = numbers(40 * 21, 7);
        let vectors: Vec<f32> = numbers(4000 * 21, 8)
            .iter()
            .enumerate()
            .map(|(i, x)| centres[(i / 21 % 40) * 21 + i % 21] * 2.0 + 0.2 * x)
            .collect();
        let mut index = Index::new(options, ThreadPool::new(2)).unwrap();
        index.add_batch(&vectors, None, Some(&numbers(4000 * 4, 9))).unwrap();
        let queries = &vectors[..50 * 21];
        let exact = index.soft_search(queries, EXACT).unwrap();
        let mut errors = Vec::new();
        for mass_target in [0.5, 0.99] {
            let found = index.soft_search(queries, AverageOptions { mass_target, ..EXACT }).unwrap();
            let mean = found.retained_mass.iter().sum::<f32>() / 50.0;
            assert!(mean > mass_target - 0.1 && mean < 1.0, "{metric:?} target {mass_target}: {mean}");
            // What was computed exactly, as a share of all there is.
            let kept = |row: usize| found.retained_mass[row] * (found.log_sum_exp[row] - exact.log_sum_exp[row]).exp();
            let kept = (0..50).map(kept).sum::<f32>() / 50.0;
            assert!(kept > mass_target - 0.1, "{metric:?} target {mass_target}: kept {kept}");
            let error = found.values.iter().zip(&exact.values).map(|(a, b)| (a - b).abs()).sum::<f32>() / 200.0;
            errors.push(error);
        }
        assert!(errors[1] < errors[0] && errors[1] < 0.02, "{metric:?} {errors:?}");
    }
}

#[test]
fn bad_input_is_an_error() {
    let index = filled(options(Metric::InnerProduct, Storage::F32), 10, 1, iceformer_simd::kernels());
    let search = |queries: &[f32], options| index.soft_search(queries, options).unwrap_err().code();
    let query = numbers(21, 1);
    assert_eq!(search(&query, AverageOptions { scale: 0.0, ..EXACT }), "ERR_SOFT_SEARCH");
    assert_eq!(search(&query, AverageOptions { scale: f32::NAN, ..EXACT }), "ERR_SOFT_SEARCH");
    assert_eq!(search(&query, AverageOptions { scale: 1e35, ..EXACT }), "ERR_SOFT_SEARCH");
    assert_eq!(search(&query, AverageOptions { mass_target: 1.1, ..EXACT }), "ERR_SOFT_SEARCH");
    assert_eq!(search(&query[1..], EXACT), "ERR_DIMENSION_MISMATCH");
    assert_eq!(search(&[f32::INFINITY; 21], EXACT), "ERR_NOT_FINITE");
    let mut without = Index::new(IndexOptions::new(21), ThreadPool::new(1)).unwrap();
    without.add_batch(&query, None, None).unwrap();
    assert_eq!(without.soft_search(&query, EXACT), Err(Error::NoValues));
}

#[test]
fn an_empty_index_has_no_mass() {
    let index = Index::new(options(Metric::L2, Storage::F32), ThreadPool::new(1)).unwrap();
    let found = index.soft_search(&numbers(42, 1), EXACT).unwrap();
    assert_eq!(found.values, vec![0.0; 38]);
    assert_eq!(found.log_sum_exp, [f32::NEG_INFINITY; 2]);
}

/// Distances between vectors that are all far from zero keep their digits.
#[test]
fn l2_does_not_mind_where_zero_is() {
    let options = IndexOptions { value_dimensions: 1, metric: Metric::L2, ..IndexOptions::new(2) };
    let mut index = Index::new(options, ThreadPool::new(1)).unwrap();
    let vectors: Vec<f32> = numbers(400, 8).iter().map(|x| 1000.0 + x / 8.0).collect();
    index.add_batch(&vectors, None, Some(&numbers(200, 9))).unwrap();
    let query = [1000.02, 999.97];
    let found = index.soft_search(&query, AverageOptions { scale: 50.0, ..EXACT }).unwrap();
    let (average, log) = plain(&index, &query, 50.0);
    assert!((f64::from(found.values[0]) - average[0]).abs() < 1e-4, "{found:?} {average:?}");
    assert!((f64::from(found.log_sum_exp[0]) - log).abs() < 1e-4);
}
