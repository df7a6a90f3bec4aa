// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { ApplianceError } from '../../appliance/core/errors.ts';
import { type LogMoment, type SelectableJournal, selectState } from '../../appliance/protect/select-state.ts';
import { formatTimeUs, parseSelector } from '../../appliance/protect/selector.ts';
import type { RecoveryPoint } from '../../appliance/repository/manifest.ts';
import type { RecoverableState } from '../../appliance/volume/recoverable-state.ts';
import { suite } from '../support/suite.ts';

const test = suite('states by selector');
const LOG = 'ab'.repeat(16);
const HOUR_US = 3600e6;
const T0 = Date.parse('2026-11-21T10:00:00.000Z') * 1000;
const NOW_MS = T0 / 1000 + 8 * 3_600_000;

interface PointShape {
  readonly id: string;
  readonly sequence: number;
  /** Hours after T0. */
  readonly hours: number;
  /** Sequence in the journal. */
  readonly place?: number;
  readonly logId?: string;
}

function point({ id, sequence, hours, place, logId = LOG }: PointShape): RecoveryPoint {
  const timeUs = T0 + hours * HOUR_US;
  const journal = place === undefined ? {} : { journal: { logId, sequence: place, timeUs, disks: { vda: 0 } } };
  const machine = { id: '0b1c2d3e-4f50-4617-8899-aabbccddee01', name: 'web' };
  return { id, machine, sequence, createdAt: formatTimeUs(timeUs), ...journal } as unknown as RecoveryPoint;
}

/** One record each hour; `stretches` from one hour to another. Sequence n stands at hour n. */
function journal(stretches: readonly (readonly [begin: number, end: number])[]): SelectableJournal {
  const at = (hour: number): LogMoment => ({ sequence: hour, timeUs: T0 + hour * HOUR_US });
  const inside = (hour: number): LogMoment => {
    const whole = Math.floor(hour);
    const stretch = stretches.find(([begin, end]) => hour >= begin && hour <= end);
    const first = stretches[0]?.[0];
    if (first === undefined || hour < first) throw new ApplianceError('MOMENT_NOT_FOUND', 'before');
    if (hour > 5) throw new ApplianceError('MOMENT_NOT_FOUND', 'later than everything');
    if (stretch === undefined) throw new ApplianceError('MOMENT_IN_GAP', 'gap');
    return at(Math.min(whole, stretch[1]));
  };
  return {
    logId: LOG,
    folds: [
      { pointId: 'bbbb000000000002', sequence: 0 },
      { pointId: 'cccc000000000003', sequence: 3 },
    ],
    resolve: async (wanted) => {
      if ('timeUs' in wanted) return inside((wanted.timeUs - T0) / HOUR_US);
      if ('sequence' in wanted) return inside(wanted.sequence);
      if (wanted.bookmark === 'upgrade') return at(4);
      throw new ApplianceError('MOMENT_NOT_FOUND', 'no such bookmark');
    },
    timeline: async () => ({
      stretches: stretches.map(([begin, end]) => ({ begin: at(begin), end: at(end), isOpen: end === 5 })),
      bookmarks: [{ name: 'upgrade', moment: at(4), consistency: 'file-system-consistent' }],
    }),
  };
}

const POINTS = [
  point({ id: 'aaaa000000000001', sequence: 1, hours: -2 }),
  point({ id: 'bbbb000000000002', sequence: 2, hours: 0, place: 0 }),
  point({ id: 'cccc000000000003', sequence: 3, hours: 3, place: 3 }),
];

async function select(expression: string, of: SelectableJournal | undefined, points = POINTS): Promise<string> {
  const state = await selectState(points, async () => of, parseSelector(expression, NOW_MS), NOW_MS);
  return describe(state);
}

function describe({ point: base, moment }: RecoverableState): string {
  return moment === undefined ? base.id.slice(0, 4) : `${base.id.slice(0, 4)}+${moment.sequence}`;
}

function time(hours: number): string {
  return `web@${formatTimeUs(T0 + hours * HOUR_US)}`;
}

const UNBROKEN = journal([[1, 5]]);
const BROKEN = journal([
  [1, 2],
  [4, 5],
]);
const ENDED = journal([[1, 4]]);

test('a moment stands above the newest point that the journal knows before it, and above no other', async () => {
  assert.equal(await select(time(2), UNBROKEN), 'bbbb+2');
  assert.equal(await select(time(2.5), UNBROKEN), 'bbbb+2');
  assert.equal(await select('web@seq:4', UNBROKEN), 'cccc+4');
  assert.equal(await select('web@bookmark:"upgrade"', UNBROKEN), 'cccc+4');
  const others = [...POINTS, point({ id: 'dddd000000000004', sequence: 4, hours: 4, place: 4 })];
  assert.equal(await select('web@seq:4', UNBROKEN, others), 'cccc+4');
  const withoutBase = POINTS.filter(({ id }) => id !== 'cccc000000000003');
  await assert.rejects(select('web@seq:4', UNBROKEN, withoutBase), { code: 'MOMENT_NOT_FOUND' });
  const otherLog = [
    ...withoutBase,
    point({ id: 'cccc000000000003', sequence: 4, hours: 3, place: 3, logId: 'cd'.repeat(16) }),
  ];
  await assert.rejects(select('web@seq:4', UNBROKEN, otherLog), { code: 'MOMENT_NOT_FOUND' });
});

test('a moment at which a recovery point stands is that point', async () => {
  assert.equal(await select(time(3), UNBROKEN), 'cccc');
  assert.equal(await select('web@seq:3', UNBROKEN), 'cccc');
});

test('latest is the newest of both', async () => {
  assert.equal(await select('web@latest', UNBROKEN), 'cccc+5');
  assert.equal(await select('web@now', UNBROKEN), 'cccc+5');
  assert.equal(await select('web@latest', ENDED), 'cccc+4');
  const later = [...POINTS, point({ id: 'dddd000000000004', sequence: 4, hours: 7 })];
  assert.equal(await select('web@latest', ENDED, later), 'dddd');
  assert.equal(await select('web@latest', undefined), 'cccc');
  assert.equal(await select('web@-1', UNBROKEN), 'bbbb');
});

test('before the journal, and behind its end, recovery points count', async () => {
  assert.equal(await select(time(-1), UNBROKEN), 'aaaa');
  assert.equal(await select(time(0.5), UNBROKEN), 'bbbb');
  await assert.rejects(select(time(-3), UNBROKEN), { code: 'POINT_NOT_FOUND' });
  const later = [...POINTS, point({ id: 'dddd000000000004', sequence: 4, hours: 7 })];
  assert.equal(await select(time(7.5), ENDED, later), 'dddd');
  await assert.rejects(select(time(6), ENDED, later), { code: 'MOMENT_IN_GAP' });
});

test('a time in a gap is refused with the nearest moments, as one can type them', async () => {
  for (const expression of [time(3), 'web@seq:3']) {
    await assert.rejects(select(expression, BROKEN), (error: unknown) => {
      assert.ok(error instanceof ApplianceError);
      assert.equal(error.code, 'MOMENT_IN_GAP');
      assert.deepEqual(error.details, {
        before: { sequence: 2, time: formatTimeUs(T0 + 2 * HOUR_US) },
        after: { sequence: 4, time: formatTimeUs(T0 + 4 * HOUR_US) },
      });
      assert.ok(error.hint.includes(time(2)) && error.hint.includes(time(4)), error.hint);
      return true;
    });
  }
});

test('a bookmark brings its consistency, any other moment is crash-consistent', async () => {
  const pick = async (expression: string): Promise<RecoverableState['moment']> =>
    (await selectState(POINTS, async () => UNBROKEN, parseSelector(expression, NOW_MS), NOW_MS)).moment;
  const moment = { logId: LOG, sequence: 4, timeUs: T0 + 4 * HOUR_US };
  assert.deepEqual(await pick('web@bookmark:upgrade'), {
    ...moment,
    consistency: 'file-system-consistent',
    bookmark: 'upgrade',
  });
  assert.deepEqual(await pick('web@seq:2'), {
    logId: LOG,
    sequence: 2,
    timeUs: T0 + 2 * HOUR_US,
    consistency: 'crash-consistent',
    bookmark: null,
  });
});

test('what is not there is said to be not there', async () => {
  await assert.rejects(select('web@bookmark:other', UNBROKEN), { code: 'MOMENT_NOT_FOUND' });
  await assert.rejects(select('web@bookmark:upgrade', undefined), { code: 'MOMENT_NOT_FOUND' });
  await assert.rejects(select('web@seq:3', undefined), { code: 'MOMENT_NOT_FOUND' });
  await assert.rejects(select('db@latest', UNBROKEN), { code: 'MACHINE_NOT_FOUND' });
  const unrelated = POINTS.slice(0, 1);
  await assert.rejects(select('web@seq:2', UNBROKEN, unrelated), { code: 'MOMENT_NOT_FOUND' });
});

test('a time to come is refused, unless something is known of it because the clock was set back', async () => {
  const tomorrow = time(8.5);
  for (const known of [UNBROKEN, ENDED, undefined])
    await assert.rejects(select(tomorrow, known), { code: 'BAD_ARGUMENT' });
  const ahead = [...POINTS, point({ id: 'dddd000000000004', sequence: 4, hours: 9 })];
  assert.equal(await select(time(9), undefined, ahead), 'dddd');
  assert.equal(await select(time(8), UNBROKEN), 'cccc+5');
});

test('what is counted from now is refused while there are states of a time to come: the clock was set back', async () => {
  const ahead = [...POINTS, point({ id: 'dddd000000000004', sequence: 4, hours: 9 })];
  for (const expression of ['web@now', 'web@"5 minutes ago"']) {
    await assert.rejects(select(expression, UNBROKEN, ahead), { code: 'BAD_ARGUMENT' });
    await assert.rejects(select(expression, undefined, ahead), { code: 'BAD_ARGUMENT' });
    await select(expression, UNBROKEN);
  }
  assert.equal(await select('web@latest', undefined, ahead), 'dddd');
});
