import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import process from 'node:process';
import { build, install, MODEL } from './bootstrap.mjs';
import { checkPackages } from './check-packages.mjs';
import { iceformer, pnpm, run, StepError, start } from './step.mjs';

/** Warnings of rustdoc and clippy fail here, and only here: a half-written file still builds on a desk. */
const DENY_WARNINGS = { RUSTDOCFLAGS: '-D warnings' };

/** Every check, in the order that finds the cheapest fault first. All run, so that one run shows all faults. */
const CHECKS = {
  'lint TypeScript and JSON': () =>
    pnpm([
      'exec',
      'biome',
      'ci',
      '--error-on-warnings',
      `--colors=${process.stdout.isTTY ? 'force' : 'off'}`,
      '.',
    ]),
  'check the types of tests': () => pnpm(['exec', 'tsc', '-p', 'tsconfig.json']),
  'format Rust': () => run('cargo', ['fmt', '--all', '--check']),
  'lint Rust': () =>
    run('cargo', ['clippy', '--workspace', '--all-targets', '--locked', '--', '-D', 'warnings']),
  'document Rust': () =>
    run('cargo', ['doc', '--workspace', '--no-deps', '--document-private-items', '--locked'], {
      env: DENY_WARNINGS,
    }),
  'test Rust': () => run('cargo', ['test', '--workspace', '--locked']),
  'fetch the default model': () => iceformer(['pull', MODEL]),
  'test TypeScript': testTypeScript,
  'try the benchmark': () => run(process.execPath, ['bench/dist/model/run.js', '--smoke']),
  'try the benchmark of attention': () =>
    run(process.execPath, ['bench/dist/attention/run.js', '--smoke']),
  'try the benchmark of selection': () =>
    run(process.execPath, ['bench/dist/selection/run.js', '--smoke']),
  'try the benchmark of memory': () =>
    run(process.execPath, ['bench/dist/memory/run.js', '--smoke']),
  'check packages': checkPackages,
  'document TypeScript': () => pnpm(['--filter', '@iceformer/docs', 'run', 'build:api']),
};

/** Runs vitest and prints its counts as one plain line, which tools that count tests can read. */
async function testTypeScript() {
  const folder = await mkdtemp(join(tmpdir(), 'iceformer-test-'));
  const report = join(folder, 'vitest.json');
  try {
    const reporters = ['--reporter=default', '--reporter=json', `--outputFile.json=${report}`];
    const failure = await pnpm(['exec', 'vitest', 'run', ...reporters]).catch((error) => error);
    const counts = count(JSON.parse(await readFile(report, 'utf8')));
    const skipped = counts.skipped > 0 ? `, ${counts.skipped} skipped` : '';
    console.log(`vitest: ${counts.passed} passed, ${counts.failed} failed${skipped}`);
    if (failure) throw failure;
    if (counts.failed > 0 || counts.passed === 0) throw new StepError('vitest did not pass');
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

/** A file that breaks before its first test has no failed test: it counts as one. */
function count(report) {
  const broken = report.testResults.filter(
    (file) =>
      file.status === 'failed' && !file.assertionResults.some((test) => test.status === 'failed'),
  );
  return {
    passed: report.numPassedTests,
    failed: report.numFailedTests + broken.length,
    skipped: report.numPendingTests + report.numTodoTests,
  };
}

start(async () => {
  await install();
  await timed('build', build);
  const failed = [];
  for (const [name, check] of Object.entries(CHECKS)) {
    await timed(name, check).catch((error) => {
      console.error(`\n${name}: ${error.message}`);
      failed.push(name);
    });
  }
  if (failed.length > 0) {
    console.error(`\nFailed: ${failed.join('; ')}`);
    process.exitCode = 1;
  } else {
    console.log('\nAll checks passed.');
  }
});

async function timed(name, work) {
  console.log(`\n== ${name}`);
  const begin = performance.now();
  await work();
  console.log(`== ${name}: ${((performance.now() - begin) / 1000).toFixed(1)} s`);
}
