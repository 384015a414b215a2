//! Finding the few scores of a block that reach their query's threshold.
//!
//! Nearly all scores fail, so the test is what a scan pays beside the matrix product: sixteen scores are
//! compared at once and only the bits that are set are looked at.

use iceformer_simd::{LANES, Level};

/// Compares one row of scores with a threshold, sixteen at a time.
///
/// `scores` is `[16 * masks.len()]`, `offsets` (added to the scores first) is the same or empty. Bit `j`
/// of `masks[i]` says that score `16 * i + j` is at least `threshold`. A NaN is not.
pub(crate) fn sift(level: Level, scores: &mut [f32], offsets: &[f32], threshold: f32, masks: &mut [u16]) {
    assert!(scores.len() == masks.len() * LANES && (offsets.is_empty() || offsets.len() == scores.len()));
    match level {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the level came from a kernel table, which exists only for levels that the CPU supports.
        Level::Avx512 | Level::Avx512Bf16 => unsafe { sift_avx512(scores, offsets, threshold, masks) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Level::Avx2 => unsafe { sift_avx2(scores, offsets, threshold, masks) },
        _ => sift_plain(scores, offsets, threshold, masks),
    }
}

fn sift_plain(scores: &mut [f32], offsets: &[f32], threshold: f32, masks: &mut [u16]) {
    for (score, offset) in scores.iter_mut().zip(offsets) {
        *score += offset;
    }
    for (mask, lanes) in masks.iter_mut().zip(scores.as_chunks::<LANES>().0) {
        let reached = lanes.map(|score| score >= threshold);
        *mask = if reached.iter().fold(false, |any, &bit| any | bit) {
            reached.iter().enumerate().fold(0, |bits, (lane, &bit)| bits | u16::from(bit) << lane)
        } else {
            0
        };
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn sift_avx512(scores: &mut [f32], offsets: &[f32], threshold: f32, masks: &mut [u16]) {
    use std::arch::x86_64::{
        _CMP_GE_OQ, _mm512_add_ps, _mm512_cmp_ps_mask, _mm512_loadu_ps, _mm512_set1_ps, _mm512_storeu_ps,
    };
    let bar = _mm512_set1_ps(threshold);
    for (i, (mask, lanes)) in masks.iter_mut().zip(scores.as_chunks_mut::<LANES>().0).enumerate() {
        // SAFETY: sixteen numbers.
        let mut score = unsafe { _mm512_loadu_ps(lanes.as_ptr()) };
        if let Some(offset) = offsets.as_chunks::<LANES>().0.get(i) {
            // SAFETY: sixteen numbers each.
            unsafe {
                score = _mm512_add_ps(score, _mm512_loadu_ps(offset.as_ptr()));
                _mm512_storeu_ps(lanes.as_mut_ptr(), score);
            }
        }
        *mask = _mm512_cmp_ps_mask::<_CMP_GE_OQ>(score, bar);
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn sift_avx2(scores: &mut [f32], offsets: &[f32], threshold: f32, masks: &mut [u16]) {
    use std::arch::x86_64::{
        _CMP_GE_OQ, _mm256_add_ps, _mm256_cmp_ps, _mm256_loadu_ps, _mm256_movemask_ps, _mm256_set1_ps, _mm256_storeu_ps,
    };
    let bar = _mm256_set1_ps(threshold);
    for (i, (mask, lanes)) in masks.iter_mut().zip(scores.as_chunks_mut::<LANES>().0).enumerate() {
        let mut bits = [0_u16; 2];
        for (half, bits) in bits.iter_mut().enumerate() {
            // SAFETY: eight of sixteen numbers.
            let mut score = unsafe { _mm256_loadu_ps(lanes.as_ptr().add(half * 8)) };
            if let Some(offset) = offsets.as_chunks::<LANES>().0.get(i) {
                // SAFETY: eight of sixteen numbers each.
                unsafe {
                    score = _mm256_add_ps(score, _mm256_loadu_ps(offset.as_ptr().add(half * 8)));
                    _mm256_storeu_ps(lanes.as_mut_ptr().add(half * 8), score);
                }
            }
            *bits = _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_GE_OQ>(score, bar)) as u16;
        }
        *mask = bits[0] | bits[1] << 8;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_level_finds_the_same() {
        let scores: Vec<f32> = (0..64).map(|i| if i == 7 { f32::NAN } else { ((i * 37) % 64) as f32 }).collect();
        let offsets: Vec<f32> = (0..64).map(|i| if i == 9 { f32::NEG_INFINITY } else { (i % 3) as f32 }).collect();
        for kernels in iceformer_simd::supported() {
            for offsets in [&[][..], &offsets] {
                for threshold in [f32::NEG_INFINITY, 0.0, 31.5, 63.0, 1e9] {
                    let mut copy = scores.clone();
                    let mut masks = [0_u16; 4];
                    sift(kernels.level, &mut copy, offsets, threshold, &mut masks);
                    for i in 0..64 {
                        let expected = scores[i] + offsets.get(i).unwrap_or(&0.0);
                        assert_eq!(masks[i / 16] >> (i % 16) & 1 == 1, expected >= threshold);
                        assert!(copy[i].to_bits() == expected.to_bits() || (copy[i].is_nan() && expected.is_nan()));
                    }
                }
            }
        }
    }
}
