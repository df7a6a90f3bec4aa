// SPDX-License-Identifier: Apache-2.0
import { momentDetails } from './journal.ts';
import { consistency, pointKind, recoveryPoint } from './manifest.ts';
import { guardReport } from './retention.ts';
import { type Immutable, type Static, Type } from './type.ts';
import { amount, count, flag, list, maybe, orNull, params, report, text, time, word } from './vocabulary.ts';

/** Recovery points: which there are, and deleting them. */

export const pointsParams = params({ machine: maybe(word("A machine's name or id.", 'web')) });

export const pointMembers = {
  point: word('A recovery point or a moment of a journal; docs/cli.md, "How a state is named".', 'web@latest'),
} as const;

export const pointParams = params(pointMembers);

const pointGuardMembers = {
  lost: flag(
    'Its manifest disappeared from the repository: it cannot be restored, and what it holds is kept until it is deleted.',
  ),
  hold: orNull(guardReport, 'What forbids that it is deleted, by any means; null for nothing.'),
  lock: orNull(guardReport, 'The same until a date, and nothing ends it before.'),
} as const;

export const pointSummary = report('PointSummary', {
  id: text(),
  machine: text(),
  machineId: text(),
  createdAt: time(),
  kind: pointKind,
  reason: text(),
  consistency,
  disks: count(),
  sizeBytes: count(),
  dataBytes: count(),
  newChunkBytes: count(),
  storedBytes: count(),
  durationMs: amount(),
  ...pointGuardMembers,
});

export const pointsResult = Type.Array(pointSummary);

export const pointShowResult = report('PointDetails', {
  point: recoveryPoint,
  moment: orNull(momentDetails, 'The moment above the point that was named; null for a recovery point itself.'),
  usedBy: list(text(), 'What keeps it from being deleted now (exports, booted machines).'),
  ...pointGuardMembers,
});

export const deleteParams = params({
  ...pointMembers,
  now: maybe(flag('For good, without the time in which `undelete` brings it back.')),
});

export const deleteResult = report('DeleteReport', {
  point: text(),
  machine: text(),
  recoverableUntil: orNull(
    time(),
    'Until then `undelete` brings it back, and its space is not freed; null when it is gone for good.',
  ),
  lost: flag('It was a lost point, which has been given up.'),
});

export type PointsParams = Immutable<Static<typeof pointsParams>>;
export type PointSummary = Immutable<Static<typeof pointSummary>>;
export type PointParams = Immutable<Static<typeof pointParams>>;
export type PointDetails = Immutable<Static<typeof pointShowResult>>;
export type DeleteParams = Immutable<Static<typeof deleteParams>>;
export type DeleteReport = Immutable<Static<typeof deleteResult>>;
