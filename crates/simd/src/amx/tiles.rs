//! The operations on tile registers, and how registers are shaped.

/// Rows of a tile.
pub(crate) const TILE_ROWS: usize = 16;

/// Bytes of a tile's row: 32 bf16, 64 bytes or 16 f32.
pub(crate) const ROW_BYTES: usize = 64;

/// Bytes of a tile.
pub(crate) const TILE_BYTES: usize = TILE_ROWS * ROW_BYTES;

/// Shapes of the eight tile registers, as LDTILECFG reads them (palette 1).
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(crate) struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    /// Bytes of each row; of sixteen registers, of which eight exist.
    row_bytes: [u16; 16],
    /// Rows.
    rows: [u8; 16],
}

impl Config {
    /// No registers in use.
    pub fn new() -> Self {
        Self { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] }
    }

    /// The same with register `tile` holding `rows` (1 to 16) rows of `row_bytes` bytes (4 to 64); unused if either is
    /// zero.
    #[must_use]
    pub fn with(mut self, tile: usize, rows: usize, row_bytes: usize) -> Self {
        debug_assert!(tile < 8 && rows <= TILE_ROWS && row_bytes <= ROW_BYTES);
        if rows > 0 && row_bytes > 0 {
            self.rows[tile] = rows as u8;
            self.row_bytes[tile] = row_bytes as u16;
        }
        self
    }

    /// Rows and bytes of each row of register `tile`.
    #[cfg(test)]
    pub fn shape(&self, tile: usize) -> (usize, usize) {
        (self.rows[tile].into(), self.row_bytes[tile].into())
    }
}

/// Instructions on the tile registers of the calling thread, named by number.
///
/// # Safety
/// All may only be called where the CPU and the system let this thread use AMX, all but `configure` only between
/// `configure` and `release`, and only on registers that the configuration shapes; a product's three registers
/// differ and have shapes that fit: C `[m][n]` of four bytes, A `[m][k]` of four bytes, B `[k][n]` of four bytes.
pub(crate) trait Tiles {
    /// LDTILECFG: shapes the registers and zeroes them.
    unsafe fn configure(config: &Config);
    /// TILERELEASE: no registers in use.
    unsafe fn release();
    /// TILEZERO.
    unsafe fn zero<const TILE: usize>();
    /// TILELOADD: reads the register's rows, one every `stride` bytes.
    unsafe fn load<const TILE: usize>(from: *const u8, stride: usize);
    /// TILESTORED: writes the register's rows, one every `stride` bytes.
    unsafe fn store<const TILE: usize>(to: *mut u8, stride: usize);
    /// TDPBF16PS: `C[m][n] += sum over k of A[m][2k..2k + 2] . B[k][2n..2n + 2]`, bf16 into f32. The even and the odd
    /// products are summed apart, each in the order of k, then together, then with C, all rounded to nearest even;
    /// subnormal numbers count as zero, whether read or computed.
    unsafe fn multiply_bf16<const C: usize, const A: usize, const B: usize>();
    /// TDPBSUD: `C[m][n] += sum over k of A[m][4k..4k + 4] . B[k][4n..4n + 4]`, A of i8, B of u8, in i32 that wrap.
    unsafe fn multiply_i8_u8<const C: usize, const A: usize, const B: usize>();
}
