//! What the machine can do at most: the peak of multiply-adds and the bandwidth of reading, found by loops that do
//! nothing else.

mod peak;
mod read;

use std::time::{Duration, Instant};

pub use peak::{Operand, peak};
pub use read::read_bandwidth;

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
