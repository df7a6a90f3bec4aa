// SPDX-License-Identifier: Apache-2.0
import { parseArgs } from 'node:util';
import { ApplianceError, toError } from '../appliance/core/errors.ts';

export interface DemoOptions {
  /** A libvirt of the user's; a private daemon when left out. */
  readonly connect: string | undefined;
  /** The other story: every write is kept, and a moment of one's choice is booted. */
  readonly isContinuous: boolean;
  /** Size of the guest's disk; half of it is filled. */
  readonly diskMiB: number;
  /** Leave machines, service and files in place at the end. */
  readonly keep: boolean;
  /** Print the figures as one JSON document on standard output; the show goes to standard error. */
  readonly json: boolean;
  readonly help: boolean;
}

const DEFAULT_DISK_MIB = 1024;
const DEFAULT_CONTINUOUS_DISK_MIB = 256;
const MIN_DISK_MIB = 128;
const MAX_DISK_MIB = 64 * 1024;

export const USAGE: string = `Usage: npm run demo -- [options]
       npm run demo:continuous -- [options]

A small Linux guest is backed up while it runs, changed, backed up again, damaged, and booted from before the damage.
In the other story each of its writes is kept, everything is deleted, and it is booted from one second before that.

Options:
  --disk-mib <n>   size of the guest's disk in MiB, half of it filled (default: ${DEFAULT_DISK_MIB}, or ${DEFAULT_CONTINUOUS_DISK_MIB})
  --connect <uri>  use this local libvirt (qemu:///system, qemu:///session) instead of a private daemon;
                   only the two machines that the demo itself defines are touched
  --keep           leave everything in place at the end, and say how to look at it
  --json           print the measured figures as one JSON document; the show goes to standard error
  --help           print this
`;

/** @throws ApplianceError BAD_ARGUMENT */
export function parseOptions(args: readonly string[]): DemoOptions {
  const { values } = parse(args);
  const { connect, continuous = false, keep = false, json = false, help = false } = values;
  const diskMiB = Number(values['disk-mib'] ?? (continuous ? DEFAULT_CONTINUOUS_DISK_MIB : DEFAULT_DISK_MIB));
  if (!Number.isInteger(diskMiB) || diskMiB < MIN_DISK_MIB || diskMiB > MAX_DISK_MIB) {
    throw new ApplianceError('BAD_ARGUMENT', `--disk-mib takes a whole number from ${MIN_DISK_MIB} to ${MAX_DISK_MIB}`);
  }
  return { connect, isContinuous: continuous, diskMiB, keep, json, help };
}

function parse(args: readonly string[]): {
  values: {
    connect?: string;
    continuous?: boolean;
    'disk-mib'?: string;
    keep?: boolean;
    json?: boolean;
    help?: boolean;
  };
} {
  try {
    return parseArgs({
      args: [...args],
      options: {
        connect: { type: 'string' },
        continuous: { type: 'boolean' },
        'disk-mib': { type: 'string' },
        keep: { type: 'boolean' },
        json: { type: 'boolean' },
        help: { type: 'boolean', short: 'h' },
      },
    });
  } catch (cause) {
    throw new ApplianceError('BAD_ARGUMENT', toError(cause).message, { cause, hint: 'npm run demo -- --help' });
  }
}
