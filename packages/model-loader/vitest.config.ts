import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    // Threads that encode and processes that pull are started by the tests themselves.
    pool: 'forks',
    maxWorkers: 2,
    testTimeout: 30_000,
  },
});
