// SPDX-License-Identifier: Apache-2.0
import { momentReport } from './journal.ts';
import { connectMembers } from './machines.ts';
import { pointMembers } from './points.ts';
import { type Immutable, type Static, Type } from './type.ts';
import { amount, count, flag, list, maybe, oneOf, orNull, params, part, report, text, word } from './vocabulary.ts';

/** Disks of a state that leave the appliance: over NBD, or to where they are restored. */

const moment = orNull(momentReport, 'The moment above the point; null for the recovery point itself.');

export const exportParams = params({
  ...pointMembers,
  disk: maybe(word('Its name (`vda`); needed where there are several.')),
  socket: maybe(word('Serve at a unix socket of this path, or …')),
  listen: maybe(word('… at HOST:PORT; IPv6 hosts in brackets; port 0 for any free one.')),
  writable: maybe(flag('Take writes into a log of their own; they are gone when the export ends.')),
});

export const exportResult = report('ExportReport', {
  id: text(),
  uri: text(),
  point: text(),
  moment,
  disk: text(),
  sizeBytes: count(),
  writable: flag(),
});

export const exportsResult = Type.Array(exportResult);

export const unexportParams = params({ id: word('Of the export.') });

export const restoreParams = params({
  ...pointMembers,
  disk: maybe(word('Only this one (`vda`).')),
  to: maybe(word('A file, a block device, or an NBD URI.')),
  format: maybe(oneOf(['raw', 'qcow2', 'vmdk'])),
  as: maybe(word('Define a new machine of this name, its disks beside the originals or in `directory`.')),
  directory: maybe(word()),
  inPlace: maybe(flag("Put the point's content into the original machine's disks.")),
  ...connectMembers,
});

export const restoreResult = report('RestoreReport', {
  point: text(),
  moment,
  targets: list(part({ disk: text(), to: text(), sizeBytes: count(), writtenBytes: count() })),
  machine: orNull(text()),
  durationMs: amount(),
  changes: list(text()),
});

export type ExportParams = Immutable<Static<typeof exportParams>>;
export type ExportReport = Immutable<Static<typeof exportResult>>;
export type UnexportParams = Immutable<Static<typeof unexportParams>>;
export type RestoreParams = Immutable<Static<typeof restoreParams>>;
export type RestoreReport = Immutable<Static<typeof restoreResult>>;
