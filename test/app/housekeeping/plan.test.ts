// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { type ChoreRecord, dueMs, nextChore, SETTLE_MS, sliceBytes } from '../../../appliance/app/housekeeping/plan.ts';
import { suite } from '../../support/suite.ts';

const test = suite('when housekeeping is due');
const HOUR_MS = 3_600_000;
const DAY_MS: number = 24 * HOUR_MS;
const NOW_MS: number = Date.parse('2026-11-21T12:00:00Z');

const facts = { nowMs: NOW_MS, upSinceMs: NOW_MS - 30 * DAY_MS, isSpaceLow: false };
const ended = (endedMs: number, failures = 0): ChoreRecord => ({
  startedMs: endedMs - 1_000,
  endedMs,
  failures,
  problem: failures === 0 ? null : 'IO_FAILED: x',
});

test('what was never done is due when the service has settled', () => {
  const fresh = { ...facts, upSinceMs: NOW_MS };
  assert.equal(dueMs('collection', undefined, fresh), NOW_MS + SETTLE_MS);
  assert.equal(nextChore({}, fresh), undefined);
  assert.equal(nextChore({}, { ...fresh, nowMs: NOW_MS + SETTLE_MS }), 'collection');
});

test('after a success it is due a day later, a collection earlier while room is short', () => {
  const last = ended(NOW_MS - HOUR_MS);
  assert.equal(dueMs('collection', last, facts), NOW_MS + 23 * HOUR_MS);
  assert.equal(dueMs('collection', last, { ...facts, isSpaceLow: true }), NOW_MS + 5 * HOUR_MS);
  assert.equal(dueMs('scrub', last, { ...facts, isSpaceLow: true }), NOW_MS + 23 * HOUR_MS);
});

test('after failures it is tried again later and later, at least each day', () => {
  const waits = [1, 2, 3, 4, 5, 6, 60].map((failures) => dueMs('scrub', ended(NOW_MS, failures), facts) - NOW_MS);
  assert.deepEqual(
    waits.map((ms) => ms / HOUR_MS),
    [1, 2, 4, 8, 16, 24, 24],
  );
});

test('a clock that was set back delays nothing, one that was set forward repeats one time', () => {
  assert.equal(dueMs('collection', ended(NOW_MS + 365 * DAY_MS), facts) <= NOW_MS, true);
  assert.equal(dueMs('collection', ended(NOW_MS - 365 * DAY_MS), facts) <= NOW_MS, true);
});

test('the one that is due longest is first', () => {
  const records = { collection: ended(NOW_MS - 2 * DAY_MS), scrub: ended(NOW_MS - 3 * DAY_MS) };
  assert.equal(nextChore(records, facts), 'scrub');
  assert.equal(nextChore({ ...records, scrub: ended(NOW_MS) }, facts), 'collection');
  assert.equal(nextChore({ collection: ended(NOW_MS), scrub: ended(NOW_MS) }, facts), undefined);
});

test('28 slices are the whole, and an empty repository has a slice', () => {
  for (const bytes of [0, 1, 27, 28, 29, 10 ** 12 + 1])
    assert.ok(sliceBytes(bytes) * 28 >= bytes && sliceBytes(bytes) > 0);
});
