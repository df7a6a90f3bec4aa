// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import fc from 'fast-check';
import {
  type ClockRecord,
  DOUBT_MS,
  isClockInDoubt,
  watchClock,
} from '../../../appliance/protect/policy/clock-watch.ts';
import { suite } from '../../support/suite.ts';

const test = suite('policies: a clock that leaps');
const MINUTE_MS = 60_000;
const HOUR_MS = 3_600_000;
const DAY_MS = 86_400_000;

interface Step {
  /** By the clock. */
  readonly wallMs: number;
  readonly livedMs: number;
  readonly boot?: string;
}

/** Whether the clock is in doubt after these steps, each from the one before. */
function doubtAfter(...steps: readonly Step[]): boolean {
  let now = { wallMs: 1_800_000_000_000, livedMs: 0, bootId: 'one' };
  let record: ClockRecord = watchClock(undefined, now);
  for (const { wallMs, livedMs, boot } of steps) {
    now = { wallMs: now.wallMs + wallMs, livedMs: now.livedMs + livedMs, bootId: boot ?? now.bootId };
    record = watchClock(record, now);
  }
  return isClockInDoubt(record);
}

const lived = (ms: number): Step => ({ wallMs: ms, livedMs: ms });
const set = (ms: number): Step => ({ wallMs: ms, livedMs: 0 });

test('time that is lived through, and small corrections, need no doubt', () => {
  assert.equal(doubtAfter(lived(400 * DAY_MS), set(9 * MINUTE_MS), set(-9 * MINUTE_MS), lived(HOUR_MS)), false);
});

test('a clock that is set ahead is in doubt until it is set right, or for seven days of lived time', () => {
  assert.equal(doubtAfter(set(HOUR_MS)), true);
  assert.equal(doubtAfter(set(HOUR_MS), lived(6 * DAY_MS)), true);
  assert.equal(doubtAfter(set(HOUR_MS), lived(6 * DAY_MS), set(-HOUR_MS)), false);
  assert.equal(doubtAfter(set(HOUR_MS), lived(DOUBT_MS)), false);
  assert.equal(
    doubtAfter(set(HOUR_MS), lived(6 * DAY_MS), set(HOUR_MS), lived(2 * DAY_MS)),
    true,
    'from the last time',
  );
});

test('a clock that goes back, and comes forward again to where it was, is not in doubt; beyond that it is', () => {
  assert.equal(doubtAfter(set(-3 * HOUR_MS), lived(DAY_MS), set(3 * HOUR_MS)), false);
  assert.equal(doubtAfter(set(-3 * HOUR_MS), lived(DAY_MS), set(4 * HOUR_MS)), true);
  const dead = { wallMs: -20_000 * DAY_MS, livedMs: 0, boot: 'two' };
  assert.equal(doubtAfter(dead, lived(MINUTE_MS), set(20_000 * DAY_MS)), false, 'a clock without a battery');
});

test('a host may have been off for weeks, and not for months', () => {
  assert.equal(doubtAfter({ wallMs: 40 * DAY_MS, livedMs: 0, boot: 'two' }), false);
  assert.equal(doubtAfter({ wallMs: 50 * DAY_MS, livedMs: 0, boot: 'two' }), true);
  assert.equal(doubtAfter({ wallMs: 40 * DAY_MS, livedMs: 0 }), true, 'but it was not started anew');
});

test('however it is set: ahead of where lived time would have it by more than the corrections, it is in doubt', () => {
  const step = fc.record({
    setMs: fc.integer({ min: -40 * HOUR_MS, max: 40 * HOUR_MS }),
    livedMs: fc.integer({ min: 0, max: DAY_MS / 4 }),
  });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 20 }), (steps) => {
      const walked = steps.map(({ setMs, livedMs }) => ({ wallMs: setMs + livedMs, livedMs }));
      const aheadMs = steps.reduce((sum, { setMs }) => sum + setMs, 0);
      const slackMs = steps.length * 10 * MINUTE_MS;
      if (aheadMs > slackMs) assert.equal(doubtAfter(...walked), true);
      if (aheadMs < -slackMs) assert.equal(doubtAfter(...walked), false);
    }),
    { numRuns: 500 },
  );
});
