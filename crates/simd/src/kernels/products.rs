//! Matrix products, and what prepares rows for products in bytes.

use super::Kernels;
use crate::gemm_i8::{self, ByteProduct};
use crate::halves::{HALF_GROUP, HalfProduct};

impl Kernels {
    /// C = A x B, or C += A x B: `a` is `[m][lda]` (k used), `b` holds `panels` panels `[k][16]`, one every
    /// `panel_stride` numbers, `c` is `[m][ldc]` (16 x panels used).
    ///
    /// # Safety
    /// All three must be valid for these shapes; `c` must not overlap the others.
    pub unsafe fn gemm_f32(
        &self,
        m: usize,
        k: usize,
        a: *const f32,
        lda: usize,
        b: *const f32,
        panel_stride: usize,
        panels: usize,
        c: *mut f32,
        ldc: usize,
        accumulate: bool,
    ) {
        // SAFETY: the caller's promise; the level was detected.
        unsafe { (self.gemm_f32)(m, k, a, lda, b, panel_stride, panels, c, ldc, accumulate) }
    }

    /// The same on bf16 numbers (their bits): panels `[k/2][16][2]`, k even, sums in f32.
    ///
    /// # Safety
    /// As [`Self::gemm_f32`].
    pub unsafe fn gemm_bf16(
        &self,
        m: usize,
        k: usize,
        a: *const u16,
        lda: usize,
        b: *const u16,
        panel_stride: usize,
        panels: usize,
        c: *mut f32,
        ldc: usize,
        accumulate: bool,
    ) {
        debug_assert!(k.is_multiple_of(2));
        // SAFETY: the caller's promise; the level was detected.
        unsafe { (self.gemm_bf16)(m, k, a, lda, b, panel_stride, panels, c, ldc, accumulate) }
    }

    /// Rows of f32 times bf16 panels `[k/2][16][2]`, k even, which are widened exactly. Where
    /// [`crate::Level::multiplies_bf16`] is false this is the fastest product with bf16 panels.
    ///
    /// # Safety
    /// As [`Self::gemm_f32`].
    pub unsafe fn gemm_f32_bf16(
        &self,
        m: usize,
        k: usize,
        a: *const f32,
        lda: usize,
        b: *const u16,
        panel_stride: usize,
        panels: usize,
        c: *mut f32,
        ldc: usize,
        accumulate: bool,
    ) {
        debug_assert!(k.is_multiple_of(2));
        // SAFETY: the caller's promise; the level was detected.
        unsafe { (self.gemm_f32_bf16)(m, k, a, lda, b, panel_stride, panels, c, ldc, accumulate) }
    }

    /// C += A x B where B lies in pieces of sixteen rows anywhere: `a` is `[m][lda]` (16 for each entry of `list` used),
    /// each entry is `[width][16][16]` (panel, row, column), `c` is `[m][ldc]` (16 x width used).
    ///
    /// # Safety
    /// All must be valid for these shapes; `c` must not overlap the others.
    pub unsafe fn add_rows_by_panels_f32(
        &self,
        m: usize,
        a: *const f32,
        lda: usize,
        list: &[*const f32],
        width: usize,
        c: *mut f32,
        ldc: usize,
    ) {
        // SAFETY: the caller's promise; the level was detected.
        unsafe { (self.add_rows_by_panels_f32)(m, a, lda, list, width, c, ldc) }
    }

    /// The same on bf16 numbers (their bits): entries `[width][8][16][2]`, sums in f32.
    ///
    /// # Safety
    /// As [`Self::add_rows_by_panels_f32`].
    pub unsafe fn add_rows_by_panels_bf16(
        &self,
        m: usize,
        a: *const u16,
        lda: usize,
        list: &[*const u16],
        width: usize,
        c: *mut f32,
        ldc: usize,
    ) {
        // SAFETY: the caller's promise; the level was detected.
        unsafe { (self.add_rows_by_panels_bf16)(m, a, lda, list, width, c, ldc) }
    }

    /// The same with rows of f32 and entries of bf16, which are widened exactly: the fastest way through such entries
    /// where [`crate::Level::multiplies_bf16`] is false.
    ///
    /// # Safety
    /// As [`Self::add_rows_by_panels_f32`].
    pub unsafe fn add_rows_by_panels_f32_bf16(
        &self,
        m: usize,
        a: *const f32,
        lda: usize,
        list: &[*const u16],
        width: usize,
        c: *mut f32,
        ldc: usize,
    ) {
        // SAFETY: the caller's promise; the level was detected.
        unsafe { (self.add_rows_by_panels_f32_bf16)(m, a, lda, list, width, c, ldc) }
    }

    /// Products in bytes, both sides quantized in groups along k, the same to the last bit at every level:
    ///
    /// `c[r][16p + j] (+)= sum over g of sums[r][p][g][j] * (b_scales[p][g][j] * a_scales[r][g])`, where
    ///
    /// `sums[r][p][g][j] = a_starts[r][g] + sum over i in g of a[r][i] * b[p][i / 4][j][i % 4]`
    ///
    /// The sum within a group is an exact integer (up to 65,536 numbers, it wraps beyond). With
    /// `a_starts[r][g] = -128 * sum over i in g of a[r][i]` a code of B counts as its value less 128.
    ///
    /// - `quads`: numbers of a row, in fours, at least one; `group_quads`: those that share a scale. A group is a
    ///   multiple of 16 quads long, but for the last, which may be shorter
    /// - `a`: `[m][lda]` bytes, `4 x quads` of each row used
    /// - `a_scales`, `a_starts`: `[m][groups_stride]`, one for each group used
    /// - `b`: one panel `[quads][16][4]` every `panel_stride` bytes
    /// - `b_scales`: `[groups][16]` every `b_scale_stride` numbers
    /// - `c`: `[m][ldc]`, `16 x panels` of each row used
    ///
    /// # Safety
    /// All must be valid for these shapes; `c` must not overlap the others. `a_starts` must be as said above: some
    /// levels use them, others take 128 off the codes instead.
    pub unsafe fn gemm_i8(
        &self,
        m: usize,
        quads: usize,
        group_quads: usize,
        a: *const i8,
        lda: usize,
        a_scales: *const f32,
        a_starts: *const i32,
        groups_stride: usize,
        b: *const u8,
        panel_stride: usize,
        b_scales: *const f32,
        b_scale_stride: usize,
        panels: usize,
        c: *mut f32,
        ldc: usize,
        accumulate: bool,
    ) {
        debug_assert!(quads > 0 && (group_quads >= quads || (group_quads > 0 && group_quads.is_multiple_of(16))));
        let product = ByteProduct {
            m,
            quads,
            group_quads,
            a,
            lda,
            a_scales,
            a_starts,
            groups_stride,
            b,
            panel_stride,
            b_scales,
            b_scale_stride,
            panels,
            c,
            ldc,
            accumulate,
        };
        // SAFETY: the caller's promise; the level was detected.
        unsafe { (self.gemm_i8)(&product) }
    }

    /// Many rows in half precision times bf16 panels: `c[r][16p + j] (+)= sum over i of a[r][i] * a_scales[r][i / 128] *
    /// b[p][i / 2][j][i % 2]`, for rows of [`Self::to_halves`].
    ///
    /// Where [`crate::Level::multiplies_halves`] is true this is the fastest product of many rows with bf16 panels, and at
    /// most 32 products are summed in half precision before the sum goes on in f32: for numbers without structure its error
    /// is about 0.0006 of the sum's standard deviation, half of what rounding the rows to bf16 would cost. Weights whose
    /// exponent is 18 or more below that of the largest beside them count as zero; if one is not finite, what its panels
    /// give is NaN.
    ///
    /// - `k`: numbers of a row, even, at least two
    /// - `a`: `[m][lda]`, `k` of each row used
    /// - `a_scales`: `[m][groups_stride]`, one for each [`HALF_GROUP`] numbers used
    /// - `b`: one panel `[k/2][16][2]` every `panel_stride` numbers
    /// - `c`: `[m][ldc]`, `16 x panels` of each row used
    ///
    /// # Safety
    /// All must be valid for these shapes; `c` must not overlap the others. Rows and scales are as [`Self::to_halves`]
    /// stores them.
    pub unsafe fn gemm_halves(
        &self,
        m: usize,
        k: usize,
        a: *const u16,
        lda: usize,
        a_scales: *const f32,
        groups_stride: usize,
        b: *const u16,
        panel_stride: usize,
        panels: usize,
        c: *mut f32,
        ldc: usize,
        accumulate: bool,
    ) {
        debug_assert!(k > 0 && k.is_multiple_of(2));
        let product =
            HalfProduct { m, k, a, lda, a_scales, groups_stride, b, panel_stride, panels, c, ldc, accumulate };
        // SAFETY: the caller's promise; the level was detected.
        unsafe { (self.gemm_halves)(&product) }
    }

    /// Rounds a row for [`Self::gemm_halves`] in groups of [`HALF_GROUP`] numbers, the last of which may be shorter. The
    /// same at every level:
    ///
    /// - `scales[g]`: a power of two, such that the group's largest magnitude is 32 to below 64 times as large; zero if
    ///   that magnitude is below 1e-30, NaN if a number of the group is not finite
    /// - `halves[i]`: the bits of the f16 nearest to `x[i] / scale`, zero where the scale is zero or NaN
    ///
    /// # Panics
    /// If a buffer is too short.
    pub fn to_halves(&self, x: &[f32], halves: &mut [u16], scales: &mut [f32]) {
        assert!(x.len() <= halves.len() && x.len().div_ceil(HALF_GROUP) <= scales.len());
        // SAFETY: lengths are checked, the level was detected.
        unsafe { (self.to_halves)(x, halves, scales) }
    }

    /// Quantizes a row for [`Self::gemm_i8`] in groups of `group` numbers, the last of which may be shorter. The same
    /// at every level:
    ///
    /// - `scales[g]`: the largest magnitude of the group over 127; zero if that magnitude is below 1e-30, NaN if a
    ///   number of the group is not finite
    /// - `codes[i]`: `x[i] / scale`, rounded to nearest even; zero where `codes` is longer than `x`
    /// - `starts[g]`: -128 times the sum of the group's codes
    pub fn quantize_i8(&self, x: &[f32], group: usize, codes: &mut [i8], scales: &mut [f32], starts: &mut [i32]) {
        check_groups(x, group, codes, scales, starts);
        // SAFETY: lengths are checked.
        unsafe { (self.quantize_i8)(x, group, codes, scales, starts) }
    }

    /// [`Self::hadamard`] of each group, then [`Self::quantize_i8`], in one pass: the same to the bit. A group of whole
    /// blocks of [`crate::HADAMARD_BLOCK`] has at most 512 numbers.
    ///
    /// # Panics
    /// If a group is longer or no number of whole blocks, or a buffer too short.
    pub fn quantize_transformed_i8(
        &self,
        x: &[f32],
        group: usize,
        codes: &mut [i8],
        scales: &mut [f32],
        starts: &mut [i32],
    ) {
        assert!(group <= gemm_i8::TRANSFORMED_GROUP && group.is_multiple_of(crate::HADAMARD_BLOCK));
        check_groups(x, group, codes, scales, starts);
        // SAFETY: lengths are checked.
        unsafe { (self.quantize_transformed_i8)(x, group, codes, scales, starts) }
    }

    /// Replaces each block of [`crate::HADAMARD_BLOCK`] numbers by its Walsh-Hadamard transform, what is left at the end
    /// in blocks of 64, 32, 16, 8, 4 and 2. The transform is orthonormal and its own inverse: inner products stay, and a
    /// number much larger than its neighbours, which would make quantization coarse for all of them, is spread over
    /// its block. The same to the last bit at every level.
    pub fn hadamard(&self, x: &mut [f32]) {
        // SAFETY: the level was detected.
        unsafe { (self.hadamard)(x) }
    }
}

/// Panics unless there is room for the codes of a row, and for the scale and the start of each of its groups.
fn check_groups(x: &[f32], group: usize, codes: &[i8], scales: &[f32], starts: &[i32]) {
    assert!(group > 0 && x.len() <= codes.len());
    assert!(x.len().div_ceil(group) <= scales.len() && x.len().div_ceil(group) <= starts.len());
}
