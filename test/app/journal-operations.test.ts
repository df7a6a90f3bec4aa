// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import type { Core } from '../../appliance/app/core.ts';
import {
  type JournalQuestions,
  momentDetails,
  timelineReport,
  writesReport,
} from '../../appliance/app/journal-operations.ts';
import { usersOf } from '../../appliance/app/point-users.ts';
import { ApplianceError } from '../../appliance/core/errors.ts';
import { selectState } from '../../appliance/protect/select-state.ts';
import { formatTimeUs, parseSelector } from '../../appliance/protect/selector.ts';
import type { Moment } from '../../appliance/volume/journal-event.ts';
import { addFold, MACHINE_ID, type MomentRig, makeMomentRig } from '../recover/moment-rig.ts';
import { suite } from '../support/suite.ts';
import type { TestContext } from '../support/test-scope.ts';

const test = suite('questions about journals');

interface Story extends MomentRig {
  readonly questions: () => Promise<JournalQuestions>;
  readonly first: readonly Moment[];
  readonly gap: readonly Moment[];
  readonly second: readonly Moment[];
  readonly bookmark: Moment;
}

/** Seeding, a stretch with a bookmark, a gap in which is written, and a stretch that is open. */
async function story(t: TestContext): Promise<Story> {
  const rig = await makeMomentRig(t, 21);
  const { journal, history, clock, fixture } = rig;
  await history.run(journal, clock, 5);
  await journal.beginStretch('writes');
  const first = await history.run(journal, clock, 40);
  const bookmark = await journal.bookmark('before the upgrade', 'file-system-consistent');
  const end = await journal.endStretch('the connection was lost');
  await addFold(rig, rig.base, end);
  const gap = await history.run(journal, clock, 10);
  await journal.beginStretch('writes');
  const second = await history.run(journal, clock, 30);
  const questions = async (): Promise<JournalQuestions> => ({
    points: (await fixture.catalog.points()).filter((point) => point.journal !== undefined),
    journalOf: async (machine) => (machine === MACHINE_ID ? journal : undefined),
    nowMs: clock.ms,
  });
  return { ...rig, questions, first, gap, second, bookmark };
}

test('a timeline has stretches, gaps, bookmarks, points and all writes', async (t) => {
  const { questions, history, bookmark, base } = await story(t);
  const report = await timelineReport(await questions(), { machine: 'web' });
  assert.deepEqual(
    report.stretches.map(({ kind, open, endReason }) => ({ kind, open, endReason })),
    [
      { kind: 'writes', open: false, endReason: 'the connection was lost' },
      { kind: 'writes', open: true, endReason: null },
    ],
  );
  assert.deepEqual(report.gaps, [
    { begin: report.stretches[0]?.end.time, end: report.stretches[1]?.begin.time, reason: 'the connection was lost' },
  ]);
  assert.deepEqual(report.bookmarks, [
    {
      name: 'before the upgrade',
      sequence: bookmark.sequence,
      time: formatTimeUs(bookmark.timeUs),
      consistency: 'file-system-consistent',
    },
  ]);
  const written = report.buckets.reduce((sum, bucket) => sum + bucket.writes, 0);
  assert.ok(written >= history.steps.length - 6 && written <= 3 * history.steps.length, String(written));
  const whole = await timelineReport(await questions(), { machine: 'web', from: base.createdAt });
  assert.deepEqual(
    whole.points.map(({ sequence }) => sequence !== null),
    [true, true],
  );
});

test('changes around a moment are listed with what can be recovered, and the history of one place with its disk', async (t) => {
  const { questions, history, gap, second } = await story(t);
  const [middle] = second.slice(4, 5);
  assert.ok(middle !== undefined);
  const around = formatTimeUs(middle.timeUs);
  const report = await writesReport(await questions(), { machine: 'web', around, within: '3s' });
  const gapSequences = new Set(gap.map(({ sequence }) => sequence));
  assert.ok(report.writes.length >= 20);
  assert.ok(report.writes.some(({ sequence, recoverable }) => gapSequences.has(sequence) && !recoverable));
  assert.ok(report.writes.some(({ sequence, recoverable }) => sequence === middle.sequence && recoverable));
  assert.deepEqual(new Set(report.writes.map(({ disk }) => disk)), new Set(['vda', 'vdb']));

  const offset = 70_000;
  const place = await writesReport(await questions(), { machine: 'web', disk: 'vda', offset: String(offset) });
  const expected = history.steps
    .filter((step) => step.disk === 'vda' && step.offset <= offset && offset < step.offset + step.length)
    .map((step) => (step.data === null ? 'zeroes' : 'write'));
  assert.deepEqual(
    place.writes.map(({ kind }) => (kind === 'write' ? 'write' : 'zeroes')),
    expected,
  );
});

test('what cannot be asked is refused with a reason', async (t) => {
  const { questions } = await story(t);
  const ask = async (params: Partial<Parameters<typeof writesReport>[1]>): Promise<unknown> =>
    writesReport(await questions(), { machine: 'web', ...params });
  await assert.rejects(ask({}), { code: 'BAD_ARGUMENT' });
  await assert.rejects(ask({ offset: '0' }), { code: 'BAD_ARGUMENT' });
  await assert.rejects(ask({ around: '-1' }), { code: 'BAD_ARGUMENT' });
  await assert.rejects(ask({ around: 'now', disk: 'vdx' }), { code: 'DISK_NOT_FOUND' });
  await assert.rejects(ask({ around: 'bookmark:other' }), { code: 'MOMENT_NOT_FOUND' });
  await assert.rejects(ask({ machine: 'db', around: 'now' }), { code: 'MACHINE_NOT_FOUND' });
  const none = { ...(await questions()), journalOf: async () => undefined };
  await assert.rejects(writesReport(none, { machine: 'web', around: 'now' }), { code: 'MOMENT_NOT_FOUND' });
  await assert.rejects(timelineReport(await questions(), { machine: 'web', from: 'now' }), { code: 'BAD_ARGUMENT' });
});

test('a machine without a journal has a timeline of its points', async (t) => {
  const { questions, clock } = await story(t);
  clock.ms += 1000;
  const report = await timelineReport({ ...(await questions()), journalOf: async () => undefined }, { machine: 'web' });
  assert.deepEqual([report.points.length, report.stretches, report.gaps, report.buckets], [2, [], [], []]);
});

test('what a moment is says how far it is from recovery points', async (t) => {
  const { questions, base, bookmark, journal, second } = await story(t);
  const { points, nowMs } = await questions();
  const select = (text: string): ReturnType<typeof selectState> =>
    selectState(points, async () => journal, parseSelector(text, nowMs), nowMs);
  const state = await select('web@bookmark:"before the upgrade"');
  assert.equal(state.point.id, base.id);
  const details = momentDetails(state, points);
  const above = bookmark.timeUs - (base.journal?.timeUs ?? 0);
  const fold = points.find(({ id }) => id !== base.id);
  assert.deepEqual(details, {
    sequence: bookmark.sequence,
    time: formatTimeUs(bookmark.timeUs),
    consistency: 'file-system-consistent',
    bookmark: 'before the upgrade',
    logId: journal.logId,
    recordsAbovePoint: bookmark.sequence - (base.journal?.sequence ?? 0),
    microsecondsAbovePoint: above,
    nearestPoint: fold?.id,
    nearestPointLaterMs: 0,
  });
  const newest = await select('web@latest');
  assert.equal(newest.moment?.sequence, second.at(-1)?.sequence);
  assert.equal(momentDetails({ point: base }, points), null);
});

test('a recovery point on which moments rest is in use, and free when none do', async (t) => {
  const { base, fixture, journal } = await story(t);
  const core = {
    recover: { usedBy: () => [] },
    continuous: { usedBy: () => [], journalOf: async () => undefined },
    journalOf: async () => journal,
  } as unknown as Core;
  const points = await fixture.catalog.points();
  const fold = points.find((point) => (point.journal?.sequence ?? 0) > (base.journal?.sequence ?? 0));
  assert.ok(fold !== undefined);
  assert.equal((await usersOf(core, base)).length, 1);
  assert.equal((await usersOf(core, fold)).length, 1);
  const foreign = points.find((point) => point.journal === undefined);
  assert.deepEqual(await usersOf(core, foreign ?? fold), []);
  const gone = { ...core, journalOf: async () => undefined } as unknown as Core;
  assert.deepEqual(await usersOf(gone, base), []);
  const hidden = { ...gone, continuous: { usedBy: () => [], journalOf: async () => journal } } as unknown as Core;
  assert.equal((await usersOf(hidden, base)).length, 1, 'a machine may have two journals');
  const fails = (code: 'WRITE_LOG_CORRUPT' | 'LOCKED'): Core =>
    ({ ...core, journalOf: () => Promise.reject(new ApplianceError(code, 'it fails')) }) as unknown as Core;
  assert.deepEqual(await usersOf(fails('WRITE_LOG_CORRUPT'), base), []);
  assert.equal((await usersOf(fails('LOCKED'), base)).length, 1, 'it can be opened a moment later');
});
