// SPDX-License-Identifier: Apache-2.0
import { invariant } from '../../core/invariant.ts';
import { element, formatXml, type XmlElement } from './xml.ts';

/** One disk of a pull backup. */
export interface BackupDisk {
  /** `vda`; libvirt's name of the disk. */
  readonly target: string;
  /** Name of the NBD export. */
  readonly exportName: string;
  /** Everything, or what changed since that checkpoint. */
  readonly mode: { readonly kind: 'full' } | { readonly kind: 'incremental'; readonly checkpoint: string };
  /** QEMU then exports `qemu:dirty-bitmap:<this name>`; only for incremental disks. */
  readonly exportBitmap?: string;
  /** Where QEMU keeps old data that the guest overwrites meanwhile; it creates the file. Needs up to the disk's size. */
  readonly scratchPath: string;
}

export interface BackupPlan {
  /** Unix socket of the NBD server that QEMU opens; not longer than 107 bytes. */
  readonly socketPath: string;
  readonly disks: readonly BackupDisk[];
  /** Targets of the machine's other disks: libvirt backs up every disk that is not named. */
  readonly excludedTargets: readonly string[];
}

export interface CheckpointPlan {
  readonly name: string;
  readonly description?: string;
  /** Disks that get a dirty bitmap: qcow2 ones. */
  readonly targets: readonly string[];
  readonly excludedTargets: readonly string[];
}

/** sockaddr_un.sun_path has 108 bytes with its end. */
export const MAX_SOCKET_PATH_LENGTH = 107;

/** The `<domainbackup>` of a pull backup (libvirt: formatbackup.html). */
export function backupXml(plan: BackupPlan): string {
  invariant(plan.disks.length > 0, 'a backup has a disk');
  invariant(Buffer.byteLength(plan.socketPath) <= MAX_SOCKET_PATH_LENGTH, 'a unix socket path has at most 107 bytes');
  return formatXml(
    element('domainbackup', { mode: 'pull' }, [
      element('server', { transport: 'unix', socket: plan.socketPath }),
      element('disks', {}, [
        ...plan.disks.map(backupDisk),
        ...plan.excludedTargets.map((target) => element('disk', { name: target, backup: 'no' })),
      ]),
    ]),
  );
}

/** The `<domaincheckpoint>` created in the same step (libvirt: formatcheckpoint.html). */
export function checkpointXml(plan: CheckpointPlan): string {
  return formatXml(
    element('domaincheckpoint', {}, [
      element('name', {}, [plan.name]),
      ...(plan.description === undefined ? [] : [element('description', {}, [plan.description])]),
      element('disks', {}, [
        ...plan.targets.map((target) => element('disk', { name: target, checkpoint: 'bitmap' })),
        ...plan.excludedTargets.map((target) => element('disk', { name: target, checkpoint: 'no' })),
      ]),
    ]),
  );
}

function backupDisk(disk: BackupDisk): XmlElement {
  const isIncremental = disk.mode.kind === 'incremental';
  invariant(isIncremental || disk.exportBitmap === undefined, 'only an incremental disk exports a bitmap');
  return element(
    'disk',
    {
      name: disk.target,
      backup: 'yes',
      type: 'file',
      backupmode: disk.mode.kind,
      incremental: disk.mode.kind === 'incremental' ? disk.mode.checkpoint : undefined,
      exportname: disk.exportName,
      exportbitmap: disk.exportBitmap,
    },
    [element('scratch', { file: disk.scratchPath })],
  );
}
