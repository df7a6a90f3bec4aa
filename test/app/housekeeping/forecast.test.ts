// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import {
  type CapacitySample,
  capacityLevel,
  forecast,
  MAX_SAMPLES,
  withSample,
} from '../../../appliance/app/housekeeping/forecast.ts';
import { suite } from '../../support/suite.ts';

const test = suite('capacity forecast');
const DAY_MS = 24 * 3_600_000;
const START_MS: number = Date.parse('2026-11-01T02:00:00Z');
const GIB: number = 2 ** 30;

function sample(day: number, storedBytes: number, otherBytes = 0): CapacitySample {
  const totalBytes = 1_000 * GIB;
  const freeBytes = totalBytes - storedBytes - otherBytes;
  return {
    atMs: START_MS + day * DAY_MS,
    logicalBytes: 4 * storedBytes,
    uniqueBytes: 2 * storedBytes,
    storedBytes,
    freeBytes,
    totalBytes,
  };
}

function days(count: number, storedOn: (day: number) => number): CapacitySample[] {
  return Array.from({ length: count }, (_, day) => sample(day, storedOn(day)));
}

test('a steady growth is told exactly, with the day on which the room ends', () => {
  const samples = days(20, (day) => (100 + 2 * day) * GIB);
  const now = sample(20, 140 * GIB);
  assert.deepEqual(forecast(samples, now), { growthBytesPerDay: 2 * GIB, daysUntilFull: 430, historyDays: 20 });
});

test('one odd day does not move the forecast', () => {
  const samples = days(20, (day) => (100 + 2 * day + (day === 11 ? 600 : 0)) * GIB);
  const { growthBytesPerDay, daysUntilFull } = forecast(samples, sample(20, 140 * GIB));
  assert.equal(growthBytesPerDay, 2 * GIB);
  assert.equal(daysUntilFull, 430);
});

test('less than a week, or a few samples, tell nothing', () => {
  const short = forecast(
    days(6, (day) => day * GIB),
    sample(6, 6 * GIB),
  );
  assert.deepEqual(short, { growthBytesPerDay: null, daysUntilFull: null, historyDays: 6 });
  assert.equal(forecast([sample(0, GIB), sample(9, 2 * GIB)], sample(10, 3 * GIB)).growthBytesPerDay, null);
  assert.equal(forecast([], sample(0, GIB)).historyDays, 0);
});

test('what others put onto the file system counts for its end, and not for the growth', () => {
  const samples = Array.from({ length: 15 }, (_, day) => sample(day, 100 * GIB, day * 10 * GIB));
  const { growthBytesPerDay, daysUntilFull } = forecast(samples, sample(15, 100 * GIB, 150 * GIB));
  assert.equal(growthBytesPerDay, 0);
  assert.equal(daysUntilFull, 75);
});

test('a repository that shrinks is never full', () => {
  const { growthBytesPerDay, daysUntilFull } = forecast(
    days(10, (day) => (100 - day) * GIB),
    sample(10, 90 * GIB),
  );
  assert.deepEqual([growthBytesPerDay, daysUntilFull], [-GIB, null]);
});

test('only the last four weeks count', () => {
  const samples = days(100, (day) => (day < 70 ? 0 : day - 70) * GIB);
  assert.equal(forecast(samples, sample(100, 30 * GIB)).growthBytesPerDay, GIB);
});

test('there is a sample a day, for a bounded time, and none from a clock that ran ahead', () => {
  let samples: readonly CapacitySample[] = [];
  for (let hour = 0; hour < 24 * 450; hour += 6) samples = withSample(samples, sample(hour / 24, GIB));
  assert.equal(samples.length, MAX_SAMPLES);
  for (const [n, { atMs }] of samples.entries()) assert.equal(atMs, START_MS + (50 + n) * DAY_MS);
  const back = withSample(samples, sample(440.5, GIB));
  assert.equal(back.at(-1)?.atMs, START_MS + 440 * DAY_MS);
});

test('the level follows the free share and the days that are left', () => {
  const level = (daysUntilFull: number | null, freeBytes: number): string =>
    capacityLevel({ daysUntilFull }, { freeBytes, totalBytes: 1_000 });
  assert.deepEqual([level(null, 500), level(30, 100), level(365, 100)], ['ok', 'ok', 'ok']);
  assert.deepEqual([level(29.9, 500), level(null, 99)], ['warning', 'warning']);
  assert.deepEqual([level(6.9, 500), level(null, 49), level(null, 0)], ['critical', 'critical', 'critical']);
});
