//! Soft search of groups against a plain double-precision softmax.

mod random;

use iceformer_knn::{GroupShape, IndexGroup, LaneDetail, SoftQuery, SoftReport, Storage, Strategy};
use iceformer_simd::{Kernels, supported};
use iceformer_threads::ThreadPool;
use random::Random;

struct Case {
    lanes: usize,
    heads: usize,
    d: usize,
    dv: usize,
    keys: Vec<f32>,
    values: Vec<f32>,
}

impl Case {
    fn new(random: &mut Random, lanes: usize, group: usize, d: usize, dv: usize, n: usize) -> Self {
        let keys = random.vector(n * lanes * d);
        Self { lanes, heads: lanes * group, d, dv, keys, values: random.vector(n * lanes * dv) }
    }

    fn group(&self, kernels: &'static Kernels, storage: Storage, threads: usize) -> IndexGroup {
        let shape = GroupShape { lanes: self.lanes, dimensions: self.d, value_dimensions: self.dv, storage };
        IndexGroup::new(shape, kernels, ThreadPool::new(threads)).unwrap()
    }

    fn append(&self, index: &mut IndexGroup, from: usize, to: usize) {
        let (row, value_row) = (self.lanes * self.d, self.lanes * self.dv);
        index.append(&self.keys[from * row..to * row], &self.values[from * value_row..to * value_row]).unwrap();
    }

    /// Attended value and log-sum-exp of one head of one query.
    fn plain(&self, query: &[f32], head: usize, from: usize, to: usize, scale: f64) -> (Vec<f64>, f64) {
        self.plain_of(query, head, &(from..to).collect::<Vec<_>>(), scale)
    }

    /// The same over these keys only.
    fn plain_of(&self, query: &[f32], head: usize, seen: &[usize], scale: f64) -> (Vec<f64>, f64) {
        let lane = head / (self.heads / self.lanes);
        let score = |n: usize| {
            let key = &self.keys[(n * self.lanes + lane) * self.d..][..self.d];
            key.iter().zip(query).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>() * scale
        };
        let scores: Vec<f64> = seen.iter().copied().map(score).collect();
        let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = scores.iter().map(|s| (s - top).exp()).sum();
        let mut output = vec![0.0; self.dv];
        for (&n, score) in seen.iter().zip(&scores) {
            for (o, v) in output.iter_mut().zip(&self.values[(n * self.lanes + lane) * self.dv..]) {
                *o += (score - top).exp() / sum * f64::from(*v);
            }
        }
        (output, top + sum.ln())
    }

    fn search(&self, index: &IndexGroup, queries: &[f32], query: &SoftQuery) -> (Vec<f32>, Vec<f32>, SoftReport) {
        let rows = query.queries * self.heads;
        let (mut output, mut lse) = (vec![f32::NAN; rows * self.dv], vec![f32::NAN; rows]);
        let report = index.soft_search(queries, &mut output, Some(&mut lse), query).unwrap();
        assert!((report.rows - rows as f64).abs() < 1e-9);
        (output, lse, report)
    }

    fn check(
        &self,
        queries: &[f32],
        query: &SoftQuery,
        found: &(Vec<f32>, Vec<f32>, SoftReport),
        tolerance: f64,
        what: &str,
    ) {
        for i in 0..query.queries {
            let to = query.visible + if query.causal { i } else { 0 };
            let from = query.window.map_or(0, |w| to.saturating_sub(w));
            for head in 0..self.heads {
                let row = i * self.heads + head;
                let (output, lse) =
                    self.plain(&queries[row * self.d..][..self.d], head, from, to, f64::from(query.scale));
                for (j, want) in output.iter().enumerate() {
                    let got = f64::from(found.0[row * self.dv + j]);
                    assert!(
                        (got - want).abs() < tolerance,
                        "{what}: query {i} head {head} [{j}]: {got} instead of {want}"
                    );
                }
                assert!(
                    (f64::from(found.1[row]) - lse).abs() < tolerance * 4.0,
                    "{what}: lse {} instead of {lse}",
                    found.1[row]
                );
            }
        }
    }
}

fn exact(queries: usize, visible: usize) -> SoftQuery {
    SoftQuery { queries, scale: 0.7, visible, causal: true, window: None, strategy: Strategy::Exact }
}

#[test]
fn exact_search_at_every_level_and_shape() {
    for kernels in supported() {
        for (storage, tolerance) in [(Storage::F32, 1e-4), (Storage::Bf16, 3e-2), (Storage::I8, 3e-2)] {
            let mut random = Random(5);
            for (lanes, group, d, dv, n, queries) in [
                (1, 1, 64, 64, 100, 100),
                (3, 3, 64, 64, 300, 70),
                (2, 4, 32, 16, 1500, 1),
                (1, 8, 80, 48, 40, 3),
                (2, 1, 5, 7, 33, 33),
                (3, 3, 64, 64, 2100, 1),
            ] {
                let case = Case::new(&mut random, lanes, group, d, dv, n);
                for threads in [1, 2] {
                    let mut index = case.group(kernels, storage, threads);
                    case.append(&mut index, 0, n / 3);
                    case.append(&mut index, n / 3, n);
                    let vectors = random.vector(queries * case.heads * d);
                    for window in [None, Some(1), Some(20)] {
                        for causal in [true, false] {
                            let query = SoftQuery {
                                window,
                                causal,
                                ..exact(queries, if causal { n + 1 - queries } else { n })
                            };
                            let found = case.search(&index, &vectors, &query);
                            case.check(&vectors, &query, &found, tolerance, kernels.level.name());
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn mass_target_one_is_exact_after_settling() {
    for kernels in supported() {
        let mut random = Random(9);
        let case = Case::new(&mut random, 2, 3, 64, 64, 900);
        let mut index = case.group(kernels, Storage::F32, 2);
        case.append(&mut index, 0, 600);
        index.settle(16, 320).unwrap();
        index.settle(16, 512).unwrap();
        case.append(&mut index, 600, 900);
        let vectors = random.vector(100 * case.heads * 64);
        for strategy in [Strategy::Exact, Strategy::selected(1.0)] {
            let query = SoftQuery { strategy, ..exact(100, 801) };
            let found = case.search(&index, &vectors, &query);
            case.check(&vectors, &query, &found, 1e-4, kernels.level.name());
            assert!((found.2.retained_mass / found.2.rows - 1.0).abs() < 1e-6);
            assert!((found.2.tiles_read - found.2.tiles_visible).abs() < 1e-6);
        }
    }
}

#[test]
fn selection_keeps_the_mass_it_promises() {
    let mut random = Random(31);
    // Keys in twenty directions, queries along them: mass is concentrated and scattered over positions.
    let (d, n) = (64, 4096);
    let centres: Vec<Vec<f32>> = (0..20).map(|_| random.vector(d)).collect();
    let keys: Vec<f32> = (0..n).flat_map(|i| centres[(i * 7 + i / 13) % 20].clone()).map(|x| x * 2.0).collect();
    let noise = random.vector(n * d);
    let keys = keys.iter().zip(&noise).map(|(k, e)| k + 0.3 * e).collect();
    let case = Case { lanes: 1, heads: 2, d, dv: 64, keys, values: random.vector(n * 64) };
    let mut index = case.group(iceformer_simd::kernels(), Storage::F32, 2);
    case.append(&mut index, 0, n);
    index.settle(16, 2048).unwrap();
    index.settle(16, 3840).unwrap();
    let queries: Vec<f32> =
        (0..64).flat_map(|i| [centres[i % 3].clone(), centres[(i + 1) % 3].clone()].concat()).collect();
    let all = case.search(&index, &queries, &SoftQuery { scale: 0.5, ..exact(64, n - 63) });
    let mut before = f64::MAX;
    for mass_target in [0.8, 0.95, 0.999] {
        let query = SoftQuery { scale: 0.5, strategy: Strategy::selected(mass_target), ..exact(64, n - 63) };
        let found = case.search(&index, &queries, &query);
        // The log-sum-exp includes the estimated tail, so it must agree with the exact one.
        let error = (0..found.0.len()).map(|i| f64::from((found.0[i] - all.0[i]).abs())).fold(0.0, f64::max);
        assert!(error < 0.15 && error <= before * 1.5, "target {mass_target}: error {error}, before {before}");
        assert!(
            found.2.retained_mass / found.2.rows >= f64::from(mass_target) - 0.01,
            "target {mass_target}: {:?}",
            found.2
        );
        assert!(found.2.tiles_read < 0.6 * found.2.tiles_visible, "target {mass_target}: {:?}", found.2);
        before = error;
    }
}

#[test]
fn truncation_restores_what_had_settled() {
    let mut random = Random(77);
    let case = Case::new(&mut random, 2, 2, 32, 32, 700);
    for storage in [Storage::F32, Storage::Bf16, Storage::I8] {
        let mut index = case.group(iceformer_simd::kernels(), storage, 2);
        case.append(&mut index, 0, 700);
        index.settle(16, 256).unwrap();
        index.settle(16, 640).unwrap();
        for len in [650, 300, 256, 100, 10] {
            index.truncate(len);
            assert_eq!(index.len(), len);
            assert!(index.settled().1 <= len);
            let vectors = random.vector(case.heads * 32);
            let query = exact(1, len);
            let found = case.search(&index, &vectors, &query);
            case.check(&vectors, &query, &found, if storage == Storage::F32 { 1e-4 } else { 3e-2 }, "truncated");
        }
        case.append(&mut index, 10, 700);
        let vectors = random.vector(case.heads * 32);
        let found = case.search(&index, &vectors, &exact(1, 700));
        case.check(
            &vectors,
            &exact(1, 700),
            &found,
            if storage == Storage::F32 { 1e-4 } else { 3e-2 },
            "appended again",
        );
    }
}

#[test]
fn settling_and_going_back_keeps_every_bit() {
    let mut random = Random(31);
    for (d, dv) in [(64, 64), (7, 33)] {
        let case = Case::new(&mut random, 2, 3, d, dv, 900);
        let vectors = random.vector(40 * case.heads * d);
        for storage in [Storage::F32, Storage::Bf16, Storage::I8] {
            let mut index = case.group(iceformer_simd::kernels(), storage, 2);
            case.append(&mut index, 0, 500);
            // Many queries and one: they take different kernels.
            let search = |index: &IndexGroup, queries: usize| {
                let vectors = &vectors[..queries * case.heads * d];
                let (output, lse, _) = case.search(index, vectors, &exact(queries, 501 - queries));
                output.into_iter().chain(lse).map(f32::to_bits).collect::<Vec<_>>()
            };
            let before = (search(&index, 40), search(&index, 1));
            for round in 0..2 {
                case.append(&mut index, 500, 900);
                index.settle(16, 800).unwrap();
                // The batch reaches beyond what stays: all of it goes back to the order of insertion.
                index.truncate(500);
                assert_eq!(index.settled().1, 0);
                assert!(before == (search(&index, 40), search(&index, 1)), "{storage:?} {d} {dv} {round}");
            }
        }
    }
}

#[test]
fn batches_that_were_joined_part_again() {
    let mut random = Random(37);
    let (d, dv) = (40, 24);
    let case = Case::new(&mut random, 2, 2, d, dv, 1500);
    let vectors = random.vector(40 * case.heads * d);
    for storage in [Storage::F32, Storage::Bf16, Storage::I8] {
        let search = |index: &IndexGroup, queries: usize, strategy: Strategy| {
            let vectors = &vectors[..queries * case.heads * d];
            case.search(index, vectors, &SoftQuery { strategy, ..exact(queries, index.len() + 1 - queries) })
        };
        let bits = |index: &IndexGroup| {
            let (output, lse, _) = search(index, 40, Strategy::Exact);
            output.into_iter().chain(lse).map(f32::to_bits).collect::<Vec<_>>()
        };
        let mut plain = case.group(iceformer_simd::kernels(), storage, 2);
        let mut index = case.group(iceformer_simd::kernels(), storage, 2);
        case.append(&mut plain, 0, 100);
        case.append(&mut index, 0, 1500);
        for batch in 1..=22 {
            index.settle(16, 16 + batch * 64).unwrap();
        }
        // In a joined stretch, at the end of a batch and within one; then among what has not settled; then all.
        let tolerance = if storage == Storage::F32 { 1e-4 } else { 3e-2 };
        // In a joined stretch, at the end of a batch and within one; then among what has not settled; then all.
        for (len, settled) in [(1500, 1424), (1000, 976), (976, 976), (500, 464), (470, 464), (100, 80)] {
            index.truncate(len);
            assert_eq!(index.settled(), (16, settled), "{len}");
            // All of them see what has settled.
            let queries = 40.min(len + 1 - settled);
            for strategy in [Strategy::Exact, Strategy::selected(1.0)] {
                let found = search(&index, queries, strategy);
                let query = SoftQuery { strategy, ..exact(queries, len + 1 - queries) };
                case.check(&vectors, &query, &found, tolerance, "truncated");
            }
            // Whatever moved, tiles are found by their summaries.
            let (.., report) = search(&index, queries, Strategy::selected(0.9));
            assert!(report.retained_mass > 0.8 * report.rows && report.tiles_read <= report.tiles_visible);
            if len == 1000 {
                // And settles again.
                case.append(&mut index, 1000, 1200);
                index.settle(16, 1168).unwrap();
                let found = search(&index, 30, Strategy::Exact);
                case.check(&vectors, &exact(30, 1171), &found, tolerance, "settled again");
                index.truncate(1000);
                assert_eq!(index.settled(), (16, 976));
            }
        }
        index.truncate(79);
        assert_eq!(index.settled().1, 0);
        case.append(&mut index, 79, 100);
        assert!(bits(&index) == bits(&plain), "{storage:?}");
    }
}

/// Most of a long lane is of no interest to a block: it is left out, and what stands in for it is right.
#[test]
fn what_is_far_is_left_out() {
    for kernels in supported() {
        let mut random = Random(59);
        let (d, n, topics) = (32, 8192, 8);
        let centres: Vec<Vec<f32>> = (0..topics).map(|_| random.vector(d)).collect();
        let noise = random.vector(n * d);
        let keys = (0..n).flat_map(|i| centres[(i * 7 + i / 13) % topics].clone()).zip(&noise);
        let keys = keys.map(|(k, e)| 3.0 * k + 0.2 * e).collect();
        let case = Case { lanes: 1, heads: 1, d, dv: 32, keys, values: random.vector(n * 32) };
        for (storage, tolerance) in [(Storage::F32, 0.05), (Storage::Bf16, 0.08)] {
            let mut index = case.group(kernels, storage, 2);
            for end in (512..=n).step_by(512) {
                let from = index.len();
                case.append(&mut index, from, end);
                index.settle(16, end - 112).unwrap();
            }
            let queries: Vec<f32> = (0..64).flat_map(|i| centres[i % 2].iter().map(|x| 3.0 * x)).collect();
            let query = SoftQuery { scale: 0.3, strategy: Strategy::selected(0.95), ..exact(64, n - 63) };
            let found = case.search(&index, &queries, &query);
            case.check(&queries, &query, &found, tolerance, kernels.level.name());
            assert!(found.2.tiles_read < 0.25 * found.2.tiles_visible, "{:?}", found.2);
            assert!(found.2.retained_mass > 0.95 * found.2.rows, "{:?}", found.2);
        }
    }
}

#[test]
fn codes_take_half_the_memory_of_bf16() {
    let bytes = |storage| {
        let shape = GroupShape { lanes: 3, dimensions: 64, value_dimensions: 64, storage };
        IndexGroup::estimate_bytes(&shape, 16_384) as f64
    };
    let share = bytes(Storage::I8) / bytes(Storage::Bf16);
    // With summaries, sketches and the order of settled vectors, which are the same.
    assert!(share < 0.62, "{share}");
}

#[test]
fn the_estimate_covers_what_is_used() {
    let mut random = Random(3);
    for storage in [Storage::F32, Storage::Bf16, Storage::I8] {
        for n in [17, 1000, 3100] {
            let case = Case::new(&mut random, 2, 1, 40, 24, n);
            let mut index = case.group(iceformer_simd::kernels(), storage, 1);
            for start in (0..n).step_by(100) {
                case.append(&mut index, start, n.min(start + 100));
                index.settle(0, index.len() / 16 * 16).unwrap();
            }
            let estimate = IndexGroup::estimate_bytes(&index.shape(), n);
            assert!(index.bytes() <= estimate, "{n}: {} used, {estimate} estimated", index.bytes());
        }
    }
    let shape = GroupShape { lanes: 3, dimensions: 64, value_dimensions: 64, storage: Storage::F32 };
    assert!(IndexGroup::estimate_bytes(&shape, 1 << 40) > 1 << 49);
    assert_eq!(IndexGroup::estimate_bytes(&shape, usize::MAX), usize::MAX);
}

#[test]
fn threads_and_splits_do_not_change_results() {
    let mut random = Random(13);
    let case = Case::new(&mut random, 3, 3, 64, 64, 2048);
    let vectors = random.vector(64 * case.heads * 64);
    let mut results = Vec::new();
    for threads in [1, 2, 4] {
        let mut index = case.group(iceformer_simd::kernels(), Storage::Bf16, threads);
        case.append(&mut index, 0, 2048);
        index.settle(16, 1536).unwrap();
        let query = SoftQuery { strategy: Strategy::selected(0.9), ..exact(64, 1985) };
        results.push(case.search(&index, &vectors, &query).0);
    }
    assert!(results.iter().all(|r| r.iter().zip(&results[0]).all(|(a, b)| a.to_bits() == b.to_bits())));
}

#[test]
fn bad_input_is_an_error_and_changes_nothing() {
    let mut random = Random(1);
    let case = Case::new(&mut random, 2, 1, 8, 8, 64);
    let mut index = case.group(iceformer_simd::kernels(), Storage::F32, 1);
    case.append(&mut index, 0, 64);
    let code = |result: Result<(), iceformer_knn::Error>| result.unwrap_err().code();
    assert_eq!(code(index.append(&[0.0; 15], &[0.0; 16])), "ERR_DIMENSION_MISMATCH");
    assert_eq!(code(index.append(&[0.0; 16], &[0.0; 15])), "ERR_COUNT_MISMATCH");
    assert_eq!(code(index.append(&[f32::NAN; 16], &[0.0; 16])), "ERR_NOT_FINITE");
    assert_eq!(code(index.append(&[0.0; 16], &[f32::INFINITY; 16])), "ERR_NOT_FINITE");
    assert_eq!(code(index.settle(16, 80)), "ERR_SETTLE_RANGE");
    assert_eq!(code(index.settle(15, 32)), "ERR_SETTLE_RANGE");
    assert_eq!(code(index.append(&[2e9; 16], &[0.0; 16])), "ERR_TOO_LARGE");
    // A number that is not finite is found behind a row that is too long.
    let mut keys = [2e9; 16];
    keys[9] = f32::NAN;
    assert_eq!(code(index.append(&keys[8..].repeat(2), &[0.0; 16])), "ERR_NOT_FINITE");
    assert_eq!(code(index.settle_lanes(&[2], 16, 32)), "ERR_LANE");
    assert_eq!(index.len(), 64);
    index.settle(16, 32).unwrap();
    let search =
        |queries: &[f32], query: SoftQuery| code(index.soft_search(queries, &mut [0.0; 16], None, &query).map(|_| ()));
    assert_eq!(search(&[0.0; 16], exact(1, 65)), "ERR_VISIBLE");
    assert_eq!(search(&[0.0; 16], exact(1, 0)), "ERR_VISIBLE");
    assert_eq!(search(&[0.0; 16], exact(1, 31)), "ERR_SETTLED_IN_PART");
    assert_eq!(search(&[0.0; 16], SoftQuery { window: Some(40), ..exact(1, 64) }), "ERR_SETTLED_IN_PART");
    assert_eq!(search(&[0.0; 15], exact(1, 64)), "ERR_DIMENSION_MISMATCH");
    assert_eq!(search(&[0.0; 32], exact(1, 64)), "ERR_COUNT_MISMATCH");
    assert_eq!(search(&[f32::NAN; 16], exact(1, 64)), "ERR_NOT_FINITE");
    for mass_target in [0.0, -1.0, 1.5, f32::NAN] {
        let strategy = Strategy::selected(mass_target);
        assert_eq!(search(&[0.0; 16], SoftQuery { strategy, ..exact(1, 64) }), "ERR_SOFT_SEARCH");
    }
    assert_eq!(search(&[0.0; 16], SoftQuery { scale: f32::NAN, ..exact(1, 64) }), "ERR_SOFT_SEARCH");
    for (strategy, expected) in [
        (Strategy::Window { sinks: 0, recent: 0 }, "ERR_SOFT_SEARCH"),
        (Strategy::Window { sinks: 0, recent: 8 }, "ERR_SETTLED_IN_PART"),
        (Strategy::Selected { mass_target: 0.5, least_mass: 0.0, least_tiles: 2, most_tiles: 1 }, "ERR_SOFT_SEARCH"),
        (Strategy::Selected { mass_target: 0.5, least_mass: -0.1, least_tiles: 0, most_tiles: 1 }, "ERR_SOFT_SEARCH"),
        (
            Strategy::Selected { mass_target: 0.5, least_mass: f32::NAN, least_tiles: 0, most_tiles: 1 },
            "ERR_SOFT_SEARCH",
        ),
    ] {
        assert_eq!(search(&[0.0; 16], SoftQuery { strategy, ..exact(1, 64) }), expected);
    }
    let detailed = |strategies: Option<&[Strategy]>, sights: Option<&[[u32; 2]]>| {
        let detail = LaneDetail { strategies, sights, ..LaneDetail::default() };
        code(index.soft_search_lanes(&[0.0; 32], &mut [0.0; 32], None, &exact(2, 63), detail).map(|_| ()))
    };
    assert_eq!(detailed(Some(&[Strategy::Exact]), None), "ERR_COUNT_MISMATCH");
    assert_eq!(detailed(None, Some(&[[0, 64]])), "ERR_COUNT_MISMATCH");
    assert_eq!(detailed(None, Some(&[[0, 64], [0, 65]])), "ERR_VISIBLE");
    assert_eq!(detailed(None, Some(&[[0, 64], [0, 63]])), "ERR_VISIBLE");
    assert_eq!(detailed(None, Some(&[[3, 2], [3, 64]])), "ERR_VISIBLE");
    assert_eq!(detailed(None, Some(&[[0, 0], [0, 64]])), "ERR_SETTLED_IN_PART");
    assert_eq!(detailed(None, Some(&[[0, 64], [17, 64]])), "ERR_SETTLED_IN_PART");
}

#[test]
fn lanes_differ_and_masked_rows_see_nothing() {
    for kernels in supported() {
        let mut random = Random(21);
        let (n, queries) = (300, 70);
        let case = Case::new(&mut random, 4, 2, 32, 48, n);
        let mut index = case.group(kernels, Storage::F32, 2);
        case.append(&mut index, 0, n);
        // Only the second lane settles.
        index.settle_lanes(&[1], 16, 128).unwrap();
        assert_eq!((0..4).map(|lane| index.settled_lane(lane).1).collect::<Vec<_>>(), [0, 128, 0, 0]);
        let vectors = random.vector(queries * case.heads * 32);
        let strategies =
            [Strategy::Exact, Strategy::selected(1.0), Strategy::Window { sinks: 5, recent: 50 }, Strategy::Skip];
        let query = exact(queries, n + 1 - queries);
        let detail = LaneDetail { strategies: Some(&strategies), ..LaneDetail::default() };
        let rows = queries * case.heads;
        let (mut output, mut lse) = (vec![f32::NAN; rows * 48], vec![f32::NAN; rows]);
        let reports = index.soft_search_lanes(&vectors, &mut output, Some(&mut lse), &query, detail).unwrap();
        for i in 0..queries {
            let to = query.visible + i;
            for head in 0..case.heads {
                let row = i * case.heads + head;
                let vector = &vectors[row * 32..][..32];
                let (want, want_lse) = match strategies[head / 2] {
                    Strategy::Window { .. } => {
                        let seen: Vec<usize> = (0..5).chain(to - 50..to).collect();
                        case.plain_of(vector, head, &seen, f64::from(query.scale))
                    }
                    Strategy::Skip => (vec![0.0; 48], f64::NEG_INFINITY),
                    _ => case.plain(vector, head, 0, to, f64::from(query.scale)),
                };
                for (got, want) in output[row * 48..][..48].iter().zip(&want) {
                    assert!((f64::from(*got) - want).abs() < 1e-4, "query {i} head {head}: {got} instead of {want}");
                }
                let got = f64::from(lse[row]);
                assert!(
                    got.is_infinite() && want_lse.is_infinite() || (got - want_lse).abs() < 1e-3,
                    "{got} instead of {want_lse}"
                );
            }
        }
        assert!((reports[1].retained_mass - reports[1].rows).abs() < 1e-6);
        assert!(reports[2].retained_mass.is_nan() && reports[2].tiles_read < 0.5 * reports[2].tiles_visible);
        assert!(reports[3].retained_mass.is_nan() && reports[3].tiles_read == 0.0);

        // Ranges of their own: the first rows see nothing.
        let fresh = case.group(kernels, Storage::F32, 2);
        assert!(fresh.is_empty());
        let mut fresh = fresh;
        case.append(&mut fresh, 0, 40);
        let sights: Vec<[u32; 2]> = (0..queries as u32).map(|i| [i / 4, (i / 2).max(i / 4)]).collect();
        let strategies = [Strategy::Exact, Strategy::Window { sinks: 2, recent: 1 }, Strategy::Exact, Strategy::Exact];
        let detail = LaneDetail { strategies: Some(&strategies), sights: Some(&sights), ..LaneDetail::default() };
        fresh.soft_search_lanes(&vectors, &mut output, Some(&mut lse), &query, detail).unwrap();
        for (i, &[from, to]) in sights.iter().enumerate() {
            for head in 0..case.heads {
                let row = i * case.heads + head;
                let seen: Vec<usize> = (from as usize..to as usize)
                    .filter(|&key| head / 2 != 1 || key < 2 || key + 1 == to as usize)
                    .collect();
                let (want, want_lse) = case.plain_of(&vectors[row * 32..][..32], head, &seen, f64::from(query.scale));
                assert!(output[row * 48..][..48].iter().zip(&want).all(|(a, b)| (f64::from(*a) - b).abs() < 1e-4));
                let got = f64::from(lse[row]);
                assert!(
                    got.is_infinite() && want_lse.is_infinite() || (got - want_lse).abs() < 1e-3,
                    "{i}: {got} instead of {want_lse}"
                );
            }
        }
    }
}

#[test]
fn limits_go_before_the_mass_target() {
    let mut random = Random(4);
    let case = Case::new(&mut random, 1, 2, 16, 16, 1024);
    let mut index = case.group(iceformer_simd::kernels(), Storage::F32, 1);
    case.append(&mut index, 0, 1024);
    index.settle(0, 960).unwrap();
    let vectors = random.vector(4 * case.heads * 16);
    for (least_tiles, most_tiles, mass_target) in [(0, 7, 1.0), (0, 7, 0.9999), (9, u32::MAX, 1e-6), (5, 5, 0.5)] {
        let strategy = Strategy::Selected { mass_target, least_mass: 0.0, least_tiles, most_tiles };
        let (.., report) = case.search(&index, &vectors, &SoftQuery { strategy, ..exact(4, 1021) });
        // Four tiles are recent.
        let read = report.tiles_read / report.rows - 4.0;
        assert!(read >= f64::from(least_tiles) && read <= f64::from(most_tiles), "{strategy:?}: {read} tiles");
    }
}

#[test]
fn tiles_that_hold_enough_mass_are_read_and_no_others() {
    for kernels in supported() {
        let mut random = Random(29);
        let case = Case::new(&mut random, 1, 1, 32, 32, 2048);
        let mut index = case.group(kernels, Storage::F32, 1);
        case.append(&mut index, 0, 2048);
        index.settle(16, 1040).unwrap();
        // As many rows as share a block.
        let vectors: Vec<f32> = random.vector(64 * 32).iter().map(|x| 3.0 * x).collect();
        let search = |mass_target, least_mass, least_tiles, most_tiles| {
            let strategy = Strategy::Selected { mass_target, least_mass, least_tiles, most_tiles };
            case.search(&index, &vectors, &SoftQuery { strategy, ..exact(64, 1985) })
        };
        let near = search(1.0, 0.0, 0, 0).2.tiles_read / 64.0;
        let tiles = search(1.0, 0.0, 0, u32::MAX).2.tiles_read / 64.0 - near;
        let mut fewer = tiles;
        for least_mass in [1e-30_f32, 1e-4, 1e-3, 4e-3, 0.02, 1.0] {
            let (output, lse, report) = search(0.5, least_mass, 0, u32::MAX);
            let read = report.tiles_read / 64.0 - near;
            assert!(read <= fewer, "{least_mass}: {read} tiles after {fewer}");
            fewer = read;
            // They are the heaviest: a limit to as many takes the same ones. Tiles that are read count with their own mass, others
            // with that of their mean.
            let (same, same_lse, _) = search(1.0, 0.0, 0, read as u32);
            let alike = lse.iter().zip(&same_lse).all(|(a, b)| (a - b).abs() < 1e-5);
            assert!(alike, "{least_mass}: {read} tiles are not the heaviest");
            // With a least mass those left out share mean values, sixteen tiles a quarter of it at most.
            let shared = ((tiles / 16.0).ceil() * f64::from(least_mass) / 4.0).min(1.0);
            let apart: f64 = output.iter().zip(&same).map(|(a, b)| f64::from((a - b).abs())).sum();
            let apart = apart / output.len() as f64;
            let widest = case.values.iter().fold(0.0_f32, |widest, x| widest.max(x.abs()));
            assert!(apart <= 2.0 * f64::from(widest) * shared + 1e-5, "{least_mass}: outputs are {apart} apart");
            // Each one left out holds less.
            let unread = tiles - read;
            let kept = report.retained_mass / 64.0;
            assert!(kept >= 1.0 - unread * f64::from(least_mass) - 1e-6, "{least_mass}: {kept} without {unread} tiles");
            // The limits go before it.
            let limited = search(0.5, least_mass, 7, 9).2.tiles_read / 64.0 - near;
            assert!((limited - read.clamp(7.0, 9.0)).abs() < 1e-9, "{least_mass}: {limited} tiles");
        }
        let all = search(0.5, 1e-30, 0, u32::MAX).2;
        assert!((all.tiles_read - all.tiles_visible).abs() < 1e-9);
        assert!(fewer == 0.0, "no tile holds all, {fewer} are read");
    }
}

#[test]
fn a_lane_that_settles_like_another_reads_its_sinks_whole_before_anything_settles() {
    let mut random = Random(43);
    let (d, n, sinks) = (32, 1024, 64);
    let case =
        Case { lanes: 2, heads: 2, d, dv: 32, keys: random.vector(2 * n * d), values: random.vector(2 * n * 32) };
    let group = || {
        let mut group = case.group(iceformer_simd::kernels(), Storage::F32, 1);
        case.append(&mut group, 0, n);
        // Where no lane has settled, all is read.
        group.settle_lanes(&[1], sinks, 512).unwrap();
        group
    };
    let (mut source, mut own, mut like) = (group(), group(), group());
    source.settle_lanes(&[0], sinks, sinks).unwrap();
    own.settle_lanes(&[0], sinks, sinks).unwrap();
    like.settle_like(&source, &[0]).unwrap();
    assert_eq!(source.settled_lane(0), (0, 0));
    let vectors = random.vector(64 * 2 * d);
    let query = SoftQuery { strategy: Strategy::selected(0.5), ..exact(64, n - 63) };
    let search = |group: &IndexGroup| {
        let mut output = vec![f32::NAN; 64 * 2 * 32];
        let reports = group.soft_search_lanes(&vectors, &mut output, None, &query, LaneDetail::default()).unwrap();
        (output, reports[0])
    };
    let (expected, found) = (search(&own), search(&like));
    assert_eq!(found.0, expected.0);
    assert!((found.1.tiles_read - expected.1.tiles_read).abs() < 1e-6, "{found:?}");
    assert!(found.1.tiles_read < found.1.tiles_visible, "nothing was left out: {:?}", found.1);
    // A lane whose source does not know its sinks has nothing to choose from.
    let (unrooted, mut index) = (group(), group());
    index.settle_like(&unrooted, &[0]).unwrap();
    let (_, all) = search(&index);
    assert!((all.tiles_read - all.tiles_visible).abs() < 1e-6, "{all:?}");
}

#[test]
fn selections_are_read_again_in_a_group_that_settled_alike() {
    let mut random = Random(41);
    let (d, n, queries) = (32, 2048, 100);
    let centres: Vec<Vec<f32>> = (0..12).map(|_| random.vector(d)).collect();
    let mut layer = || {
        let noise = random.vector(2 * n * d);
        let keys = (0..2 * n).flat_map(|i| centres[i / 2 * 5 % 12].clone()).zip(&noise);
        let keys = keys.map(|(k, e)| 2.0 * k + 0.2 * e).collect();
        Case { lanes: 2, heads: 4, d, dv: 32, keys, values: random.vector(2 * n * 32) }
    };
    // Layers with tokens in the same groups, though their keys differ.
    let (first, second) = (layer(), layer());
    let vectors: Vec<f32> = (0..queries * 4).flat_map(|i| centres[i / 200].clone()).collect();
    for storage in [Storage::F32, Storage::Bf16, Storage::I8] {
        let mut source = first.group(iceformer_simd::kernels(), storage, 2);
        let mut index = second.group(iceformer_simd::kernels(), storage, 2);
        for (end, settled) in [(900, 640), (n, 1920)] {
            let from = source.len();
            first.append(&mut source, from, end);
            second.append(&mut index, from, end);
            source.settle(16, settled).unwrap();
            index.settle_like(&source, &[0, 1]).unwrap();
            assert_eq!(index.settled(), source.settled());
        }
        let query = SoftQuery { strategy: Strategy::selected(0.9), ..exact(queries, n + 1 - queries) };
        let rows = queries * 4;
        let search = |index: &IndexGroup, query: &SoftQuery, detail: LaneDetail<'_>| {
            let mut output = vec![f32::NAN; rows * 32];
            let reports = index.soft_search_lanes(&vectors, &mut output, None, query, detail).unwrap();
            (output, reports)
        };
        let remember = LaneDetail { remember: true, ..LaneDetail::default() };
        let (_, selected) = search(&source, &query, remember);
        let selection = source.selection();
        let reused = LaneDetail {
            reused: Some(iceformer_knn::Reused { selection: &selection, lanes: &[true, false] }),
            ..LaneDetail::default()
        };
        let (output, reports) = search(&index, &query, reused);
        // The first lane read what the source had read, the second chose for itself.
        assert!((reports[0].tiles_read - selected[0].tiles_read).abs() < 1e-6, "{reports:?} {selected:?}");
        let (own, own_reports) = search(&index, &query, LaneDetail::default());
        let of = |output: &[f32], lane: usize| -> Vec<u32> {
            output.chunks(2 * 32).skip(lane).step_by(2).flatten().map(|x| x.to_bits()).collect()
        };
        assert_eq!(of(&output, 1), of(&own, 1));
        assert!((reports[1].tiles_read - own_reports[1].tiles_read).abs() < 1e-6, "{reports:?} {own_reports:?}");
        assert!(reports[0].retained_mass > 0.6 * reports[0].rows, "{reports:?}");
        // Nothing is lost by the order of another: at target 1, and exactly.
        for strategy in [Strategy::Exact, Strategy::selected(1.0)] {
            let query = SoftQuery { strategy, ..query };
            let found = second.search(&index, &vectors, &query);
            if storage == Storage::F32 {
                second.check(&vectors, &query, &found, 5e-4, "settled like another");
            }
        }
        // What has settled since is no longer what was selected from: all select for themselves.
        source.settle(16, 1936).unwrap();
        index.settle_like(&source, &[0, 1]).unwrap();
        assert_eq!(search(&index, &query, reused).0, search(&index, &query, LaneDetail::default()).0);
        // And back to the order of insertion.
        index.truncate(700);
        let last = exact(1, 700);
        let found = second.search(&index, &vectors[..4 * d], &last);
        if storage == Storage::F32 {
            second.check(&vectors[..4 * d], &last, &found, 5e-4, "truncated");
        }
    }
    let mut short = second.group(iceformer_simd::kernels(), Storage::F32, 1);
    let mut source = first.group(iceformer_simd::kernels(), Storage::F32, 1);
    first.append(&mut source, 0, 64);
    source.settle(0, 64).unwrap();
    assert_eq!(short.settle_like(&source, &[0]).unwrap_err().code(), "ERR_SETTLE_RANGE");
    assert_eq!(short.settle_like(&source, &[2]).unwrap_err().code(), "ERR_LANE");
}
