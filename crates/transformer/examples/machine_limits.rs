//! Prints, as JSON on one line, what this machine can do at most: `{"simd", "threads", "readGBs", "f32", "bf16",
//! "int8"}`, the last three in 10⁹ operations per second of all threads (a multiply-add is two) with the best
//! instruction of the SIMD level in use, null where there is no measurement.
//!
//! ```sh
//! cargo run --release -p iceformer-transformer --example machine_limits [threads [seconds per figure]]
//! ```

#![expect(clippy::print_stdout, reason = "printing is what this example is for")]

mod machine;

use std::time::Duration;

use iceformer_simd::kernels;
use iceformer_threads::ThreadPool;
use machine::{Operand, peak, read_bandwidth};

fn main() {
    let mut arguments = std::env::args().skip(1);
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let threads = arguments.next().and_then(|text| text.parse().ok()).unwrap_or(cores);
    let seconds = arguments.next().and_then(|text| text.parse().ok()).unwrap_or(1.0);
    let (pool, budget, level) = (ThreadPool::new(threads), Duration::from_secs_f64(seconds), kernels().level);
    let rate = |operand| peak(level, operand, &pool, budget).map_or("null".to_owned(), |peak| format!("{peak:.1}"));
    println!(
        r#"{{"simd":"{level}","threads":{threads},"readGBs":{:.2},"f32":{},"bf16":{},"int8":{}}}"#,
        read_bandwidth(&pool, budget),
        rate(Operand::F32),
        rate(Operand::Bf16),
        rate(Operand::Int8),
    );
}
