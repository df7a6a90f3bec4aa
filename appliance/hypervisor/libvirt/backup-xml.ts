// SPDX-License-Identifier: Apache-2.0
import { invariant } from '../../core/invariant.ts';
import { attributeOf, childrenOf, element, find, formatXml, parseXml, type XmlElement } from './xml.ts';

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

/** Where QEMU opens its NBD server. */
export type BackupServer =
  /** A path of at most 107 bytes. */
  | { readonly kind: 'unix'; readonly socketPath: string }
  /** `isTls`: with the certificates of qemu.conf, and only for clients with one of the same authority. */
  | { readonly kind: 'tcp'; readonly address: string; readonly port: number; readonly isTls: boolean };

export interface BackupPlan {
  readonly server: BackupServer;
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
  return formatXml(
    element('domainbackup', { mode: 'pull' }, [
      backupServer(plan.server),
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

function backupServer(server: BackupServer): XmlElement {
  if (server.kind === 'tcp') {
    const { address, port, isTls } = server;
    return element('server', { transport: 'tcp', name: address, port: String(port), tls: isTls ? 'yes' : 'no' });
  }
  const { socketPath } = server;
  invariant(Buffer.byteLength(socketPath) <= MAX_SOCKET_PATH_LENGTH, 'a unix socket path has at most 107 bytes');
  return element('server', { transport: 'unix', socket: socketPath });
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

/** What tells whose job a running one is: its unix socket, if it has one, and the names of its exports. */
export function readBackupXml(xml: string): {
  readonly socketPath: string | undefined;
  readonly exportNames: string[];
} {
  const job = parseXml(xml);
  const disks = childrenOf(find(job, 'disks'), 'disk').filter((disk) => attributeOf(disk, 'backup') !== 'no');
  return {
    socketPath: attributeOf(find(job, 'server'), 'socket'),
    exportNames: disks.map((disk) => attributeOf(disk, 'exportname') ?? attributeOf(disk, 'name') ?? ''),
  };
}
