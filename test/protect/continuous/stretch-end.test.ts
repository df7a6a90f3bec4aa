// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { systemClock } from '../../../appliance/core/clock.ts';
import type { SessionMoment } from '../../../appliance/protect/continuous/ports.ts';
import { ContinuousSession } from '../../../appliance/protect/continuous/session.ts';
import { DEFAULT_SESSION_SETTINGS } from '../../../appliance/protect/continuous/session-settings.ts';
import { StretchEnd } from '../../../appliance/protect/continuous/stretch-end.ts';
import { suite } from '../../support/suite.ts';
import { FakeJournal, FakeMachine, FakeStorage } from './fakes.ts';

const test = suite('the end of a stretch whose mirror somebody took');

function moment(sequence: number): SessionMoment {
  return { sequence, timeUs: sequence * 1000 };
}

/** Begun at 0 with record 10, and ten records each 200 ms. */
function stretch(): StretchEnd {
  const end = new StretchEnd();
  for (let step = 0; step <= 10; step++) end.note(step * 200, moment(10 + step * 10));
  return end;
}

test('it is the last state before the last look that found the mirror whole', () => {
  assert.deepEqual(stretch().before([{ seenMs: 1_399, last: undefined }]), moment(70));
  assert.deepEqual(stretch().before([{ seenMs: 1_400, last: moment(12) }]), moment(80));
});

test('a later change of the disk itself shows that it was mirrored so long', () => {
  assert.deepEqual(stretch().before([{ seenMs: 600, last: moment(93) }]), moment(93));
});

test('of several mirrors that were taken the earliest counts, and without any it has not ended before', () => {
  const taken = [
    { seenMs: 1_600, last: undefined },
    { seenMs: 300, last: moment(33) },
  ];
  assert.deepEqual(stretch().before(taken), moment(33));
  assert.equal(stretch().before([]), undefined);
});

test('a mirror that was never looked at was whole when the stretch began', () => {
  assert.deepEqual(stretch().before([{ seenMs: -1, last: undefined }]), moment(10));
});

test('a long stretch is remembered far enough back', () => {
  const end = new StretchEnd();
  for (let step = 0; step <= 10_000; step++) end.note(step * 200, moment(step));
  assert.deepEqual(end.before([{ seenMs: 10_000 * 200 - 5_000, last: undefined }]), moment(9_975));
});

test('the last state of a machine whose mirror was taken is that at which its stretch ended, not what stands behind it', async (t) => {
  const machine = new FakeMachine();
  const journal = new FakeJournal();
  const storage = new FakeStorage();
  const settings = { ...DEFAULT_SESSION_SETTINGS, tickMs: 1, retryMs: 60_000, maxRetryMs: 60_000 };
  const parts = { clock: systemClock, settings, watch: machine, lines: machine, journal, storage };
  const session = t.use(new ContinuousSession({ ...parts, onChange: () => undefined }));
  session.start();
  const until = async (condition: () => boolean): Promise<void> => {
    while (!condition()) await new Promise((resolve) => setTimeout(resolve, 1));
  };
  await until(() => session.status().change.state === 'protected');
  await machine.guestWrites('vda', 'with both');
  const [taken] = machine.mirrors;
  assert.ok(taken !== undefined);
  await machine.guestWrites('vdb', 'without the other disk');
  taken.wasTaken = true;
  taken.move('ended', 'somebody else ended the mirror');
  await until(() => session.status().change.state === 'behind' && journal.events.length === 2);
  assert.match(journal.events[1] ?? '', / at 2$/);
  await session.pause('paused by the operator');
  await until(() => session.status().change.state === 'paused');
  await session.foldNow('the last state');
  assert.deepEqual(storage.folds, [{ sequence: 2, reason: 'the last state' }]);
});
