//! Passes over some rows of a matrix, which a list names.

use super::Kernels;

impl Kernels {
    /// Inner products of the listed rows of a matrix (`[..][d]`) with a vector (`[d]`); `out` is as long as the list.
    pub fn dots_of_rows(&self, rows: &[f32], list: &[u32], vector: &[f32], out: &mut [f32]) {
        check(rows, list, vector.len());
        assert_eq!(list.len(), out.len());
        // SAFETY: every listed row lies in the matrix.
        unsafe { (self.dots_of_rows)(rows.as_ptr(), list, vector, out) }
    }

    /// Squared Euclidean distances of the listed rows of a matrix (`[..][d]`) from a vector (`[d]`); `out` is as long as
    /// the list.
    pub fn squared_distances_of_rows(&self, rows: &[f32], list: &[u32], vector: &[f32], out: &mut [f32]) {
        check(rows, list, vector.len());
        assert_eq!(list.len(), out.len());
        // SAFETY: every listed row lies in the matrix.
        unsafe { (self.squared_distances_of_rows)(rows.as_ptr(), list, vector, out) }
    }

    /// The mean (`[d]`) of the listed rows of a matrix (`[..][d]`); not a number if none is listed.
    pub fn mean_of_rows(&self, rows: &[f32], list: &[u32], mean: &mut [f32]) {
        check(rows, list, mean.len());
        // SAFETY: every listed row lies in the matrix.
        unsafe { (self.mean_of_rows)(rows.as_ptr(), list, mean) }
    }
}

/// Panics unless every listed row lies in a matrix `[..][d]`.
fn check(rows: &[f32], list: &[u32], d: usize) {
    let last = list.iter().fold(0, |last, &row| last.max(row as usize));
    assert!(list.is_empty() || (last + 1) * d <= rows.len());
}
