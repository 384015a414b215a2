//! Sketches of two bits per number: every SIMD level gives the masses that the definition gives.

mod random;

use iceformer_simd::{LANES, SKETCH_GROUP, SKETCH_LINE, SKETCH_LINE_BYTES, SketchRow, sketch_group_bytes, supported};
use random::Random;

/// The numbers of one pass. Rows of queries and of masses are further apart than they are long.
struct Case {
    lines: usize,
    tiles: usize,
    lda: usize,
    stride: usize,
    a: Vec<i8>,       // [m][lda]
    codes: Vec<u8>,   // [tiles][lines][16][4]
    scales: Vec<u16>, // [tiles][16]
    rows: Vec<SketchRow>,
}

/// A mass that no pass computes: what it left alone keeps it.
const UNTOUCHED: f32 = -1.0;

impl Case {
    fn random(random: &mut Random, m: usize, lines: usize, tiles: usize) -> Self {
        let lda = lines * SKETCH_LINE + random.next() as usize % 5;
        let mut byte = || (random.next() >> 8) as u8;
        let a = (0..m * lda).map(|_| byte() as i8).collect();
        let codes = (0..tiles * lines * SKETCH_LINE_BYTES).map(|_| byte()).collect();
        let mut bf16 = |x: f32| (x.to_bits() >> 16) as u16 + (random.next() % 64) as u16;
        let scales = (0..tiles * LANES).map(|_| bf16(0.3)).collect();
        let mut row = || SketchRow {
            scale: 0.05 * random.unit(),
            offset: random.unit(),
            penalty: random.unit(),
            base: 20.0 * random.unit(),
        };
        let rows = (0..m).map(|_| row()).collect();
        Self { lines, tiles, lda, stride: tiles + 3, a, codes, scales, rows }
    }

    /// Codes and scales as a pass takes them. What a last group lacks is filled with what must not count.
    fn groups(&self) -> Vec<u8> {
        let mut groups = vec![0x7f; self.tiles.div_ceil(SKETCH_GROUP) * sketch_group_bytes(self.lines)];
        let tile_bytes = self.lines * SKETCH_LINE_BYTES;
        let tiles = self.codes.chunks_exact(tile_bytes).zip(self.scales.as_chunks::<LANES>().0);
        for (tile, (codes, scales)) in tiles.enumerate() {
            let group = &mut groups[tile / SKETCH_GROUP * sketch_group_bytes(self.lines)..];
            let (all_codes, all_scales) = group.split_at_mut(SKETCH_GROUP * tile_bytes);
            all_codes[tile % SKETCH_GROUP * tile_bytes..][..tile_bytes].copy_from_slice(codes);
            for (to, scale) in all_scales.as_chunks_mut::<2>().0[tile % SKETCH_GROUP * LANES..].iter_mut().zip(scales) {
                *to = scale.to_ne_bytes();
            }
        }
        groups
    }

    /// Score (base 2) of key `j` of a tile for a row, by the definition.
    fn value(&self, row: usize, tile: usize, j: usize) -> f64 {
        let line_of = |i: usize| (tile * self.lines + i / SKETCH_LINE) * SKETCH_LINE_BYTES;
        let code = |i: usize| self.codes[line_of(i) + j * 4 + i % 4] >> (i % SKETCH_LINE / 4 * 2) & 3;
        let product = |i: usize| i64::from(self.a[row * self.lda + i]) * i64::from(code(i));
        let sum: i64 = (0..self.lines * SKETCH_LINE).map(product).sum();
        let terms = self.rows[row];
        let k = f64::from(f32::from_bits(u32::from(self.scales[tile * LANES + j]) << 16));
        let inner = sum as f64 * f64::from(terms.scale) + f64::from(terms.offset) - f64::from(terms.penalty) * k;
        k * inner + f64::from(terms.base)
    }

    fn check(&self) {
        let groups = self.groups();
        for table in supported() {
            let mut masses = vec![UNTOUCHED; self.rows.len() * self.stride];
            // SAFETY: shapes as allocated.
            unsafe {
                table.sketch_masses(
                    self.lines,
                    self.a.as_ptr(),
                    self.lda,
                    &self.rows,
                    self.tiles,
                    groups.as_ptr(),
                    masses.as_mut_ptr(),
                    self.stride,
                );
            }
            for (row, masses) in masses.chunks_exact(self.stride).enumerate() {
                for (tile, &mass) in masses[..self.tiles].iter().enumerate() {
                    let want: f64 = (0..LANES).map(|j| self.value(row, tile, j).min(80.0).exp2()).sum();
                    let relative = (f64::from(mass) - want).abs() / want;
                    assert!(
                        relative < 1e-3,
                        "{} row {row}, tile {tile} of {}: {mass}, not {want}",
                        table.level,
                        self.tiles
                    );
                }
                assert!(
                    masses[self.tiles..].iter().all(|mass| mass.to_bits() == UNTOUCHED.to_bits()),
                    "{}",
                    table.level
                );
            }
        }
    }
}

#[test]
fn masses_of_every_shape() {
    let mut random = Random(7);
    for m in [1, 2, 3, 4, 5, 7, 9, 24] {
        for lines in [1, 2, 4, 6, 16] {
            for tiles in [1, 2, 3, 4, 5, 8, 11] {
                Case::random(&mut random, m, lines, tiles).check();
            }
        }
    }
}

#[test]
fn extremes_stay_finite() {
    let mut random = Random(8);
    let mut case = Case::random(&mut random, 3, 4, 6);
    // Far above what a weight may be, far below what counts, and no key at all.
    case.rows[0].base = 1e9;
    case.rows[1].base = -1e9;
    case.scales[..LANES].fill(0);
    let groups = case.groups();
    for table in supported() {
        let mut masses = vec![UNTOUCHED; 3 * case.stride];
        // SAFETY: shapes as allocated.
        unsafe {
            table.sketch_masses(
                4,
                case.a.as_ptr(),
                case.lda,
                &case.rows,
                6,
                groups.as_ptr(),
                masses.as_mut_ptr(),
                case.stride,
            );
        }
        let masses: Vec<&[f32]> = masses.chunks_exact(case.stride).map(|row| &row[..6]).collect();
        assert!(
            masses[0].iter().all(|&mass| mass.to_bits() == (16.0 * 80_f32.exp2()).to_bits()),
            "{} {:?}",
            table.level,
            masses[0]
        );
        assert!(masses[1].iter().all(|mass| mass.to_bits() == 0), "{} {:?}", table.level, masses[1]);
        let alone = 16.0 * case.rows[2].base.exp2();
        assert!((masses[2][0] / alone - 1.0).abs() < 1e-3, "{} {:?}", table.level, masses[2]);
    }
}
