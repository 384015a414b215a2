//! Whether this process may use AMX: the CPU has it, the system saves its registers and permits them, and two small
//! products come out right.

use std::fmt;

/// Why the AMX level is not used on a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AmxUnavailable {
    /// The level is built for Linux on x86-64 only.
    OtherSystem,
    /// The CPU has no AMX with products of bf16 and of bytes.
    NoInstructions,
    /// The CPU lacks the AVX-512 instructions that the kernels need beside AMX.
    NoVectors,
    /// The operating system does not save tile registers.
    NotSaved,
    /// The kernel refused the permission to use tile registers, with this error number.
    Refused(u32),
    /// A product came out wrong.
    WrongResult,
}

impl fmt::Display for AmxUnavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OtherSystem => write!(f, "AMX kernels are built for Linux on x86-64"),
            Self::NoInstructions => write!(f, "the CPU has no AMX (amx-tile, amx-bf16, amx-int8)"),
            Self::NoVectors => write!(f, "the CPU has AMX but not the AVX-512 instructions used beside it"),
            Self::NotSaved => write!(f, "the operating system does not save AMX registers"),
            Self::Refused(error) => write!(f, "the kernel refused AMX (arch_prctl, error {error})"),
            Self::WrongResult => write!(f, "AMX computed a wrong result"),
        }
    }
}

impl std::error::Error for AmxUnavailable {}

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
/// Whether kernels may use AMX, or why not: found out once per process.
pub fn amx() -> Result<(), AmxUnavailable> {
    Err(AmxUnavailable::OtherSystem)
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub use linux::amx;

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub(super) mod linux {
    use super::AmxUnavailable;
    use crate::amx::assembly::Assembly;
    use crate::amx::{Config, Tiles};
    use crate::level::Level;
    use std::arch::asm;
    use std::arch::x86_64::{__cpuid_count, __get_cpuid_max, _xgetbv};
    use std::sync::OnceLock;

    /// Whether kernels may use AMX, or why not: found out once per process.
    pub fn amx() -> Result<(), AmxUnavailable> {
        static FOUND: OnceLock<Result<(), AmxUnavailable>> = OnceLock::new();
        *FOUND.get_or_init(|| {
            find()?;
            // SAFETY: the CPU has the instructions and the kernel permits them.
            if unsafe { computes::<Assembly>() } { Ok(()) } else { Err(AmxUnavailable::WrongResult) }
        })
    }

    fn find() -> Result<(), AmxUnavailable> {
        if !has_instructions() {
            return Err(AmxUnavailable::NoInstructions);
        }
        if !Level::Avx512Bf16.is_supported() {
            return Err(AmxUnavailable::NoVectors);
        }
        if !saves_tiles() {
            return Err(AmxUnavailable::NotSaved);
        }
        request()
    }

    /// AMX with bf16 and bytes, and tiles of the size that the kernels are written for.
    fn has_instructions() -> bool {
        const FEATURES: u32 = 1 << 22 | 1 << 24 | 1 << 25; // amx-bf16, amx-tile, amx-int8
        if __get_cpuid_max(0).0 < 0x1d || __cpuid_count(7, 0).edx & FEATURES != FEATURES {
            return false;
        }
        // Palette 1: bytes of all tiles and of one; bytes of a row and number of tiles; rows.
        let palette = __cpuid_count(0x1d, 1);
        palette.eax == 1024 << 16 | 8192 && palette.ebx == 8 << 16 | 64 && palette.ecx & 0xffff == 16
    }

    /// True if the system saves tile shapes and tile registers when threads switch.
    fn saves_tiles() -> bool {
        const TILES: u64 = 1 << 17 | 1 << 18;
        // Set if the system uses XSAVE, and so if XGETBV may be executed.
        const OSXSAVE: u32 = 1 << 27;
        // SAFETY: XGETBV exists where OSXSAVE says so; register 0 always exists.
        __cpuid_count(1, 0).ecx & OSXSAVE != 0 && unsafe { enabled_states() } & TILES == TILES
    }

    #[target_feature(enable = "xsave")]
    unsafe fn enabled_states() -> u64 {
        // SAFETY: the caller's promise.
        unsafe { _xgetbv(0) }
    }

    /// Asks Linux for the permission to use tile registers, which holds for all threads of the process. Without it
    /// the first tile instruction would end the process.
    fn request() -> Result<(), AmxUnavailable> {
        const REQUEST_PERMISSION: u64 = 0x1023; // ARCH_REQ_XCOMP_PERM
        const GET_PERMISSION: u64 = 0x1022; // ARCH_GET_XCOMP_PERM
        const TILE_DATA: u64 = 18; // XFEATURE_XTILEDATA
        let mut permitted = 0_u64;
        // SAFETY: the first takes the number of a state, the second writes one u64.
        unsafe {
            arch_prctl(REQUEST_PERMISSION, TILE_DATA)?;
            arch_prctl(GET_PERMISSION, std::ptr::from_mut(&mut permitted) as u64)?;
        }
        if permitted & 1 << TILE_DATA == 0 { Err(AmxUnavailable::Refused(0)) } else { Ok(()) }
    }

    /// # Safety
    /// As the system call's operation demands of its argument.
    unsafe fn arch_prctl(operation: u64, argument: u64) -> Result<(), AmxUnavailable> {
        const ARCH_PRCTL: u64 = 158;
        let status: i64;
        // SAFETY: a system call changes RAX, RCX and R11, and what the caller vouches for.
        unsafe {
            asm!(
                "syscall",
                inlateout("rax") ARCH_PRCTL => status,
                in("rdi") operation,
                in("rsi") argument,
                lateout("rcx") _,
                lateout("r11") _,
                options(nostack),
            );
        }
        if status == 0 { Ok(()) } else { Err(AmxUnavailable::Refused(status.unsigned_abs() as u32)) }
    }

    /// Multiplies tiles of small whole numbers, 11 x 13 elements along 6 lines, of both kinds; true if all results are
    /// exact. A machine that gets this wrong must not be trusted with more.
    ///
    /// # Safety
    /// As [`Tiles`].
    pub(in crate::amx) unsafe fn computes<T: Tiles>() -> bool {
        const ROWS: usize = 11;
        const COLUMNS: usize = 13;
        const LINES: usize = 6;
        /// Bytes between rows, more than they have.
        const STRIDE: usize = 80;
        let config = Config::new().with(1, ROWS, 4 * COLUMNS).with(4, ROWS, 4 * LINES).with(6, LINES, 4 * COLUMNS);
        // -5..=5 and, times three, -15..=15.
        let whole = |row: usize, column: usize| (row * 7 + column * 3) as i32 % 11 - 5;
        let mut a_pairs = [[0_u16; STRIDE / 2]; ROWS];
        let mut b_pairs = [[0_u16; STRIDE / 2]; LINES];
        let mut a_quads = [[0_i8; STRIDE]; ROWS];
        let mut b_quads = [[0_u8; STRIDE]; LINES];
        let bf16 = |x: i32| ((x as f32).to_bits() >> 16) as u16;
        for (row, (pairs, quads)) in a_pairs.iter_mut().zip(&mut a_quads).enumerate() {
            for i in 0..4 * LINES {
                quads[i] = (whole(row, i) * 25) as i8;
                if i < 2 * LINES {
                    pairs[i] = bf16(whole(row, i));
                }
            }
        }
        for (line, (pairs, quads)) in b_pairs.iter_mut().zip(&mut b_quads).enumerate() {
            for i in 0..4 * COLUMNS {
                quads[i] = (whole(i, line) * 20 + 150) as u8;
                if i < 2 * COLUMNS {
                    pairs[i] = bf16(3 * whole(i, line));
                }
            }
        }
        let mut sums = [[1.0_f32; STRIDE / 4]; ROWS];
        let mut totals = [[0_i32; STRIDE / 4]; ROWS];
        // SAFETY: the caller's promise; the buffers have the registers' rows every STRIDE bytes.
        unsafe {
            T::configure(&config);
            T::load::<1>(sums.as_ptr().cast(), STRIDE);
            T::load::<4>(a_pairs.as_ptr().cast(), STRIDE);
            T::load::<6>(b_pairs.as_ptr().cast(), STRIDE);
            T::multiply_bf16::<1, 4, 6>();
            T::store::<1>(sums.as_mut_ptr().cast(), STRIDE);
            T::zero::<1>();
            T::load::<4>(a_quads.as_ptr().cast(), STRIDE);
            T::load::<6>(b_quads.as_ptr().cast(), STRIDE);
            T::multiply_i8_u8::<1, 4, 6>();
            T::store::<1>(totals.as_mut_ptr().cast(), STRIDE);
            T::release();
        }
        (0..ROWS).all(|row| {
            (0..STRIDE / 4).all(|column| {
                if column >= COLUMNS {
                    return sums[row][column].to_bits() == 1.0_f32.to_bits() && totals[row][column] == 0;
                }
                let sum: i32 = (0..2 * LINES).map(|i| whole(row, i) * 3 * whole(2 * column + i % 2, i / 2)).sum();
                let total: i32 = (0..4 * LINES)
                    .map(|i| i32::from(a_quads[row][i]) * i32::from(b_quads[i / 4][4 * column + i % 4]))
                    .sum();
                sums[row][column].to_bits() == ((sum + 1) as f32).to_bits() && totals[row][column] == total
            })
        })
    }
}
