//! The most bytes per second that the machine reads from memory.

use std::hint::black_box;
use std::time::Duration;

use iceformer_threads::ThreadPool;
use memmap2::MmapMut;

/// Bytes that one thread reads in order before it takes the next piece: so many that beginning does not count.
const PIECE: usize = 4 << 20;

/// Bytes per second, in 10⁹, that all threads together read from memory.
///
/// Each reads its pieces from end to end, as wide as the CPU can whatever the SIMD level in use is: with narrow reads
/// fewer cache lines are on their way at once, and the CPU waits for memory that could deliver more.
pub fn read_bandwidth(pool: &ThreadPool, budget: Duration) -> f64 {
    // In large pages where the system has them, as weights are: with small ones every few lines wait for an address.
    let mut bytes = MmapMut::map_anon(super::COLD_BYTES).expect("memory");
    #[cfg(target_os = "linux")]
    let _ = bytes.advise(memmap2::Advice::HugePage);
    bytes.fill(1);
    let pieces: Vec<&[u8]> = bytes.chunks_exact(PIECE).collect();
    let read = reader();
    let time = super::best(budget, || {
        pool.for_each(pieces.len(), |_, item| {
            // SAFETY: `reader` chose what this CPU supports.
            black_box(unsafe { read(pieces[item]) });
        });
    });
    (pieces.len() * PIECE) as f64 / time / 1e9
}

/// Adds up the numbers of a piece, so that all of it is read.
type Read = unsafe fn(&[u8]) -> u64;

#[cfg(target_arch = "x86_64")]
fn reader() -> Read {
    if is_x86_feature_detected!("avx512f") {
        wide::avx512
    } else if is_x86_feature_detected!("avx2") {
        wide::avx2
    } else {
        any
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn reader() -> Read {
    any
}

/// For every CPU: the compiler makes vectors of it.
///
/// # Safety
/// Safe to call; unsafe like the others.
unsafe fn any(piece: &[u8]) -> u64 {
    let mut sums = [0_u64; 8];
    for line in piece.as_chunks::<64>().0 {
        for (sum, number) in sums.iter_mut().zip(line.as_chunks::<8>().0) {
            *sum = sum.wrapping_add(u64::from_ne_bytes(*number));
        }
    }
    sums.iter().fold(0, |sum, &part| sum.wrapping_add(part))
}

#[cfg(target_arch = "x86_64")]
#[expect(clippy::cast_ptr_alignment, reason = "these loads need no alignment")]
mod wide {
    use std::arch::x86_64::{
        __m256i, __m512i, _mm256_add_epi64, _mm256_extract_epi64, _mm256_loadu_si256, _mm256_setzero_si256,
        _mm512_add_epi64, _mm512_loadu_si512, _mm512_reduce_add_epi64, _mm512_setzero_si512,
    };

    /// Sums in flight: one alone would wait for itself.
    const SUMS: usize = 4;

    #[target_feature(enable = "avx512f")]
    pub fn avx512(piece: &[u8]) -> u64 {
        let mut sums = [_mm512_setzero_si512(); SUMS];
        for lines in piece.as_chunks::<{ 64 * SUMS }>().0 {
            for (sum, line) in sums.iter_mut().zip(lines.as_chunks::<64>().0) {
                // SAFETY: a line is as long as a vector.
                let line = unsafe { _mm512_loadu_si512(line.as_ptr().cast::<__m512i>()) };
                *sum = _mm512_add_epi64(*sum, line);
            }
        }
        sums.iter().fold(0, |total, &sum| total.wrapping_add(_mm512_reduce_add_epi64(sum) as u64))
    }

    #[target_feature(enable = "avx2")]
    pub fn avx2(piece: &[u8]) -> u64 {
        let mut sums = [_mm256_setzero_si256(); 2 * SUMS];
        for lines in piece.as_chunks::<{ 64 * SUMS }>().0 {
            for (sum, half) in sums.iter_mut().zip(lines.as_chunks::<32>().0) {
                // SAFETY: half a line is as long as a vector.
                let half = unsafe { _mm256_loadu_si256(half.as_ptr().cast::<__m256i>()) };
                *sum = _mm256_add_epi64(*sum, half);
            }
        }
        sums.iter().fold(0, |total, &sum| total.wrapping_add(_mm256_extract_epi64::<0>(sum) as u64))
    }
}
