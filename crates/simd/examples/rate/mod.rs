//! How fast something runs.

use std::time::Instant;

/// Best of twenty runs, in thousand millions of operations a second.
pub fn rate(operations: f64, mut run: impl FnMut()) -> f64 {
    run();
    let mut best = f64::MAX;
    for _ in 0..20 {
        let start = Instant::now();
        run();
        best = best.min(start.elapsed().as_secs_f64());
    }
    operations / best / 1e9
}
