import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: { name: 'docs', pool: 'forks', include: ['test/**/*.test.ts'] },
});
