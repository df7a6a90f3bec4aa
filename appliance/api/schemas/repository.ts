// SPDX-License-Identifier: Apache-2.0
import type { Immutable, Static } from './type.ts';
import { upkeepReport } from './upkeep.ts';
import { amount, count, flag, list, maybe, orNull, params, part, report, text } from './vocabulary.ts';

/** What keeps a repository healthy, and says what it holds. */

export const repositoryCheckParams = params({
  readData: maybe(flag('Read and verify every chunk, too; otherwise only what names them.')),
  slice: maybe(flag('Instead, read and verify the next part of the periodic scrub, a 28th of the stored bytes.')),
});

const checkFinding = report(
  'CheckFinding',
  {
    what: text(),
    object: text(),
    touches: list(
      part({ point: text(), machine: text(), disk: text(), offset: count(), length: count() }),
      'What of which disks cannot be read because of it.',
    ),
  },
  'One defect, and what it touches.',
);

export const repositoryCheckResult = report('CheckReport', {
  ok: flag(),
  readData: flag(),
  points: count(),
  packs: count(),
  nodes: count(),
  chunks: count(),
  readBytes: count(),
  durationMs: amount(),
  findings: list(checkFinding),
});

export const catalogRebuildResult = report('RebuildReport', {
  points: count(),
  packs: count(),
  chunks: count(),
  problems: list(text()),
  durationMs: amount(),
});

export const gcParams = params({ now: maybe(flag('Also free what was deleted within the grace period.')) });

export const gcResult = report('GcReport', {
  liveBytes: count(),
  packsDeleted: count(),
  packsRewritten: count(),
  packsWithoutRoom: count(
    'Packs that are mostly garbage and stay, because there is no room to copy what lives in them.',
  ),
  freedBytes: count(),
  pointsInGrace: count('Deleted points that are still within the grace period.'),
  pointsPurged: count(),
  durationMs: amount(),
});

export const statusResult = report(
  'StatusReport',
  {
    state: text(),
    repository: text(),
    repositoryId: text(),
    encryption: text(),
    chunkBytes: count(),
    points: count(),
    machines: count(),
    logicalBytes: count('Sum of the data of all points, as if each stood alone.'),
    uniqueBytes: count(),
    storedBytes: count(),
    servicePid: orNull(count(), 'The process that serves the state, null when the command worked alone.'),
    upkeep: upkeepReport,
  },
  'What the repository holds. Deduplication ratio = logical / unique, compression ratio = unique / stored.',
);

export type CheckParams = Immutable<Static<typeof repositoryCheckParams>>;
export type CheckFinding = Immutable<Static<typeof checkFinding>>;
export type CheckReport = Immutable<Static<typeof repositoryCheckResult>>;
export type RebuildReport = Immutable<Static<typeof catalogRebuildResult>>;
export type GcParams = Immutable<Static<typeof gcParams>>;
export type GcReport = Immutable<Static<typeof gcResult>>;
export type StatusReport = Immutable<Static<typeof statusResult>>;
