//! Products of bytes and quantization at every SIMD level, to the bit, against plain ones.

mod random;

use iceformer_simd::{Kernels, LANES, supported};
use random::Random;

/// Operands of a product, of which every buffer has room that must not be touched or must not matter.
struct Operands {
    m: usize,
    quads: usize,
    group_quads: usize,
    panels: usize,
    groups: usize,
    lda: usize,
    panel_stride: usize,
    b_scale_stride: usize,
    ldc: usize,
    a: Vec<i8>,
    a_scales: Vec<f32>,
    a_starts: Vec<i32>,
    b: Vec<u8>,
    b_scales: Vec<f32>,
    c: Vec<f32>,
}

impl Operands {
    fn new(
        m: usize,
        quads: usize,
        group_quads: usize,
        panels: usize,
        random: &mut Random,
        mut byte: impl FnMut(&mut Random) -> u8,
    ) -> Self {
        let groups = quads.div_ceil(group_quads);
        let (lda, panel_stride) = (4 * quads + 5, 64 * quads + 64);
        let (b_scale_stride, ldc) = (LANES * groups + 3, LANES * panels + 7);
        let a: Vec<i8> = (0..m * lda).map(|_| byte(random).clamp(1, 255).wrapping_add(128) as i8).collect();
        let mut a_starts = Vec::new();
        for row in a.chunks_exact(lda) {
            for group in row[..4 * quads].chunks(4 * group_quads) {
                a_starts.push(-128 * group.iter().map(|&code| i32::from(code)).sum::<i32>());
            }
        }
        Self {
            m,
            quads,
            group_quads,
            panels,
            groups,
            lda,
            panel_stride,
            b_scale_stride,
            ldc,
            a,
            a_scales: (0..m * groups).map(|_| random.unit()).collect(),
            a_starts,
            b: (0..panels * panel_stride).map(|_| byte(random)).collect(),
            b_scales: (0..panels * b_scale_stride).map(|_| random.unit()).collect(),
            c: (0..m * ldc).map(|_| random.unit()).collect(),
        }
    }

    fn product(&self, table: &Kernels, accumulate: bool) -> Vec<f32> {
        let mut c = self.c.clone();
        // SAFETY: shapes as made above.
        unsafe {
            table.gemm_i8(
                self.m,
                self.quads,
                self.group_quads,
                self.a.as_ptr(),
                self.lda,
                self.a_scales.as_ptr(),
                self.a_starts.as_ptr(),
                self.groups,
                self.b.as_ptr(),
                self.panel_stride,
                self.b_scales.as_ptr(),
                self.b_scale_stride,
                self.panels,
                c.as_mut_ptr(),
                self.ldc,
                accumulate,
            );
        }
        c
    }

    fn plain(&self, accumulate: bool) -> Vec<f32> {
        let mut c = self.c.clone();
        for r in 0..self.m {
            for column in 0..LANES * self.panels {
                let (p, j) = (column / LANES, column % LANES);
                let to = &mut c[r * self.ldc + column];
                for g in 0..self.groups {
                    let numbers = 4 * g * self.group_quads..4 * self.quads.min((g + 1) * self.group_quads);
                    let sum: i32 = numbers
                        .map(|i| {
                            let code = self.b[p * self.panel_stride + i / 4 * 64 + j * 4 + i % 4];
                            i32::from(self.a[r * self.lda + i]) * (i32::from(code) - 128)
                        })
                        .sum();
                    let scale =
                        self.b_scales[p * self.b_scale_stride + g * LANES + j] * self.a_scales[r * self.groups + g];
                    let before = if accumulate || g > 0 { *to } else { 0.0 };
                    *to = (sum as f32).mul_add(scale, before);
                }
            }
        }
        c
    }

    fn compare(&self) {
        for accumulate in [false, true] {
            let want = self.plain(accumulate);
            for table in supported() {
                let got = self.product(table, accumulate);
                let differs = got.iter().zip(&want).position(|(got, want)| got.to_bits() != want.to_bits());
                assert!(
                    differs.is_none(),
                    "{} [{}, {} quads in {}s, {} panels] accumulate {accumulate}: {:?} differs",
                    table.level,
                    self.m,
                    self.quads,
                    self.group_quads,
                    self.panels,
                    differs.map(|at| (at / self.ldc, at % self.ldc, got[at], want[at]))
                );
            }
        }
    }
}

#[test]
fn products_of_every_shape_are_exact() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let any = |random: &mut Random| random.next() as u8;
    for m in [1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 16, 17, 31, 33] {
        for panels in [1, 2, 3, 4, 5, 8, 12, 13] {
            Operands::new(m, 9, 9, panels, &mut random, any).compare();
        }
        for (quads, group_quads) in [(1, 1), (2, 16), (15, 16), (16, 16), (17, 16), (50, 16), (70, 32), (64, 100)] {
            Operands::new(m, quads, group_quads, 4, &mut random, any).compare();
        }
    }
    Operands::new(5, 4096, 4096, 3, &mut random, any).compare();
}

#[test]
fn products_of_extreme_codes_are_exact() {
    let mut random = Random(5);
    for m in [1, 4, 9] {
        // Codes of A are these less 128: -127 and 127 times 0 and 255.
        for bytes in [[0, 255], [255, 255], [0, 0], [1, 255]] {
            let byte = |random: &mut Random| bytes[(random.next() & 1) as usize];
            Operands::new(m, 96, 32, 5, &mut random, byte).compare();
            Operands::new(m, 2000, 2000, 3, &mut random, byte).compare();
        }
    }
}

/// What the quantization promises, written plainly.
fn quantized(x: &[f32], group: usize, length: usize) -> (Vec<i8>, Vec<f32>, Vec<i32>) {
    let mut codes = vec![0; length];
    let (mut scales, mut starts) = (Vec::new(), Vec::new());
    for (group, codes) in x.chunks(group).zip(codes.chunks_mut(group)) {
        let magnitude = group.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
        let inverse = if magnitude < 1e-30 { 0.0 } else { 127.0 / magnitude };
        scales.push(if magnitude < 1e-30 { 0.0 } else { magnitude / 127.0 });
        for (code, x) in codes.iter_mut().zip(group) {
            *code = (x * inverse).round_ties_even() as i8;
        }
        starts.push(-128 * codes[..group.len()].iter().map(|&code| i32::from(code)).sum::<i32>());
    }
    (codes, scales, starts)
}

#[test]
fn quantization_is_the_same_at_every_level() {
    let mut random = Random(77);
    for length in [0, 1, 2, 15, 16, 17, 31, 33, 64, 100, 576, 1000] {
        for (group, factor) in [(64, 1.0), (64, 1e-28), (128, 3e38), (10_000, 20.0), (64, 1e-33), (64, 0.0)] {
            let x: Vec<f32> = (0..length).map(|_| random.unit() * factor).collect();
            let room = length + 7;
            let (codes, scales, starts) = quantized(&x, group, room);
            for table in supported() {
                let groups = length.div_ceil(group);
                let (mut c, mut s, mut t) = (vec![9; room], vec![9.0; groups], vec![9; groups]);
                table.quantize_i8(&x, group, &mut c, &mut s, &mut t);
                assert_eq!(c, codes, "{} codes of {length} x {factor}", table.level);
                assert_eq!(s, scales, "{} scales of {length} x {factor}", table.level);
                assert_eq!(t, starts, "{} starts of {length} x {factor}", table.level);
            }
        }
    }
}

#[test]
fn halves_are_rounded_to_even() {
    let x: Vec<f32> = (-127..=126).map(|i| i as f32 + 0.5).chain([127.0, -127.0]).collect();
    for table in supported() {
        let (mut codes, mut scales, mut starts) = (vec![0; x.len()], [0.0], [0]);
        table.quantize_i8(&x, x.len(), &mut codes, &mut scales, &mut starts);
        assert!(scales[0].to_bits() == 1.0_f32.to_bits());
        for (x, code) in x.iter().zip(&codes) {
            assert_eq!(i32::from(*code), x.round_ties_even() as i32, "{} {x}", table.level);
        }
    }
}

#[test]
fn a_number_that_is_not_finite_makes_its_group_nan() {
    for table in supported() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for at in [0, 20, 69] {
                let mut x = vec![1.0; 70];
                x[at] = bad;
                let (mut codes, mut scales, mut starts) = (vec![0; 70], [0.0; 2], [0; 2]);
                table.quantize_i8(&x, 64, &mut codes, &mut scales, &mut starts);
                assert_eq!(scales.map(f32::is_nan), [at < 64, at >= 64], "{} {bad} at {at}", table.level);
            }
        }
    }
}

#[test]
fn the_hadamard_transform_keeps_products_and_is_its_own_inverse() {
    let mut random = Random(21);
    for length in [0, 1, 2, 3, 17, 33, 63, 64, 65, 128, 255, 576] {
        let x: Vec<f32> = (0..length).map(|_| random.unit()).collect();
        let y: Vec<f32> = (0..length).map(|_| random.unit()).collect();
        let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| f64::from(x * y)).sum::<f64>();
        let mut first: Option<Vec<f32>> = None;
        for table in supported() {
            let (mut hx, mut hy) = (x.clone(), y.clone());
            table.hadamard(&mut hx);
            table.hadamard(&mut hy);
            assert!((dot(&hx, &hy) - dot(&x, &y)).abs() < 1e-4, "{} {length}", table.level);
            assert_eq!(*first.get_or_insert_with(|| hx.clone()), hx, "{} {length}", table.level);
            table.hadamard(&mut hx);
            assert!(hx.iter().zip(&x).all(|(found, x)| (found - x).abs() < 1e-5), "{} {length}", table.level);
        }
    }
    for table in supported() {
        let mut spike = [0.0; 64];
        spike[37] = 8.0;
        table.hadamard(&mut spike);
        assert!(spike.iter().all(|x| x.abs().to_bits() == 1.0_f32.to_bits()), "{}", table.level);
    }
}

#[test]
fn transforming_and_quantizing_at_once_is_the_same() {
    let mut random = Random(22);
    for table in supported() {
        for length in [1_usize, 2, 7, 64, 128, 200, 384, 576, 777, 1536] {
            for group in [128, 384, 512] {
                let x: Vec<f32> = (0..length).map(|_| 3.0 * random.unit()).collect();
                let groups = length.div_ceil(group);
                let (mut codes, mut scales, mut starts) = (vec![1; length + 3], vec![0.0_f32; groups], vec![0; groups]);
                table.quantize_transformed_i8(&x, group, &mut codes, &mut scales, &mut starts);
                let mut transformed = x.clone();
                for x in transformed.chunks_mut(group) {
                    table.hadamard(x);
                }
                let (mut want, mut want_scales, mut want_starts) =
                    (vec![1; length + 3], vec![0.0_f32; groups], vec![0; groups]);
                table.quantize_i8(&transformed, group, &mut want, &mut want_scales, &mut want_starts);
                assert_eq!((codes, starts), (want, want_starts), "{} {length} {group}", table.level);
                assert!(scales.iter().zip(&want_scales).all(|(a, b)| a.to_bits() == b.to_bits()));
            }
        }
    }
}

#[test]
fn a_transformed_group_with_a_number_that_is_not_finite_has_no_finite_scale() {
    for table in supported() {
        for (length, group) in [(128, 128), (192, 128), (256, 256), (40, 128)] {
            for at in 0..length {
                for number in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                    let mut x: Vec<f32> = (0..length).map(|i| (i % 7) as f32 - 3.0).collect();
                    x[at] = number;
                    let groups = length.div_ceil(group);
                    let (mut codes, mut scales, mut starts) = (vec![0; length], vec![0.0; groups], vec![0; groups]);
                    table.quantize_transformed_i8(&x, group, &mut codes, &mut scales, &mut starts);
                    for (index, scale) in scales.iter().enumerate() {
                        assert_eq!(scale.is_finite(), index != at / group, "{} {length} {at} {number}", table.level);
                    }
                }
            }
        }
    }
}
