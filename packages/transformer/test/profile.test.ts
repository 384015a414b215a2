import { expect, test } from 'vitest';
import { PROFILE_PARTS, ProfileClock } from '../src/profile.ts';

test('the time since the last look counts for a part, and once', () => {
  let now = 100;
  const clock = new ProfileClock(() => now);
  now += 2;
  clock.lap('embed');
  now += 30;
  clock.lap('attention');
  now += 4;
  clock.lap('attention');
  now += 8;
  clock.split('output', 'mlp', 0.25);
  clock.startDecode();
  now += 500;
  clock.lap('attention');
  expect(clock.profile.prefill).toMatchObject({
    embed: 2,
    attention: 34,
    output: 2,
    mlp: 6,
    qkv: 0,
  });
  expect(clock.profile.decode).toMatchObject({ embed: 0, attention: 500 });
  expect(Object.keys(clock.profile.decode)).toEqual([...PROFILE_PARTS]);
});

test('times that were measured elsewhere are divided, and what they leave is the rest', () => {
  let now = 0;
  const clock = new ProfileClock(() => now);
  now += 10;
  clock.divide(['qkv', 'mlp'], Float64Array.of(3, 5));
  expect(clock.profile.prefill).toMatchObject({ qkv: 3, mlp: 5, rest: 2 });
  now += 4;
  // Clocks may disagree a little: still every millisecond counts once.
  clock.divide(['qkv', 'mlp'], Float64Array.of(3, 5));
  expect(clock.profile.prefill).toMatchObject({ qkv: 6, mlp: 6, rest: 2 });
});
