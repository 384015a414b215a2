//! A model of the tile registers in plain Rust, after the operation sections of Intel's Software Developer's Manual
//! (volume 2, LDTILECFG to TILEZERO): the oracle of the kernels, on any machine.
//!
//! What the CPU answers with an exception (a register that is not shaped, operands that do not fit) panics here.

use super::{Config, Tiles};
use std::cell::RefCell;

/// The eight registers of one thread.
pub(super) struct Registers {
    /// Rows and bytes per row of each, or nothing before a configuration.
    shapes: Option<[(usize, usize); 8]>,
    /// `[register][row][byte]`
    tiles: [[[u8; 64]; 16]; 8],
}

impl Registers {
    const fn new() -> Self {
        Self { shapes: None, tiles: [[[0; 64]; 16]; 8] }
    }

    /// True if the registers are in use.
    pub fn in_use(&self) -> bool {
        self.shapes.is_some()
    }

    fn shape(&self, tile: usize) -> (usize, usize) {
        let shape = self.shapes.expect("registers are not configured")[tile];
        assert!(shape.0 > 0 && shape.1 > 0, "register {tile} is not configured");
        shape
    }

    pub fn configure(&mut self, config: &Config) {
        let shapes = std::array::from_fn(|tile| config.shape(tile));
        for (rows, row_bytes) in shapes {
            assert!(rows <= 16 && row_bytes <= 64 && (rows == 0) == (row_bytes == 0), "{rows} rows of {row_bytes}");
        }
        *self = Self { shapes: Some(shapes), ..Self::new() };
    }

    pub fn release(&mut self) {
        *self = Self::new();
    }

    pub fn zero(&mut self, tile: usize) {
        self.shape(tile);
        self.tiles[tile] = [[0; 64]; 16];
    }

    /// # Safety
    /// The register's rows are readable, one every `stride` bytes.
    pub unsafe fn load(&mut self, tile: usize, from: *const u8, stride: usize) {
        let (rows, row_bytes) = self.shape(tile);
        self.tiles[tile] = [[0; 64]; 16];
        for (row, bytes) in self.tiles[tile].iter_mut().enumerate().take(rows) {
            // SAFETY: the caller's promise.
            unsafe { from.add(row * stride).copy_to_nonoverlapping(bytes.as_mut_ptr(), row_bytes) };
        }
    }

    /// # Safety
    /// The register's rows are writable, one every `stride` bytes.
    pub unsafe fn store(&self, tile: usize, to: *mut u8, stride: usize) {
        let (rows, row_bytes) = self.shape(tile);
        for (row, bytes) in self.tiles[tile].iter().enumerate().take(rows) {
            // SAFETY: the caller's promise.
            unsafe { to.add(row * stride).copy_from_nonoverlapping(bytes.as_ptr(), row_bytes) };
        }
    }

    /// Rows of C, columns of C and length of the sum, in elements of four bytes.
    fn product(&self, c: usize, a: usize, b: usize) -> (usize, usize, usize) {
        assert!(c != a && c != b && a != b, "registers {c}, {a}, {b}");
        let ((c_rows, c_bytes), (a_rows, a_bytes), (b_rows, b_bytes)) = (self.shape(c), self.shape(a), self.shape(b));
        assert!(
            c_rows == a_rows && c_bytes == b_bytes && a_bytes == 4 * b_rows && c_bytes.is_multiple_of(4),
            "C [{c_rows}][{c_bytes}], A [{a_rows}][{a_bytes}], B [{b_rows}][{b_bytes}]"
        );
        (c_rows, c_bytes / 4, b_rows)
    }

    /// Applies `sum` to each element of C with the row of A and the column of B that it is made of.
    fn multiply(&mut self, [c, a, b]: [usize; 3], sum: impl Fn([u8; 4], &[[u8; 4]], &[[u8; 4]]) -> [u8; 4]) {
        let (rows, columns, length) = self.product(c, a, b);
        for m in 0..rows {
            let mut row = [0; 64];
            let left: [[u8; 4]; 16] = std::array::from_fn(|k| quad(&self.tiles[a][m], k));
            for n in 0..columns {
                let right: [[u8; 4]; 16] = std::array::from_fn(|k| quad(&self.tiles[b][k], n));
                let sum = sum(quad(&self.tiles[c][m], n), &left[..length], &right[..length]);
                row[4 * n..4 * n + 4].copy_from_slice(&sum);
            }
            self.tiles[c][m] = row;
        }
        self.tiles[c][rows..].fill([0; 64]);
    }

    pub fn multiply_bf16(&mut self, c: usize, a: usize, b: usize) {
        self.multiply([c, a, b], |start, left, right| {
            let (mut even, mut odd) = (0.0, 0.0);
            for (a, b) in left.iter().zip(right) {
                even = flush(widen([a[0], a[1]]).mul_add(widen([b[0], b[1]]), even));
                odd = flush(widen([a[2], a[3]]).mul_add(widen([b[2], b[3]]), odd));
            }
            flush(flush(f32::from_le_bytes(start)) + flush(even + odd)).to_le_bytes()
        });
    }

    pub fn multiply_i8_u8(&mut self, c: usize, a: usize, b: usize) {
        self.multiply([c, a, b], |start, left, right| {
            let mut sum = i32::from_le_bytes(start);
            for (a, b) in left.iter().zip(right) {
                for i in 0..4 {
                    sum = sum.wrapping_add(i32::from(a[i] as i8) * i32::from(b[i]));
                }
            }
            sum.to_le_bytes()
        });
    }
}

fn quad(row: &[u8; 64], index: usize) -> [u8; 4] {
    [row[4 * index], row[4 * index + 1], row[4 * index + 2], row[4 * index + 3]]
}

/// A subnormal number becomes zero of the same sign.
fn flush(x: f32) -> f32 {
    if x.is_subnormal() { 0.0_f32.copysign(x) } else { x }
}

fn widen(bits: [u8; 2]) -> f32 {
    flush(f32::from_bits(u32::from(u16::from_le_bytes(bits)) << 16))
}

thread_local! {
    static REGISTERS: RefCell<Registers> = const { RefCell::new(Registers::new()) };
}

/// Does something with the calling thread's registers.
pub(super) fn registers<R>(act: impl FnOnce(&mut Registers) -> R) -> R {
    REGISTERS.with_borrow_mut(act)
}

/// The modelled registers.
pub(super) struct Model;

impl Tiles for Model {
    unsafe fn configure(config: &Config) {
        registers(|r| r.configure(config));
    }
    unsafe fn release() {
        registers(Registers::release);
    }
    unsafe fn zero<const TILE: usize>() {
        registers(|r| r.zero(TILE));
    }
    unsafe fn load<const TILE: usize>(from: *const u8, stride: usize) {
        // SAFETY: the trait's contract.
        registers(|r| unsafe { r.load(TILE, from, stride) });
    }
    unsafe fn store<const TILE: usize>(to: *mut u8, stride: usize) {
        // SAFETY: the trait's contract.
        registers(|r| unsafe { r.store(TILE, to, stride) });
    }
    unsafe fn multiply_bf16<const C: usize, const A: usize, const B: usize>() {
        registers(|r| r.multiply_bf16(C, A, B));
    }
    unsafe fn multiply_i8_u8<const C: usize, const A: usize, const B: usize>() {
        registers(|r| r.multiply_i8_u8(C, A, B));
    }
}
