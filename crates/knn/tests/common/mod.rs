//! Random vectors, and an index done the plain way to compare with.

#![allow(dead_code, reason = "each test file uses a part")]

use std::collections::{BTreeMap, HashMap};

use iceformer_knn::{Algorithm, Index, IndexOptions, Metric, Neighbours, Snapshot, Storage};
use iceformer_simd::Kernels;
use iceformer_threads::ThreadPool;

use crate::random::Random;

pub const ALGORITHMS: [Algorithm; 5] =
    [Algorithm::Auto, Algorithm::Exact, Algorithm::Cluster, Algorithm::Graph, Algorithm::Dci];
pub const METRICS: [Metric; 3] = [Metric::InnerProduct, Metric::Cosine, Metric::L2];

/// Random numbers, and vectors of them.
#[derive(Debug, Clone)]
pub struct Numbers {
    random: Random,
    /// Factor of all numbers.
    pub size: f32,
}

impl Numbers {
    pub fn new(seed: u64, size: f32) -> Self {
        Self { random: Random(seed | 1), size }
    }

    pub fn next(&mut self) -> u64 {
        self.random.next().wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    /// Between 0 and 1.
    pub fn share(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 24) as f32
    }

    /// Roughly normal: a sum of six.
    pub fn normal(&mut self) -> f32 {
        (0..6).map(|_| self.share() - 0.5).sum::<f32>() * 1.4
    }

    pub fn below(&mut self, end: usize) -> usize {
        (self.next() >> 16) as usize % end
    }

    /// Numbers between −1 and 1, or small whole numbers, which make ties and exact sums. Never all zero.
    pub fn vectors(&mut self, count: usize, dimensions: usize, grid: bool) -> Vec<f32> {
        let size = self.size;
        let mut vectors: Vec<f32> = (0..count * dimensions)
            .map(|_| size * if grid { self.below(5) as f32 - 2.0 } else { self.share() * 2.0 - 1.0 })
            .collect();
        for vector in vectors.chunks_exact_mut(dimensions) {
            if vector.iter().all(|&x| x == 0.0) {
                vector[0] = size;
            }
        }
        vectors
    }

    /// Vectors around `centres`, `[groups][dimensions]`.
    pub fn around(&mut self, centres: &[f32], count: usize, dimensions: usize, spread: f32) -> Vec<f32> {
        let groups = centres.len() / dimensions;
        let mut vectors = Vec::with_capacity(count * dimensions);
        for _ in 0..count {
            let group = self.below(groups);
            for centre in &centres[group * dimensions..(group + 1) * dimensions] {
                // The sum of three is near enough to a normal distribution.
                let noise = self.share() + self.share() + self.share() - 1.5;
                vectors.push(self.size * (centre + spread * noise));
            }
        }
        vectors
    }
}

/// The same operations done the plain way.
#[derive(Clone)]
pub struct Model {
    pub options: IndexOptions,
    /// The stored vector and the value of each id.
    pub vectors: BTreeMap<u64, (Vec<f32>, Vec<f32>)>,
    /// The id after the largest ever.
    pub next: u64,
    pub kernels: &'static Kernels,
}

/// A neighbour: rank and id.
pub type Near = (f32, u64);

impl Model {
    pub fn new(options: IndexOptions, kernels: &'static Kernels) -> Self {
        Self { options, vectors: BTreeMap::new(), next: 0, kernels }
    }

    /// Notes what was added, with the vector as the index stored it.
    pub fn note(&mut self, index: &Index, id: u64, vector: &[f32], value: &[f32]) {
        let stored = index.get(id).unwrap();
        self.check_stored(vector, &stored);
        self.vectors.insert(id, (stored, value.to_vec()));
        self.next = self.next.max(id + 1);
    }

    /// The vector as the index compares it.
    pub fn as_compared(&self, vector: &[f32]) -> Vec<f32> {
        if self.options.metric != Metric::Cosine {
            return vector.to_vec();
        }
        // An index of plain numbers gives back what it compares.
        let options = IndexOptions { metric: Metric::Cosine, ..IndexOptions::new(vector.len()) };
        let mut index = Index::new(options, ThreadPool::new(1)).unwrap();
        index.add(vector, None, None).unwrap();
        index.get(0).unwrap()
    }

    fn check_stored(&self, vector: &[f32], stored: &[f32]) {
        let compared: Vec<f64> = match self.options.metric {
            Metric::Cosine => {
                let length = vector.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt();
                vector.iter().map(|&x| f64::from(x) / length).collect()
            }
            _ => vector.iter().copied().map(f64::from).collect(),
        };
        let largest = compared.iter().fold(0.0_f64, |largest, x| largest.max(x.abs()));
        for (&x, &stored) in compared.iter().zip(stored) {
            let allowed = match self.options.storage {
                Storage::F32 => 1e-7 * x.abs(),
                Storage::F16 if x.abs() > 65504.0 => {
                    assert_eq!(f64::from(stored).abs().to_bits(), 65504.0_f64.to_bits());
                    continue;
                }
                // Half of the smallest f16, half a unit in the last place otherwise.
                Storage::F16 => (x.abs() / 2047.9).max(3e-8),
                Storage::Bf16 => x.abs() / 255.9,
                Storage::I8 => largest / 127.0 * 0.5001,
            };
            assert!((f64::from(stored) - x).abs() <= allowed, "{stored} for {x}");
        }
    }

    /// The exact rank: larger is nearer.
    pub fn rank(&self, query: &[f32], vector: &[f32]) -> f32 {
        if self.options.metric == Metric::L2 {
            (0.0 - self.kernels.exact_squared_distance(query, vector)) as f32
        } else {
            self.kernels.exact_dot(query, vector) as f32
        }
    }

    /// The score by plain sums, and how far it may be off.
    pub fn plain_score(&self, query: &[f32], vector: &[f32]) -> (f64, f64) {
        let pairs = query.iter().zip(vector).map(|(&q, &x)| (f64::from(q), f64::from(x)));
        if self.options.metric == Metric::L2 {
            let score: f64 = pairs.map(|(q, x)| (q - x) * (q - x)).sum();
            (score, 1e-7 * score + 1e-44)
        } else {
            let (score, size) = pairs.fold((0.0, 0.0), |(score, size), (q, x)| (score + q * x, size + (q * x).abs()));
            (score, 1e-7 * f64::abs(score) + 1e-13 * size + 1e-44)
        }
    }

    pub fn score(&self, rank: f32) -> f32 {
        if self.options.metric == Metric::L2 { 0.0 - rank } else { rank }
    }

    /// All allowed vectors, nearest first. The query as it is compared.
    pub fn ranked(&self, query: &[f32], allowed: impl Fn(u64) -> bool) -> Vec<Near> {
        let mut near: Vec<Near> = self
            .vectors
            .iter()
            .filter(|(id, _)| allowed(**id))
            .map(|(&id, (vector, _))| (self.rank(query, vector), id))
            .collect();
        near.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        near
    }

    /// Checks a search: `exact` must be exactly right, others must be true and as many as there are.
    pub fn check_found(
        &self,
        found: &Neighbours,
        queries: &[f32],
        k: usize,
        exact: bool,
        allowed: impl Fn(u64) -> bool,
    ) {
        let dimensions = self.options.dimensions;
        assert_eq!(found.ids.len(), queries.len() / dimensions * k);
        for (row, query) in queries.chunks_exact(dimensions).enumerate() {
            let query = self.as_compared(query);
            let near = self.ranked(&query, &allowed);
            let count = near.len().min(k);
            assert_eq!(found.counts[row] as usize, count, "honest count");
            let ids = &found.ids[row * k..(row + 1) * k];
            let scores = &found.scores[row * k..(row + 1) * k];
            assert!(ids[count..].iter().all(|&id| id == u64::MAX));
            assert!(scores[count..].iter().all(|score| score.is_nan()));
            if exact {
                let expected: Vec<(u64, u32)> =
                    near[..count].iter().map(|&(rank, id)| (id, self.score(rank).to_bits())).collect();
                let found: Vec<(u64, u32)> = ids.iter().copied().zip(scores.iter().map(|x| x.to_bits())).collect();
                assert_eq!(found[..count], expected);
            }
            let ranks: HashMap<u64, f32> = near.iter().map(|&(rank, id)| (id, rank)).collect();
            let mut last: Option<Near> = None;
            for (id, score) in ids.iter().zip(scores).take(count) {
                let rank = *ranks.get(id).unwrap_or_else(|| panic!("id {id} may not be found"));
                assert_eq!(score.to_bits(), self.score(rank).to_bits(), "score of id {id}");
                let (plain, allowed) = self.plain_score(&query, &self.vectors[id].0);
                assert!((f64::from(*score) - plain).abs() <= allowed, "{score} {plain}");
                if let Some((before, id_before)) = last {
                    let order = before.total_cmp(&rank).reverse().then(id_before.cmp(id));
                    assert!(order.is_lt(), "nearest first, equal ones by id, none twice");
                }
                last = Some((rank, *id));
            }
        }
    }

    /// Checks what can be asked without searching.
    pub fn check_contents(&self, index: &Snapshot) {
        assert_eq!(index.len(), self.vectors.len());
        assert_eq!(index.is_empty(), self.vectors.is_empty());
        assert!(index.ids().into_iter().eq(self.vectors.keys().copied()));
        assert_eq!(index.stats().size, self.vectors.len());
        for (&id, (vector, value)) in self.vectors.iter().step_by(self.vectors.len() / 100 + 1) {
            assert!(index.has(id));
            assert_eq!(index.get(id).unwrap(), *vector);
            if self.options.value_dimensions > 0 {
                assert_eq!(index.value(id).unwrap(), *value);
            }
        }
        assert!(!index.has(self.next));
    }
}

/// Share of the exact neighbours (by score, so that ties count) that were found.
pub fn recall(exact: &Neighbours, found: &Neighbours, k: usize, metric: Metric) -> f64 {
    let mut hits = 0;
    for row in 0..exact.counts.len() {
        let last = exact.scores[row * k + exact.counts[row] as usize - 1];
        let near = |score: f32| if metric == Metric::L2 { score <= last } else { score >= last };
        hits += found.scores[row * k..row * k + found.counts[row] as usize].iter().filter(|&&x| near(x)).count();
    }
    hits as f64 / exact.counts.iter().map(|&count| f64::from(count)).sum::<f64>()
}
