/** How far a run is held back: to AVX2, to AVX-512 without bf16 and AMX, to AVX-512 without AMX, or not at all. */
export type RunLevel = 'native' | 'avx2' | 'avx512-vnni' | 'avx512';

const RUN_LEVELS: readonly RunLevel[] = ['native', 'avx2', 'avx512-vnni', 'avx512'];

/** The level that `--level` names. */
export function runLevel(name: string): RunLevel {
  const level = RUN_LEVELS.find((known) => known === name);
  if (!level) throw new Error(`--level is one of ${RUN_LEVELS.join(', ')}, not ${name}`);
  return level;
}

/** Environment variables that hold an engine to a level; every engine heeds its own and no other. */
export function levelEnvironment(level: RunLevel, native: string): Record<string, string> {
  if (level === 'native') return {};
  if (level === 'avx2') {
    return {
      ICEFORMER_SIMD: 'avx2',
      ATEN_CPU_CAPABILITY: 'avx2',
      MKL_ENABLE_INSTRUCTIONS: 'AVX2',
      ONEDNN_MAX_CPU_ISA: 'AVX2',
      // OpenVINO's own kernels and those of oneDNN inside it must be held alike: with one alone it does not start.
      OV_CPU_MAX_ISA: 'AVX2',
    };
  }
  if (level === 'avx512-vnni') {
    return {
      // The best level may be one without VNNI.
      ...(['amx', 'avx512-bf16', 'avx512-fp16'].includes(native)
        ? { ICEFORMER_SIMD: 'avx512-vnni' }
        : {}),
      ATEN_CPU_CAPABILITY: 'avx512',
      MKL_ENABLE_INSTRUCTIONS: 'AVX512_E1',
      ONEDNN_MAX_CPU_ISA: 'AVX512_CORE_VNNI',
      OV_CPU_MAX_ISA: 'AVX512_CORE_VNNI',
    };
  }
  return {
    // Without AMX nothing has to be held back, and the best level may be one without bf16.
    ...(native === 'amx' ? { ICEFORMER_SIMD: 'avx512-bf16' } : {}),
    ATEN_CPU_CAPABILITY: 'avx512',
    MKL_ENABLE_INSTRUCTIONS: 'AVX512_E3',
    ONEDNN_MAX_CPU_ISA: 'AVX512_CORE_BF16',
    OV_CPU_MAX_ISA: 'AVX512_CORE_BF16',
  };
}

/** Builds of llama.cpp's kernels that need more than the level, by the names of their files. */
export const LLAMA_BUILDS_ABOVE: Record<RunLevel, RegExp> = {
  native: /^$/,
  avx2: /^libggml-cpu-(alderlake|cannonlake|cascadelake|cooperlake|icelake|sapphirerapids|skylakex|zen4)\b/,
  'avx512-vnni': /^libggml-cpu-(cooperlake|sapphirerapids|zen4)\b/,
  avx512: /^libggml-cpu-sapphirerapids\b/,
};
