//! Matrices as products read them.

use half::bf16;
use iceformer_simd::LANES;

/// Panels `[panels][k/2][16][2]` of a matrix `[k][n]`, rounded to bf16, and behind each panel `gap` numbers, which are none.
pub fn pack_pairs(matrix: &[f32], k: usize, n: usize, gap: usize) -> Vec<u16> {
    let stride = k * LANES + gap;
    let mut packed = vec![bf16::NAN.to_bits(); n.div_ceil(LANES) * stride];
    for (panel, packed) in packed.chunks_exact_mut(stride).enumerate() {
        packed[..k * LANES].fill(0);
        for i in 0..k {
            for j in (panel * LANES..n).take(LANES) {
                packed[(i / 2 * LANES + j % LANES) * 2 + i % 2] = bf16::from_f32(matrix[i * n + j]).to_bits();
            }
        }
    }
    packed
}
