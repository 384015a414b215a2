import { arch, platform } from 'node:process';
import { run, StepError, start } from './step.mjs';

/** The crates whose code reads and writes through pointers that the compiler does not check. */
const CRATES = ['iceformer-simd', 'iceformer-knn'];

/**
 * Runs the tests of the crates with AddressSanitizer, which needs a nightly compiler (`rustup toolchain install nightly
 * --profile minimal`). The standard library is the prebuilt one: what it does by itself is not checked, what it copies
 * for us is.
 */
start(async () => {
  if (platform !== 'linux' || arch !== 'x64') {
    throw new StepError(`The sanitizer runs on x64 Linux (this is ${arch} ${platform})`);
  }
  const packages = CRATES.flatMap((name) => ['--package', name]);
  // The target is named so that build scripts and macros are compiled without the sanitizer.
  const args = ['--tests', '--no-fail-fast', '--locked', '--target', 'x86_64-unknown-linux-gnu'];
  await run('cargo', ['+nightly', 'test', ...packages, ...args], {
    env: {
      // Kernels are long functions: checks by call instead of inline compile many times faster.
      RUSTFLAGS: '-Zsanitizer=address -Cllvm-args=-asan-instrumentation-with-call-threshold=0',
      // Tests ask for more memory than there is, which must end in an error.
      ASAN_OPTIONS: 'allocator_may_return_null=1',
      CARGO_TARGET_DIR: 'target/sanitize',
      CARGO_PROFILE_DEV_OPT_LEVEL: '1',
    },
  });
});
