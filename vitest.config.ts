import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    // Native addons run in processes of their own: a crash there is one failed file, not a dead run.
    pool: 'forks',
    // The addons use all cores themselves.
    maxWorkers: 2,
    projects: ['packages/*', 'docs'],
  },
});
