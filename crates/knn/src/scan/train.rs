//! Finding centres: k-means on a sample (Lloyd 1982).

use crate::error::Result;
use crate::random::Random;
use crate::scan::centres::Centres;
use crate::structure::Context;

/// Rounds of k-means: later ones move little.
const ROUNDS: usize = 6;

/// `count` centres of the `[n][dimensions]` vectors of a sample.
pub(crate) fn train(context: &Context, sample: &[f32], count: usize) -> Result<Centres> {
    let d = context.shape.dimensions;
    let n = sample.len() / d;
    let count = count.clamp(1, n.max(1));
    let mut random = Random::new(context.seed);
    let mut centres = Centres::new(d, count)?;
    for (index, row) in random.choose(n, count).into_iter().enumerate() {
        centres.set(index, &sample[row * d..(row + 1) * d], 0.0);
    }
    let mut nearest = vec![0_u32; n];
    for round in 0..ROUNDS {
        centres.assign(context, &mut nearest, |range, out| {
            out.copy_from_slice(&sample[range.start * d..range.end * d]);
        });
        let mut sums = vec![0.0_f64; count * d];
        let mut counts = vec![0_usize; count];
        for (row, &index) in sample.chunks_exact(d).zip(&nearest) {
            let index = index as usize;
            counts[index] += 1;
            sums[index * d..(index + 1) * d].iter_mut().zip(row).for_each(|(sum, &x)| *sum += f64::from(x));
        }
        let mut centre = vec![0.0_f32; d];
        let mut largest: Vec<usize> = (0..count).collect();
        largest.sort_unstable_by_key(|&index| (std::cmp::Reverse(counts[index]), index));
        let mut crowded = largest.into_iter();
        for index in 0..count {
            if counts[index] > 0 {
                let share = 1.0 / counts[index] as f64;
                let sum = &sums[index * d..(index + 1) * d];
                centre.iter_mut().zip(sum).for_each(|(x, sum)| *x = (sum * share) as f32);
            } else if round + 1 < ROUNDS
                && let Some(from) = crowded.next()
            {
                // A centre that nothing is near to starts again inside a crowded cluster.
                let members: Vec<usize> = (0..n).filter(|&row| nearest[row] as usize == from).take(64).collect();
                let Some(&row) = members.get(random.below(members.len().max(1))) else { continue };
                centre.copy_from_slice(&sample[row * d..(row + 1) * d]);
            } else {
                continue;
            }
            centres.set(index, &centre, 0.0);
        }
    }
    Ok(centres)
}
