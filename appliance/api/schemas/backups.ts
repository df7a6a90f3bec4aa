// SPDX-License-Identifier: Apache-2.0
import { connectMembers } from './machines.ts';
import { consistency, diskStatsMembers, pointKind, skippedDisk } from './manifest.ts';
import type { Immutable, Static } from './type.ts';
import { amount, count, flag, list, maybe, number, oneOf, params, report, text, time, word } from './vocabulary.ts';

/** Taking a recovery point. */

export const backupParams = params({
  target: word("A machine's name or UUID, or an NBD URI.", 'web'),
  name: maybe(word('The name under which an NBD source is kept; default: its export name or host.')),
  fullScan: maybe(flag('Compare everything, whatever the tracker says.')),
  quiesce: maybe(
    oneOf(
      ['try', 'always', 'never'],
      "Freeze the guest's file systems: if possible (the default), or else fail, or never.",
    ),
  ),
  bandwidth: maybe(number({ from: 65_536, to: 2 ** 40 }, 'Bytes per second that may be read; no limit when left out.')),
  ...connectMembers,
});

const backupDiskReport = report('BackupDiskReport', {
  name: text(),
  sizeBytes: count(),
  kind: pointKind,
  reason: text(),
  ...diskStatsMembers,
});

export const backupResult = report('BackupReport', {
  point: text('The id of the new recovery point.'),
  machine: text(),
  kind: pointKind,
  reason: text(),
  consistency,
  createdAt: time(),
  durationMs: amount(),
  disks: list(backupDiskReport),
  skipped: list(skippedDisk),
  notices: list(text()),
});

export type BackupParams = Immutable<Static<typeof backupParams>>;
export type BackupDiskReport = Immutable<Static<typeof backupDiskReport>>;
export type BackupReport = Immutable<Static<typeof backupResult>>;
