import { describe, expect, test } from 'vitest';
import { availableMemory, groupHeadroom, requireMemory } from '../src/memory.ts';

const reader = (files: Record<string, string>) => (path: string) => files[path];

describe('control groups', () => {
  test('version 2: the tightest of all ancestors counts, page cache is free', () => {
    const headroom = groupHeadroom(
      reader({
        '/proc/self/cgroup': '0::/a/b\n',
        '/sys/fs/cgroup/a/memory.max': '1000000\n',
        '/sys/fs/cgroup/a/memory.current': '900000\n',
        '/sys/fs/cgroup/a/memory.stat': 'anon 500000\ninactive_file 100000\nactive_file 200000\n',
        '/sys/fs/cgroup/a/b/memory.max': 'max\n',
        '/sys/fs/cgroup/a/b/memory.current': '900000\n',
      }),
    );
    expect(headroom).toBe(400_000);
  });

  test('version 1: the memory controller', () => {
    const headroom = groupHeadroom(
      reader({
        '/proc/self/cgroup': '5:cpu,cpuacct:/x\n4:memory:/docker/1\n',
        '/sys/fs/cgroup/memory/memory.limit_in_bytes': '5000\n',
        '/sys/fs/cgroup/memory/memory.usage_in_bytes': '3000\n',
        '/sys/fs/cgroup/memory/memory.stat': 'total_inactive_file 400\ntotal_active_file 0\n',
      }),
    );
    expect(headroom).toBe(2400);
  });

  test('no limit, no files', () => {
    expect(groupHeadroom(reader({}))).toBe(Number.POSITIVE_INFINITY);
    expect(groupHeadroom(reader({ '/proc/self/cgroup': '0::/\n' }))).toBe(Number.POSITIVE_INFINITY);
  });

  test('never negative', () => {
    const files = {
      '/proc/self/cgroup': '0::/\n',
      '/sys/fs/cgroup/memory.max': '10',
      '/sys/fs/cgroup/memory.current': '20',
    };
    expect(groupHeadroom(reader(files))).toBe(0);
  });
});

test('this machine has some memory', () => {
  expect(availableMemory()).toBeGreaterThan(1e6);
});

test('says what is needed, what for and what there is', () => {
  expect(() => requireMemory('to load the model', { weights: 3e9, scratch: 2e6 }, 1.25e9)).toThrow(
    expect.objectContaining({
      code: 'ERR_NOT_ENOUGH_MEMORY',
      message:
        'not enough memory to load the model: needs 3.0 GB (weights 3.0 GB, scratch 2 MB), 1.3 GB free',
      details: { needed: 3.002e9, available: 1.25e9, weights: 3e9, scratch: 2e6 },
    }),
  );
  expect(() => requireMemory('', { weights: 1e9 }, 1.25e9)).not.toThrow();
});
