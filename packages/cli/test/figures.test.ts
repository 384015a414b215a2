import { expect, test } from 'vitest';
import {
  formatBytes,
  formatColumns,
  formatCount,
  formatCounted,
  formatDuration,
  formatParameters,
  formatRate,
  formatShare,
} from '../src/figures.ts';

test.each([
  [0, '0 B'],
  [999, '999 B'],
  [1000, '1 kB'],
  [999_499, '999 kB'],
  [999_500, '1 MB'],
  [612_345_678, '612 MB'],
  [1.5e9, '1.5 GB'],
  [2.5e18, '2,500 PB'],
])('%d bytes: %s', (bytes, text) => {
  expect(formatBytes(bytes)).toBe(text);
});

test.each([
  [0, '0 ms'],
  [0.1234, '0.123 ms'],
  [999.4, '999 ms'],
  [999.6, '1.00 s'],
  [9994, '9.99 s'],
  [9996, '10.0 s'],
  [99_949, '99.9 s'],
  [99_951, '1 min 40 s'],
  [119_600, '2 min 00 s'],
  [3_599_400, '59 min 59 s'],
  [3_599_600, '1 h 00 min'],
  [7_500_000, '2 h 05 min'],
])('%d ms: %s', (milliseconds, text) => {
  expect(formatDuration(milliseconds)).toBe(text);
});

test('counts, rates, shares', () => {
  expect(formatCount(1234567)).toBe('1,234,567');
  expect(formatCounted(1, 'token')).toBe('1 token');
  expect(formatCounted(0, 'token')).toBe('0 tokens');
  expect(formatRate(1268.4)).toBe('1,270');
  expect(formatRate(29.34)).toBe('29.3');
  expect(formatShare(0.98765)).toBe('98.8 %');
  expect(formatParameters(134_515_008)).toBe('135 million');
  expect(formatParameters(1_711_376_384)).toBe('1.71 billion');
  expect(formatParameters(1234)).toBe('1,234');
});

test('columns are as wide as their widest cell, the last is not padded', () => {
  expect(
    formatColumns(
      [
        ['a', 'bbb', 'c'],
        ['aaaa', 'b'],
      ],
      '  ',
    ),
  ).toBe('  a     bbb  c\n  aaaa  b');
});
