// SPDX-License-Identifier: Apache-2.0
import type { MachineId, PointId } from '../../core/ids.ts';
import type { Consistency, DiskStats, PointKind, RecoveryPoint, SkippedDisk } from '../../repository/manifest.ts';
import { type MustBeTrue, type Same, type Static, Type } from './type.ts';
import { amount, count, list, maybe, oneOf, orNull, part, report, text, time } from './vocabulary.ts';

/** A recovery point as the repository keeps it. The types are the repository's; the schemas here are proven to say the same. */

export const pointKind = oneOf(['full', 'incremental', 'full-scan'], "How a recovery point's blocks were found.");

export const consistency = oneOf(['crash-consistent', 'file-system-consistent', 'application-consistent']);

export const diskStatsMembers = {
  changedBytes: count('What the tracker said may differ; for a full or a scan, what differs.'),
  readBytes: count(),
  newChunkBytes: count('Plain bytes of chunks that the repository did not have.'),
  storedBytes: count('What those take in packs, with nodes and headers.'),
} as const;

const diskStats = report('DiskStats', diskStatsMembers, 'Numbers of one disk in one run.');

export const skippedDisk = report(
  'SkippedDisk',
  { name: text(), reason: text() },
  'A disk that is not in the point, and why.',
);

const pointDisk = report(
  'PointDisk',
  {
    name: text('The target name on the machine (`vda`), or `disk` for an NBD source. Unique within the point.'),
    sizeBytes: count(),
    root: text("Id of the map's root node, 64 hexadecimal digits; all zero for a disk of zeroes."),
    dataBytes: count(),
    identity: Type.Record(text(), { description: 'What recognises the same disk at the next run.' }),
    kind: pointKind,
    reason: text(),
    stats: diskStats,
  },
  'One disk of a recovery point.',
);

const pointAttachment = report(
  'PointAttachment',
  { name: text(), lengthBytes: count(), chunks: list(text()) },
  "A file that belongs to the point (the machine's definition, NVRAM, …), stored as chunks.",
);

const pointJournal = report(
  'PointJournal',
  {
    logId: text("32 hexadecimal digits, those of the log's segments."),
    sequence: count("0 for a point that was taken before the log's first record."),
    timeUs: count('Time of that record, in microseconds since the Unix epoch.'),
    disks: Type.Record(count(), { description: 'The number under which the log knows each disk of the point.' }),
  },
  "The place of a point in the machine's journal: it holds the state after the record `sequence`.",
);

const pointId = Type.Unsafe<PointId>(Type.String({ pattern: '^[0-9a-f]{16}$' }));
const machineId = Type.Unsafe<MachineId>(Type.String());

export const recoveryPoint = report(
  'RecoveryPoint',
  {
    format: Type.Literal('understudy-point'),
    version: count(),
    id: pointId,
    machine: part({ id: machineId, name: text() }),
    sequence: count(
      "Orders the points of a machine, also when the clock jumped: one more than the machine's newest point had.",
    ),
    createdAt: time('When the state was taken.'),
    kind: pointKind,
    reason: text('Why it is of this kind, in words.'),
    parent: orNull(pointId),
    consistency,
    disks: list(pointDisk),
    skipped: list(skippedDisk),
    attachments: list(pointAttachment),
    tracker: Type.Record(text(), { description: "The tracker's position to continue from." }),
    journal: maybe(pointJournal),
    durationMs: amount(),
  },
  'A recovery point: the manifest whose presence makes it exist.',
);

export type ManifestProofs = [
  MustBeTrue<Same<Static<typeof pointKind>, PointKind>>,
  MustBeTrue<Same<Static<typeof consistency>, Consistency>>,
  MustBeTrue<Same<Static<typeof diskStats>, DiskStats>>,
  MustBeTrue<Same<Static<typeof skippedDisk>, SkippedDisk>>,
  MustBeTrue<Same<Static<typeof recoveryPoint>, RecoveryPoint>>,
];
