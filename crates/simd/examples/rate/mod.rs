//! How fast something runs.

use std::time::Instant;

use iceformer_simd::{AlignedBuffer, Attend, LANES, STEP_TILES, Tile, Zeroed};

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

/// GFLOP/s of `multiply`, which is given A `[m][k]`, the panels of B `[n / 16][k][16]`, and C `[m][n]`.
pub fn product_rate<T: Zeroed>(
    m: usize,
    k: usize,
    n: usize,
    mut multiply: impl FnMut(*const T, *const T, *mut f32),
) -> f64 {
    let (a, b) = (AlignedBuffer::<T>::new(m * k), AlignedBuffer::<T>::new(n * k));
    let mut c = AlignedBuffer::<f32>::new(m * n);
    let repeats = 1.max(50_000_000 / (m * k * n));
    rate(2.0 * (m * k * n * repeats) as f64, || {
        for _ in 0..repeats {
            multiply(a.as_ptr(), b.as_ptr(), c.as_mut_ptr());
        }
    })
}

/// GFLOP/s of `attend`, which is given `rows` queries of `d` numbers and 512 tiles of keys and values.
pub fn attention_rate<T: Zeroed>(rows: usize, d: usize, mut attend: impl FnMut(&mut Attend<'_, T>, &[Tile<T>])) -> f64 {
    let tiles = 512;
    let (from, to) = (vec![0; rows], vec![(tiles * LANES) as u32; rows]);
    let (queries, keys) = (AlignedBuffer::<T>::new(rows * d), AlignedBuffer::<T>::new(tiles * LANES * d * 2));
    let (mut output, mut scores) =
        (AlignedBuffer::<f32>::new(rows * d), AlignedBuffer::<f32>::new(rows * STEP_TILES * LANES));
    let mut weights = AlignedBuffer::<T>::new(rows * STEP_TILES * LANES);
    let (mut largest, mut sum) = (vec![0.0; rows], vec![0.0; rows]);
    let list: Vec<Tile<T>> = (0..tiles)
        .map(|t| Tile {
            keys: keys[2 * t * LANES * d..].as_ptr(),
            values: keys[(2 * t + 1) * LANES * d..].as_ptr(),
            start: (t * LANES) as u32,
            masked: false,
        })
        .collect();
    rate(4.0 * (rows * d * tiles * LANES) as f64, || {
        let mut block = Attend {
            rows,
            dimensions: d,
            value_panels: d / LANES,
            queries: &queries,
            from: &from,
            to: &to,
            output: &mut output,
            largest: &mut largest,
            sum: &mut sum,
            scores: &mut scores,
            weights: &mut weights,
        };
        attend(&mut block, &list);
    })
}
