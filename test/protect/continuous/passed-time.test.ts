// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { passedSince, restOfPause } from '../../../appliance/protect/continuous/passed-time.ts';
import { suite } from '../../support/suite.ts';

const test = suite('time that has passed');

const HOUR = 3_600_000;
const MINUTE = 60_000;
const NOON = Date.parse('2026-11-21T12:00:00.000Z');
const pause = {
  reason: 'for a snapshot',
  forMs: 30 * MINUTE,
  at: new Date(NOON).toISOString(),
  since: { bootId: 'a', uptimeMs: 5 * HOUR },
};

test('time passes by the uptime of the host, and what it was off for does not count', () => {
  const ended = { passedMs: 0, bootId: 'a', uptimeMs: HOUR };
  const later = passedSince(ended, { bootId: 'a', uptimeMs: 3 * HOUR });
  assert.deepEqual(later, { passedMs: 2 * HOUR, bootId: 'a', uptimeMs: 3 * HOUR });
  const restarted = passedSince(later, { bootId: 'b', uptimeMs: 10 * HOUR });
  assert.equal(restarted.passedMs, 2 * HOUR);
  assert.equal(passedSince(restarted, { bootId: 'b', uptimeMs: 11 * HOUR }).passedMs, 3 * HOUR);
});

test('the rest of a pause is that of the host, whatever the clock says', () => {
  const now = { bootId: 'a', uptimeMs: 5 * HOUR + 10 * MINUTE };
  for (const nowMs of [NOON + 10 * MINUTE, NOON - 24 * HOUR, NOON + 24 * HOUR]) {
    assert.equal(restOfPause(pause, nowMs, now), 20 * MINUTE);
  }
  assert.equal(restOfPause(pause, NOON, { bootId: 'a', uptimeMs: 6 * HOUR }), 0);
});

test('after a start of the host the clock tells the rest of a pause, which is never longer than it was meant to be', () => {
  const now = { bootId: 'b', uptimeMs: MINUTE };
  assert.equal(restOfPause(pause, NOON + 10 * MINUTE, now), 20 * MINUTE);
  assert.equal(restOfPause(pause, NOON - 24 * HOUR, now), 30 * MINUTE);
  assert.equal(restOfPause(pause, NOON + 24 * HOUR, now), 0);
});

test('a pause without an end lasts until it is resumed', () => {
  const { forMs: _, ...endless } = pause;
  assert.equal(restOfPause(endless, NOON + 24 * HOUR, { bootId: 'b', uptimeMs: 0 }), undefined);
});
