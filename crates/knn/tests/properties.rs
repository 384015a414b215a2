//! Random sequences of operations against brute force in f64: every metric, storage and algorithm, every
//! SIMD level of this machine, one to four threads.

use std::collections::HashMap;

use iceformer_knn::{Algorithm, Error, Index, IndexOptions, Metric, SearchOptions, Storage};
use iceformer_threads::ThreadPool;
use proptest::prelude::*;

#[derive(Debug, Clone)]
enum Step {
    /// Adds vectors with default ids, or with ids that are `scattered`.
    Add {
        count: usize,
        scattered: bool,
        grid: bool,
    },
    /// Adds a batch in which one thing is wrong.
    AddWrong(Wrong),
    Search {
        queries: usize,
        k: usize,
        exact: bool,
        grid: bool,
    },
}

#[derive(Debug, Clone, Copy)]
enum Wrong {
    Length,
    NotFinite,
    TakenId,
    RepeatedId,
    IdCount,
    Values,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let wrong = prop_oneof![
        Just(Wrong::Length),
        Just(Wrong::NotFinite),
        Just(Wrong::TakenId),
        Just(Wrong::RepeatedId),
        Just(Wrong::IdCount),
        Just(Wrong::Values),
    ];
    let step = prop_oneof![
        3 => (prop_oneof![1..5_usize, 20..80_usize, 400..700_usize], any::<bool>(), any::<bool>())
            .prop_map(|(count, scattered, grid)| Step::Add { count, scattered, grid }),
        1 => wrong.prop_map(Step::AddWrong),
        2 => (prop_oneof![1..3_usize, 60..70_usize], prop_oneof![1..12_usize, 100..200_usize], any::<bool>(), any::<bool>())
            .prop_map(|(queries, k, exact, grid)| Step::Search { queries, k, exact, grid }),
    ];
    prop::collection::vec(step, 1..9)
}

/// The same operations done the plain way.
struct Model {
    options: IndexOptions,
    ids: Vec<u64>,
    stored: Vec<Vec<f32>>,
    values: Vec<Vec<f32>>,
    next: u64,
}

impl Model {
    fn as_compared(&self, vector: &[f32]) -> Vec<f32> {
        match self.options.metric {
            Metric::Cosine => {
                let length = vector.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt();
                vector.iter().map(|&x| (f64::from(x) / length) as f32).collect()
            }
            _ => vector.to_vec(),
        }
    }

    fn as_stored(&self, vector: &[f32]) -> Vec<f32> {
        let vector = self.as_compared(vector);
        match self.options.storage {
            Storage::F32 => vector,
            Storage::Bf16 => vector.into_iter().map(|x| half::bf16::from_f32(x).to_f32()).collect(),
        }
    }

    fn score(&self, query: &[f32], vector: &[f32]) -> f64 {
        let pairs = query.iter().zip(vector).map(|(&q, &x)| (f64::from(q), f64::from(x)));
        match self.options.metric {
            Metric::L2 => pairs.map(|(q, x)| (q - x) * (q - x)).sum(),
            _ => pairs.map(|(q, x)| q * x).sum(),
        }
    }

    fn nearness(&self, score: f64) -> f64 {
        if self.options.metric == Metric::L2 { -score } else { score }
    }
}

/// Random numbers for the vectors (xorshift), so that a failing case shrinks by its steps alone.
struct Numbers {
    state: u64,
    /// Factor of all numbers.
    size: f32,
}

impl Numbers {
    fn next(&mut self) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state
    }

    /// Numbers between −1 and 1, or small whole numbers, which make ties and exact sums. Never all zero.
    fn vectors(&mut self, count: usize, dimensions: usize, grid: bool) -> Vec<f32> {
        let mut vectors: Vec<f32> = (0..count * dimensions)
            .map(|_| {
                let bits = self.next() >> 40;
                self.size * if grid { (bits % 5) as f32 - 2.0 } else { bits as f32 / (1 << 23) as f32 - 1.0 }
            })
            .collect();
        for vector in vectors.chunks_exact_mut(dimensions) {
            if vector.iter().all(|&x| x == 0.0) {
                vector[0] = self.size;
            }
        }
        vectors
    }
}

fn check_search(model: &Model, index: &Index, queries: &[f32], k: usize, exact: bool) {
    let dimensions = model.options.dimensions;
    let effort = if exact { None } else { Some(1.0) };
    let found = index.search(queries, SearchOptions { exact, effort, ..SearchOptions::nearest(k) }).unwrap();
    let place: HashMap<u64, usize> = model.ids.iter().enumerate().map(|(i, &id)| (id, i)).collect();
    let expected_count = k.min(model.ids.len());
    for (row, query) in queries.chunks_exact(dimensions).enumerate() {
        let query = model.as_compared(query);
        assert_eq!(found.counts[row] as usize, expected_count);
        let ids = &found.ids[row * k..(row + 1) * k];
        let scores = &found.scores[row * k..(row + 1) * k];
        assert!(ids[expected_count..].iter().all(|&id| id == u64::MAX));
        assert!(scores[expected_count..].iter().all(|score| score.is_nan()));
        let mut taken = vec![false; model.ids.len()];
        let mut last: Option<(f64, usize)> = None;
        let mut tolerance = 0.0_f64;
        for (&id, &score) in ids.iter().zip(scores).take(expected_count) {
            let number = place[&id];
            assert!(!std::mem::replace(&mut taken[number], true), "id {id} twice");
            let expected = model.score(&query, &model.stored[number]);
            let magnitude: f64 = query.iter().zip(&model.stored[number]).map(|(&q, &x)| f64::from(q * x).abs()).sum();
            assert!(
                (f64::from(score) - expected).abs() <= 1e-7 * (expected.abs() + 1e-7 * magnitude),
                "{score} {expected}"
            );
            tolerance = tolerance.max(2e-7 * expected.abs());
            let nearness = model.nearness(f64::from(score));
            if let Some((before, number_before)) = last {
                let order = before.total_cmp(&nearness).reverse().then(number_before.cmp(&number));
                assert!(order.is_lt(), "nearest first, equal ones by insertion");
            }
            last = Some((nearness, number));
        }
        if let Some((worst, _)) = last {
            for (number, _) in taken.iter().enumerate().filter(|(_, taken)| !**taken) {
                let missed = model.nearness(model.score(&query, &model.stored[number]));
                assert!(missed <= worst + tolerance, "missed {missed}, reported {worst}");
            }
        }
    }
}

fn run(
    options: IndexOptions,
    steps: &[Step],
    (seed, size): (u64, f32),
    kernels: &'static iceformer_simd::Kernels,
    threads: usize,
) {
    let dimensions = options.dimensions;
    let mut numbers = Numbers { state: seed | 1, size };
    let mut model = Model { options, ids: Vec::new(), stored: Vec::new(), values: Vec::new(), next: 0 };
    let mut index = Index::with_kernels(options, ThreadPool::new(threads), kernels).unwrap();
    for step in steps {
        match *step {
            Step::Add { count, scattered, grid } => {
                let vectors = numbers.vectors(count, dimensions, grid);
                let values = numbers.vectors(count, options.value_dimensions.max(1), false);
                let values = (options.value_dimensions > 0).then_some(&values[..]);
                let ids: Vec<u64> = (0..count as u64)
                    .map(|i| model.next + if scattered { (count as u64 - i) * 3 } else { i })
                    .collect();
                let given = index.add_batch(&vectors, scattered.then_some(&ids[..]), values).unwrap();
                assert_eq!(given, ids);
                model.next = ids.iter().max().unwrap() + 1;
                for (i, vector) in vectors.chunks_exact(dimensions).enumerate() {
                    model.ids.push(ids[i]);
                    model.stored.push(model.as_stored(vector));
                    model.values.push(values.map_or(Vec::new(), |values| {
                        values[i * options.value_dimensions..(i + 1) * options.value_dimensions].to_vec()
                    }));
                }
            }
            Step::AddWrong(wrong) => {
                let vectors = numbers.vectors(3, dimensions, false);
                let good_values = vec![0.5; 3 * options.value_dimensions];
                let values = (options.value_dimensions > 0).then_some(&good_values[..]);
                let ids = [model.next, model.next + 1, model.next + 2];
                let error = match wrong {
                    Wrong::Length => {
                        index.add_batch(&vectors[1..], Some(&ids), values).err().filter(|_| dimensions > 1)
                    }
                    Wrong::NotFinite => {
                        let mut vectors = vectors.clone();
                        vectors[3 * dimensions - 1] = f32::NAN;
                        let error = index.add_batch(&vectors, None, values).unwrap_err();
                        assert!(
                            matches!(error, Error::NotFinite { row: 2, position, .. } if position == dimensions - 1)
                        );
                        Some(error)
                    }
                    Wrong::TakenId if model.ids.is_empty() => None,
                    Wrong::TakenId => {
                        let taken = model.ids[model.ids.len() / 2];
                        let error = index.add_batch(&vectors, Some(&[ids[0], ids[1], taken]), values).unwrap_err();
                        assert_eq!(error, Error::DuplicateId { id: taken });
                        Some(error)
                    }
                    Wrong::RepeatedId => {
                        let error = index.add_batch(&vectors, Some(&[ids[0], ids[1], ids[0]]), values).unwrap_err();
                        assert_eq!(error, Error::DuplicateId { id: ids[0] });
                        Some(error)
                    }
                    Wrong::IdCount => index.add_batch(&vectors, Some(&ids[1..]), values).err(),
                    Wrong::Values => {
                        let wrong_values = vec![0.5; 3 * options.value_dimensions + 1];
                        index.add_batch(&vectors, None, Some(&wrong_values)).err()
                    }
                };
                // One dimension: any length is a whole number of vectors, so the ids are too many.
                assert!(error.is_some() || model.ids.is_empty() || matches!(wrong, Wrong::Length));
            }
            Step::Search { queries, k, exact, grid } => {
                let queries = numbers.vectors(queries, dimensions, grid);
                check_search(&model, &index, &queries, k, exact);
            }
        }
        assert_eq!(index.len(), model.ids.len());
        for number in (0..model.ids.len()).step_by(37) {
            assert!(index.has(model.ids[number]));
            assert_eq!(index.get(model.ids[number]).unwrap(), model.stored[number]);
            if options.value_dimensions > 0 {
                assert_eq!(index.value(model.ids[number]).unwrap(), model.values[number]);
            }
        }
        assert!(!index.has(model.next));
        assert_eq!(index.get(model.next), Err(Error::UnknownId { id: model.next }));
    }
}

fn options() -> impl Strategy<Value = IndexOptions> {
    (
        1..40_usize,
        prop_oneof![Just(Metric::InnerProduct), Just(Metric::Cosine), Just(Metric::L2)],
        prop_oneof![Just(Storage::F32), Just(Storage::Bf16)],
        prop_oneof![Just(Algorithm::Auto), Just(Algorithm::Exact), Just(Algorithm::Cluster)],
        any::<u64>(),
        0..4_usize,
    )
        .prop_map(|(dimensions, metric, storage, algorithm, seed, value_dimensions)| IndexOptions {
            dimensions,
            metric,
            storage,
            algorithm,
            seed,
            value_dimensions,
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn agrees_with_brute_force(
        options in options(),
        steps in steps(),
        seed: u64,
        size in prop_oneof![Just(1.0_f32), Just(1e-12), Just(1e15)],
        threads in prop_oneof![Just(1), Just(2), Just(4)],
    ) {
        for kernels in iceformer_simd::supported() {
            run(options, &steps, (seed, size), kernels, threads);
        }
    }
}

/// The same additions and searches give the same bits whatever the machine and however they are cut.
#[test]
fn results_do_not_depend_on_the_machine() {
    for metric in [Metric::InnerProduct, Metric::Cosine, Metric::L2] {
        for storage in [Storage::F32, Storage::Bf16] {
            for algorithm in [Algorithm::Exact, Algorithm::Cluster] {
                let options = IndexOptions { metric, storage, algorithm, seed: 5, ..IndexOptions::new(24) };
                let mut numbers = Numbers { state: 77, size: 1.0 };
                let vectors = numbers.vectors(5000, 24, false);
                let queries = numbers.vectors(150, 24, false);
                let mut first = None;
                for kernels in iceformer_simd::supported() {
                    for threads in [1, 2, 4] {
                        let mut index = Index::with_kernels(options, ThreadPool::new(threads), kernels).unwrap();
                        index.add_batch(&vectors[..24 * 4321], None, None).unwrap();
                        index.add_batch(&vectors[24 * 4321..], None, None).unwrap();
                        let search = SearchOptions { effort: Some(0.1), ..SearchOptions::nearest(9) };
                        let together = index.search(&queries, search).unwrap();
                        for (row, query) in queries.chunks_exact(24).enumerate().step_by(29) {
                            let alone = index.search(query, search).unwrap();
                            assert_eq!(alone.ids, together.ids[row * 9..(row + 1) * 9]);
                            assert_eq!(alone.scores, together.scores[row * 9..(row + 1) * 9]);
                        }
                        assert_eq!(
                            *first.get_or_insert_with(|| together.clone()),
                            together,
                            "{} x{threads}",
                            kernels.level
                        );
                    }
                }
            }
        }
    }
}

/// Equal vectors cannot be told apart by score: the first ones added win, at any length of the list.
#[test]
fn equal_vectors_come_in_the_order_of_insertion() {
    for storage in [Storage::F32, Storage::Bf16] {
        for metric in [Metric::InnerProduct, Metric::L2] {
            let options = IndexOptions { metric, storage, algorithm: Algorithm::Cluster, ..IndexOptions::new(7) };
            let mut index = Index::new(options, ThreadPool::new(2)).unwrap();
            let vectors = [0.1_f32, -0.2, 0.3, 0.4, -0.5, 0.6, 0.7].repeat(3000);
            index.add_batch(&vectors, None, None).unwrap();
            let found =
                index.search(&vectors[..7], SearchOptions { exact: true, ..SearchOptions::nearest(20) }).unwrap();
            assert_eq!(found.ids, (0..20).collect::<Vec<_>>());
        }
    }
}
