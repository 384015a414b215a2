import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    // The native addon runs in a process of its own: a crash there is one failed file.
    pool: 'forks',
    include: ['test/**/*.test.ts'],
    // Tests on the real model compute for seconds, more on a slow machine.
    testTimeout: 300_000,
    hookTimeout: 600_000,
  },
});
