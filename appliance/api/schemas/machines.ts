// SPDX-License-Identifier: Apache-2.0
import { type Immutable, type Static, Type } from './type.ts';
import { amount, count, flag, list, maybe, oneOf, orNull, params, report, text, time, word } from './vocabulary.ts';

/** Machines, as their hypervisor reports them. */

const connect = maybe(word("A libvirt URI; the state's default when left out.", 'qemu:///system'));

export const connectMembers = { connect } as const;

export const machineListParams = params(connectMembers);

export const machineShowParams = params({ name: word("The machine's name or UUID.", 'web'), connect });

const machineDisk = report(
  'MachineDisk',
  {
    name: text(),
    device: text(),
    source: text(),
    format: text(),
    sizeBytes: orNull(count()),
    protection: oneOf(['incremental', 'full-scan', 'none']),
    reason: text('Why it is not protected incrementally; empty when it is.'),
  },
  'One disk as the inventory sees it.',
);

const machineMembers = {
  id: text(),
  name: text(),
  hypervisor: text('The name of the one that it is on, or its URI.'),
  state: text(),
  disks: list(machineDisk),
  points: count('Recovery points that exist.'),
  newestPoint: orNull(time(), 'When the newest of them was taken.'),
  policy: orNull(text(), 'The policy that has it; null: nobody protects it by itself.'),
  policyReason: text('Why that policy has it, or why none.'),
  rpoTargetMs: orNull(amount(), 'How old its newest state may be.'),
  rpoNowMs: orNull(amount(), 'How old it is; null when there is none.'),
  isOverdue: flag('It is older than it may be.'),
} as const;

export const machineSummary = report('MachineSummary', machineMembers);

export const machineDetails = report('MachineDetails', {
  ...machineMembers,
  firmware: text(),
  hasAgent: flag(),
  notes: list(text(), 'Sentences: what of this machine a recovery point does not contain.'),
});

export const machineListResult = Type.Array(machineSummary);

export type ConnectParams = Immutable<Static<typeof machineListParams>>;
export type MachineShowParams = Immutable<Static<typeof machineShowParams>>;
export type MachineDisk = Immutable<Static<typeof machineDisk>>;
export type MachineSummary = Immutable<Static<typeof machineSummary>>;
export type MachineDetails = Immutable<Static<typeof machineDetails>>;
