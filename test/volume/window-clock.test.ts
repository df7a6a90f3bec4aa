// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import type { Clock } from '../../appliance/core/clock.ts';
import { WindowClock } from '../../appliance/volume/window-clock.ts';
import { suite } from '../support/suite.ts';

const test = suite('how far the window of a journal has moved');

const HOUR_MS = 3_600_000;
const DAY_MS = 24 * HOUR_MS;
const START_MS = Date.parse('2026-11-21T10:00:00Z');

class SetClock implements Clock {
  now = START_MS;
  elapsed = 1000;

  nowMs(): number {
    return this.now;
  }

  elapsedMs(): number {
    return this.elapsed;
  }

  pass(ms: number): void {
    this.now += ms;
    this.elapsed += ms;
  }
}

test('it follows the clock while that goes on as time does', () => {
  const clock = new SetClock();
  const window = new WindowClock(clock, DAY_MS, START_MS * 1000);
  for (let hour = 0; hour < 100; hour++) {
    assert.equal(window.oldestUs(), (clock.now - DAY_MS) * 1000);
    clock.pass(HOUR_MS);
    // NTP moves it a little.
    clock.now += 60_000;
  }
});

test('a clock that leaps, forward or back, makes nothing leave before a window has passed since', () => {
  for (const leapMs of [365 * DAY_MS, 2 * DAY_MS, 2 * HOUR_MS, -365 * DAY_MS]) {
    const clock = new SetClock();
    const window = new WindowClock(clock, DAY_MS, START_MS * 1000);
    clock.pass(300_000);
    clock.now += leapMs;
    for (let minutes = 0; minutes < 24 * 60; minutes += 5) {
      assert.equal(window.oldestUs(), 0);
      clock.pass(300_000);
    }
    assert.equal(window.oldestUs(), (clock.now - DAY_MS) * 1000);
  }
});

test('a journal that is opened when all of it seems too old keeps all of it for a window', () => {
  const clock = new SetClock();
  const window = new WindowClock(clock, DAY_MS, (START_MS - 2 * DAY_MS) * 1000);
  clock.pass(DAY_MS - 1);
  assert.equal(window.oldestUs(), 0);
  clock.pass(1);
  assert.equal(window.oldestUs(), (clock.now - DAY_MS) * 1000);
  assert.equal(new WindowClock(clock, DAY_MS, undefined).oldestUs(), (clock.now - DAY_MS) * 1000);
});
