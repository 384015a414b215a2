//! Throughput of packed products on the shapes of SmolLM2-135M, as shares of what the machine can do.
//!
//! ```sh
//! cargo run --release -p iceformer-transformer --example linear_throughput [seconds per figure [product]]
//! ```
//!
//! The peak of multiply-add and the read bandwidth are measured in the same run, by loops that do nothing else. With
//! one row a product waits for memory, so its share is that of the bandwidth, and its weights rotate through enough
//! copies that no cache holds them. With more rows the share is that of the peak. Each figure is the best of the
//! repetitions: other work on the machine can only slow it down.

#![expect(clippy::print_stdout, reason = "printing is what this example is for")]

mod machine;

use std::fs::File;
use std::hint::black_box;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use iceformer_simd::{Kernels, kernels};
use iceformer_threads::ThreadPool;
use iceformer_transformer::{
    Decoder, DecoderConfig, DecoderTensors, LayerTensors, MatrixProduct, PackedMatrix, Precision, StoredTensor,
    StoredType,
};
use machine::{COLD_BYTES, Operand, best, peak, read_bandwidth};

/// Name, inputs, outputs.
const SHAPES: [(&str, usize, usize); 5] =
    [("q, o", 576, 576), ("k, v", 576, 192), ("gate, up", 576, 1536), ("down", 1536, 576), ("head", 576, 49152)];

fn main() {
    let seconds = std::env::args().nth(1).and_then(|arg| arg.parse().ok()).unwrap_or(0.3);
    let budget = Duration::from_secs_f64(seconds);
    let only = std::env::args().nth(2).unwrap_or_default();
    let kernels = kernels();
    println!("SIMD level {}", kernels.level);
    for threads in [1, 2] {
        let pool = ThreadPool::new(threads);
        for precision in [Precision::F32, Precision::Bf16, Precision::Int8] {
            let limit = peak(kernels.level, operand(precision), &pool, budget);
            let shown = limit.map_or("unknown".to_owned(), |peak| format!("{peak:.0} GFLOP/s"));
            println!("\n{threads} thread(s), {precision:?}: peak {shown}");
            println!("{:>10} {:>5} {:>12} {:>9} {:>9}", "product", "rows", "time, us", "GFLOP/s", "share");
            // Measured beside each figure: what the machine's other users leave of it changes within seconds.
            let of_reads = |rate: f64| {
                let limit = read_bandwidth(&pool, budget);
                format!("{:.0} % of {limit:.0} GB/s", 100.0 * rate / limit)
            };
            for (name, inputs, outputs) in SHAPES.into_iter().filter(|(name, ..)| name.contains(&only)) {
                for rows in [1, 8, 64, 512] {
                    let time = product_time(kernels, &pool, precision, rows, inputs, outputs, budget);
                    let flops = 2.0 * rows as f64 * inputs as f64 * outputs as f64 / time / 1e9;
                    let bytes = PackedMatrix::packed_bytes(outputs, inputs, precision) as f64 / time / 1e9;
                    let share = match (rows, limit) {
                        (1, _) => of_reads(bytes),
                        (_, Some(peak)) => format!("{:.0} %", 100.0 * flops / peak),
                        (_, None) => "-".to_owned(),
                    };
                    println!("{name:>10} {rows:>5} {:>12.1} {flops:>9.1} {share:>9}", time * 1e6);
                }
            }
            for rows in [1, 8, 64, 512].into_iter().filter(|_| "layer".contains(&only)) {
                let (time, flops, bytes) = layer_time(kernels, &pool, precision, rows, budget);
                let flops = flops / time / 1e9;
                let share = match (rows, limit) {
                    (1, _) => of_reads(bytes / time / 1e9),
                    (_, Some(peak)) => format!("{:.0} %", 100.0 * flops / peak),
                    (_, None) => "-".to_owned(),
                };
                println!("{:>10} {rows:>5} {:>12.1} {flops:>9.1} {share:>9}", "layer", time * 1e6);
            }
        }
    }
}

/// What products of weights of a precision multiply.
fn operand(precision: Precision) -> Operand {
    match precision {
        Precision::F32 => Operand::F32,
        Precision::Bf16 => Operand::Bf16,
        Precision::Int8 => Operand::Int8,
    }
}

fn random(count: usize) -> Vec<f32> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

fn product_time(
    kernels: &'static Kernels,
    pool: &ThreadPool,
    precision: Precision,
    rows: usize,
    inputs: usize,
    outputs: usize,
    budget: Duration,
) -> f64 {
    let values = random(inputs * outputs);
    let bytes = PackedMatrix::packed_bytes(outputs, inputs, precision) as usize;
    let copies = if rows == 1 { COLD_BYTES.div_ceil(bytes) } else { 1 };
    let weights: Vec<PackedMatrix> = (0..copies)
        .map(|_| PackedMatrix::from_values(outputs, inputs, &values, precision, kernels, pool).expect("memory"))
        .collect();
    let x = random(rows * inputs);
    let mut out = vec![0.0; rows * outputs];
    let mut product = MatrixProduct::new(rows, inputs, precision, kernels).expect("memory");
    best(budget, || {
        for weights in &weights {
            product.run(pool, weights, &x, &mut out);
        }
        black_box(&mut out);
    }) / copies as f64
}

/// Time, floating-point operations and bytes of weights of one layer without attention, averaged over all layers of a
/// model as large as SmolLM2-135M.
fn layer_time(
    kernels: &'static Kernels,
    pool: &ThreadPool,
    precision: Precision,
    rows: usize,
    budget: Duration,
) -> (f64, f64, f64) {
    let (hidden, intermediate, heads, kv_heads, head_dim, layers) = (576, 1536, 9, 3, 64, 30);
    let (query, key) = (heads * head_dim, kv_heads * head_dim);
    let path = std::env::temp_dir().join(format!("iceformer-throughput-{}.bin", std::process::id()));
    let bytes: Vec<u8> = random(hidden * intermediate).iter().flat_map(|value| (value / 8.0).to_le_bytes()).collect();
    File::create(&path).and_then(|mut file| file.write_all(&bytes)).expect("a file for the weights");
    let tensor = |shape: &[usize]| stored(&path, shape);
    let layer = LayerTensors {
        input_norm: tensor(&[hidden]),
        q: tensor(&[query, hidden]),
        k: tensor(&[key, hidden]),
        v: tensor(&[key, hidden]),
        q_bias: None,
        k_bias: None,
        v_bias: None,
        q_norm: None,
        k_norm: None,
        o: tensor(&[hidden, query]),
        o_bias: None,
        post_norm: tensor(&[hidden]),
        gate: tensor(&[intermediate, hidden]),
        up: tensor(&[intermediate, hidden]),
        down: tensor(&[hidden, intermediate]),
        gate_bias: None,
        up_bias: None,
        down_bias: None,
    };
    let vocabulary = 16;
    let tensors = DecoderTensors {
        embedding: tensor(&[vocabulary, hidden]),
        head: None,
        final_norm: tensor(&[hidden]),
        layers: vec![layer; layers],
    };
    let norm_eps = 1e-5;
    let config = DecoderConfig {
        hidden,
        intermediate,
        heads,
        kv_heads,
        head_dim,
        vocabulary,
        norm_eps,
        precision,
        max_chunk: rows,
    };
    let mut decoder = Decoder::with_kernels(config, tensors, pool.clone(), kernels).expect("a valid model");
    for step in 0..decoder.steps() {
        decoder.load(step).expect("weights");
    }
    std::fs::remove_file(&path).expect("the file is there");
    let (cos, sin) = (vec![1.0; rows * head_dim / 2], vec![0.0; rows * head_dim / 2]);
    let (mut q, mut k, mut v) = (vec![0.0; rows * query], vec![0.0; rows * key], vec![0.0; rows * key]);
    let tokens = vec![1; rows];
    let time = best(budget, || {
        decoder.embed(&tokens).expect("tokens");
        decoder.rotation(&cos, &sin).expect("tables");
        for layer in 0..layers {
            decoder.project(layer, &mut q, &mut k, &mut v).expect("buffers");
            decoder.finish(layer, Some(&q)).expect("buffers");
        }
    });
    let parameters = (hidden * (2 * query + 2 * key + 3 * intermediate)) as f64;
    (time / layers as f64, 2.0 * parameters * rows as f64, parameters * precision.bytes() as f64)
}

fn stored(path: &Path, shape: &[usize]) -> StoredTensor {
    let length = 4 * shape.iter().product::<usize>() as u64;
    let name = "weights".to_owned();
    StoredTensor { name, path: path.to_owned(), dtype: StoredType::F32, shape: shape.to_vec(), offset: 0, length }
}
