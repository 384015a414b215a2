//! Which table is in use.

use super::{Kernels, tables};
use crate::level::Level;
use std::sync::OnceLock;

/// The table of `level`, if this CPU can run it.
#[must_use]
pub fn at_level(level: Level) -> Option<&'static Kernels> {
    if !level.is_supported() {
        return None;
    }
    match level {
        Level::Scalar => Some(&tables::scalar::TABLE),
        #[cfg(target_arch = "aarch64")]
        Level::Neon => Some(&tables::neon::TABLE),
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => Some(&tables::avx2::TABLE),
        #[cfg(target_arch = "x86_64")]
        Level::Avx2Vnni => Some(&tables::avx2_vnni::TABLE),
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => Some(&tables::avx512::TABLE),
        #[cfg(target_arch = "x86_64")]
        Level::Avx512Vnni => Some(&tables::avx512_vnni::TABLE),
        #[cfg(target_arch = "x86_64")]
        Level::Avx512Fp16 => Some(&tables::avx512_fp16::TABLE),
        #[cfg(target_arch = "x86_64")]
        Level::Avx512Bf16 => Some(&tables::avx512_bf16::TABLE),
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        Level::Amx => Some(&tables::amx::TABLE),
        #[allow(unreachable_patterns, reason = "levels of other architectures")]
        _ => None,
    }
}

/// The table of AMX if the CPU has what its kernels need beside the tiles: for tests that make tile instructions work.
#[cfg(all(test, target_arch = "x86_64", target_os = "linux"))]
pub(crate) fn tiles_and_vectors() -> Option<&'static Kernels> {
    Level::Avx512Bf16.is_supported().then_some(&tables::amx::TABLE)
}

/// The tables that this CPU can run, the scalar one first: what tests walk over.
pub fn supported() -> impl Iterator<Item = &'static Kernels> {
    Level::ALL.into_iter().filter_map(at_level)
}

/// The table in use: the best level of those that are fast on this CPU ([`Level::is_fast`]), or the one that
/// `ICEFORMER_SIMD` names when the process starts to use kernels. A level that is unknown or that the CPU has not falls
/// back to the best one.
#[must_use]
pub fn kernels() -> &'static Kernels {
    static CHOSEN: OnceLock<&'static Kernels> = OnceLock::new();
    CHOSEN.get_or_init(|| {
        let forced = std::env::var("ICEFORMER_SIMD").ok();
        forced
            .and_then(|name| name.parse().ok())
            .and_then(at_level)
            .or_else(|| supported().filter(|table| table.level.is_fast()).last())
            .unwrap_or(&tables::scalar::TABLE)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_fast_level_is_used() {
        let named = std::env::var("ICEFORMER_SIMD").ok().and_then(|name| name.parse().ok()).and_then(at_level);
        let used = kernels().level;
        if let Some(table) = named {
            assert_eq!(used, table.level);
        } else {
            assert!(used.is_fast(), "{used}");
            assert!(supported().all(|table| table.level <= used || !table.level.is_fast()), "{used}");
        }
    }
}
