//! Tiles in codes: one signed byte for each number and a scale for each key and each value.
//!
//! A vector is scale times code. The scale is a 127th of the vector's largest magnitude with its last seven bits
//! cleared: so every product of scale and code fits the 24 bits of an `f32`, the largest code is 127 or -127, and
//! quantizing what was read back gives the same codes and the same scale. A vector below 1e-30 in all its numbers is
//! stored as zeros.
//!
//! A tile is `[dimensions / 4, rounded up][16][4]` codes of keys with 128 added, which is how products of bytes take
//! them, their scales `[16]`, `[value_dimensions / 16][4][16][4]` codes of values (a panel of sixteen dimensions has the
//! sixteen keys in fours) and their scales `[16]`; scales are the four bytes of an `f32`.

use crate::tile_rows::TileShape;
use iceformer_simd::Kernels;

/// Numbers of a key, and keys of a value's dimension, that lie side by side.
const QUAD: usize = 4;

/// Bytes of a scale.
pub(crate) const SCALE: usize = size_of::<f32>();

/// Vectors without a larger number are zero: dividing by a smaller scale would overflow.
const LEAST: f32 = 1e-30;

/// The last bits of a scale, which are zero.
const CLEARED: u32 = 0x7f;

/// The scale of a vector of finite numbers whose largest magnitude this is, and what to multiply its numbers with to get
/// codes.
fn scale(largest: f32) -> (f32, f32) {
    if largest < LEAST {
        return (0.0, 0.0);
    }
    let scale = f32::from_bits((largest / 127.0).to_bits() & !CLEARED);
    (scale, 1.0 / scale)
}

/// The code of a key's number as it is stored, and back: with 128 added, as an unsigned byte.
fn shifted(code: i8) -> i8 {
    code ^ i8::MIN
}

/// How a tile lies.
pub(crate) fn shape(dimensions: usize, value_dimensions: usize) -> TileShape {
    let keys = dimensions.next_multiple_of(QUAD) + SCALE;
    TileShape { step: QUAD, keys, values: value_dimensions, behind: SCALE }
}

/// Writes the row of a key and a value, which may be shorter than the row's.
pub(crate) fn encode(kernels: &Kernels, shape: TileShape, key: &[f32], value: &[f32], row: &mut [i8]) {
    let (key_row, value_row) = row.split_at_mut(shape.keys);
    for (row, numbers) in [(&mut *key_row, key), (&mut *value_row, value)] {
        let (codes, scale_bytes) = row.split_at_mut(row.len() - SCALE);
        let (scale, inverse) = scale(kernels.largest_magnitude(numbers));
        kernels.to_signed_codes(numbers, inverse, &mut codes[..numbers.len()]);
        codes[numbers.len()..].fill(0);
        scale_bytes.copy_from_slice(&scale.to_ne_bytes().map(|byte| byte as i8));
    }
    for code in &mut key_row[..shape.keys - SCALE] {
        *code = shifted(*code);
    }
}

/// The key of a row, which may be shorter than the row's.
pub(crate) fn decode_key(shape: TileShape, row: &[i8], key: &mut [f32]) {
    let (codes, scale) = row[..shape.keys].split_at(shape.keys - SCALE);
    let scale = f32::from_ne_bytes(std::array::from_fn(|i| scale[i] as u8));
    for (x, &code) in key.iter_mut().zip(codes) {
        *x = scale * f32::from(shifted(code));
    }
}

/// Reads the key and the value in lane `lane`; both may be shorter than the tile's.
pub(crate) fn read(shape: TileShape, tile: &[i8], lane: usize, key: &mut [f32], value: &mut [f32]) {
    let code = |i: usize| tile[shape.place(lane, i)];
    let scale = |at: usize| f32::from_ne_bytes(std::array::from_fn(|i| code(at + i) as u8));
    let key_scale = scale(shape.keys - SCALE);
    for (i, x) in key.iter_mut().enumerate() {
        *x = key_scale * f32::from(shifted(code(i)));
    }
    let value_scale = scale(shape.keys + shape.values);
    for (i, x) in value.iter_mut().enumerate() {
        *x = value_scale * f32::from(code(shape.keys + i));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;
    use iceformer_simd::LANES;

    /// Stores a key and a value in lane `lane`.
    fn write(shape: TileShape, tile: &mut [i8], lane: usize, key: &[f32], value: &[f32]) {
        // What it finds in the row does not matter.
        let mut row = vec![77; shape.row()];
        encode(iceformer_simd::kernels(), shape, key, value, &mut row);
        shape.write_one(tile, lane, &row);
    }

    /// Vectors of many magnitudes: ordinary, tiny, huge, zero, with one number far above the others.
    fn vectors(n: usize, length: usize) -> Vec<Vec<f32>> {
        let mut random = Random::new(5);
        let mut vectors: Vec<Vec<f32>> = (0..n)
            .map(|i| {
                let magnitude = [1.0, 1e-25, 3e37, 1e-3, 77.7][i % 5];
                (0..length).map(|_| (random.below(2001) as f32 / 1000.0 - 1.0) * magnitude).collect()
            })
            .collect();
        vectors.push(vec![0.0; length]);
        vectors.push(vec![1e-31; length]);
        vectors.push((0..length).map(|i| if i == 0 { f32::MAX } else { f32::MIN_POSITIVE }).collect());
        vectors.push((0..length).map(|i| if i == 1 { f32::MIN } else { 1e30 }).collect());
        vectors.push(vec![-2.5e-30; length]);
        vectors
    }

    #[test]
    fn quantizing_what_was_read_changes_nothing() {
        let (d, dv) = (6, 32);
        let shape = shape(d, dv);
        let mut tile = vec![0; LANES * shape.row()];
        for (number, vector) in vectors(2000, dv).iter().enumerate() {
            let lane = number % LANES;
            write(shape, &mut tile, lane, &vector[..d], vector);
            let before = tile.clone();
            let (mut key, mut value) = (vec![0.0; d], vec![0.0; dv]);
            read(shape, &tile, lane, &mut key, &mut value);
            write(shape, &mut tile, lane, &key, &value);
            assert!(tile == before, "vector {number}: {vector:?}");
        }
    }

    #[test]
    fn a_number_is_off_by_half_a_step_at_most() {
        // And what clearing the scale's last bits adds: at most 127 / 65,536 of a step.
        let (d, dv) = (20, 32);
        let shape = shape(d, dv);
        let mut tile = vec![0; LANES * shape.row()];
        for (number, vector) in vectors(500, dv).iter().enumerate() {
            let lane = number % LANES;
            write(shape, &mut tile, lane, &vector[..d], vector);
            let (mut key, mut value) = (vec![0.0; d], vec![0.0; dv]);
            read(shape, &tile, lane, &mut key, &mut value);
            for (read, written) in [(&key[..], &vector[..d]), (&value[..], &vector[..])] {
                let largest = written.iter().fold(0.0_f32, |largest, x| largest.max(x.abs()));
                let step = f64::from(largest) / 127.0;
                for (&x, &y) in read.iter().zip(written) {
                    let off = (f64::from(x) - f64::from(y)).abs();
                    assert!(x.is_finite() && off <= 0.502 * step + 1e-30, "{x:e} instead of {y:e}, step {step:e}");
                }
            }
        }
    }

    #[test]
    fn lanes_keep_apart() {
        let (d, dv) = (3, 16);
        let shape = shape(4, dv);
        let mut tile = vec![0; LANES * shape.row()];
        let vector = |lane: usize| (0..dv).map(|i| (lane * 100 + i) as f32 - 700.0).collect::<Vec<_>>();
        for lane in 0..LANES {
            write(shape, &mut tile, lane, &vector(lane)[..d], &vector(lane));
        }
        for lane in 0..LANES {
            let (mut key, mut value) = (vec![0.0; d], vec![0.0; dv]);
            read(shape, &tile, lane, &mut key, &mut value);
            let near = |x: &[f32]| x.iter().zip(&vector(lane)).all(|(x, y)| (x - y).abs() < 4.0);
            assert!(near(&key) && near(&value), "{lane}: {key:?} {value:?}");
        }
    }
}
