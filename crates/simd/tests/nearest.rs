//! The best column of each row: every SIMD level gives the same column and score, to the bit.

mod random;

use iceformer_simd::supported;
use random::Random;

/// Column and score by the definition, continuing from a best one.
fn nearest(row: &[f32], offsets: &[f32], first: u32, best: (u32, f32)) -> (u32, f32) {
    let mut best = best;
    for (j, score) in row.iter().enumerate() {
        let score = score + offsets.get(j).unwrap_or(&0.0);
        if score > best.1 {
            best = (first + j as u32, score);
        }
    }
    best
}

#[test]
fn nearest_of_every_shape() {
    let mut random = Random(59);
    // Few different scores: most rows have several equal ones.
    let kinds = [-1.0, 0.0, -0.0, 1.0, 2.0, f32::NAN, f32::NEG_INFINITY];
    for n in (1..70).chain([127, 128, 300]) {
        for m in [0, 1, 2, 3, 4, 5, 7, 8, 13] {
            let stride = n + random.below(3) as usize;
            let some = 1 + random.below(kinds.len() as u64);
            let scores: Vec<f32> = (0..m * stride).map(|_| kinds[random.below(some) as usize]).collect();
            let offsets: Vec<f32> =
                (0..n * random.below(2) as usize).map(|_| [0.0, 0.5, -0.5][random.below(3) as usize]).collect();
            let cut = random.below(n as u64 + 1) as usize;
            let row = |r: usize| &scores[r * stride..r * stride + n];
            let want: Vec<(u32, u32)> = (0..m)
                .map(|r| nearest(row(r), &offsets, 100, (7, f32::NEG_INFINITY)))
                .map(|(column, score)| (column, score.to_bits()))
                .collect();
            for table in supported() {
                // At once, and in two parts.
                for parts in [[0..n, n..n], [0..cut, cut..n]] {
                    let (mut best, mut best_scores) = (vec![7; m], vec![f32::NEG_INFINITY; m]);
                    for part in parts {
                        table.nearest_columns(
                            part.len(),
                            scores.get(part.start..).unwrap_or_default(),
                            stride,
                            offsets.get(part.clone()).unwrap_or_default(),
                            100 + part.start as u32,
                            &mut best,
                            &mut best_scores,
                        );
                    }
                    let got: Vec<(u32, u32)> =
                        best.into_iter().zip(best_scores.into_iter().map(f32::to_bits)).collect();
                    assert_eq!(got, want, "{} at m {m}, n {n}", table.level);
                }
            }
        }
    }
}

#[test]
fn the_first_of_equals() {
    for table in supported() {
        for n in [1, 15, 16, 17, 40, 64] {
            for peak in 0..n {
                let mut scores = vec![0.0; n];
                scores[peak..].fill(3.0);
                let (mut best, mut best_scores) = ([9], [f32::NEG_INFINITY]);
                table.nearest_columns(n, &scores, n, &[], 0, &mut best, &mut best_scores);
                assert_eq!((best[0] as usize, best_scores[0].to_bits()), (peak, 3.0_f32.to_bits()), "{}", table.level);
                // What is only as good as the best so far changes nothing.
                table.nearest_columns(n, &scores, n, &[], 50, &mut best, &mut best_scores);
                assert_eq!(best[0] as usize, peak, "{}", table.level);
            }
        }
    }
}
