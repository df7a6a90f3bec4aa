// SPDX-License-Identifier: Apache-2.0
import type { MigrateReport } from '../../recover/migrations.ts';
import { momentReport } from './journal.ts';
import { connectMembers } from './machines.ts';
import { pointMembers } from './points.ts';
import { type Immutable, type MustBeTrue, type Same, type Static, Type } from './type.ts';
import {
  amount,
  count,
  flag,
  list,
  maybe,
  number,
  oneOf,
  orNull,
  params,
  part,
  report,
  text,
  time,
  word,
} from './vocabulary.ts';

/** Machines that run from the appliance. */

const name = word('Of a booted machine.');
const moment = orNull(momentReport, 'The moment above the point; null for the recovery point itself.');

export const bootParams = params({
  ...pointMembers,
  as: maybe(word('The name of the machine that is started.')),
  keepNetwork: maybe(flag('Leave its network as it was saved; otherwise it is isolated.')),
  keepIdentity: maybe(flag('Leave UUID and MAC addresses as they were saved; otherwise it gets new ones.')),
  ...connectMembers,
});

export const bootResult = report('BootReport', {
  name: text(),
  machineId: text(),
  point: text(),
  moment,
  connect: text(),
  durationMs: amount('From the call to the running domain.'),
  exports: list(part({ disk: text(), uri: text() })),
  changes: list(text(), 'Sentences: what of the saved definition had to be changed to start it here.'),
});

const bootedMachine = report('BootedMachine', {
  name: text(),
  machineId: text(),
  point: text(),
  moment,
  connect: text(),
  state: text(),
  startedAt: time(),
  writtenBytes: count('Bytes that the machine has written since.'),
  problem: orNull(text(), 'What the operator should do something about, in a sentence; null for nothing.'),
});

export const bootedResult = Type.Array(bootedMachine);

export const rewindResult = report('RewindReport', {
  name: text(),
  machineId: text(),
  point: text('The recovery point that its disks begin with now.'),
  moment: orNull(momentReport, 'What it was rewound to: a moment, or null for the recovery point `target` itself.'),
  target: text(),
  bookmark: text('The name of the last moment before: rewinding to it undoes this.'),
  pointBefore: text('A recovery point of that moment.'),
  downMs: amount('From the end of the machine to its start.'),
  durationMs: amount(),
});

export const stopParams = params({
  name,
  discard: maybe(
    flag('Give up what the machine has written; otherwise it is kept and the same machine can be started again.'),
  ),
});

export const stopResult = report('StopReport', {
  name: text(),
  discarded: flag(),
  writtenBytes: count(),
  outcome: text("The machine's state after the call, in a sentence."),
});

export const migrateParams = params({
  name,
  directory: maybe(word("Where its disks go: a directory of the service's host, or …")),
  pool: maybe(word('… a storage pool of its libvirt. Neither is needed to finish an interrupted migration.')),
  format: maybe(oneOf(['qcow2', 'raw'], 'Default: qcow2.')),
  bandwidth: maybe(number({ from: 1, to: 2 ** 50 }, 'Bytes per second that the copy may take.')),
  as: maybe(word('The name that the machine gets when it is shut off the next time.')),
  autostart: maybe(flag('Whether it starts with its host; otherwise that stays as it is.')),
  verify: maybe(flag('Compare the copies with the disks before the machine goes over to them; default true.')),
});

export const migrateResult = report('MigrateReport', {
  name: text(),
  machineId: text(),
  connect: text(),
  disks: list(part({ disk: text(), path: text(), format: text(), sizeBytes: count() })),
  verifiedBytes: orNull(
    count(),
    'Bytes that were found equal in both places before the machine went over; null when nothing was compared now.',
  ),
  busyBytes: count('Bytes that could not be compared, because the guest was writing them, to both places.'),
  durationMs: amount('From the call to the end.'),
  nextName: orNull(text(), 'The name that it gets when it is shut off the next time.'),
  changes: list(text(), 'Sentences: what is different now, and what is not.'),
});

export type { MigrateReport };
export type BootParams = Immutable<Static<typeof bootParams>>;
export type BootReport = Immutable<Static<typeof bootResult>>;
export type BootedMachine = Immutable<Static<typeof bootedMachine>>;
export type RewindReport = Immutable<Static<typeof rewindResult>>;
export type StopParams = Immutable<Static<typeof stopParams>>;
export type StopReport = Immutable<Static<typeof stopResult>>;
export type MigrateParams = Immutable<Static<typeof migrateParams>>;

export type BootedProofs = MustBeTrue<Same<Static<typeof migrateResult>, MigrateReport>>;
