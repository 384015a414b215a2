//! Queries in the form that scanning takes.

use crate::metric::Metric;
use crate::quantization::{inverse, reach, step_for};
use crate::scan::code_tiles::quads;
use crate::structure::Context;

/// Some queries of a request, coded as whole numbers.
pub(crate) struct Queries<'a> {
    /// `[rows][dimensions]`, as the index compares them.
    pub exact: &'a [f32],
    /// `[rows][dimensions]`, relative to the origin of the index; empty if that is zero.
    moved: Vec<f32>,
    /// `[rows][4 * quads]`, −127 to 127, zeros past the dimensions.
    pub codes: Vec<i8>,
    pub sizes: Vec<QuerySize>,
}

/// What bounds the scores of a query.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct QuerySize {
    /// What one step of a code stands for.
    pub step: f32,
    /// 128 times the sum of the codes: what the codes of vectors are too large by.
    pub surplus: f32,
    /// Euclidean length.
    pub length: f32,
    /// Its square, unrounded.
    pub squared: f64,
    /// Length of the coded query.
    pub coded: f32,
    /// Distance of the query from what its codes stand for.
    pub missed: f32,
}

impl<'a> Queries<'a> {
    /// Codes `[rows][dimensions]` queries; `origin` is `[dimensions]`, or empty for zero.
    pub fn new(context: &Context, exact: &'a [f32], origin: &[f32]) -> Self {
        let d = context.shape.dimensions;
        let width = quads(d) * 4;
        let rows = exact.len() / d;
        let moved: Vec<f32> = if origin.is_empty() {
            Vec::new()
        } else {
            exact.chunks_exact(d).flat_map(|query| query.iter().zip(origin).map(|(q, o)| q - o)).collect()
        };
        let mut codes = vec![0_i8; rows * width];
        let mut sizes = Vec::with_capacity(rows);
        let source = if moved.is_empty() { exact } else { &moved };
        for (query, codes) in source.chunks_exact(d).zip(codes.chunks_exact_mut(width)) {
            sizes.push(code(query, codes));
        }
        Self { exact, moved, codes, sizes }
    }

    pub fn rows(&self) -> usize {
        self.sizes.len()
    }

    /// `[rows][dimensions]`, relative to the origin.
    pub fn moved(&self) -> &[f32] {
        if self.moved.is_empty() { self.exact } else { &self.moved }
    }
}

/// Added to and taken from a number below 2^22 it leaves a whole number, ties to even: rounding without a call.
const WHOLE: f32 = 1.5 * (1 << 23) as f32;

fn code(query: &[f32], codes: &mut [i8]) -> QuerySize {
    /// Sums side by side, so that they become vectors.
    const SIDE: usize = 8;
    let step = step_for(reach(query));
    let inverse = inverse(step);
    let mut sum = 0_i32;
    let (mut squared, mut coded, mut missed) = ([0.0_f64; SIDE], [0.0_f64; SIDE], [0.0_f64; SIDE]);
    let mut add = |query: &[f32; SIDE], codes: &mut [i8; SIDE]| {
        for i in 0..SIDE {
            let whole = ((query[i] * inverse).clamp(-127.0, 127.0) + WHOLE) - WHOLE;
            codes[i] = whole as i8;
            sum += whole as i32;
            let value = f64::from(step) * f64::from(whole);
            squared[i] += f64::from(query[i]) * f64::from(query[i]);
            coded[i] += value * value;
            missed[i] += (f64::from(query[i]) - value) * (f64::from(query[i]) - value);
        }
    };
    let (numbers, rest) = query.as_chunks::<SIDE>();
    let (to, to_rest) = codes[..query.len()].as_chunks_mut::<SIDE>();
    for (numbers, codes) in numbers.iter().zip(to) {
        add(numbers, codes);
    }
    if !rest.is_empty() {
        let (mut numbers, mut last) = ([0.0; SIDE], [0; SIDE]);
        numbers[..rest.len()].copy_from_slice(rest);
        add(&numbers, &mut last);
        to_rest.copy_from_slice(&last[..rest.len()]);
    }
    let squared: f64 = squared.iter().sum();
    QuerySize {
        step,
        surplus: (128 * sum) as f32,
        length: (squared.sqrt() as f32).next_up(),
        squared,
        coded: (coded.iter().sum::<f64>().sqrt() as f32).next_up(),
        missed: (missed.iter().sum::<f64>().sqrt() as f32).next_up(),
    }
}

impl QuerySize {
    /// The least score that a vector of this rank can have.
    pub fn score(&self, metric: Metric, rank: f32) -> f32 {
        if rank == f32::NEG_INFINITY {
            return rank;
        }
        if metric == Metric::L2 {
            let score = 0.5 * (f64::from(rank) + self.squared);
            (score - 2e-7 * (f64::from(rank).abs() + self.squared)) as f32
        } else {
            rank - 2e-7 * rank.abs()
        }
    }
}
