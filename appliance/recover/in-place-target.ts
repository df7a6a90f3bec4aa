// SPDX-License-Identifier: Apache-2.0
import { identityOf, localPath } from '../cbt/plan-disks.ts';
import { ApplianceError } from '../core/errors.ts';
import type { Domain } from '../hypervisor/libvirt/domain.ts';
import { readMarker } from '../hypervisor/libvirt/domain-marker.ts';
import type { Machine, MachineDisk } from '../hypervisor/libvirt/inventory.ts';
import { imageInfo } from '../hypervisor/qemu-img.ts';
import type { PointDisk } from '../repository/manifest.ts';

/** virDomainShutoffReason 5: the memory of the machine is saved, and fits its disks as they are. */
const SHUT_OFF_SAVED = 5;

/** A disk of an original that is written in place. */
export interface InPlaceDisk {
  readonly disk: PointDisk;
  readonly path: string;
  readonly format: string;
  readonly targetBytes: number;
}

/** A machine whose disks may be written under it. @throws ApplianceError DOMAIN_WRONG_STATE */
export async function checkIsOff(domain: Domain): Promise<void> {
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

/**
 * The disk of the machine that a disk of a point is, when it is the same one and can be written.
 * @throws ApplianceError DISK_NOT_FOUND, TARGET_CHANGED, TARGET_TOO_SMALL, NOT_SUPPORTED, TOOL_MISSING, TOOL_FAILED
 */
export async function checkDisk(disk: PointDisk, machine: Machine): Promise<InPlaceDisk> {
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
