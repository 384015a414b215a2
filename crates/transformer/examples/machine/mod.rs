//! What the machine can do at most: the peak of multiply-adds and the bandwidth of reading, found by loops that do
//! nothing else.

mod peak;

use std::hint::black_box;
use std::time::{Duration, Instant};

use iceformer_threads::ThreadPool;

pub use peak::{Operand, peak};

/// Bytes that no cache holds.
pub const COLD_BYTES: usize = 256 << 20;

/// The shortest run within the time budget, and at least five runs, in seconds.
pub fn best(budget: Duration, mut run: impl FnMut()) -> f64 {
    let begin = Instant::now();
    let mut shortest = f64::INFINITY;
    let mut runs = 0;
    while runs < 5 || begin.elapsed() < budget {
        let start = Instant::now();
        run();
        shortest = shortest.min(start.elapsed().as_secs_f64());
        runs += 1;
    }
    shortest
}

/// Bytes per second, in 10⁹, that all threads together read from memory, eight streams each.
pub fn read_bandwidth(pool: &ThreadPool, budget: Duration) -> f64 {
    const PIECE: usize = 64 << 10;
    let values = vec![1.0_f32; COLD_BYTES / 4];
    let pieces = values.len() / PIECE;
    let time = best(budget, || {
        pool.for_each(pieces, |_, item| {
            let streams: [&[[f32; 4]]; 8] =
                std::array::from_fn(|stream| values[item * PIECE + stream * PIECE / 8..][..PIECE / 8].as_chunks().0);
            let mut sums = [[0.0_f32; 4]; 8];
            for step in (0..PIECE / 32).step_by(4) {
                for (sum, stream) in sums.iter_mut().zip(streams) {
                    for values in &stream[step..step + 4] {
                        for (sum, value) in sum.iter_mut().zip(values) {
                            *sum += value;
                        }
                    }
                }
            }
            black_box(sums);
        });
    });
    (pieces * PIECE * 4) as f64 / time / 1e9
}
