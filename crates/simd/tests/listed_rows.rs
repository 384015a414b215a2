//! Passes over listed rows at every SIMD level against double precision.

mod random;

use iceformer_simd::supported;
use random::Random;

#[test]
fn products_distances_and_means() {
    let mut random = Random::mixed(9);
    for d in [1, 5, 16, 20, 34, 64, 80, 131] {
        let rows = random.vector(23 * d);
        let vector = random.vector(d);
        let row = |number: u32| &rows[number as usize * d..][..d];
        for list in [vec![], vec![22], vec![3, 3, 0], vec![5, 1, 22, 7], (0..23).rev().collect::<Vec<u32>>()] {
            for table in supported() {
                let what = format!("{} {d} {list:?}", table.level.name());
                let (mut dots, mut distances) = (vec![7.0; list.len()], vec![7.0; list.len()]);
                table.dots_of_rows(&rows, &list, &vector, &mut dots);
                table.squared_distances_of_rows(&rows, &list, &vector, &mut distances);
                for (i, &number) in list.iter().enumerate() {
                    let pairs = || row(number).iter().zip(&vector).map(|(&x, &y)| (f64::from(x), f64::from(y)));
                    let (dot, distance): (f64, f64) =
                        (pairs().map(|(x, y)| x * y).sum(), pairs().map(|(x, y)| (x - y) * (x - y)).sum());
                    let tolerance = 1e-6 * d as f64;
                    assert!((f64::from(dots[i]) - dot).abs() <= tolerance, "{what}: {} {dot}", dots[i]);
                    assert!((f64::from(distances[i]) - distance).abs() <= tolerance, "{what}: {distance}");
                    // The same wherever it stands.
                    let mut alone = [0.0];
                    table.dots_of_rows(&rows, &[number], &vector, &mut alone);
                    assert_eq!(alone[0].to_bits(), dots[i].to_bits(), "{what}");
                }
                if list.is_empty() {
                    continue;
                }
                let mut mean = vec![7.0; d];
                table.mean_of_rows(&rows, &list, &mut mean);
                for (i, &got) in mean.iter().enumerate() {
                    let sum: f64 = list.iter().map(|&number| f64::from(row(number)[i])).sum();
                    assert!((f64::from(got) - sum / list.len() as f64).abs() <= 1e-6, "{what}: {got}");
                }
            }
        }
    }
}
