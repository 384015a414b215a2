//! SIMD levels: what they are called and how they are found.

use std::fmt;
use std::str::FromStr;

/// A set of instructions that kernels are compiled for. Later is better within one architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Plain Rust, the reference for all others.
    Scalar,
    /// NEON, which every `AArch64` has.
    Neon,
    /// AVX2, FMA and F16C (`x86-64-v3`).
    Avx2,
    /// AVX2 with `vpdpbusd` (AVX-VNNI).
    Avx2Vnni,
    /// AVX-512 F, BW, DQ and VL.
    Avx512,
    /// AVX-512 with `vpdpbusd`.
    Avx512Vnni,
    /// AVX-512 with `vpdpbusd` and arithmetic of half precision (AVX512-FP16).
    Avx512Fp16,
    /// AVX-512 with `vpdpbusd` and `vdpbf16ps`.
    Avx512Bf16,
    /// The same with products of tiles of bf16 and of bytes (AMX), where the system permits them.
    Amx,
}

impl Level {
    /// All levels, the plainest first.
    pub const ALL: [Self; 9] = [
        Self::Scalar,
        Self::Neon,
        Self::Avx2,
        Self::Avx2Vnni,
        Self::Avx512,
        Self::Avx512Vnni,
        Self::Avx512Fp16,
        Self::Avx512Bf16,
        Self::Amx,
    ];

    /// True if this CPU and operating system can run the level.
    #[must_use]
    pub fn is_supported(self) -> bool {
        match self {
            Self::Scalar => true,
            Self::Neon => cfg!(target_arch = "aarch64"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => {
                is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx2Vnni => Self::Avx2.is_supported() && is_x86_feature_detected!("avxvnni"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => {
                Self::Avx2.is_supported()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vnni => Self::Avx512.is_supported() && is_x86_feature_detected!("avx512vnni"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Fp16 => Self::Avx512Vnni.is_supported() && is_x86_feature_detected!("avx512fp16"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16 => Self::Avx512Vnni.is_supported() && is_x86_feature_detected!("avx512bf16"),
            // Asks the system for AMX, once.
            Self::Amx => crate::amx::amx().is_ok(),
            #[cfg(not(target_arch = "x86_64"))]
            Self::Avx2 | Self::Avx2Vnni | Self::Avx512 | Self::Avx512Vnni | Self::Avx512Fp16 | Self::Avx512Bf16 => {
                false
            }
        }
    }

    /// True if the level has an instruction that multiplies bf16 numbers; others widen them to f32 first.
    #[must_use]
    pub fn multiplies_bf16(self) -> bool {
        matches!(self, Self::Avx512Bf16 | Self::Amx)
    }

    /// True if the level multiplies many rows in half precision ([`crate::Kernels::gemm_halves`]) faster than in f32.
    #[must_use]
    pub fn multiplies_halves(self) -> bool {
        self == Self::Avx512Fp16
    }

    /// False if a lower level is faster on this CPU, so that this one must be asked for by name: Intel's cores need two
    /// cycles for a `vdpbf16ps`, in which they multiply twice as many numbers that were widened to f32. Where they have AMX,
    /// only few rows are left to that instruction, which then waits for memory.
    #[must_use]
    pub fn is_fast(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16 => !is_intel(),
            _ => true,
        }
    }

    /// The name that `ICEFORMER_SIMD` takes and reports print.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Neon => "neon",
            Self::Avx2 => "avx2",
            Self::Avx2Vnni => "avx2-vnni",
            Self::Avx512 => "avx512",
            Self::Avx512Vnni => "avx512-vnni",
            Self::Avx512Fp16 => "avx512-fp16",
            Self::Avx512Bf16 => "avx512-bf16",
            Self::Amx => "amx",
        }
    }
}

/// True if the CPU says that Intel made it.
#[cfg(target_arch = "x86_64")]
fn is_intel() -> bool {
    // SAFETY: every CPU of this architecture has the instruction, and leaf 0.
    #[allow(unused_unsafe, reason = "newer compilers know that it is safe")]
    let leaf = unsafe { std::arch::x86_64::__cpuid(0) };
    [leaf.ebx, leaf.edx, leaf.ecx].map(u32::to_le_bytes).as_flattened() == b"GenuineIntel"
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that is no level.
#[derive(Debug, PartialEq, Eq)]
pub struct UnknownLevel(pub String);

impl FromStr for Level {
    type Err = UnknownLevel;

    fn from_str(name: &str) -> Result<Self, UnknownLevel> {
        Self::ALL.into_iter().find(|level| level.name() == name).ok_or_else(|| UnknownLevel(name.to_owned()))
    }
}
