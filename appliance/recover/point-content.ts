// SPDX-License-Identifier: Apache-2.0
import { keyFromHex } from '../core/content-id.ts';
import { ApplianceError } from '../core/errors.ts';
import type { PointAttachment, PointDisk, RecoveryPoint } from '../repository/manifest.ts';
import type { Repository } from '../repository/repository.ts';
import { PointDevice } from '../volume/point-device.ts';

/** The attachment that holds the machine's definition: libvirt's XML, secure and inactive. */
export const DOMAIN_ATTACHMENT = 'domain.xml';
/** The attachment that holds the firmware's variable store. */
export const NVRAM_ATTACHMENT = 'nvram';

/**
 * The disk of that name, or the only one when no name is given.
 * @throws ApplianceError DISK_NOT_FOUND; BAD_ARGUMENT when there are several and none was named
 */
export function selectDisk(point: RecoveryPoint, name: string | undefined): PointDisk {
  const names = point.disks.map((disk) => disk.name);
  const [first, second] = point.disks;
  if (name === undefined) {
    if (first !== undefined && second === undefined) return first;
    throw new ApplianceError('BAD_ARGUMENT', `the point has ${names.length} disks (${names.join(', ')}): name one`, {
      details: { disks: names },
    });
  }
  const found = point.disks.find((disk) => disk.name === name);
  if (found !== undefined) return found;
  throw new ApplianceError('DISK_NOT_FOUND', `the point has no disk ${name}; it has ${names.join(', ')}`, {
    details: { disks: names },
  });
}

/** The disk as it was at the point, read-only. Opening reads nothing. */
export function openPointDevice(repository: Repository, disk: PointDisk): PointDevice {
  return new PointDevice({
    reader: repository.reader,
    chunkBytes: repository.chunkBytes,
    root: keyFromHex(disk.root),
    sizeBytes: disk.sizeBytes,
  });
}

/** All of an attachment. @throws ApplianceError CHUNK_MISSING, OBJECT_NOT_FOUND, REPOSITORY_CORRUPT, IO_FAILED */
export async function readAttachment(repository: Repository, attachment: PointAttachment): Promise<Buffer> {
  const { chunkBytes } = repository;
  if (Math.ceil(attachment.lengthBytes / chunkBytes) !== attachment.chunks.length) {
    throw new ApplianceError('REPOSITORY_CORRUPT', `the attachment ${attachment.name} does not have its length`);
  }
  const bytes = Buffer.alloc(attachment.lengthBytes);
  for (const [index, id] of attachment.chunks.entries()) {
    const at = index * chunkBytes;
    const part = bytes.subarray(at, at + chunkBytes);
    if (!isZeroId(id)) await repository.reader.readChunk(keyFromHex(id), 0, part);
  }
  return bytes;
}

/** The attachment of that name, or undefined when the point has none. Errors as `readAttachment`. */
export async function findAttachment(
  repository: Repository,
  point: RecoveryPoint,
  name: string,
): Promise<Buffer | undefined> {
  const attachment = point.attachments.find((candidate) => candidate.name === name);
  return attachment === undefined ? undefined : readAttachment(repository, attachment);
}

function isZeroId(hex: string): boolean {
  return /^0+$/.test(hex);
}
