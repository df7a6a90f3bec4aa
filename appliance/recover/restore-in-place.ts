// SPDX-License-Identifier: Apache-2.0
import { randomBytes } from 'node:crypto';
import { dirname, join } from 'node:path';
import { identityOf, localPath } from '../cbt/plan-disks.ts';
import { ApplianceError } from '../core/errors.ts';
import type { Domain } from '../hypervisor/libvirt/domain.ts';
import { readMarker } from '../hypervisor/libvirt/domain-marker.ts';
import type { Machine, MachineDisk } from '../hypervisor/libvirt/inventory.ts';
import { readMachine } from '../hypervisor/libvirt/read-machine.ts';
import { imageInfo } from '../hypervisor/qemu-img.ts';
import { QemuNbd } from '../hypervisor/qemu-nbd.ts';
import { connectNbd } from '../nbd/client/connect.ts';
import type { PointDisk, RecoveryPoint } from '../repository/manifest.ts';
import type { RecoverParts } from './context.ts';
import { checkIsLocal } from './local-hypervisor.ts';
import { findAttachment, NVRAM_ATTACHMENT, selectDisk } from './point-content.ts';
import { removeTree } from './point-exports.ts';
import { replaceContent } from './replace-content.ts';
import type { Restore, RestoredTarget, RestoreOutcome } from './restore-request.ts';
import { updateDevice } from './update-device.ts';

/** virDomainShutoffReason 5: the memory of the machine is saved, and fits its disks as they are. */
const SHUT_OFF_SAVED = 5;

interface InPlaceDisk {
  readonly disk: PointDisk;
  readonly path: string;
  readonly format: string;
  readonly targetBytes: number;
}

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

async function checkIsOff(domain: Domain): Promise<void> {
  const { state, reason } = await domain.state();
  const isOff = state === 'shut-off' || state === 'crashed';
  const isSaved = state === 'shut-off' && reason === SHUT_OFF_SAVED;
  if (isOff && !isSaved) {
    const marker = readMarker(await domain.xml({ isInactive: true }));
    if (marker?.purpose !== 'boot') return;
    throw new ApplianceError('DOMAIN_WRONG_STATE', `${domain.name} is a booted recovery point, not the original`, {
      hint: 'Stop it with `understudy stop`; then define the original again.',
    });
  }
  const why = isSaved ? 'has saved memory, which belongs to its disks as they are' : `is ${state}`;
  throw new ApplianceError(
    'DOMAIN_WRONG_STATE',
    `${domain.name} ${why}; only a machine that is shut off is restored in place`,
    {
      hint: isSaved ? `Drop it with \`virsh managedsave-remove ${domain.name}\`.` : 'Shut it down first.',
    },
  );
}

async function checkDisk(disk: PointDisk, machine: Machine): Promise<InPlaceDisk> {
  const current = machine.disks.find(({ target }) => target === disk.name);
  if (current === undefined) {
    throw new ApplianceError('DISK_NOT_FOUND', `${machine.name} has no disk ${disk.name} any more`, {
      hint: 'Restore to a new machine with --as, or disk by disk with --to.',
    });
  }
  checkIdentity(disk, current);
  const path = localPath(current.source);
  if (path === undefined) {
    throw new ApplianceError('NOT_SUPPORTED', `${disk.name} does not lie on this host`, {
      hint: 'Restore the disk with --to an NBD URI that serves it.',
    });
  }
  const info = await imageInfo({ location: path, format: current.format });
  if (info.virtualSizeBytes < disk.sizeBytes) {
    const message = `${path} holds ${info.virtualSizeBytes} bytes, the disk ${disk.name} of the point ${disk.sizeBytes}`;
    throw new ApplianceError('TARGET_TOO_SMALL', message, {
      details: { path, targetBytes: info.virtualSizeBytes, sourceBytes: disk.sizeBytes },
    });
  }
  if (info.isCorrupt || info.isEncrypted) {
    const why = info.isCorrupt ? 'is marked corrupt' : 'is encrypted by QEMU';
    throw new ApplianceError('NOT_SUPPORTED', `the image ${path} ${why}, and cannot be written`);
  }
  return { disk, path, format: current.format, targetBytes: info.virtualSizeBytes };
}

/** A point made without identities (an NBD source) says nothing about disks; the machine's UUID is all there is. */
function checkIdentity(disk: PointDisk, current: MachineDisk): void {
  const now = identityOf(current);
  for (const [key, before] of Object.entries(disk.identity)) {
    if (now[key] === before) continue;
    throw new ApplianceError(
      'TARGET_CHANGED',
      `${disk.name} is another disk: its ${key} was ${before}, now ${now[key] ?? 'none'}`,
      {
        details: { disk: disk.name, key, before, now: now[key] },
      },
    );
  }
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
