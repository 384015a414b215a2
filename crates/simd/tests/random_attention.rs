//! Attention over tiles of random shapes, at every SIMD level of this CPU, in every form of keys and values, against
//! double precision. `ICEFORMER_FUZZ_CASES` sets the number of cases, `ICEFORMER_FUZZ_SEED` the first one.

mod random;

use half::bf16;
use iceformer_simd::{Attend, AttendCodes, Kernels, LANES, STEP_TILES, Tile, supported};
use random::Random;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

fn rounded(x: &[f32]) -> Vec<f32> {
    x.iter().map(|&x| bf16::from_f32(x).to_f32()).collect()
}

fn bits(x: &[f32]) -> Vec<u16> {
    x.iter().map(|&x| bf16::from_f32(x).to_bits()).collect()
}

/// Vectors in codes: `[n][length]`, and the scale of each.
struct Coded {
    codes: Vec<i8>,
    scales: Vec<f32>,
    length: usize,
}

impl Coded {
    fn new(x: &[f32], length: usize) -> Self {
        let mut coded = Self { codes: Vec::new(), scales: Vec::new(), length };
        for vector in x.chunks(length) {
            let largest = vector.iter().fold(0.0_f32, |largest, x| largest.max(x.abs()));
            let scale = largest / 127.0;
            let code = |x: &f32| if largest > 0.0 { (x / scale).round() as i8 } else { 0 };
            coded.codes.extend(vector.iter().map(code));
            coded.scales.push(scale);
        }
        coded
    }

    /// `[n][length]`
    fn numbers(&self) -> Vec<f32> {
        let number = |(i, &code): (usize, &i8)| f32::from(code) * self.scales[i / self.length];
        self.codes.iter().enumerate().map(number).collect()
    }
}

/// Sixteen vectors `[16][length]` as a panel of keys, `STEP` numbers of each side by side.
fn key_panel<T: Copy>(vectors: &[T], length: usize, step: usize) -> Vec<T> {
    (0..length * LANES)
        .map(|at| {
            let (block, rest) = (at / (LANES * step), at % (LANES * step));
            vectors[rest / step * length + block * step + rest % step]
        })
        .collect()
}

/// Codes of sixteen keys `[16][length]` as a panel: quads side by side, 128 added, junk behind the last number.
fn code_panel(codes: &[i8], length: usize) -> Vec<i8> {
    (0..length.next_multiple_of(4) * LANES)
        .map(|at| {
            let (quad, key, i) = (at / (4 * LANES), at / 4 % LANES, at % 4);
            let code = if quad * 4 + i < length { codes[key * length + quad * 4 + i] } else { 99 };
            code.wrapping_add(-128)
        })
        .collect()
}

/// Sixteen vectors `[16][length]` as panels of values of sixteen dimensions.
fn value_panels<T: Copy>(vectors: &[T], length: usize, step: usize) -> Vec<T> {
    (0..length * LANES)
        .map(|at| {
            let (panel, at) = (at / (LANES * LANES), at % (LANES * LANES));
            let (block, rest) = (at / (LANES * step), at % (LANES * step));
            vectors[(block * step + rest % step) * length + panel * LANES + rest / step]
        })
        .collect()
}

/// Codes of sixteen values `[16][length]` as panels of sixteen dimensions: four keys of a dimension side by side.
fn value_code_panels(codes: &[i8], length: usize) -> Vec<i8> {
    (0..length * LANES)
        .map(|at| {
            let (panel, at) = (at / (LANES * LANES), at % (LANES * LANES));
            let (four, dimension, key) = (at / (4 * LANES), at / 4 % LANES, at % 4);
            codes[(four * 4 + key) * length + panel * LANES + dimension]
        })
        .collect()
}

/// The codes and behind them the scales.
fn with_scales(codes: Vec<i8>, scales: &[f32]) -> Vec<i8> {
    let bytes = scales.iter().flat_map(|scale| scale.to_ne_bytes()).map(|byte| byte as i8);
    codes.into_iter().chain(bytes).collect()
}

/// One random block and the keys it meets.
struct Case {
    rows: usize,
    d: usize,
    dv: usize,
    /// `[rows][d]`
    queries: Vec<f32>,
    /// `[n][d]`
    keys: Vec<f32>,
    /// `[n][dv]`
    values: Vec<f32>,
    from: Vec<u32>,
    to: Vec<u32>,
    /// Tiles in the order they are read, and whether each is masked.
    order: Vec<(usize, bool)>,
    /// Tiles of the first call; the rest come in a second one.
    cut: usize,
}

impl Case {
    fn new(random: &mut Random) -> Self {
        let rows = if random.unit() < 0.0 { random.between(1, 12) } else { random.between(1, 200) };
        let (d, dv) = (2 * random.between(1, 128), LANES * random.between(1, 16));
        let many = random.between(1, 40);
        let tiles = random.of(&[1, 2, STEP_TILES - 1, STEP_TILES, STEP_TILES + 1, many]);
        let n = tiles * LANES;
        let reach = random.of(&[0.1, 1.0, 8.0, 60.0]) / (d as f32).sqrt();
        let queries = random.vector(rows * d).iter().map(|x| x * reach).collect();
        let (mut keys, mut values) = (random.vector(n * d), random.vector(n * dv));
        for vector in keys.chunks_mut(d).chain(values.chunks_mut(dv)) {
            let factor = random.of(&[1.0, 1.0, 1.0, 0.0, 1e-20, 2.0]);
            for x in vector {
                *x *= factor;
            }
        }
        let some = random.between(1, n);
        let window = random.of(&[n, some]);
        let last = random.between(1, n);
        let to: Vec<u32> = (0..rows).map(|row| (last + row).min(n) as u32).collect();
        let from = to.iter().map(|&to| to.saturating_sub(window as u32)).collect::<Vec<_>>();
        let (all_from, all_to) = (from[rows - 1], to[0]);
        let mut order = Vec::new();
        let read = random.of(&[1.0, 1.0, 0.5]);
        for tile in 0..tiles {
            let start = (tile * LANES) as u32;
            let seen_by_all = start >= all_from && start + LANES as u32 <= all_to;
            if random.share() <= read {
                order.push((tile, !seen_by_all || random.unit() > 0.8));
            }
        }
        if random.unit() < 0.0 {
            order.reverse();
        }
        let cut = random.between(0, order.len());
        Self { rows, d, dv, queries, keys, values, from, to, order, cut }
    }

    /// Scores of the keys that a row sees of these tiles, and how far rounding may change them.
    fn scores(&self, row: usize, order: &[(usize, bool)], queries: &[f32], keys: &[f32]) -> (Vec<(usize, f64)>, f64) {
        let query = &queries[row * self.d..][..self.d];
        let seen = |&n: &usize| (self.from[row] as usize..self.to[row] as usize).contains(&n);
        let numbers = order.iter().flat_map(|&(tile, _)| tile * LANES..(tile + 1) * LANES).filter(seen);
        let mut doubt = 0.0_f64;
        let scores = numbers
            .map(|n| {
                let products =
                    query.iter().zip(&keys[n * self.d..][..self.d]).map(|(&a, &b)| f64::from(a) * f64::from(b));
                let (sum, magnitude) = products.fold((0.0, 0.0), |(sum, magnitude), x| (sum + x, magnitude + x.abs()));
                doubt = doubt.max(magnitude * 1e-6);
                (n, sum)
            })
            .collect();
        (scores, doubt)
    }

    /// What a row must give.
    fn plain(&self, row: usize, queries: &[f32], keys: &[f32], values: &[f32]) -> Row {
        let (scores, doubt) = self.scores(row, &self.order, queries, keys);
        let top = scores.iter().map(|&(_, score)| score).fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = scores.iter().map(|(_, score)| (score - top).exp2()).collect();
        let sum: f64 = weights.iter().sum();
        let mut output = vec![0.0; self.dv];
        for (&(n, _), weight) in scores.iter().zip(&weights) {
            for (to, &x) in output.iter_mut().zip(&values[n * self.dv..][..self.dv]) {
                *to += weight / sum * f64::from(x);
            }
        }
        Row { output, log_sum: top + sum.log2(), doubt, slack: vec![0.0; self.dv] }
    }

    /// The same if weights become whole numbers, one step of tiles after the other.
    fn coded(&self, row: usize, queries: &[f32], keys: &[f32], values: &Coded) -> Row {
        let mut wanted = self.plain(row, queries, keys, &values.numbers());
        wanted.output.fill(0.0);
        let (first, second) = self.order.split_at(self.cut);
        for step in first.chunks(STEP_TILES).chain(second.chunks(STEP_TILES)) {
            let scales = step.iter().flat_map(|&(tile, _)| &values.scales[tile * LANES..][..LANES]);
            let exponent = (scales.map(|scale| scale.to_bits()).max().expect("a step has tiles") >> 23) as i32 + 1;
            let above = f64::from(exponent - 127).exp2();
            // A straight line from each power of two to the next, which is below the logarithm by 0.0861 at most.
            let lift = |n: usize| {
                let line = f64::from(values.scales[n].to_bits()) / f64::from(1 << 23) - f64::from(exponent);
                (line + 0.0875).max(-30.0)
            };
            let (scores, doubt) = self.scores(row, step, queries, keys);
            let top = scores.iter().map(|&(n, score)| score + lift(n)).fold(f64::NEG_INFINITY, f64::max);
            let unit = above / 255.0 * (top - wanted.log_sum).exp2();
            for &(n, score) in &scores {
                let weight = (score - top).exp2() * f64::from(values.scales[n]) / above * 255.0;
                // 1.5 x 2^52: rounds to nearest even.
                let whole = (weight + 6_755_399_441_055_744.0) - 6_755_399_441_055_744.0;
                // Near the middle of two whole numbers it may become either.
                let either = (weight.fract() - 0.5).abs() <= weight * (2e-4 + 2.0 * doubt) + 1e-4;
                for (i, &code) in values.codes[n * self.dv..][..self.dv].iter().enumerate() {
                    wanted.output[i] += whole * unit * f64::from(code);
                    wanted.slack[i] += if either { unit * f64::from(code).abs() } else { 0.0 };
                }
            }
        }
        wanted
    }
}

/// What a row must give.
struct Row {
    output: Vec<f64>,
    /// Base-2 logarithm of the sum of its weights.
    log_sum: f64,
    /// How far rounding may change its scores.
    doubt: f64,
    /// How far each number of the output may be off beside what rounding of scores and sums does.
    slack: Vec<f64>,
}

/// Keys and values of each tile of a form, in buffers of their exact length.
struct Tiles<T>(Vec<(Vec<T>, Vec<T>)>);

impl<T> Tiles<T> {
    fn list(&self, case: &Case) -> Vec<Tile<T>> {
        let tile = |&(tile, masked): &(usize, bool)| Tile {
            keys: self.0[tile].0.as_ptr(),
            values: self.0[tile].1.as_ptr(),
            start: (tile * LANES) as u32,
            masked,
        };
        case.order.iter().map(tile).collect()
    }
}

fn tiles<T: Copy>(case: &Case, keys: &[T], values: &[T], step: usize) -> Tiles<T> {
    let pairs = keys.chunks(LANES * case.d).zip(values.chunks(LANES * case.dv));
    Tiles(pairs.map(|(keys, values)| (key_panel(keys, case.d, step), value_panels(values, case.dv, step))).collect())
}

fn coded_tiles(case: &Case, keys: &Coded, values: &Coded) -> Tiles<i8> {
    let key_codes = keys.codes.chunks(LANES * case.d).map(|codes| code_panel(codes, case.d));
    let value_codes = values.codes.chunks(LANES * case.dv).map(|codes| value_code_panels(codes, case.dv));
    let keys = key_codes.zip(keys.scales.chunks(LANES)).map(|(codes, scales)| with_scales(codes, scales));
    let values = value_codes.zip(values.scales.chunks(LANES)).map(|(codes, scales)| with_scales(codes, scales));
    Tiles(keys.zip(values).collect())
}

/// The rows of a block in codes.
struct CodedRows {
    /// `[rows][d, padded to quads]`
    codes: Vec<i8>,
    scales: Vec<f32>,
    starts: Vec<i32>,
}

impl CodedRows {
    fn new(kernels: &Kernels, rows: &[f32], d: usize) -> Self {
        let (n, width) = (rows.len() / d, AttendCodes::query_width(d));
        let mut coded = Self { codes: vec![77; n * width], scales: vec![0.0; n], starts: vec![0; n] };
        for (i, row) in rows.chunks(d).enumerate() {
            let codes = &mut coded.codes[i * width..][..width];
            kernels.quantize_i8(row, d, codes, &mut coded.scales[i..=i], &mut coded.starts[i..=i]);
        }
        coded
    }

    /// `[rows][d]`
    fn numbers(&self, d: usize) -> Vec<f32> {
        let rows = self.codes.chunks(AttendCodes::query_width(d)).zip(&self.scales);
        rows.flat_map(|(codes, &scale)| codes[..d].iter().map(move |&code| f32::from(code) * scale)).collect()
    }
}

/// One kernel over all tiles, in two calls: output, largest, sum.
fn run<Q: Copy, T: Copy>(
    case: &Case,
    queries: &[Q],
    junk: Q,
    list: &[Tile<T>],
    attend: impl Fn(&mut Attend<'_, Q>, &[Tile<T>]),
) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    let scratch = case.rows * STEP_TILES * LANES;
    let (mut scores, mut weights) = (vec![f32::NAN; scratch], vec![junk; scratch]);
    let mut state = (vec![0.0; case.rows * case.dv], vec![Attend::<f32>::NO_SCORE; case.rows], vec![0.0; case.rows]);
    let mut block = Attend {
        rows: case.rows,
        dimensions: case.d,
        value_panels: case.dv / LANES,
        queries,
        from: &case.from,
        to: &case.to,
        output: &mut state.0,
        largest: &mut state.1,
        sum: &mut state.2,
        scores: &mut scores,
        weights: &mut weights,
    };
    attend(&mut block, &list[..case.cut]);
    attend(&mut block, &list[case.cut..]);
    state
}

/// The same over tiles of codes.
fn run_coded(case: &Case, queries: &CodedRows, list: &[Tile<i8>], kernels: &Kernels) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    let mut state = (vec![0.0; case.rows * case.dv], vec![Attend::<f32>::NO_SCORE; case.rows], vec![0.0; case.rows]);
    let mut block = AttendCodes {
        rows: case.rows,
        dimensions: case.d,
        value_panels: case.dv / LANES,
        queries: &queries.codes,
        query_scales: &queries.scales,
        query_starts: &queries.starts,
        from: &case.from,
        to: &case.to,
        output: &mut state.0,
        largest: &mut state.1,
        sum: &mut state.2,
    };
    for list in [&list[..case.cut], &list[case.cut..]] {
        // SAFETY: the tiles were packed in the case's shape.
        unsafe { kernels.attend_i8(&mut block, list) };
    }
    state
}

/// What a form of keys and values must give.
struct Wanted {
    what: &'static str,
    rows: Vec<Row>,
    /// How far a result may be off, beside the doubt of its scores.
    tolerance: f64,
}

impl Wanted {
    fn new(case: &Case, what: &'static str, queries: &[f32], keys: &[f32], values: &[f32], tolerance: f64) -> Self {
        let rows = (0..case.rows).map(|row| case.plain(row, queries, keys, values)).collect();
        Self { what, rows, tolerance }
    }

    fn check(&self, case: &Case, seed: u64, kernels: &Kernels, found: &(Vec<f32>, Vec<f32>, Vec<f32>)) {
        let (output, largest, sum) = found;
        for (row, wanted) in self.rows.iter().enumerate() {
            let Row { output: want, log_sum, doubt, slack } = wanted;
            let output = &output[row * case.dv..][..case.dv];
            let place = || format!("case {seed}, {} {}, row {row} of {}", kernels.level, self.what, case.rows);
            if *log_sum == f64::NEG_INFINITY {
                assert!(sum[row] == 0.0 && output.iter().all(|&x| x == 0.0), "{}: saw something", place());
                continue;
            }
            let found = f64::from(largest[row]) + f64::from(sum[row]).log2();
            assert!((found - log_sum).abs() <= 4e-4 + doubt, "{}: log sum {found} instead of {log_sum}", place());
            // Values reach to 2.
            let tolerance = 2.0 * (self.tolerance + 2.0 * doubt);
            for (i, (&x, &want)) in output.iter().zip(want).enumerate() {
                let x = f64::from(x) / f64::from(sum[row]);
                assert!((x - want).abs() <= tolerance + slack[i], "{}, number {i}: {x} instead of {want}", place());
            }
        }
    }
}

#[test]
fn random_shapes_at_every_level() {
    let first = setting("ICEFORMER_FUZZ_SEED", 1);
    for seed in first..first + setting("ICEFORMER_FUZZ_CASES", 100) {
        let case = &Case::new(&mut Random::mixed(seed));
        let (queries, keys, values) = (&case.queries, &case.keys, &case.values);
        let (narrow_queries, narrow_keys, narrow_values) = (rounded(queries), rounded(keys), rounded(values));
        let (coded_keys, coded_values) = (Coded::new(keys, case.d), Coded::new(values, case.dv));
        let coded_queries = CodedRows::new(supported().next().expect("there is always a level"), queries, case.d);
        let (query_numbers, key_numbers) = (coded_queries.numbers(case.d), coded_keys.numbers());
        let wanted = [
            Wanted::new(case, "f32", queries, keys, values, 1e-5),
            Wanted::new(case, "f32 x bf16", queries, &narrow_keys, &narrow_values, 4e-4),
            Wanted::new(case, "bf16", &narrow_queries, &narrow_keys, &narrow_values, 5e-3),
            Wanted {
                what: "i8",
                rows: (0..case.rows).map(|row| case.coded(row, &query_numbers, &key_numbers, &coded_values)).collect(),
                tolerance: 4e-4,
            },
        ];
        let wide = tiles(case, keys, values, 1);
        let narrow = tiles(case, &bits(keys), &bits(values), 2);
        let coded = coded_tiles(case, &coded_keys, &coded_values);
        let (wide, narrow, coded) = (wide.list(case), narrow.list(case), coded.list(case));
        for kernels in supported() {
            let found = run(case, queries, f32::NAN, &wide, |block, tiles| {
                // SAFETY: the tiles were packed in the case's shape.
                unsafe { kernels.attend_f32(block, tiles) }
            });
            wanted[0].check(case, seed, kernels, &found);
            let found = run(case, queries, f32::NAN, &narrow, |block, tiles| {
                // SAFETY: the tiles were packed in the case's shape.
                unsafe { kernels.attend_f32_bf16(block, tiles) }
            });
            wanted[1].check(case, seed, kernels, &found);
            let found = run(case, &bits(queries), 0x7fc0, &narrow, |block, tiles| {
                // SAFETY: the tiles were packed in the case's shape.
                unsafe { kernels.attend_bf16(block, tiles) }
            });
            wanted[2].check(case, seed, kernels, &found);
            let found = run_coded(case, &coded_queries, &coded, kernels);
            wanted[3].check(case, seed, kernels, &found);
        }
    }
}

#[test]
fn dequantized_tiles_agree_to_the_bit() {
    let mut random = Random::mixed(9);
    for (d, dv) in [(2, 16), (6, 48), (64, 64), (130, 80), (256, 256)] {
        let magnitudes = [1.0, 0.0, 1e-30, 3e38, 1e10];
        let mut vectors = |length: usize| -> Vec<f32> {
            let factor = |i: usize| magnitudes[i / length % magnitudes.len()];
            random.vector(LANES * length).iter().enumerate().map(|(i, x)| x * factor(i)).collect()
        };
        let (keys, values) = (Coded::new(&vectors(d), d), Coded::new(&vectors(dv), dv));
        let key_codes = with_scales(code_panel(&keys.codes, d), &keys.scales);
        let value_codes = with_scales(value_code_panels(&values.codes, dv), &values.scales);
        let tile = Tile { keys: key_codes.as_ptr(), values: value_codes.as_ptr(), start: 0, masked: false };
        for kernels in supported() {
            let (mut key_bits, mut value_bits) = (vec![7; LANES * d], vec![7; LANES * dv]);
            // SAFETY: the tile was packed in this shape.
            unsafe { kernels.dequantize_tile(d, dv / LANES, &tile, &mut key_bits, &mut value_bits) };
            assert!(key_bits == key_panel(&bits(&keys.numbers()), d, 2), "{} keys of {d}", kernels.level);
            assert!(value_bits == value_panels(&bits(&values.numbers()), dv, 2), "{} values of {dv}", kernels.level);
        }
    }
}
