//! The vectors of a tile as rows, and back: as they are stored, so nothing is rounded.
//!
//! In a tile the numbers of sixteen vectors lie side by side, `step` of each. A row has all that is stored of one vector:
//! the key's numbers, in codes their scale, the value's numbers, in codes their scale.

use iceformer_simd::LANES;
use std::array;

/// How the numbers of a tile lie: `[keys / step][16][step]`, `[values / 16][16 / step][16][step]`, `[behind / step][16][step]`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TileShape {
    /// Numbers of a key, and vectors of a value's dimension, that lie side by side: 1, 2 or 4.
    pub step: usize,
    /// Numbers of a row that lie as keys do, a multiple of `step`.
    pub keys: usize,
    /// Numbers that lie as values do, a multiple of 16.
    pub values: usize,
    /// Numbers behind them that lie as keys do again.
    pub behind: usize,
}

impl TileShape {
    /// Numbers of a row; a tile has sixteen times as many.
    pub fn row(self) -> usize {
        self.keys + self.values + self.behind
    }

    /// Writes all rows of a tile, `[16][row]`.
    pub fn read<N: Copy + Default>(self, tile: &[N], rows: &mut [N]) {
        match self.step {
            1 => self.read_by::<N, 1>(tile, rows),
            2 => self.read_by::<N, 2>(tile, rows),
            _ => self.read_by::<N, 4>(tile, rows),
        }
    }

    /// Writes a tile from the rows of its vectors.
    pub fn write<N: Copy + Default>(self, tile: &mut [N], rows: &[&[N]; LANES]) {
        match self.step {
            1 => self.write_by::<N, 1>(tile, rows),
            2 => self.write_by::<N, 2>(tile, rows),
            _ => self.write_by::<N, 4>(tile, rows),
        }
    }

    /// Writes one vector of a tile from its row.
    pub fn write_one<N: Copy>(self, tile: &mut [N], lane: usize, row: &[N]) {
        match self.step {
            1 => row.iter().enumerate().for_each(|(i, &x)| tile[self.place_by::<1>(lane, i)] = x),
            2 => row.iter().enumerate().for_each(|(i, &x)| tile[self.place_by::<2>(lane, i)] = x),
            _ => row.iter().enumerate().for_each(|(i, &x)| tile[self.place_by::<4>(lane, i)] = x),
        }
    }

    /// Where number `i` of the row of the vector in lane `lane` lies.
    #[inline]
    pub fn place(self, lane: usize, i: usize) -> usize {
        match self.step {
            1 => self.place_by::<1>(lane, i),
            2 => self.place_by::<2>(lane, i),
            _ => self.place_by::<4>(lane, i),
        }
    }

    #[inline]
    fn place_by<const STEP: usize>(self, lane: usize, i: usize) -> usize {
        if i < self.keys || i >= self.keys + self.values {
            return (i / STEP * LANES + lane) * STEP + i % STEP;
        }
        let i = i - self.keys;
        (self.keys + i / LANES * LANES + lane / STEP * STEP) * LANES + i % LANES * STEP + lane % STEP
    }

    fn read_by<N: Copy + Default, const STEP: usize>(self, tile: &[N], rows: &mut [N]) {
        let (keys, rest) = tile.split_at(LANES * self.keys);
        let (values, behind) = rest.split_at(LANES * self.values);
        for (lane, row) in rows.chunks_exact_mut(self.row()).enumerate() {
            let (key, rest) = row.split_at_mut(self.keys);
            read_columns::<N, STEP>(keys, lane, key);
            read_columns::<N, STEP>(behind, lane, &mut rest[self.values..]);
        }
        for (group, rows) in rows.chunks_exact_mut(STEP * self.row()).enumerate() {
            for (panel, numbers) in values.chunks_exact(LANES * LANES).enumerate() {
                let (line, _) = numbers[group * STEP * LANES..][..STEP * LANES].as_chunks::<STEP>();
                for (s, row) in rows.chunks_exact_mut(self.row()).enumerate() {
                    for (to, numbers) in row[self.keys + panel * LANES..][..LANES].iter_mut().zip(line) {
                        *to = numbers[s];
                    }
                }
            }
        }
    }

    fn write_by<N: Copy + Default, const STEP: usize>(self, tile: &mut [N], rows: &[&[N]; LANES]) {
        let (keys, rest) = tile.split_at_mut(LANES * self.keys);
        let (values, behind) = rest.split_at_mut(LANES * self.values);
        write_columns::<N, STEP>(keys, &rows.map(|row| &row[..self.keys]));
        write_columns::<N, STEP>(behind, &rows.map(|row| &row[self.keys + self.values..][..self.behind]));
        for (panel, numbers) in values.chunks_exact_mut(LANES * LANES).enumerate() {
            let (lines, _) = numbers.as_chunks_mut::<STEP>();
            for (line, rows) in lines.chunks_exact_mut(LANES).zip(rows.chunks_exact(STEP)) {
                let start = self.keys + panel * LANES;
                let values: [&[N]; STEP] = array::from_fn(|s| &rows[s][start..][..LANES]);
                for (i, to) in line.iter_mut().enumerate() {
                    *to = array::from_fn(|s| values[s][i]);
                }
            }
        }
    }
}

/// Reads the column of lane `lane` of `[numbers / STEP][16][STEP]`.
fn read_columns<N: Copy, const STEP: usize>(panel: &[N], lane: usize, numbers: &mut [N]) {
    let (groups, _) = panel.as_chunks::<STEP>();
    let (numbers, _) = numbers.as_chunks_mut::<STEP>();
    for (to, group) in numbers.iter_mut().zip(groups.chunks_exact(LANES)) {
        *to = group[lane];
    }
}

/// Writes all columns of `[numbers / STEP][16][STEP]`, which are `columns`.
fn write_columns<N: Copy, const STEP: usize>(panel: &mut [N], columns: &[&[N]; LANES]) {
    let (groups, _) = panel.as_chunks_mut::<STEP>();
    let columns = columns.map(|column| column.as_chunks::<STEP>().0);
    for (i, group) in groups.chunks_exact_mut(LANES).enumerate() {
        for (to, column) in group.iter_mut().zip(&columns) {
            *to = column[i];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_what_lies_in_the_lanes() {
        for (step, keys, values, behind) in
            [(1, 5, 16, 0), (1, 64, 64, 0), (2, 34, 32, 0), (4, 20, 48, 4), (4, 8, 0, 4)]
        {
            let shape = TileShape { step, keys, values, behind };
            let tile: Vec<u16> = (0..(LANES * shape.row()) as u16).map(|i| i.wrapping_mul(7919)).collect();
            let mut rows = vec![0; tile.len()];
            shape.read(&tile, &mut rows);
            let mut one_by_one = vec![0; tile.len()];
            for (lane, expected) in rows.chunks(shape.row()).enumerate() {
                let row: Vec<u16> = (0..shape.row()).map(|i| tile[shape.place(lane, i)]).collect();
                assert_eq!(row, expected, "{shape:?} {lane}");
                shape.write_one(&mut one_by_one, lane, &row);
            }
            assert_eq!(one_by_one, tile, "{shape:?}");
            // In another order.
            let by_three: [&[u16]; LANES] = array::from_fn(|i| &rows[i * 3 % LANES * shape.row()..][..shape.row()]);
            let mut moved = vec![0; tile.len()];
            shape.write(&mut moved, &by_three);
            for (lane, expected) in by_three.iter().enumerate() {
                let row: Vec<u16> = (0..shape.row()).map(|i| moved[shape.place(lane, i)]).collect();
                assert_eq!(row, *expected, "{shape:?} {lane}");
            }
        }
    }

    #[test]
    fn numbers_lie_as_the_kernels_take_them() {
        // Key 3's number 5 and value 6's number 17, in pairs: `[d / 2][16][2]`, `[dv / 16][8][16][2]`.
        let shape = TileShape { step: 2, keys: 8, values: 32, behind: 0 };
        let mut tile = vec![0_u16; LANES * shape.row()];
        let mut row = vec![0; shape.row()];
        row[5] = 1;
        shape.write_one(&mut tile, 3, &row);
        row.fill(0);
        row[8 + 17] = 2;
        shape.write_one(&mut tile, 6, &row);
        assert_eq!(tile.iter().position(|&x| x == 1), Some((2 * LANES + 3) * 2 + 1));
        assert_eq!(tile.iter().position(|&x| x == 2), Some(LANES * 8 + LANES * LANES + 3 * 2 * LANES + 2));
    }
}
