//! The whole dense path against a plain one in f64.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use half::{bf16, f16};
use iceformer_simd::{Kernels, supported};
use iceformer_threads::ThreadPool;

use super::Decoder;
use crate::config::{DecoderConfig, DecoderTensors, LayerTensors};
use crate::error::TransformerError;
use crate::packed::PackedMatrix;
use crate::precision::{GROUP_INPUTS, Precision};
use crate::random::Random;
use crate::weight::{StoredTensor, StoredType};

/// A file of tensors that is removed with the value. Tensors begin at odd offsets.
struct Checkpoint {
    path: PathBuf,
    bytes: Vec<u8>,
    random: Random,
    dtype: StoredType,
}

impl Checkpoint {
    fn new(dtype: StoredType) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("iceformer-layers-{}-{count}.bin", std::process::id());
        Self { path: std::env::temp_dir().join(name), bytes: vec![0], random: Random(0x9e37_79b9_7f4a_7c15), dtype }
    }

    /// Adds a tensor; returns where it lies and its values as stored.
    fn add(&mut self, name: &str, shape: &[usize], scale: f32) -> (StoredTensor, Vec<f64>) {
        let values = self.random.values(shape.iter().product(), scale);
        let offset = self.bytes.len() as u64;
        let mut stored = Vec::new();
        for value in values {
            match self.dtype {
                StoredType::F32 => {
                    self.bytes.extend(value.to_le_bytes());
                    stored.push(f64::from(value));
                }
                StoredType::F16 => {
                    self.bytes.extend(f16::from_f32(value).to_le_bytes());
                    stored.push(f16::from_f32(value).to_f64());
                }
                StoredType::Bf16 => {
                    self.bytes.extend(bf16::from_f32(value).to_le_bytes());
                    stored.push(bf16::from_f32(value).to_f64());
                }
            }
        }
        let length = self.bytes.len() as u64 - offset;
        self.bytes.push(0);
        let tensor = StoredTensor {
            name: name.to_owned(),
            path: self.path.clone(),
            dtype: self.dtype,
            shape: shape.to_vec(),
            offset,
            length,
        };
        (tensor, stored)
    }

    fn write(&self) {
        File::create(&self.path).unwrap().write_all(&self.bytes).unwrap();
    }
}

impl Drop for Checkpoint {
    fn drop(&mut self) {
        // It may never have been written.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// The weights of one layer as the plain path reads them.
#[derive(Default)]
struct PlainLayer {
    input_norm: Vec<f64>,
    q: Vec<f64>,
    k: Vec<f64>,
    v: Vec<f64>,
    q_bias: Vec<f64>,
    k_bias: Vec<f64>,
    v_bias: Vec<f64>,
    q_norm: Vec<f64>,
    k_norm: Vec<f64>,
    o: Vec<f64>,
    o_bias: Vec<f64>,
    post_norm: Vec<f64>,
    gate: Vec<f64>,
    up: Vec<f64>,
    down: Vec<f64>,
    gate_bias: Vec<f64>,
    up_bias: Vec<f64>,
    down_bias: Vec<f64>,
}

struct PlainModel {
    embedding: Vec<f64>,
    head: Vec<f64>,
    final_norm: Vec<f64>,
    layers: Vec<PlainLayer>,
}

/// What a model under test has besides the sizes.
#[derive(Clone, Copy)]
struct Extras {
    biases: bool,
    head_norms: bool,
    tied: bool,
}

fn model(
    checkpoint: &mut Checkpoint,
    config: &DecoderConfig,
    layers: usize,
    extras: Extras,
) -> (DecoderTensors, PlainModel) {
    let &DecoderConfig { hidden, intermediate, head_dim, vocabulary, .. } = config;
    let (query, key) = (config.query_width(), config.key_width());
    let (embedding, embedding_values) = checkpoint.add("embedding", &[vocabulary, hidden], 1.0);
    let mut head_values = embedding_values.clone();
    let head = (!extras.tied).then(|| {
        let (head, values) = checkpoint.add("head", &[vocabulary, hidden], 0.3);
        head_values = values;
        head
    });
    let (final_norm, final_norm_values) = checkpoint.add("finalNorm", &[hidden], 1.0);
    let mut tensors = DecoderTensors { embedding, head, final_norm, layers: Vec::new() };
    let mut plain = PlainModel {
        embedding: embedding_values,
        head: head_values,
        final_norm: final_norm_values,
        layers: Vec::new(),
    };
    for _ in 0..layers {
        let mut layer = PlainLayer::default();
        let mut add = |shape: &[usize], scale: f32, values: &mut Vec<f64>| {
            let (tensor, stored) = checkpoint.add("weight", shape, scale);
            *values = stored;
            tensor
        };
        let inner = 1.0 / (hidden as f32).sqrt();
        tensors.layers.push(LayerTensors {
            input_norm: add(&[hidden], 1.0, &mut layer.input_norm),
            q: add(&[query, hidden], inner, &mut layer.q),
            k: add(&[key, hidden], inner, &mut layer.k),
            v: add(&[key, hidden], inner, &mut layer.v),
            q_bias: extras.biases.then(|| add(&[query], 0.5, &mut layer.q_bias)),
            k_bias: extras.biases.then(|| add(&[key], 0.5, &mut layer.k_bias)),
            v_bias: extras.biases.then(|| add(&[key], 0.5, &mut layer.v_bias)),
            q_norm: extras.head_norms.then(|| add(&[head_dim], 1.0, &mut layer.q_norm)),
            k_norm: extras.head_norms.then(|| add(&[head_dim], 1.0, &mut layer.k_norm)),
            o: add(&[hidden, query], inner, &mut layer.o),
            o_bias: extras.biases.then(|| add(&[hidden], 0.5, &mut layer.o_bias)),
            post_norm: add(&[hidden], 1.0, &mut layer.post_norm),
            gate: add(&[intermediate, hidden], 3.0 * inner, &mut layer.gate),
            up: add(&[intermediate, hidden], inner, &mut layer.up),
            down: add(&[hidden, intermediate], inner, &mut layer.down),
            gate_bias: extras.biases.then(|| add(&[intermediate], 0.5, &mut layer.gate_bias)),
            up_bias: extras.biases.then(|| add(&[intermediate], 0.5, &mut layer.up_bias)),
            down_bias: extras.biases.then(|| add(&[hidden], 0.5, &mut layer.down_bias)),
        });
        plain.layers.push(layer);
    }
    checkpoint.write();
    (tensors, plain)
}

/// `W x + b`, an empty bias being none.
fn product(weights: &[f64], bias: &[f64], x: &[f64]) -> Vec<f64> {
    weights
        .chunks_exact(x.len())
        .enumerate()
        .map(|(output, row)| row.iter().zip(x).map(|(w, x)| w * x).sum::<f64>() + bias.get(output).unwrap_or(&0.0))
        .collect()
}

fn norm(x: &[f64], weight: &[f64], eps: f64) -> Vec<f64> {
    let mean = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
    x.iter().zip(weight).map(|(x, w)| x / (mean + eps).sqrt() * w).collect()
}

fn heads(values: &mut [f64], norm_weight: &[f64], eps: f64, cos: &[f32], sin: &[f32]) {
    let half = cos.len();
    for head in values.chunks_exact_mut(2 * half) {
        if !norm_weight.is_empty() {
            let normalised = norm(head, norm_weight, eps);
            head.copy_from_slice(&normalised);
        }
        for i in 0..half {
            let (a, b, cos, sin) = (head[i], head[i + half], f64::from(cos[i]), f64::from(sin[i]));
            head[i] = a * cos - b * sin;
            head[i + half] = b * cos + a * sin;
        }
    }
}

/// Everything that a chunk produces: per layer q, k, v; then logits. Attention is replaced by a function of q that any
/// reader can follow: `attended = q / 2`.
fn plain_pass(plain: &PlainModel, config: &DecoderConfig, tokens: &[u32], cos: &[f32], sin: &[f32]) -> Vec<Vec<f64>> {
    let eps = f64::from(config.norm_eps);
    let half = config.head_dim / 2;
    let mut outputs = vec![Vec::new(); 3 * plain.layers.len() + 1];
    for (row, &token) in tokens.iter().enumerate() {
        let table = row * half..(row + 1) * half;
        let (cos, sin) = (&cos[table.clone()], &sin[table]);
        let start = token as usize * config.hidden;
        let mut hidden = plain.embedding[start..start + config.hidden].to_vec();
        for (index, layer) in plain.layers.iter().enumerate() {
            let x = norm(&hidden, &layer.input_norm, eps);
            let mut q = product(&layer.q, &layer.q_bias, &x);
            let mut k = product(&layer.k, &layer.k_bias, &x);
            let v = product(&layer.v, &layer.v_bias, &x);
            heads(&mut q, &layer.q_norm, eps, cos, sin);
            heads(&mut k, &layer.k_norm, eps, cos, sin);
            let attended: Vec<f64> = q.iter().map(|q| q / 2.0).collect();
            for (output, values) in outputs[3 * index..].iter_mut().zip([q, k, v]) {
                output.extend(values);
            }
            for (hidden, o) in hidden.iter_mut().zip(product(&layer.o, &layer.o_bias, &attended)) {
                *hidden += o;
            }
            let x = norm(&hidden, &layer.post_norm, eps);
            let gate = product(&layer.gate, &layer.gate_bias, &x);
            let up = product(&layer.up, &layer.up_bias, &x);
            let inner: Vec<f64> = gate.iter().zip(up).map(|(gate, up)| gate / (1.0 + (-gate).exp()) * up).collect();
            for (hidden, down) in hidden.iter_mut().zip(product(&layer.down, &layer.down_bias, &inner)) {
                *hidden += down;
            }
        }
        let x = norm(&hidden, &plain.final_norm, eps);
        outputs.last_mut().unwrap().extend(product(&plain.head, &[], &x));
    }
    outputs
}

/// The same through the decoder.
fn decoder_pass(decoder: &mut Decoder, tokens: &[u32], cos: &[f32], sin: &[f32]) -> Vec<Vec<f32>> {
    let config = decoder.config().clone();
    let mut outputs = Vec::new();
    decoder.embed(tokens).unwrap();
    decoder.rotation(cos, sin).unwrap();
    for layer in 0..decoder.steps() - 1 {
        let mut q = vec![f32::NAN; tokens.len() * config.query_width()];
        let mut k = vec![f32::NAN; tokens.len() * config.key_width()];
        let mut v = k.clone();
        decoder.project(layer, &mut q, &mut k, &mut v).unwrap();
        let attended: Vec<f32> = q.iter().map(|q| q / 2.0).collect();
        decoder.finish(layer, Some(&attended)).unwrap();
        outputs.extend([q, k, v]);
    }
    let rows: Vec<u32> = (0..tokens.len() as u32).collect();
    let mut logits = vec![f32::NAN; tokens.len() * config.vocabulary];
    decoder.logits(&rows, &mut logits).unwrap();
    outputs.push(logits);
    outputs
}

fn loaded(config: &DecoderConfig, tensors: &DecoderTensors, threads: usize, kernels: &'static Kernels) -> Decoder {
    let mut decoder =
        Decoder::with_kernels(config.clone(), tensors.clone(), ThreadPool::new(threads), kernels).unwrap();
    for step in 0..decoder.steps() {
        decoder.load(step).unwrap();
    }
    decoder
}

fn tables(rows: usize, half: usize) -> (Vec<f32>, Vec<f32>) {
    let angle = |i: usize| (i / half) as f32 * 0.7 / (1 + i % half) as f32;
    ((0..rows * half).map(|i| angle(i).cos()).collect(), (0..rows * half).map(|i| angle(i).sin()).collect())
}

fn odd_config(precision: Precision) -> DecoderConfig {
    DecoderConfig {
        hidden: 37,
        intermediate: 301,
        heads: 6,
        kv_heads: 2,
        head_dim: 10,
        vocabulary: 53,
        norm_eps: 1e-5,
        precision,
        max_chunk: 150,
    }
}

/// Largest difference, relative to the root mean square of what is expected.
fn difference(found: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let scale = (expected.iter().map(|x| x * x).sum::<f64>() / expected.len() as f64).sqrt();
    // A NaN must count as a difference, so no f64::max.
    found
        .iter()
        .zip(expected)
        .map(|(&f, e)| (f64::from(f) - e).abs() / scale)
        .fold(0.0, |a, b| if b <= a { a } else { b })
}

#[test]
fn every_level_agrees_with_f64() {
    let extras = [
        Extras { biases: false, head_norms: false, tied: true },
        Extras { biases: true, head_norms: false, tied: false },
        Extras { biases: true, head_norms: true, tied: true },
    ];
    // Steps of int8 are four to seven times as coarse as those of bf16 are here.
    for (precision, tolerance) in [(Precision::F32, 2e-5), (Precision::Bf16, 0.05), (Precision::Int8, 0.15)] {
        for (dtype, extras) in [StoredType::F32, StoredType::F16, StoredType::Bf16].into_iter().zip(extras) {
            let config = odd_config(precision);
            let mut checkpoint = Checkpoint::new(dtype);
            let (tensors, plain) = model(&mut checkpoint, &config, 2, extras);
            let (cos, sin) = tables(150, config.head_dim / 2);
            for kernels in supported() {
                let mut decoder = loaded(&config, &tensors, 2, kernels);
                assert_eq!(decoder.weight_bytes(), config.weight_bytes(&tensors));
                for rows in [1, 2, 3, 7, 33, 47, 48, 129, 150] {
                    let tokens: Vec<u32> = (0..rows as u32).map(|i| i * 17 % 53).collect();
                    let half = config.head_dim / 2;
                    let (cos, sin) = (&cos[..rows * half], &sin[..rows * half]);
                    let expected = plain_pass(&plain, &config, &tokens, cos, sin);
                    let found = decoder_pass(&mut decoder, &tokens, cos, sin);
                    for (index, (found, expected)) in found.iter().zip(&expected).enumerate() {
                        let difference = difference(found, expected);
                        assert!(
                            difference <= tolerance,
                            "{} {precision:?} {dtype:?}, {rows} rows, output {index}: {difference}",
                            kernels.level
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn threads_do_not_change_a_bit() {
    for precision in [Precision::F32, Precision::Bf16, Precision::Int8] {
        let config = DecoderConfig { hidden: 80, ..odd_config(precision) };
        let mut checkpoint = Checkpoint::new(StoredType::F32);
        let (tensors, _) = model(&mut checkpoint, &config, 2, Extras { biases: true, head_norms: true, tied: true });
        for kernels in supported() {
            for rows in [1, 5, 40, 48, 101, 150] {
                let tokens: Vec<u32> = (0..rows as u32).map(|i| i * 7 % 53).collect();
                let (cos, sin) = tables(rows, config.head_dim / 2);
                let bits = |threads| -> Vec<Vec<u32>> {
                    let outputs = decoder_pass(&mut loaded(&config, &tensors, threads, kernels), &tokens, &cos, &sin);
                    outputs.iter().map(|values| values.iter().map(|x| x.to_bits()).collect()).collect()
                };
                let one = bits(1);
                assert!(one == bits(2) && one == bits(3), "{} {precision:?}, {rows} rows", kernels.level);
            }
        }
    }
}

#[test]
fn attention_left_out_is_attention_that_answers_zero() {
    for precision in [Precision::F32, Precision::Bf16, Precision::Int8] {
        for biases in [false, true] {
            let config = odd_config(precision);
            let mut checkpoint = Checkpoint::new(StoredType::F32);
            let (tensors, _) = model(&mut checkpoint, &config, 3, Extras { biases, head_norms: false, tied: true });
            for kernels in supported() {
                let mut decoder = loaded(&config, &tensors, 2, kernels);
                // Chunks of one token and of many go different ways; layers are left out at each end and between.
                let cases: [(usize, &[usize]); 5] = [(1, &[0]), (1, &[1, 2]), (5, &[2]), (60, &[1]), (150, &[0, 2])];
                for (rows, left_out) in cases {
                    let tokens: Vec<u32> = (0..rows as u32).map(|i| i * 7 % 53).collect();
                    let (cos, sin) = tables(rows, config.head_dim / 2);
                    let mut logits = |multiply: bool| {
                        decoder.embed(&tokens).unwrap();
                        decoder.rotation(&cos, &sin).unwrap();
                        for layer in 0..3 {
                            let is_left_out = left_out.contains(&layer);
                            if is_left_out && !multiply {
                                decoder.finish(layer, None).unwrap();
                                continue;
                            }
                            let mut q = vec![f32::NAN; rows * config.query_width()];
                            let mut k = vec![f32::NAN; rows * config.key_width()];
                            let mut v = k.clone();
                            decoder.project(layer, &mut q, &mut k, &mut v).unwrap();
                            if is_left_out {
                                q.fill(0.0);
                            }
                            decoder.finish(layer, Some(&q)).unwrap();
                        }
                        let all: Vec<u32> = (0..rows as u32).collect();
                        let mut logits = vec![f32::NAN; rows * config.vocabulary];
                        decoder.logits(&all, &mut logits).unwrap();
                        logits
                    };
                    let expected = logits(true);
                    let what = format!("{} {precision:?}, {rows} rows without {left_out:?}", kernels.level);
                    assert!(expected.iter().all(|x| x.is_finite()), "{what}");
                    assert!(logits(false) == expected, "{what}");
                }
            }
        }
    }
}

#[test]
fn a_chunk_leaves_nothing_behind() {
    let config = odd_config(Precision::Bf16);
    let mut checkpoint = Checkpoint::new(StoredType::F32);
    let (tensors, _) = model(&mut checkpoint, &config, 1, Extras { biases: false, head_norms: false, tied: true });
    let (cos, sin) = tables(60, config.head_dim / 2);
    let half = config.head_dim / 2;
    let kernels = supported().last().unwrap();
    let fresh = decoder_pass(&mut loaded(&config, &tensors, 2, kernels), &[3, 4], &cos[..2 * half], &sin[..2 * half]);
    let mut used = loaded(&config, &tensors, 2, kernels);
    let long: Vec<u32> = (0..60).map(|i| i % 53).collect();
    decoder_pass(&mut used, &long, &cos, &sin);
    assert_eq!(decoder_pass(&mut used, &[3, 4], &cos[..2 * half], &sin[..2 * half]), fresh);
}

#[test]
fn int8_keeps_rows_within_a_hundredth() {
    let pool = ThreadPool::new(2);
    for (outputs, inputs) in [(1, 1), (17, 33), (21, GROUP_INPUTS), (5, 2 * GROUP_INPUTS + 3)] {
        let mut checkpoint = Checkpoint::new(StoredType::F32);
        let (tensor, values) = checkpoint.add("matrix", &[outputs, inputs], 3.0);
        checkpoint.write();
        for kernels in supported() {
            let packed = PackedMatrix::pack(&tensor, Precision::Int8, kernels, &pool).unwrap();
            let scales = outputs.div_ceil(16) * 16 * inputs.div_ceil(GROUP_INPUTS);
            let codes = outputs.div_ceil(16) * 16 * inputs.next_multiple_of(4);
            assert_eq!(packed.bytes(), (codes + 4 * scales) as u64);
            let mut row = vec![f32::NAN; inputs];
            for output in 0..outputs {
                packed.copy_output(kernels, output, &mut row);
                let expected = &values[output * inputs..][..inputs];
                let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
                let error = norm(&mut row.iter().zip(expected).map(|(found, expected)| f64::from(*found) - expected));
                assert!(error <= 0.012 * norm(&mut expected.iter().copied()), "[{outputs}, {inputs}]: {error}");
            }
        }
    }
}

#[test]
fn packing_keeps_every_weight() {
    let pool = ThreadPool::new(2);
    for dtype in [StoredType::F32, StoredType::F16, StoredType::Bf16] {
        for (outputs, inputs) in [(1, 1), (16, 2), (17, 33), (53, 300), (130, 7)] {
            let mut checkpoint = Checkpoint::new(dtype);
            let (tensor, values) = checkpoint.add("matrix", &[outputs, inputs], 3.0);
            checkpoint.write();
            for kernels in supported() {
                for precision in [Precision::F32, Precision::Bf16] {
                    let packed = PackedMatrix::pack(&tensor, precision, kernels, &pool).unwrap();
                    let mut row = vec![f32::NAN; inputs];
                    for output in 0..outputs {
                        packed.copy_output(kernels, output, &mut row);
                        for (found, expected) in row.iter().zip(&values[output * inputs..]) {
                            let rounded = precision == Precision::Bf16;
                            let expected = if rounded { bf16::from_f64(*expected).to_f32() } else { *expected as f32 };
                            assert!(
                                found.to_bits() == expected.to_bits(),
                                "{dtype:?} {precision:?} {found} {expected}"
                            );
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn a_file_that_shrinks_is_an_error() {
    let config = odd_config(Precision::F32);
    let mut checkpoint = Checkpoint::new(StoredType::F32);
    let (tensors, _) = model(&mut checkpoint, &config, 1, Extras { biases: false, head_norms: false, tied: true });
    let kernels = supported().last().unwrap();
    let mut decoder = Decoder::with_kernels(config, tensors, ThreadPool::new(2), kernels).unwrap();
    decoder.load(0).unwrap();
    File::options().write(true).open(&checkpoint.path).unwrap().set_len(5000).unwrap();
    for step in 0..2 {
        assert_eq!(decoder.load(step).unwrap_err().code(), "ERR_TENSOR_FILE");
    }
    std::fs::remove_file(&checkpoint.path).unwrap();
    assert_eq!(decoder.load(1).unwrap_err().code(), "ERR_TENSOR_FILE");
    assert!(matches!(decoder.project(0, &mut [], &mut [], &mut []), Err(TransformerError::OutOfOrder { .. })));
}

#[test]
fn wrong_use_is_an_error_with_a_code() {
    let config = odd_config(Precision::F32);
    let mut checkpoint = Checkpoint::new(StoredType::F32);
    let (tensors, _) = model(&mut checkpoint, &config, 1, Extras { biases: false, head_norms: false, tied: true });
    let make = |config: DecoderConfig, tensors: DecoderTensors| {
        Decoder::new(config, tensors, ThreadPool::new(1)).err().map(|error| error.code())
    };
    let bad_configs = [
        DecoderConfig { hidden: 0, ..config.clone() },
        DecoderConfig { head_dim: 11, ..config.clone() },
        DecoderConfig { kv_heads: 4, ..config.clone() },
        DecoderConfig { heads: usize::MAX, ..config.clone() },
        DecoderConfig { max_chunk: 0, ..config.clone() },
        DecoderConfig { norm_eps: f32::NAN, ..config.clone() },
    ];
    for bad in bad_configs {
        assert_eq!(make(bad, tensors.clone()), Some("ERR_CONFIGURATION"));
    }
    let mut wrong = tensors.clone();
    wrong.layers[0].k.shape = vec![21, 37];
    assert_eq!(make(config.clone(), wrong), Some("ERR_TENSOR_SHAPE"));
    let mut wrong = tensors.clone();
    wrong.layers[0].down.length -= 1;
    assert_eq!(make(config.clone(), wrong), Some("ERR_TENSOR_LENGTH"));
    let mut wrong = tensors.clone();
    wrong.final_norm.offset = u64::MAX - 3;
    assert_eq!(make(config.clone(), wrong), Some("ERR_TENSOR_FILE"));
    let mut wrong = tensors.clone();
    wrong.embedding.path = Path::new("/nowhere/at/all").to_owned();
    let mut unreadable = Decoder::new(config.clone(), wrong, ThreadPool::new(1)).unwrap();
    assert_eq!(unreadable.load(0).unwrap_err().code(), "ERR_TENSOR_FILE");

    let code = |result: Result<(), TransformerError>| result.err().map(|error| error.code());
    let (cos, sin) = tables(2, config.head_dim / 2);
    let mut decoder = Decoder::new(config.clone(), tensors, ThreadPool::new(1)).unwrap();
    assert_eq!(code(decoder.embed(&[0])), Some("ERR_LAYER_NOT_LOADED"));
    assert_eq!(code(decoder.logits(&[0], &mut [0.0; 53])), Some("ERR_LAYER_NOT_LOADED"));
    assert_eq!(code(decoder.load(2)), Some("ERR_STEP_OUT_OF_RANGE"));
    decoder.load(0).unwrap();
    assert_eq!(code(decoder.rotation(&cos, &sin)), Some("ERR_OUT_OF_ORDER"));
    assert_eq!(code(decoder.embed(&[0, 53])), Some("ERR_TOKEN_OUT_OF_RANGE"));
    assert_eq!(code(decoder.embed(&[0; 151])), Some("ERR_CHUNK_TOO_LONG"));
    decoder.embed(&[0, 52]).unwrap();
    assert_eq!(code(decoder.rotation(&cos, &sin[1..])), Some("ERR_BUFFER_LENGTH"));
    let (mut q, mut k, mut v) = (vec![0.0; 120], vec![0.0; 40], vec![0.0; 40]);
    assert_eq!(code(decoder.project(0, &mut q, &mut k, &mut v)), Some("ERR_OUT_OF_ORDER"));
    decoder.rotation(&cos, &sin).unwrap();
    assert_eq!(code(decoder.project(0, &mut q, &mut k, &mut v)), Some("ERR_LAYER_NOT_LOADED"));
    assert_eq!(code(decoder.project(1, &mut q, &mut k, &mut v)), Some("ERR_LAYER_OUT_OF_RANGE"));
    assert_eq!(code(decoder.project(0, &mut q, &mut k[1..], &mut v)), Some("ERR_BUFFER_LENGTH"));
    decoder.load(1).unwrap();
    decoder.project(0, &mut q, &mut k, &mut v).unwrap();
    assert_eq!(code(decoder.finish(0, Some(&q[1..]))), Some("ERR_BUFFER_LENGTH"));
    assert_eq!(code(decoder.logits(&[2], &mut [0.0; 53])), Some("ERR_ROW_OUT_OF_RANGE"));
    assert_eq!(code(decoder.logits(&[1], &mut [0.0; 52])), Some("ERR_BUFFER_LENGTH"));
    assert_eq!(code(decoder.logits(&[0; 200], &mut [0.0; 53])), Some("ERR_CHUNK_TOO_LONG"));
    decoder.logits(&[], &mut []).unwrap();
    decoder.embed(&[]).unwrap();
    assert_eq!(code(decoder.finish(0, None)), Some("ERR_OUT_OF_ORDER"));

    let hidden = 1 << 24;
    let stretch = |tensor: &StoredTensor, rows: usize, shape: Vec<usize>| StoredTensor {
        length: (rows * hidden * 4) as u64,
        shape,
        ..tensor.clone()
    };
    let huge = DecoderTensors {
        embedding: stretch(&decoder.tensors.embedding, 53, vec![53, hidden]),
        final_norm: stretch(&decoder.tensors.final_norm, 1, vec![hidden]),
        head: None,
        layers: Vec::new(),
    };
    assert_eq!(make(DecoderConfig { max_chunk: 1 << 24, hidden, ..config }, huge), Some("ERR_OUT_OF_MEMORY"));
}
