// SPDX-License-Identifier: Apache-2.0
import type { TInteger, TOptional } from 'typebox';
import type { Immutable, Static } from './type.ts';
import { count, flag, list, maybe, number, orNull, params, part, report, text, time, word } from './vocabulary.ts';

/** What can be asked about how long recovery points stay. */

const point = word('A recovery point; a moment of a journal cannot be held or locked.', '3f2a91c04b7d8e11');

export const guardReport = report(
  'GuardReport',
  {
    reason: text("In the operator's words; empty where nobody gave one."),
    since: orNull(time(), 'Null for one that cannot be read; then it is in force.'),
    until: orNull(time(), 'Null for a hold without a date.'),
  },
  'A hold or a lock that is in force.',
);

export const holdParams = params({
  point,
  reason: word(),
  until: maybe(word('A time (`2026-12-24`, `2026-12-24T18:00Z`); until `release` when left out.')),
});

export const lockParams = params({ point, until: word('A time (`2026-12-24`, `2026-12-24T18:00Z`).') });

export const pointGuards = report(
  'PointGuardsReport',
  { point: text(), machine: text(), hold: orNull(guardReport), lock: orNull(guardReport) },
  'What guards a point after the call.',
);

function keep(description: string): TOptional<TInteger> {
  return maybe(number({ from: 1, to: 1_000_000 }, description));
}

export const ruleMembers = {
  keepLast: keep('The newest so many points.'),
  keepHourly: keep('The newest point of each of the newest so many hours that have one.'),
  keepDaily: keep('The same of days.'),
  keepWeekly: keep('The same of weeks.'),
  keepMonthly: keep('The same of months.'),
  keepYearly: keep('The same of years.'),
  keepWithin: maybe(word('Every point of so long ago: `14d`, `12h`, `8w`, `6mo`, `1y6mo`.')),
  timeZone: maybe(word('An IANA name; default: that of the process that answers.')),
} as const;

const previewMembers = {
  machine: maybe(word('A machine, by name or id, or …')),
  all: maybe(flag('… all of them, each by itself.')),
  ...ruleMembers,
} as const;

export const retentionPreviewParams = params(previewMembers, 'Which points stay: docs/retention.md.');

export const retentionApplyParams = params({
  ...previewMembers,
  plan: maybe(
    word('The `plan` of a preview: CONFIRMATION_NEEDED, and nothing deleted, when other points would go now.'),
  ),
});

const retentionPoint = report('RetentionPointReport', {
  id: text(),
  machine: text(),
  machineId: text(),
  createdAt: time(),
  keep: flag(),
  reasons: list(text(), 'Every reason why it stays; of one that goes, why each part of the rule lets it go.'),
});

const retentionMembers = {
  timeZone: text(),
  now: time('The clock by which points ahead of it were told.'),
  kept: count(),
  going: count(),
  plan: text('Names the set of points that go.'),
  points: list(retentionPoint, 'Machines by name, the points of each newest first.'),
} as const;

export const retentionPreviewResult = report('RetentionReport', retentionMembers);

export const retentionApplyResult = report('RetentionApplyReport', {
  ...retentionMembers,
  deleted: list(part({ point: text(), machine: text() })),
  spared: list(
    part({ point: text(), machine: text(), reason: text() }),
    'Points that were to go and stay, because somebody began to use, hold or lock them meanwhile.',
  ),
  recoverableUntil: orNull(time(), 'Until then `undelete` brings them back; null when none was deleted.'),
});

export type GuardReport = Immutable<Static<typeof guardReport>>;
export type HoldParams = Immutable<Static<typeof holdParams>>;
export type LockParams = Immutable<Static<typeof lockParams>>;
export type PointGuardsReport = Immutable<Static<typeof pointGuards>>;
export type RetentionParams = Immutable<Static<typeof retentionPreviewParams>>;
export type RetentionApplyParams = Immutable<Static<typeof retentionApplyParams>>;
export type RetentionPointReport = Immutable<Static<typeof retentionPoint>>;
export type RetentionReport = Immutable<Static<typeof retentionPreviewResult>>;
export type RetentionApplyReport = Immutable<Static<typeof retentionApplyResult>>;
