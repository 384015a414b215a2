//! The kernels on tiles through the model of the registers, on any machine, and through the instructions.

#[path = "../../tests/random/mod.rs"]
mod random;

use super::attention::attend;
use super::byte_product::gemm_i8;
use super::model::{Model, registers};
use super::product::gemm_bf16;
use super::{Config, Tiles};
use crate::LANES;
use crate::attention::{Attend, STEP_TILES, Tile};
use crate::gemm_i8::{self as vectors, ByteProduct};
use crate::lanes::scalar::Scalar;
use half::bf16;
use random::Random;

/// `n` numbers in bf16, from -1 to 1.
fn random_bf16(random: &mut Random, n: usize) -> Vec<u16> {
    (0..n).map(|_| bf16::from_f32(random.unit()).to_bits()).collect()
}

/// A row of 64 bytes that holds these numbers.
fn row(numbers: &[f32]) -> [u16; 32] {
    let mut row = [0; 32];
    row.iter_mut().zip(numbers).for_each(|(bits, x)| *bits = bf16::from_f32(*x).to_bits());
    row
}

/// One product of a row and a column of two pairs each, and a start, on registers of just that size.
fn single<T: Tiles>(start: f32, a: [f32; 4], b: [f32; 4]) -> f32 {
    let columns = [row(&b[..2]), row(&b[2..])];
    let mut c = start;
    // SAFETY: registers of one element, and buffers that hold their rows.
    unsafe {
        T::configure(&Config::new().with(0, 1, 4).with(1, 1, 8).with(2, 2, 4));
        T::load::<0>((&raw const c).cast(), 4);
        T::load::<1>(row(&a).as_ptr().cast(), 64);
        T::load::<2>(columns.as_ptr().cast(), 64);
        T::multiply_bf16::<0, 1, 2>();
        T::store::<0>((&raw mut c).cast(), 4);
        T::release();
    }
    c
}

/// What the manual prescribes for rounding and for subnormal numbers.
fn rounds_as_prescribed<T: Tiles>() {
    let tiny = f32::from_bits(0x0040_0000); // subnormal, and a bf16
    let least = f32::MIN_POSITIVE;
    let half_ulp = 2_f32.powi(-24);
    for (start, a, b, want, why) in [
        (1.0, [2.0, 3.0, 5.0, 7.0], [1.0, 10.0, 100.0, 1000.0], 7533.0, "a sum"),
        // Even products cancel before the odd ones are added.
        (0.0, [2_f32.powi(60), 1.0, -(2_f32.powi(60)), 1.0], [1.0; 4], 2.0, "even and odd apart"),
        // Even and odd before the start: 2^-24 + 2^-24 counts, each alone would be rounded away.
        (1.0, [half_ulp, half_ulp, 0.0, 0.0], [1.0; 4], 1.0 + 2.0 * half_ulp, "products before the start"),
        // Half of the last place goes to even.
        (1.0, [half_ulp, 0.0, 0.0, 0.0], [1.0; 4], 1.0, "to nearest even, down"),
        (1.0 + 2.0 * half_ulp, [half_ulp, 0.0, 0.0, 0.0], [1.0; 4], 1.0 + 4.0 * half_ulp, "to nearest even, up"),
        (0.0, [tiny, 0.0, 0.0, 0.0], [2.0_f32.powi(100); 4], 0.0, "subnormal in A"),
        (0.0, [2.0_f32.powi(100), 0.0, 0.0, 0.0], [tiny; 4], 0.0, "subnormal in B"),
        (tiny, [0.0; 4], [0.0; 4], 0.0, "subnormal in C"),
        (0.0, [least, 0.0, 0.0, 0.0], [0.5; 4], 0.0, "subnormal product"),
        (0.0, [1.5 * least, 0.0, 0.0, 0.0], [1.0; 4], 1.5 * least, "least normal product"),
        (0.0, [1.5 * least, -least, 0.0, 0.0], [1.0; 4], 0.0, "subnormal sum"),
        (1.5 * least, [-least, 0.0, 0.0, 0.0], [1.0; 4], 0.0, "subnormal sum with the start"),
        (0.0, [2_f32.powi(127), 0.0, 0.0, 0.0], [2.0, 0.0, 0.0, 0.0], f32::INFINITY, "overflow"),
    ] {
        let got = single::<T>(start, a, b);
        assert_eq!(got.to_bits(), f32::to_bits(want), "{why}: {got} instead of {want}");
    }
    assert!(single::<T>(0.0, [f32::INFINITY, 0.0, 0.0, 0.0], [0.0; 4]).is_nan());
    assert!(single::<T>(f32::NAN, [1.0; 4], [1.0; 4]).is_nan());
}

#[test]
fn the_model_rounds_as_prescribed() {
    rounds_as_prescribed::<Model>();
}

/// Panels `[panels][stride]`, of each `[lines][16][width]`, of a matrix `[lines x width][16 x panels]`; what lies
/// between panels is `gap`.
fn pack<N: Copy>(matrix: &[N], k: usize, panels: usize, width: usize, stride: usize, gap: N) -> Vec<N> {
    let n = panels * LANES;
    // The last panel ends with its numbers, so that a read behind it is a read behind the buffer.
    let mut packed = vec![gap; (panels - 1) * stride + k * LANES];
    for i in 0..k {
        for j in 0..n {
            packed[(j / LANES) * stride + (i / width) * LANES * width + (j % LANES) * width + i % width] =
                matrix[i * n + j];
        }
    }
    packed
}

/// Rows, numbers along the sum, panels, and what the strides of A (numbers), of the panels and of C are larger.
const SHAPES: [(usize, usize, usize, [usize; 3]); 16] = [
    (1, 64, 3, [0, 0, 0]),
    (4, 32, 2, [0, 0, 0]),
    (5, 2, 1, [0, 0, 0]),
    (5, 32, 2, [3, 0, 1]),
    (7, 34, 3, [0, 32, 0]),
    (15, 30, 1, [1, 0, 5]),
    (16, 64, 2, [0, 0, 0]),
    (16, 66, 5, [0, 0, 0]),
    (17, 62, 2, [0, 64, 7]),
    (31, 96, 4, [32, 0, 0]),
    (32, 128, 3, [0, 0, 0]),
    (33, 64, 2, [0, 0, 0]),
    (47, 80, 3, [5, 96, 0]),
    (64, 576, 2, [0, 0, 0]),
    (70, 100, 1, [0, 0, 3]),
    (96, 32, 6, [0, 0, 0]),
];

/// As [`gemm_bf16`].
type Gemm = dyn Fn(usize, usize, *const u16, usize, *const u16, usize, usize, *mut f32, usize, bool);

/// The product on registers `T`, beside scalar vectors.
fn product<T: Tiles>() -> Box<Gemm> {
    Box::new(|m, k, a, lda, b, stride, panels, c, ldc, accumulate| {
        // SAFETY: the shapes of `products`.
        unsafe { gemm_bf16::<T, Scalar>(m, k, a, lda, b, stride, panels, c, ldc, accumulate) }
    })
}

/// bf16 products of all shapes against double precision; returns all bits of the results.
fn products(gemm: &Gemm) -> Vec<u32> {
    let mut random = Random(7);
    let mut all = Vec::new();
    for (m, k, panels, [more_a, more_b, more_c]) in SHAPES {
        let n = panels * LANES;
        let (lda, stride, ldc) = (k + more_a, k * LANES + more_b, n + more_c);
        let nan = bf16::NAN.to_bits();
        let mut a = random_bf16(&mut random, m * lda);
        // Rows end where k ends; what lies between them must not count.
        (0..m).for_each(|r| a[r * lda + k..(r + 1) * lda].fill(nan));
        a.truncate((m - 1) * lda + k);
        let matrix = random_bf16(&mut random, k * n);
        let packed = pack(&matrix, k, panels, 2, stride, nan);
        for accumulate in [false, true] {
            let start: Vec<f32> =
                (0..(m - 1) * ldc + n).map(|_| if accumulate { random.unit() } else { f32::NAN }).collect();
            let mut c = start.clone();
            gemm(m, k, a.as_ptr(), lda, packed.as_ptr(), stride, panels, c.as_mut_ptr(), ldc, accumulate);
            let wide = |bits: u16| bf16::from_bits(bits).to_f64();
            for r in 0..m {
                for j in 0..ldc.min(c.len() - r * ldc) {
                    let (got, before) = (c[r * ldc + j], start[r * ldc + j]);
                    if j >= n {
                        assert_eq!(got.to_bits(), before.to_bits(), "written beside C: {m} x {k} x {n}, {r}, {j}");
                        continue;
                    }
                    let sum: f64 = (0..k).map(|i| wide(a[r * lda + i]) * wide(matrix[i * n + j])).sum();
                    let want = sum + if accumulate { f64::from(before) } else { 0.0 };
                    assert!(
                        (f64::from(got) - want).abs() <= 1e-6 * k as f64 + 1e-6,
                        "{m} x {k} x {n} (+{more_a}, {more_b}, {more_c}), {r}, {j}: {got} instead of {want}"
                    );
                }
            }
            all.extend(c.iter().map(|x| x.to_bits()));
        }
    }
    assert!(!registers(|r| r.in_use()), "registers stay in use");
    all
}

#[test]
fn products_of_bf16() {
    products(&product::<Model>());
}

/// Products of bytes of all shapes and of extreme codes, to the bit as those of the scalar level.
fn products_of_codes(gemm: &dyn Fn(&ByteProduct)) {
    let mut random = Random(3);
    // Rows, quads, quads of a group, panels, extreme codes.
    let cases: [(usize, usize, usize, usize, bool); 14] = [
        (1, 16, 16, 1, false),
        (4, 33, 16, 2, false),
        (5, 1, 1, 1, true),
        (5, 9, 9, 3, false),
        (8, 16, 16, 2, true),
        (15, 17, 16, 1, false),
        (16, 32, 16, 2, false),
        (17, 31, 16, 3, false),
        (31, 70, 32, 2, true),
        (32, 64, 64, 5, false),
        (33, 64, 16, 2, false),
        (47, 50, 100, 3, false),
        (64, 144, 144, 2, true),
        (70, 20, 16, 1, false),
    ];
    for (m, quads, group_quads, panels, extreme) in cases {
        let groups = quads.div_ceil(group_quads);
        let (lda, groups_stride) = (4 * quads + 3 * (m % 2), groups + 2);
        let (panel_stride, b_scale_stride) = (64 * quads + 64 * (m % 3), LANES * groups + m % 5);
        let ldc = panels * LANES + m % 4;
        let mut byte = |least: i64, most: i64| {
            let x = random.next();
            let any = least + (x >> 8) as i64 % (most - least + 1);
            if extreme { if x & 1 == 0 { least } else { most } } else { any }
        };
        let a: Vec<i8> = (0..(m - 1) * lda + 4 * quads).map(|_| byte(-127, 127) as i8).collect();
        let b: Vec<u8> = (0..(panels - 1) * panel_stride + 64 * quads).map(|_| byte(0, 255) as u8).collect();
        let mut numbers = |n: usize| (0..n).map(|_| random.unit()).collect::<Vec<f32>>();
        let (a_scales, b_scales) = (numbers(m * groups_stride), numbers(panels * b_scale_stride));
        let start = numbers(m * ldc);
        let mut a_starts = vec![i32::MAX; m * groups_stride];
        for r in 0..m {
            for (g, group) in a[r * lda..][..4 * quads].chunks(4 * group_quads).enumerate() {
                a_starts[r * groups_stride + g] = -128 * group.iter().map(|&x| i32::from(x)).sum::<i32>();
            }
        }
        for accumulate in [false, true] {
            let (mut c, mut want) = (start.clone(), start.clone());
            let product = |c: &mut [f32]| ByteProduct {
                m,
                quads,
                group_quads,
                a: a.as_ptr(),
                lda,
                a_scales: a_scales.as_ptr(),
                a_starts: a_starts.as_ptr(),
                groups_stride,
                b: b.as_ptr(),
                panel_stride,
                b_scales: b_scales.as_ptr(),
                b_scale_stride,
                panels,
                c: c.as_mut_ptr(),
                ldc,
                accumulate,
            };
            gemm(&product(&mut c));
            // SAFETY: shapes as made above.
            unsafe { vectors::gemm_i8::<Scalar, Scalar>(&product(&mut want)) };
            for (at, (got, want)) in c.iter().zip(&want).enumerate() {
                assert_eq!(
                    got.to_bits(),
                    want.to_bits(),
                    "{m} rows, {quads} quads in {group_quads}s, {panels} panels: {got} instead of {want} at {at}"
                );
            }
        }
    }
    assert!(!registers(|r| r.in_use()), "registers stay in use");
}

#[test]
fn products_of_bytes() {
    // SAFETY: the shapes of `products_of_codes`.
    products_of_codes(&|product| unsafe { gemm_i8::<Model, Scalar, Scalar>(product) });
}

/// Keys and values of one test of attention, all bf16.
struct Memory {
    /// `[n][d]`, `[n][dv]`
    keys: Vec<f32>,
    values: Vec<f32>,
    /// Of each tile, of exactly its size: keys `[d / 2][16][2]` and values `[dv / 16][8][16][2]`.
    tiles: Vec<(Vec<u16>, Vec<u16>)>,
}

impl Memory {
    fn new(random: &mut Random, tiles: usize, d: usize, dv: usize) -> Self {
        let n = tiles * LANES;
        let mut numbers =
            |n: usize| random_bf16(random, n).iter().map(|&x| bf16::from_bits(x).to_f32()).collect::<Vec<_>>();
        let (keys, values) = (numbers(n * d), numbers(n * dv));
        let bits = |x: f32| bf16::from_f32(x).to_bits();
        let tile = |t: usize| {
            let transposed: Vec<u16> =
                (0..d * LANES).map(|i| bits(keys[(t * LANES + i % LANES) * d + i / LANES])).collect();
            let own: Vec<u16> = values[t * LANES * dv..][..LANES * dv].iter().map(|&x| bits(x)).collect();
            (pack(&transposed, d, 1, 2, d * LANES, 0), pack(&own, LANES, dv / LANES, 2, LANES * LANES, 0))
        };
        let tiles = (0..tiles).map(tile).collect();
        Self { keys, values, tiles }
    }

    /// The weighted mean of the values of keys `from..to`, and the logarithm (base 2) of the sum of weights.
    fn search(&self, query: &[f32], dv: usize, from: usize, to: usize) -> (Vec<f64>, f64) {
        let d = query.len();
        let score = |n: usize| (0..d).map(|i| f64::from(query[i]) * f64::from(self.keys[n * d + i])).sum::<f64>();
        let scores: Vec<f64> = (from..to).map(score).collect();
        let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = scores.iter().map(|score| (score - top).exp2()).collect();
        let sum: f64 = weights.iter().sum();
        let mean = |j: usize| (from..to).map(|n| weights[n - from] * f64::from(self.values[n * dv + j])).sum::<f64>();
        ((0..dv).map(|j| mean(j) / sum).collect(), top + sum.log2())
    }
}

/// As [`attend`].
type AttendFn = dyn Fn(&mut Attend<'_, u16>, &[Tile<u16>]);

/// Attention on registers `T`, beside scalar vectors.
fn attention_on<T: Tiles>() -> Box<AttendFn> {
    // SAFETY: the tiles and buffers of `attention_over_tiles`.
    Box::new(|block, tiles| unsafe { attend::<T, Scalar>(block, tiles) })
}

/// Attention of all shapes against double precision; returns all bits of the results.
fn attention_over_tiles(attend: &AttendFn) -> Vec<u32> {
    let mut random = Random(23);
    let mut all = Vec::new();
    // Rows, numbers of a key and of a value, tiles, scale of the queries.
    let cases: [(usize, usize, usize, usize, f32); 17] = [
        (1, 64, 64, 3, 1.0),
        (4, 32, 16, 13, 1.0),
        (5, 64, 64, 1, 1.0),
        (8, 64, 64, 12, 4.0),
        (9, 32, 16, 24, 1.0),
        (13, 80, 48, 5, 30.0),
        (16, 64, 32, 26, 1.0),
        (17, 34, 80, 14, 2.0),
        (31, 2, 16, 25, 500.0),
        (32, 64, 64, 37, 1.0),
        (33, 96, 96, 13, 8.0),
        (40, 64, 64, 25, 1.0),
        (64, 30, 64, 27, 1.0),
        (96, 64, 64, 29, 3.0),
        (97, 16, 48, 12, 100.0),
        (32, 256, 256, 15, 0.3),
        (6, 32, 272, 2, 1.0),
    ];
    for (rows, d, dv, tiles, scale) in cases {
        let memory = Memory::new(&mut random, tiles, d, dv);
        let n = tiles * LANES;
        let query_bits: Vec<u16> = random_bf16(&mut random, rows * d)
            .iter()
            .map(|&x| bf16::from_f32(bf16::from_bits(x).to_f32() * scale).to_bits())
            .collect();
        let queries: Vec<f32> = query_bits.iter().map(|&x| bf16::from_bits(x).to_f32()).collect();
        // Rows see different keys, the last row none.
        let from: Vec<u32> = (0..rows).map(|r| (r * 5 % n.div_ceil(2)) as u32).collect();
        let to: Vec<u32> = (0..rows)
            .map(|r| if r > 0 && r + 1 == rows { from[r] } else { (n - r * 3 % n.div_ceil(3)) as u32 })
            .collect();
        let list: Vec<Tile<u16>> = memory
            .tiles
            .iter()
            .enumerate()
            .map(|(t, (keys, values))| Tile {
                keys: keys.as_ptr(),
                values: values.as_ptr(),
                start: (t * LANES) as u32,
                masked: true,
            })
            .collect();
        // A first run leaves values that are no numbers in the scratch, which must not matter.
        let poison = vec![bf16::NAN.to_bits(); LANES * dv];
        let poisoned: Vec<Tile<u16>> =
            (0..STEP_TILES).map(|_| Tile { values: poison.as_ptr(), masked: false, ..list[0] }).collect();
        // Where every row sees every key, nothing is masked.
        for masked in [true, false] {
            let list: Vec<Tile<u16>> = list.iter().map(|tile| Tile { masked, ..*tile }).collect();
            let mut scores = vec![f32::NAN; rows * STEP_TILES * LANES];
            let mut weights = vec![bf16::NAN.to_bits(); rows * STEP_TILES * LANES];
            // Output, largest, sum. Two calls with the tiles: the state must carry over.
            let mut run = |lists: &[&[Tile<u16>]]| {
                let mut output = vec![0.0; rows * dv];
                let (mut largest, mut sum) = (vec![Attend::<u16>::NO_SCORE; rows], vec![0.0; rows]);
                let mut block = Attend {
                    rows,
                    dimensions: d,
                    value_panels: dv / LANES,
                    queries: &query_bits,
                    from: &from,
                    to: &to,
                    output: &mut output,
                    largest: &mut largest,
                    sum: &mut sum,
                    scores: &mut scores,
                    weights: &mut weights,
                };
                for tiles in lists {
                    attend(&mut block, tiles);
                }
                (output, largest, sum)
            };
            run(&[&poisoned]);
            let (output, largest, sum) = run(&[&list[..tiles / 3], &list[tiles / 3..]]);
            for r in 0..rows {
                let (from, to) = if masked { (from[r] as usize, to[r] as usize) } else { (0, n) };
                if from == to {
                    assert!(sum[r] == 0.0 && output[r * dv..(r + 1) * dv].iter().all(|&x| x == 0.0));
                    continue;
                }
                let (want, total) = memory.search(&queries[r * d..(r + 1) * d], dv, from, to);
                let got = f64::from(largest[r]) + f64::from(sum[r]).log2();
                assert!((got - total).abs() <= 1e-3 + 1e-6 * total.abs(), "row {r} of {rows}: {got} not {total}");
                for j in 0..dv {
                    let got = f64::from(output[r * dv + j]) / f64::from(sum[r]);
                    assert!(
                        (got - want[j]).abs() <= 8e-3,
                        "{rows} rows, {d}, {dv}, {tiles} tiles, masked {masked}, row {r}, {j}: {got} not {}",
                        want[j]
                    );
                }
            }
            all.extend(output.iter().chain(&sum).chain(&largest).map(|x| x.to_bits()));
        }
    }
    assert!(!registers(|r| r.in_use()), "registers stay in use");
    all
}

#[test]
fn attention() {
    attention_over_tiles(&attention_on::<Model>());
}

/// The same through the assembly: on the CPU, or trapped. Equal to the model to the bit.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod assembled {
    use super::super::assembly::Assembly;
    use super::super::availability::linux::computes;
    use super::super::trap;
    use super::*;

    #[test]
    fn self_check() {
        trap::install();
        // SAFETY: tile instructions work after `install`.
        assert!(unsafe { computes::<Assembly>() });
    }

    #[test]
    fn rounding() {
        trap::install();
        rounds_as_prescribed::<Assembly>();
    }

    #[test]
    fn products_of_bf16() {
        trap::install();
        assert!(products(&product::<Assembly>()) == products(&product::<Model>()));
    }

    #[test]
    fn products_of_bytes() {
        trap::install();
        // SAFETY: the shapes of `products_of_codes`.
        products_of_codes(&|product| unsafe { gemm_i8::<Assembly, Scalar, Scalar>(product) });
    }

    #[test]
    fn attention() {
        trap::install();
        let [assembled, modelled] = [attention_on::<Assembly>(), attention_on::<Model>()];
        assert!(attention_over_tiles(&assembled) == attention_over_tiles(&modelled));
    }

    /// The kernels of the level as they are published, with the vectors that they have beside the tiles.
    #[test]
    fn the_table() {
        trap::install();
        let Some(table) = crate::kernels::tiles_and_vectors() else { return };
        // SAFETY: the shapes of `products`.
        products(&|m, k, a, lda, b, stride, panels, c, ldc, accumulate| unsafe {
            table.gemm_bf16(m, k, a, lda, b, stride, panels, c, ldc, accumulate);
        });
        // SAFETY: the shapes of `products_of_codes`.
        products_of_codes(&|x| unsafe {
            let (a, b) = ((x.a, x.lda), (x.b, x.panel_stride));
            table.gemm_i8(
                x.m,
                x.quads,
                x.group_quads,
                a.0,
                a.1,
                x.a_scales,
                x.a_starts,
                x.groups_stride,
                b.0,
                b.1,
                x.b_scales,
                x.b_scale_stride,
                x.panels,
                x.c,
                x.ldc,
                x.accumulate,
            );
        });
        // SAFETY: the tiles of `attention_over_tiles`.
        attention_over_tiles(&|block, tiles| unsafe { table.attend_bf16(block, tiles) });
    }
}
