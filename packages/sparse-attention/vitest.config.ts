import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    // The native addon runs in a process of its own: a crash there is one failed file.
    pool: 'forks',
    include: ['test/**/*.test.ts'],
    testTimeout: 60_000,
  },
});
