//! Soft search of groups that leaves nothing out is attention as the formula says it, whatever the shape, the
//! way in which vectors came and settled, the range that a query sees, and the numbers.

mod random;

use iceformer_knn::{Algorithm, GroupShape, IndexGroup, LaneDetail, SoftQuery, Storage, Strategy};
use iceformer_threads::ThreadPool;
use proptest::prelude::{ProptestConfig, TestCaseError, any, prop, prop_assert, proptest};
use proptest::strategy::Strategy as _;
use random::Random;

/// What the numbers are like.
#[derive(Debug, Clone, Copy)]
enum Numbers {
    Plain,
    /// Scores in the thousands.
    Extreme,
    Zero,
    /// All keys the same.
    Identical,
}

#[derive(Debug, Clone)]
struct Problem {
    lanes: usize,
    group: usize,
    dimensions: usize,
    value_dimensions: usize,
    vectors: usize,
    queries: usize,
    causal: bool,
    window: Option<usize>,
    /// Vectors that come at once, and vectors that are left unsettled behind the sinks.
    step: usize,
    recent: usize,
    numbers: Numbers,
    seed: u64,
    kind: usize,
}

fn problems() -> impl proptest::strategy::Strategy<Value = Problem> {
    let shape = (1..4_usize, 1..4_usize, prop::sample::select(vec![32_usize, 33, 64, 96, 128, 256]), 1..70_usize);
    let text = (1..260_usize, 1..90_usize, any::<bool>(), prop::option::of(1..100_usize), 1..120_usize, 0..60_usize);
    let numbers =
        prop::sample::select(vec![Numbers::Plain, Numbers::Plain, Numbers::Extreme, Numbers::Zero, Numbers::Identical]);
    (shape, text, numbers, any::<u64>(), 0..4_usize).prop_map(|(shape, text, numbers, seed, kind)| {
        let (lanes, group, dimensions, value_dimensions) = shape;
        let (vectors, queries, causal, window, step, recent) = text;
        let queries = if causal { queries.min(vectors) } else { queries };
        Problem {
            lanes,
            group,
            dimensions,
            value_dimensions,
            vectors,
            queries,
            causal,
            window,
            step,
            recent,
            numbers,
            seed,
            kind,
        }
    })
}

impl Problem {
    /// Numbers from -1 to 1, the same for the same seed.
    fn vector(&self, salt: u64, length: usize) -> Vec<f32> {
        Random(self.seed ^ salt.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1).vector(length)
    }

    /// First and after-last vector that query i sees.
    fn sight(&self, i: usize) -> (usize, usize) {
        let to = if self.causal { self.vectors + 1 - self.queries + i } else { self.vectors };
        (self.window.map_or(0, |window| to.saturating_sub(window)), to)
    }

    fn check(&self) -> Result<(), TestCaseError> {
        let Self { lanes, group, dimensions: d, value_dimensions: dv, .. } = *self;
        let size = match self.numbers {
            Numbers::Extreme => 30.0,
            Numbers::Zero => 0.0,
            _ => 1.0,
        };
        let mut keys: Vec<f32> = self.vector(1, self.vectors * lanes * d).iter().map(|x| x * size).collect();
        if matches!(self.numbers, Numbers::Identical) {
            keys.fill(0.3);
        }
        let values = self.vector(2, self.vectors * lanes * dv);
        let queries: Vec<f32> = self.vector(3, self.queries * lanes * group * d).iter().map(|x| x * size).collect();
        let shape = GroupShape { lanes, dimensions: d, value_dimensions: dv, storage: Storage::F32 };
        let mut index = IndexGroup::new(shape, iceformer_simd::kernels(), ThreadPool::new(2)).unwrap();
        let strategy = match self.kind {
            0 => Strategy::Exact,
            1 => Strategy::selected(1.0),
            2 => Strategy::Window { sinks: 3, recent: 10_000 },
            _ => Strategy::TopK { k: 10_000, recall: 1.0, effort: None },
        };
        for lane in 0..lanes {
            index.index_keys(lane, Algorithm::Dci, 1).unwrap();
        }
        for start in (0..self.vectors).step_by(self.step) {
            let end = self.vectors.min(start + self.step);
            index
                .append(&keys[start * lanes * d..end * lanes * d], &values[start * lanes * dv..end * lanes * dv])
                .unwrap();
            // As far as all queries will see it.
            let settled = end.min(self.sight(0).1).saturating_sub(self.recent) / 16 * 16;
            if self.kind < 2 && self.window.is_none() && settled > 16 {
                index.settle(16, settled).unwrap();
            }
        }
        let query = SoftQuery {
            queries: self.queries,
            scale: 1.0 / (d as f32).sqrt(),
            visible: self.sight(0).1,
            causal: self.causal,
            window: self.window,
            strategy,
        };
        let rows = self.queries * lanes * group;
        let (mut output, mut lse) = (vec![f32::NAN; rows * dv], vec![f32::NAN; rows]);
        let reports =
            index.soft_search_lanes(&queries, &mut output, Some(&mut lse), &query, LaneDetail::default()).unwrap();
        for report in &reports {
            prop_assert!((report.retained_mass / report.rows - 1.0).abs() < 1e-6, "{report:?}");
        }
        for row in 0..rows {
            let (i, lane) = (row / (lanes * group), row / group % lanes);
            let (from, to) = self.sight(i);
            let products = |n: usize| {
                let key = &keys[(n * lanes + lane) * d..][..d];
                key.iter().zip(&queries[row * d..]).map(|(a, b)| f64::from(*a) * f64::from(*b) * f64::from(query.scale))
            };
            let scores: Vec<f64> = (from..to).map(|n| products(n).sum()).collect();
            let terms = (from..to).map(|n| products(n).map(f64::abs).sum()).fold(0.0, f64::max);
            let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = scores.iter().map(|score| (score - top).exp()).sum();
            let largest = scores.iter().fold(1.0_f64, |most, score| most.max(score.abs()));
            // A score has seven digits, fewer where large terms cancel, and its error is that of the logarithm of a weight.
            let tolerance = 2e-5 + 4e-6 * largest + 2e-7 * terms;
            let error = (f64::from(lse[row]) - (top + sum.ln())).abs();
            prop_assert!(error < tolerance, "row {row}: lse {} of {}", lse[row], top + sum.ln());
            for j in 0..dv {
                let weighted = (from..to)
                    .zip(&scores)
                    .map(|(n, score)| (score - top).exp() / sum * f64::from(values[(n * lanes + lane) * dv + j]));
                let want: f64 = weighted.sum();
                let got = f64::from(output[row * dv + j]);
                prop_assert!((got - want).abs() < tolerance * 4.0, "row {row} [{j}]: {got} instead of {want}");
            }
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 120, ..ProptestConfig::default() })]

    #[test]
    fn equals_the_formula_when_nothing_is_left_out(problem in problems()) {
        problem.check()?;
    }
}
