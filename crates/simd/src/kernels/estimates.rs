//! Estimates from codes and sketches, and the search for the best of them.

use super::Kernels;
use crate::byte_dot::BYTE_ROW;
use crate::codes::Scan;
use crate::sketch::{Sketch, SketchRow};

impl Kernels {
    /// Codes a vector, one byte per number: `out[i] = clamp(round((x[i] - centre[i]) * inverse_step), -127, 127) +
    /// 128`, nearest even; 128 (zero steps) where `out` is longer than `x`. NaN takes the lowest code, 1. The same at
    /// every level.
    pub fn to_codes(&self, x: &[f32], centre: &[f32], inverse_step: f32, out: &mut [u8]) {
        assert!(x.len() == centre.len() && x.len() <= out.len());
        // SAFETY: lengths agree.
        unsafe { (self.to_codes)(x, centre, inverse_step, out) }
    }

    /// Multiplies `m` queries of signed bytes with tiles of codes and finds the keys that reach a query's threshold:
    ///
    /// `value[r][t][j] = (sum over i of a[r][i] * b[t][i / 4][j][i % 4]) * scales[r] + offsets[t][j]`
    ///
    /// The sum is an exact integer (up to 65,536 numbers, it wraps beyond), converted to f32 once, multiplied and
    /// added with one rounding (fused): the same to the last bit at every level.
    ///
    /// - `a`: `[m][lda]` bytes, `4 x quads` of each row used
    /// - `b`: one tile `[quads][16][4]` every `tile_stride` bytes
    /// - `scales`, `thresholds`: `[m]`
    /// - `offsets`: `[tiles][16]`, or null for zeros
    /// - `masks`: `[m][tiles]`, bit j of each is set if the value of key j is at least the threshold (never for NaN)
    /// - `values`: `[m][tiles][16]`, written (all sixteen) where the mask is not zero, and perhaps elsewhere
    ///
    /// # Safety
    /// All must be valid for these shapes; `values` and `masks` must not overlap anything else.
    pub unsafe fn scan_u8(
        &self,
        m: usize,
        quads: usize,
        a: *const i8,
        lda: usize,
        tiles: usize,
        b: *const u8,
        tile_stride: usize,
        scales: *const f32,
        thresholds: *const f32,
        offsets: *const f32,
        values: *mut f32,
        masks: *mut u16,
    ) {
        let scan = Scan { m, quads, a, lda, tiles, b, tile_stride, scales, thresholds, offsets, values, masks };
        // SAFETY: the caller's promise; the level was detected.
        unsafe { (self.scan_u8)(&scan) }
    }

    /// The softmax mass of every tile of keys for every row, estimated from the keys' sketches ([`crate::SKETCH_LINE`]):
    ///
    /// `masses[r][t] = sum over j of 2^min(value[r][t][j], 80)`, where, with key j's scale `k` and codes 0 to 3 in `c`,
    ///
    /// `value[r][t][j] = k * (scale * sum over i of a[r][i] * c[i] + offset - penalty * k) + base`
    ///
    /// and scale, offset, penalty and base are those of `rows[r]`. Levels differ by rounding only.
    ///
    /// - `lines`: numbers of a key, in sixteens
    /// - `a`: `[rows.len()][lda]` bytes, `16 x lines` of each row used
    /// - `groups`: of each four tiles the codes, `[4][lines][16][4]`, see [`crate::SKETCH_LINE_BYTES`], and then the keys'
    ///   scales, bf16 `[4][16]`, so [`crate::sketch_group_bytes`] in all; the last group may be shorter of tiles, not of bytes
    /// - `masses`: `[rows.len()][stride]`, `tiles` of each row written
    ///
    /// # Safety
    /// All must be valid for these shapes; `masses` must not overlap anything else.
    pub unsafe fn sketch_masses(
        &self,
        lines: usize,
        a: *const i8,
        lda: usize,
        rows: &[SketchRow],
        tiles: usize,
        groups: *const u8,
        masses: *mut f32,
        stride: usize,
    ) {
        let sketch = Sketch { m: rows.len(), lines, a, lda, rows: rows.as_ptr(), tiles, groups, masses, stride };
        // SAFETY: the caller's promise; the level was detected.
        unsafe { (self.sketch_masses)(&sketch) }
    }

    /// `out[r] = sum of query[i] * rows[r][i]`, a whole number, the same at every level.
    ///
    /// # Safety
    /// Each row must be valid for as many bytes as the query has.
    pub unsafe fn byte_dots(&self, query: &[i8], rows: &[*const u8], out: &mut [i32]) {
        assert!(query.len().is_multiple_of(BYTE_ROW) && rows.len() <= out.len());
        // SAFETY: lengths were checked, the rows are the caller's promise.
        unsafe { (self.byte_dots)(query.as_ptr(), query.len(), rows, out.as_mut_ptr()) }
    }

    /// For each row the column whose `scores[r][j] + offsets[j]` is largest, the first one of equals, if it is larger
    /// than the row's best so far: so products can be searched a few columns at a time, from the first to the last.
    /// NaN is never larger. The same at every level.
    ///
    /// - `scores`: `[m][stride]`, `n` of each row used
    /// - `offsets`: `[n]`, or empty for zeros
    /// - `first`: number of the first of these columns
    /// - `best`, `best_scores`: `[m]`; -inf is the score of a row that has no best yet
    pub fn nearest_columns(
        &self,
        n: usize,
        scores: &[f32],
        stride: usize,
        offsets: &[f32],
        first: u32,
        best: &mut [u32],
        best_scores: &mut [f32],
    ) {
        assert!(best.len() == best_scores.len() && n <= stride && (offsets.is_empty() || offsets.len() == n));
        assert!(u32::try_from(n).ok().and_then(|n| first.checked_add(n)).is_some());
        assert!(best.is_empty() || (best.len() - 1) * stride + n <= scores.len());
        // SAFETY: every row's n columns lie within the slice.
        unsafe { (self.nearest_columns)(n, scores, stride, offsets, first, best, best_scores) }
    }
}
