// SPDX-License-Identifier: Apache-2.0
import { randomBytes } from 'node:crypto';
import { dirname, join } from 'node:path';
import type { Machine } from '../hypervisor/libvirt/inventory.ts';
import { readMachine } from '../hypervisor/libvirt/read-machine.ts';
import { QemuNbd } from '../hypervisor/qemu-nbd.ts';
import { connectNbd } from '../nbd/client/connect.ts';
import type { RecoveryPoint } from '../repository/manifest.ts';
import type { RecoverParts } from './context.ts';
import { checkDisk, checkIsOff, type InPlaceDisk } from './in-place-target.ts';
import { checkIsLocal } from './local-hypervisor.ts';
import { findAttachment, NVRAM_ATTACHMENT, selectDisk } from './point-content.ts';
import { removeTree } from './point-exports.ts';
import { replaceContent } from './replace-content.ts';
import type { Restore, RestoredTarget, RestoreOutcome } from './restore-request.ts';
import { updateDevice } from './update-device.ts';

/**
 * Puts the content of a state back into the disks of the machine it was taken of, found by its UUID, which must be shut
 * off; with `disk` into that one only. Everything is checked before the first byte is written: each disk must be the one
 * of the point (place, format, serial), on this host, and large enough. The images are written through qemu-nbd, which
 * holds their locks, so the machine cannot be started meanwhile, and only where they differ. Dirty bitmaps in the images
 * see these writes like those of a guest, so incremental backups stay right. The definition stays as it is; the variables
 * of the firmware are put back.
 *
 * After an error or an abort a disk is a mixture: the restore has to be run again.
 * @throws ApplianceError DOMAIN_NOT_FOUND, DOMAIN_WRONG_STATE, DISK_NOT_FOUND, TARGET_CHANGED, TARGET_TOO_SMALL,
 *   NOT_SUPPORTED, TOOL_MISSING, TOOL_FAILED (an image in use, say), NO_SPACE, ABORTED, those of the repository
 */
export async function restoreInPlace(restore: Restore): Promise<RestoreOutcome> {
  const { parts, request } = restore;
  const { point, connect } = request;
  checkIsLocal(connect);
  const connection = await parts.connectLibvirt(connect);
  const domain = await connection.domainByUuid(point.machine.id);
  await checkIsOff(domain);
  const machine = await readMachine(connection, domain);
  const chosen = request.disk === undefined ? point.disks : [selectDisk(point, request.disk)];
  const found: InPlaceDisk[] = [];
  for (const disk of chosen) found.push(await checkDisk(disk, machine));
  const changes: string[] = [];
  const targets: RestoredTarget[] = [];
  for (const disk of found) {
    targets.push(await writeDisk(restore, disk));
    if (disk.targetBytes > disk.disk.sizeBytes) {
      changes.push(`Disk ${disk.disk.name} was larger than at the point; what lies beyond reads as zeroes now.`);
    }
  }
  if (request.disk === undefined) changes.push(...(await restoreFirmware(parts, point, machine)));
  return { targets, machine: machine.name, changes };
}

async function writeDisk({ parts, disks, context }: Restore, target: InPlaceDisk): Promise<RestoredTarget> {
  const { disk, path, format } = target;
  const { address } = parts.nbd;
  const directory = address.kind === 'unix' ? dirname(address.path) : parts.stateDirectory;
  const socketPath = join(directory, `${randomBytes(4).toString('hex')}.sock`);
  await using stack = new AsyncDisposableStack();
  stack.defer(() => removeTree(socketPath));
  stack.use(await QemuNbd.start({ path, format, socketPath, exportName: 'target', isWritable: true }));
  const uri = `nbd+unix:///target?socket=${encodeURIComponent(socketPath)}`;
  const device = stack.use(await connectNbd(uri, { reconnect: false, signal: context.signal }));
  const source = stack.use(disks.device(disk));
  try {
    const { writtenBytes, zeroedBytes } = await updateDevice(source, device, {
      signal: context.signal,
      onProgress: (done) =>
        context.onProgress({ phase: `restoring ${disk.name}`, done, total: device.sizeBytes, unit: 'bytes' }),
    });
    return { disk: disk.name, to: path, sizeBytes: disk.sizeBytes, writtenBytes: writtenBytes + zeroedBytes };
  } catch (error) {
    context.onNotice(`${path} is incomplete: run the restore again before the machine is started.`);
    throw error;
  }
}

async function restoreFirmware(parts: RecoverParts, point: RecoveryPoint, machine: Machine): Promise<string[]> {
  const bytes = await findAttachment(parts.repository, point, NVRAM_ATTACHMENT);
  const path = machine.firmware.nvramPath;
  if (bytes === undefined) return [];
  if (path === null) return ["The firmware's variables were not put back: the machine has no place for them now."];
  return (await replaceContent(path, bytes)) ? [`The firmware's variables in ${path} are those of the point.`] : [];
}
