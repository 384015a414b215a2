import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    pool: 'forks',
    include: ['test/**/*.test.ts'],
    // Most of these start a process; on a busy machine that takes seconds.
    testTimeout: 120_000,
  },
});
