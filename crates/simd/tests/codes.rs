//! Codes of one byte per number: every SIMD level gives the bits that the definition gives.

mod random;

use iceformer_simd::{Kernels, LANES, supported};
use random::Random;

/// The inputs of one scan. Rows of `a` and tiles of `b` are further apart than they are long; what lies between
/// must not count.
struct Case {
    m: usize,
    quads: usize,
    tiles: usize,
    lda: usize,
    tile_stride: usize,
    a: Vec<i8>,           // [m][lda]
    b: Vec<u8>,           // [tiles][tile_stride]
    scales: Vec<f32>,     // [m]
    thresholds: Vec<f32>, // [m]
    offsets: Vec<f32>,    // [tiles][16], or empty
}

/// A value that no scan here computes: what it left alone keeps it.
const UNTOUCHED: f32 = -1.234_567e30;

impl Case {
    /// Random numbers, one in four at an end of its range.
    fn random(random: &mut Random, m: usize, quads: usize, tiles: usize, with_offsets: bool) -> Self {
        let lda = quads * 4 + random.next() as usize % 5;
        let tile_stride = quads * 64 + random.next() as usize % 3 * 32;
        let mut pick = |ends: [u8; 3]| {
            let r = random.next();
            if r.is_multiple_of(4) { ends[(r >> 8) as usize % 3] } else { (r >> 8) as u8 }
        };
        let a = (0..m * lda).map(|_| pick([127, 129, 128]) as i8).collect();
        let b = (0..tiles * tile_stride).map(|_| pick([0, 255, 128])).collect();
        let scales = (0..m).map(|_| random.unit() * 0.01).collect();
        let thresholds = (0..m).map(|_| random.unit() * (quads * 100) as f32).collect();
        let offsets = (0..tiles * LANES * usize::from(with_offsets)).map(|_| random.unit() * 100.0).collect();
        Self { m, quads, tiles, lda, tile_stride, a, b, scales, thresholds, offsets }
    }

    fn run(&self, table: &Kernels) -> (Vec<u32>, Vec<u16>) {
        let mut values = vec![UNTOUCHED; self.m * self.tiles * LANES];
        let mut masks = vec![0xabcd; self.m * self.tiles];
        let offsets = if self.offsets.is_empty() { std::ptr::null() } else { self.offsets.as_ptr() };
        // SAFETY: shapes as allocated.
        unsafe {
            table.scan_u8(
                self.m,
                self.quads,
                self.a.as_ptr(),
                self.lda,
                self.tiles,
                self.b.as_ptr(),
                self.tile_stride,
                self.scales.as_ptr(),
                self.thresholds.as_ptr(),
                offsets,
                values.as_mut_ptr(),
                masks.as_mut_ptr(),
            );
        }
        (values.into_iter().map(f32::to_bits).collect(), masks)
    }

    /// What `run` must give, by the definition.
    fn expected(&self) -> (Vec<u32>, Vec<u16>) {
        let mut values = vec![UNTOUCHED; self.m * self.tiles * LANES];
        let mut masks = vec![0; self.m * self.tiles];
        for r in 0..self.m {
            for t in 0..self.tiles {
                let row = &self.a[r * self.lda..];
                let tile = &self.b[t * self.tile_stride..];
                let value: [f32; LANES] = std::array::from_fn(|j| {
                    let sum: i64 = (0..self.quads * 4)
                        .map(|i| i64::from(row[i]) * i64::from(tile[i / 4 * 64 + j * 4 + i % 4]))
                        .sum();
                    (sum as f32).mul_add(self.scales[r], *self.offsets.get(t * LANES + j).unwrap_or(&0.0))
                });
                let mask = (0..LANES).map(|j| u16::from(value[j] >= self.thresholds[r]) << j).sum();
                let at = r * self.tiles + t;
                masks[at] = mask;
                values[at * LANES..][..LANES].copy_from_slice(&value);
            }
        }
        (values.into_iter().map(f32::to_bits).collect(), masks)
    }

    fn check(&self, what: &str) -> Vec<u16> {
        let (values, masks) = self.expected();
        for table in supported() {
            let got = self.run(table);
            let shape = format!("{what} {} at m {}, quads {}, tiles {}", table.level, self.m, self.quads, self.tiles);
            assert_eq!(got.1, masks, "masks, {shape}");
            for ((got, values), &mask) in got.0.chunks_exact(LANES).zip(values.chunks_exact(LANES)).zip(&masks) {
                // Where no key reaches the threshold, values may be written or not.
                let untouched = got.iter().all(|&bits| bits == UNTOUCHED.to_bits());
                assert!(got == values || (mask == 0 && untouched), "values, {shape}");
            }
        }
        masks
    }
}

#[test]
fn scans_of_every_shape() {
    let mut random = Random(41);
    let (mut passed, mut all) = (0, 0);
    for m in 1..=20 {
        for tiles in 1..=9 {
            for with_offsets in [false, true] {
                let quads = 1 + random.next() as usize % 12;
                let masks = Case::random(&mut random, m, quads, tiles, with_offsets).check("random");
                passed += masks.iter().map(|mask| mask.count_ones()).sum::<u32>();
                all += masks.len() * LANES;
            }
        }
    }
    // Both outcomes must have been common.
    let share = f64::from(passed) / all as f64;
    assert!((0.2..0.8).contains(&share), "{share}");
    for quads in 1..=100 {
        let (m, tiles) = (1 + random.next() as usize % 20, 1 + random.next() as usize % 9);
        Case::random(&mut random, m, quads, tiles, quads % 2 == 0).check("random");
    }
    let nothing = Case::random(&mut random, 0, 4, 3, false).run(supported().next().unwrap());
    assert!(nothing.0.is_empty() && nothing.1.is_empty());
}

#[test]
fn sums_do_not_saturate() {
    let mut random = Random(43);
    for (query, code) in [(127, 255), (-128, 255), (-127, 255), (127, 0), (-128, 0), (-128, 128)] {
        // 16,384 quads reach the largest sum that fits.
        for (m, quads) in [(1, 1), (3, 2), (9, 25), (2, 16_384)] {
            let mut case = Case::random(&mut random, m, quads, 5, false);
            case.a.fill(query);
            case.b.fill(code);
            case.scales.fill(1.0);
            case.thresholds.fill(f32::NEG_INFINITY);
            let masks = case.check("ends of the range");
            assert!(masks.iter().all(|&mask| mask == 0xffff));
            let sum = quads as i64 * 4 * i64::from(query) * i64::from(code);
            let sum = (sum as f32).to_bits();
            assert!(case.run(supported().last().unwrap()).0.iter().all(|&value| value == sum));
        }
    }
}

#[test]
fn thresholds_that_are_no_numbers() {
    let mut random = Random(47);
    let mut case = Case::random(&mut random, 9, 3, 7, true);
    // Values as they come.
    case.thresholds.fill(f32::NEG_INFINITY);
    assert!(case.check("-inf").iter().all(|&mask| mask == 0xffff));
    case.thresholds.fill(f32::INFINITY);
    assert!(case.check("inf").iter().all(|&mask| mask == 0));
    case.thresholds.fill(f32::NAN);
    assert!(case.check("NaN").iter().all(|&mask| mask == 0));

    // Values equal to the threshold pass, infinite ones and zeros of either sign too.
    case.scales.fill(0.0);
    case.thresholds = vec![0.0, -0.0, 1.0, f32::INFINITY, f32::NEG_INFINITY, 2.0, -1.0, f32::MAX, f32::MIN];
    let offsets = [0.0, -0.0, 1.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, f32::MAX, f32::MIN_POSITIVE];
    for (i, offset) in case.offsets.iter_mut().enumerate() {
        *offset = offsets[i % offsets.len()];
    }
    let masks = case.check("special offsets");
    // The offsets' places repeat every eight keys; NaN, the sixth, never passes.
    assert_eq!(masks[0], 0b1100_1111_1100_1111);
    assert_eq!(masks[3 * 7], 0b0000_1000_0000_1000);
    assert_eq!(masks[4 * 7], 0b1101_1111_1101_1111);

    // A scale that is no number makes every value NaN.
    case.scales.fill(f32::NAN);
    case.thresholds.fill(f32::NEG_INFINITY);
    assert!(case.check("NaN scale").iter().all(|&mask| mask == 0));
}

#[test]
fn coding() {
    let mut random = Random(53);
    for length in (0..70_usize).chain([127, 128, 384, 1001]) {
        let x: Vec<f32> = (0..length).map(|_| random.unit()).collect();
        let centre: Vec<f32> = (0..length).map(|_| random.unit() * 0.1).collect();
        for inverse_step in [1.0, 40.0, 127.0, 300.0, 1e30, f32::INFINITY, 0.0] {
            let want: Vec<u8> = (0..length.next_multiple_of(4))
                .map(|i| {
                    if i >= length {
                        return 128;
                    }
                    let steps = (x[i] - centre[i]) * inverse_step;
                    (steps.clamp(-127.0, 127.0).round_ties_even() + 128.0) as u8
                })
                .collect();
            for table in supported() {
                let mut out = vec![7; want.len()];
                table.to_codes(&x, &centre, inverse_step, &mut out);
                assert_eq!(out, want, "{} at {length} numbers, 1 / {inverse_step}", table.level);
            }
        }
    }
    // Halves go to the even neighbour, what is out of range to its end, NaN to the lower end.
    let x = [0.5, 1.5, -0.5, -1.5, 126.5, 127.5, 1e30, -1e30, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, -126.5];
    let want = [128, 130, 128, 126, 254, 255, 255, 1, 255, 1, 1, 2];
    for table in supported() {
        for before in 0..32 {
            // Moves the numbers through whole vectors and the rest behind them.
            let padded: Vec<f32> = [0.0; 32][..before].iter().copied().chain(x).collect();
            let mut out = vec![0; padded.len()];
            table.to_codes(&padded, &vec![0.0; padded.len()], 1.0, &mut out);
            assert_eq!(out[before..], want, "{} after {before}", table.level);
        }
    }
}
