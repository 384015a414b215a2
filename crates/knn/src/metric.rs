//! How two vectors are compared, and how one is prepared for it.

use crate::error::{Error, Result};

/// The longest vector taken: products of two such vectors still fit an `f32`.
pub const MAX_LENGTH: f64 = 1e18;

/// How a query and a vector are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metric {
    /// The score is the inner product; the largest is nearest.
    InnerProduct,
    /// The score is the cosine of the angle, −1 to 1; the largest is nearest. Vectors are stored with
    /// length 1, and the zero vector is an error.
    Cosine,
    /// The score is the squared Euclidean distance; the smallest is nearest.
    L2,
}

impl Metric {
    /// Turns a score into a number that grows with nearness, and back.
    #[must_use]
    pub fn rank(self, score: f32) -> f32 {
        if self == Self::L2 { -score } else { score }
    }

    /// The score of a rank. Not `-rank` for L2: the distance of equal vectors is 0, not −0.
    pub(crate) fn score(self, rank: f32) -> f32 {
        if self == Self::L2 { 0.0 - rank } else { rank }
    }

    /// Checks one vector and copies it in the form the index compares: of length 1 for cosine, as it is
    /// otherwise. Returns the Euclidean length of what was written.
    ///
    /// `input` and `output` are `[dimensions]`; `what` and `row` name the vector in an error.
    pub(crate) fn prepare(self, input: &[f32], output: &mut [f32], what: &'static str, row: usize) -> Result<f64> {
        let length = self.check(input, what, row)?;
        if self == Self::Cosine {
            for (to, from) in output.iter_mut().zip(input) {
                *to = (f64::from(*from) / length) as f32;
            }
            Ok(1.0)
        } else {
            output.copy_from_slice(input);
            Ok(length)
        }
    }

    /// Checks one vector and returns its Euclidean length.
    pub(crate) fn check(self, input: &[f32], what: &'static str, row: usize) -> Result<f64> {
        let length = squared_length(input).sqrt();
        if !length.is_finite() {
            check_finite(input, what, row)?;
        }
        if length > MAX_LENGTH {
            return Err(Error::TooLarge { what, row, length, max: MAX_LENGTH });
        }
        if length == 0.0 && self == Self::Cosine {
            return Err(Error::ZeroVector { what, row });
        }
        Ok(length)
    }
}

/// Fails on the first component that is NaN or infinite.
pub(crate) fn check_finite(input: &[f32], what: &'static str, row: usize) -> Result<()> {
    match input.iter().position(|x| !x.is_finite()) {
        Some(position) => Err(Error::NotFinite { what, row, position, value: input[position] }),
        None => Ok(()),
    }
}

/// Sum of squares, in a fixed order and in `f64`, so that it is the same on every machine. Not finite
/// exactly when a component is not (the square of an `f32` never overflows an `f64`).
pub(crate) fn squared_length(x: &[f32]) -> f64 {
    sum_of(x.len(), |i| f64::from(x[i]) * f64::from(x[i]))
}

/// Four interleaved sums, added at the end: independent chains keep the processor busy.
#[inline]
pub(crate) fn sum_of(n: usize, term: impl Fn(usize) -> f64) -> f64 {
    let mut sums = [0.0_f64; 4];
    let whole = n / 4 * 4;
    for i in (0..whole).step_by(4) {
        for (lane, sum) in sums.iter_mut().enumerate() {
            *sum += term(i + lane);
        }
    }
    for i in whole..n {
        sums[i - whole] += term(i);
    }
    (sums[0] + sums[1]) + (sums[2] + sums[3])
}
