//! Soft search for few rows, as decoding does it, against an exact search of the same vectors.

mod random;

use iceformer_knn::{GroupShape, IndexGroup, SoftQuery, SoftReport, Storage, Strategy};
use iceformer_simd::{Kernels, kernels, supported};
use iceformer_threads::ThreadPool;
use random::Random;

const LANES: usize = 2;
const GROUP: usize = 3;
const SINKS: usize = 16;

/// Vectors of two lanes, searched by three heads each.
struct Case {
    d: usize,
    /// `[n][LANES][d]`
    keys: Vec<f32>,
    /// `[n][LANES][d]`
    values: Vec<f32>,
}

impl Case {
    /// Keys around a hundred centres, as a text's keys come in kinds.
    fn new(random: &mut Random, d: usize, n: usize) -> Self {
        let centres = random.vector(100 * d);
        let mut keys = random.vector(n * LANES * d);
        for (i, key) in keys.chunks_exact_mut(d).enumerate() {
            let centre = &centres[i * 7 % 100 * d..][..d];
            key.iter_mut().zip(centre).for_each(|(k, c)| *k = 0.5 * *k + c);
        }
        Self { d, keys, values: random.vector(n * LANES * d) }
    }

    fn group(&self, kernels: &'static Kernels, storage: Storage, threads: usize) -> IndexGroup {
        let shape = GroupShape { lanes: LANES, dimensions: self.d, value_dimensions: self.d, storage };
        IndexGroup::new(shape, kernels, ThreadPool::new(threads)).unwrap()
    }

    fn append(&self, index: &mut IndexGroup, from: usize, to: usize) {
        let row = LANES * self.d;
        index.append(&self.keys[from * row..to * row], &self.values[from * row..to * row]).unwrap();
    }

    /// An index of `n` vectors that settled in two batches, the last 40 or more recent.
    fn settled(&self, kernels: &'static Kernels, storage: Storage, threads: usize, n: usize) -> IndexGroup {
        let mut index = self.group(kernels, storage, threads);
        self.append(&mut index, 0, n);
        let end = (n - 40) / 16 * 16;
        index.settle(SINKS, SINKS + (end - SINKS) / 2 / 16 * 16).unwrap();
        index.settle(SINKS, end).unwrap();
        index
    }

    fn key(&self, n: usize, lane: usize) -> &[f32] {
        &self.keys[(n * LANES + lane) * self.d..][..self.d]
    }

    /// Queries `[count][LANES * GROUP][d]`, each looking for one key with some noise.
    fn queries(&self, random: &mut Random, count: usize, sought: &[usize], sharpness: f32) -> Vec<f32> {
        let mut queries = random.vector(count * LANES * GROUP * self.d);
        for (row, query) in queries.chunks_exact_mut(self.d).enumerate() {
            let key = self.key(sought[row % sought.len()], row % (LANES * GROUP) / GROUP);
            let length = key.iter().map(|x| x * x).sum::<f32>();
            query.iter_mut().zip(key).for_each(|(q, k)| *q = 0.3 * *q + k * sharpness / length);
        }
        queries
    }

    fn search(&self, index: &IndexGroup, queries: &[f32], strategy: Strategy) -> (Vec<f32>, Vec<f32>, SoftReport) {
        let count = queries.len() / (LANES * GROUP * self.d);
        let visible = index.len() + 1 - count;
        let query = SoftQuery { queries: count, scale: 1.0, visible, causal: true, window: None, strategy };
        let (mut output, mut lse) = (vec![f32::NAN; queries.len()], vec![f32::NAN; count * LANES * GROUP]);
        let report = index.soft_search(queries, &mut output, Some(&mut lse), &query).unwrap();
        (output, lse, report)
    }
}

fn selected(mass_target: f32) -> Strategy {
    Strategy::selected(mass_target)
}

fn close(got: &[f32], want: &[f32], tolerance: f32, what: &str) {
    assert_eq!(got.len(), want.len());
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        assert!((got - want).abs() <= tolerance, "{what} [{i}]: {got} instead of {want}");
    }
}

#[test]
fn near_to_exact_at_every_level_and_shape() {
    let mut random = Random(3);
    for d in [32, 40, 64, 100, 256] {
        let case = Case::new(&mut random, d, 1000);
        let queries = case.queries(&mut random, 1, &[300, 555, 20, 700], 9.0);
        for kernels in supported() {
            for storage in [Storage::F32, Storage::Bf16, Storage::I8] {
                let index = case.settled(kernels, storage, 2, 1000);
                let what = format!("{} {storage:?} d {d}", kernels.level);
                let (output, lse, _) = case.search(&index, &queries, Strategy::Exact);
                let found = case.search(&index, &queries, selected(0.95));
                close(&found.0, &output, 0.12, &what);
                close(&found.1, &lse, 0.05, &what);
                let all = case.search(&index, &queries, selected(1.0));
                close(&all.0, &output, 1e-5, &what);
                close(&all.1, &lse, 1e-5, &what);
            }
        }
    }
}

#[test]
fn every_row_finds_the_one_key_it_looks_for() {
    let mut random = Random(5);
    let case = Case::new(&mut random, 64, 4000);
    let index = case.settled(kernels(), Storage::Bf16, 2, 4000);
    for first in (20..3800).step_by(271) {
        // Each row of a lane looks for another key, and every one must be found.
        let sought: Vec<usize> = (0..LANES * GROUP).map(|row| (first + row * 631) % 3900).collect();
        let queries = case.queries(&mut random, 1, &sought, 22.0);
        let (output, _, _) = case.search(&index, &queries, Strategy::Exact);
        let (found, _, report) = case.search(&index, &queries, selected(0.95));
        close(&found, &output, 0.1, "needle");
        assert!(report.retained_mass > 0.95 * report.rows, "{report:?}");
        assert!(report.tiles_read < 0.5 * report.tiles_visible, "{report:?}");
    }
}

#[test]
fn what_is_kept_rises_with_the_target() {
    let mut random = Random(6);
    let case = Case::new(&mut random, 64, 3000);
    let index = case.settled(kernels(), Storage::Bf16, 1, 3000);
    let queries = case.queries(&mut random, 1, &[100, 900, 1700, 2500, 400, 1300], 8.0);
    let (_, exact, _) = case.search(&index, &queries, Strategy::Exact);
    let mut before = (0.0, 0.0);
    for target in [0.5, 0.8, 0.95, 0.99, 0.999] {
        let (_, lse, report) = case.search(&index, &queries, selected(target));
        assert!(report.retained_mass >= f64::from(target) * report.rows * 0.999, "{target}: {report:?}");
        assert!(report.retained_mass >= before.0 && report.tiles_read >= before.1, "{target}: {report:?}");
        // The stand-ins carry the mass that is missing.
        close(&lse, &exact, (1.0 - target).mul_add(0.6, 0.002), "lse");
        before = (report.retained_mass, report.tiles_read);
    }
}

#[test]
fn limits_of_tiles_go_before_the_target() {
    let mut random = Random(16);
    let case = Case::new(&mut random, 64, 3000);
    let index = case.settled(kernels(), Storage::Bf16, 2, 3000);
    let queries = case.queries(&mut random, 1, &[100, 900, 1700, 2500, 400, 1300], 8.0);
    let rows = (LANES * GROUP) as f64;
    let read = |mass_target, least_tiles, most_tiles| {
        let strategy = Strategy::Selected { mass_target, least_mass: 0.0, least_tiles, most_tiles };
        case.search(&index, &queries, strategy).2.tiles_read / rows
    };
    let near = read(0.01, 0, 0);
    let chosen = read(0.95, 0, u32::MAX) - near;
    assert!(chosen > 8.0, "{chosen}");
    for limit in [1, 5] {
        assert!((read(0.95, 0, limit) - near - f64::from(limit)).abs() < 1e-9);
        assert!((read(1.0, 0, limit) - near - f64::from(limit)).abs() < 1e-9);
    }
    let all = case.search(&index, &queries, Strategy::Exact).2.tiles_read / rows;
    assert!((read(0.95, 100_000, u32::MAX) - all).abs() < 1e-9);
    assert!((read(0.5, 60, u32::MAX) - near - 60.0).abs() < 1e-9);
}

#[test]
fn tiles_that_hold_enough_mass_of_any_row_are_read() {
    let mut random = Random(17);
    let case = Case::new(&mut random, 64, 3000);
    for kernels in iceformer_simd::supported() {
        let index = case.settled(kernels, Storage::Bf16, 2, 3000);
        let queries = case.queries(&mut random, 1, &[100, 900, 1700, 2500, 400, 1300], 8.0);
        let rows = (LANES * GROUP) as f64;
        let search = |mass_target, least_mass, least_tiles, most_tiles| {
            let strategy = Strategy::Selected { mass_target, least_mass, least_tiles, most_tiles };
            case.search(&index, &queries, strategy)
        };
        let all = search(1.0, 0.0, 0, u32::MAX);
        let near = search(1.0, 0.0, 0, 0).2.tiles_read;
        let mut before = f64::INFINITY;
        for least_mass in [1e-30_f32, 1e-5, 1e-3, 0.01, 0.1, 1.0] {
            // Whatever the target is.
            let found = search(0.3, least_mass, 0, u32::MAX);
            let other = search(0.999, least_mass, 0, u32::MAX).2;
            assert!((found.2.tiles_read - other.tiles_read).abs() < 1e-9, "{least_mass}");
            assert!(found.2.tiles_read <= before, "{least_mass}: {:?}", found.2);
            before = found.2.tiles_read;
            // Each tile left out holds less, of every row's mass.
            let unread = (all.2.tiles_read - found.2.tiles_read) / rows;
            let lost = 1.0 - found.2.retained_mass / found.2.rows;
            assert!(lost <= unread * f64::from(least_mass) + 1e-6, "{least_mass}: {lost} lost with {unread} tiles");
        }
        assert!(before <= near + 1e-9, "no tile holds all of a row");
        let (output, ..) = search(0.3, 1e-30, 0, u32::MAX);
        close(&output, &all.0, 0.01, "output");
        // The limits go before it.
        assert!((search(0.3, 0.01, 60, u32::MAX).2.tiles_read - near - 60.0 * rows).abs() < 1e-9);
        assert!((search(0.3, 1e-30, 0, 5).2.tiles_read - near - 5.0 * rows).abs() < 1e-9);
    }
}

#[test]
fn threads_change_rounding_only() {
    let mut random = Random(7);
    let case = Case::new(&mut random, 64, 2500);
    let queries = case.queries(&mut random, 1, &[100, 900, 1700], 9.0);
    let alone = case.search(&case.settled(kernels(), Storage::Bf16, 1, 2500), &queries, selected(0.98));
    for threads in [2, 3, 5] {
        let index = case.settled(kernels(), Storage::Bf16, threads, 2500);
        for _ in 0..2 {
            let found = case.search(&index, &queries, selected(0.98));
            close(&found.0, &alone.0, 0.01, "output");
            close(&found.1, &alone.1, 0.002, "lse");
            assert!((found.2.retained_mass - alone.2.retained_mass).abs() < 0.01 * alone.2.rows);
        }
    }
}

#[test]
fn several_queries_at_once_see_what_is_theirs() {
    let mut random = Random(8);
    let case = Case::new(&mut random, 64, 2000);
    let index = case.settled(kernels(), Storage::F32, 2, 2000);
    let queries = case.queries(&mut random, 8, &[100, 1995, 900, 1998, 1700], 20.0);
    let (output, lse, _) = case.search(&index, &queries, Strategy::Exact);
    let (found, found_lse, report) = case.search(&index, &queries, selected(0.98));
    close(&found, &output, 0.06, "output");
    close(&found_lse, &lse, 0.02, "lse");
    assert!(report.tiles_read < report.tiles_visible);
}

#[test]
fn truncated_appended_and_settled_again() {
    let mut random = Random(9);
    let case = Case::new(&mut random, 48, 3000);
    let mut index = case.settled(kernels(), Storage::Bf16, 2, 2000);
    for (keep, end, settle) in [(1500, 2600, 2400), (1200, 1900, 1600), (10, 900, 800), (0, 3000, 2800)] {
        index.truncate(keep);
        case.append(&mut index, keep, end);
        index.settle(SINKS, settle).unwrap();
        let queries = case.queries(&mut random, 1, &[settle / 2, 30, settle - 5], 16.0);
        let (output, lse, _) = case.search(&index, &queries, Strategy::Exact);
        let (found, found_lse, report) = case.search(&index, &queries, selected(0.97));
        close(&found, &output, 0.08, "output");
        close(&found_lse, &lse, 0.06, "lse");
        assert!(report.tiles_read < report.tiles_visible);
        assert!(index.bytes() <= IndexGroup::estimate_bytes(&index.shape(), 3000));
    }
}

#[test]
fn extreme_scores_equal_keys_and_zeros() {
    let mut random = Random(10);
    let mut case = Case::new(&mut random, 64, 1500);
    // Equal keys everywhere: every tile counts the same.
    let equal = Case { d: 64, keys: vec![0.25; case.keys.len()], values: case.values.clone() };
    let zero = Case { d: 64, keys: vec![0.0; case.keys.len()], values: case.values.clone() };
    case.keys.iter_mut().for_each(|x| *x *= 40.0);
    for (case, sharpness, tolerance, what) in
        [(&case, 500.0, 0.01, "extreme"), (&equal, 1.0, 0.02, "equal"), (&zero, 0.0, 0.02, "zero")]
    {
        let index = case.settled(kernels(), Storage::F32, 2, 1500);
        let queries = if what == "zero" {
            vec![0.0; LANES * GROUP * 64]
        } else {
            case.queries(&mut random, 1, &[200, 1100, 600], sharpness)
        };
        let (output, lse, _) = case.search(&index, &queries, Strategy::Exact);
        let (found, found_lse, report) = case.search(&index, &queries, selected(0.95));
        close(&found, &output, tolerance, what);
        close(&found_lse, &lse, 0.01 * lse[0].abs() + 0.01, what);
        assert!(report.retained_mass <= report.rows && report.retained_mass >= 0.94 * report.rows, "{what} {report:?}");
    }
}

#[test]
fn mean_values_that_tiles_share_meet_their_own_weights() {
    const BATCHES: usize = 11;
    const BATCH: usize = 512;
    let (d, n) = (64, SINKS + BATCHES * BATCH + 40);
    let mut random = Random(18);
    // Keys of a batch are alike, and so are values: then a tile's mean is as good as its keys, and so is that of sixteen.
    let batch = |i: usize| i.saturating_sub(SINKS) / BATCH;
    let keys = random.vector((BATCHES + 1) * d);
    let values = random.vector((BATCHES + 1) * d);
    let each = |of: &[f32]| -> Vec<f32> {
        (0..n * LANES).flat_map(|row| of[batch(row / LANES) * d..][..d].iter().copied()).collect()
    };
    let case = Case { d, keys: each(&keys), values: each(&values) };
    // Of few bits: what a sketch errs is the same for all keys of a batch here.
    let queries = random.vector(LANES * GROUP * d).iter().map(|x| 0.02 * x).collect::<Vec<_>>();
    for kernels in supported() {
        for (storage, threads) in [(Storage::F32, 1), (Storage::Bf16, 2), (Storage::I8, 3), (Storage::Bf16, 5)] {
            let mut index = case.group(kernels, storage, threads);
            case.append(&mut index, 0, n);
            for end in 1..=BATCHES {
                index.settle(SINKS, SINKS + end * BATCH).unwrap();
            }
            let (output, lse, all) = case.search(&index, &queries, Strategy::Exact);
            // One tile for each row is far from enough: all others stand in, by sixteens or (the last rule) by themselves.
            for least_mass in [0.9, 0.02, 1e-4] {
                let strategy = Strategy::Selected { mass_target: 1.0, least_mass, least_tiles: 0, most_tiles: 1 };
                let (found, found_lse, report) = case.search(&index, &queries, strategy);
                let what = format!("{} {storage:?} {threads} threads, from {least_mass}", kernels.level);
                close(&found, &output, 0.02, &what);
                close(&found_lse, &lse, 0.02, &what);
                assert!(report.tiles_read < 0.1 * all.tiles_read, "{what}: {report:?}");
            }
        }
    }
}
