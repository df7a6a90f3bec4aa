// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import type { SessionMoment } from '../../../appliance/protect/continuous/ports.ts';
import { StretchEnd } from '../../../appliance/protect/continuous/stretch-end.ts';
import { suite } from '../../support/suite.ts';

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
