// SPDX-License-Identifier: Apache-2.0
import { chmod, chown, rm, stat, statfs } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { syncDirectory } from '../core/durable-file.ts';
import { ApplianceError, hasCode, systemErrorCode } from '../core/errors.ts';
import { storageError } from '../core/file-system.ts';
import type { LibvirtConnection } from '../hypervisor/libvirt/connection.ts';
import type { StoragePool } from '../hypervisor/libvirt/protocol.ts';
import { isForeign, letQemuReach } from '../hypervisor/libvirt/qemu-access.ts';
import type { QemuOwner } from '../hypervisor/libvirt/qemu-owner.ts';
import { element, formatXml } from '../hypervisor/libvirt/xml.ts';
import { createImage } from '../hypervisor/qemu-img.ts';
import type { MigrationPlace, MigrationTarget } from './migration-record.ts';
import { checkAbsent, createWholeFile } from './new-file.ts';
import { removeDeadFiles } from './unfinished-file.ts';

export interface PlaceAccess {
  readonly place: MigrationPlace;
  readonly connection: LibvirtConnection;
  readonly owner: QemuOwner | undefined;
  readonly onNotice: (sentence: string) => void;
}

/** What a disk needs now, and how large it may grow. */
export interface DiskNeed {
  readonly target: MigrationTarget;
  readonly dataBytes: number;
}

/** Pools whose volumes are files, so that they can be sparse and of any format. */
const FILE_POOLS: readonly string[] = ['dir', 'fs', 'netfs'];
/** Of qcow2: tables of 8 bytes (and reference counts of 2) for each 64 KiB, and what is there from the start. */
const TABLE_SHARE = 4096;
const IMAGE_OVERHEAD_BYTES: number = 1024 * 1024;
const PRIVATE_MODE = 0o600;

/**
 * Refuses a place that the disks cannot be moved to: names that are taken, too little room for what they hold now, a
 * directory that QEMU cannot enter. Settles with what the operator should know.
 * @throws ApplianceError TARGET_EXISTS, NO_SPACE, QEMU_ACCESS, VOLUME_NOT_FOUND, NOT_SUPPORTED, IO_FAILED
 */
export async function checkPlace(access: PlaceAccess, needs: readonly DiskNeed[]): Promise<string[]> {
  const { place, connection, owner } = access;
  const pool = place.kind === 'pool' ? await findPool(connection, place.name) : undefined;
  for (const { target } of needs) {
    if (place.kind === 'pool') await checkNoVolume(connection, place.name, target.name);
    else await checkAbsent(join(place.path, target.name));
  }
  if (place.kind === 'directory') {
    await letQemuReach({ owner, ownDirectories: [], paths: needs.map(({ target }) => join(place.path, target.name)) });
  }
  const availableBytes = pool?.availableBytes ?? (await freeBytesOf(access));
  const neededBytes = needs.reduce((sum, { target, dataBytes }) => sum + dataBytes + overheadOf(target), 0);
  if (availableBytes < neededBytes) {
    const missingBytes = neededBytes - availableBytes;
    throw new ApplianceError(
      'NO_SPACE',
      `${placeWords(place)} has ${availableBytes} bytes free; the disks need ${neededBytes}, ${missingBytes} more`,
      { details: { availableBytes, neededBytes, missingBytes }, hint: 'Free space there, or choose another place.' },
    );
  }
  const fullBytes = needs.reduce((sum, { target }) => sum + target.sizeBytes, 0);
  if (availableBytes >= fullBytes) return [];
  return [`${placeWords(place)} has room for what the disks hold now, not for all that they may hold.`];
}

/** Bytes that the place can still take. @throws ApplianceError VOLUME_NOT_FOUND, IO_FAILED */
export async function freeBytesOf({ place, connection }: PlaceAccess): Promise<number> {
  if (place.kind === 'pool') return (await findPool(connection, place.name)).availableBytes;
  try {
    const { bavail, bsize } = await statfs(place.path);
    return bavail * bsize;
  } catch (error) {
    throw storageError(error, 'look at', place.path);
  }
}

/**
 * Makes the storage of one disk, empty, for QEMU's user, never in the place of anything. `onMade` stores what was made
 * before it gets its name, or, of a volume, right after.
 * @throws ApplianceError TARGET_EXISTS, NO_SPACE, TOOL_MISSING, TOOL_FAILED, IO_FAILED, those of libvirt
 */
export async function makeTarget(
  access: PlaceAccess,
  target: MigrationTarget,
  onMade: (target: MigrationTarget) => Promise<void>,
): Promise<MigrationTarget> {
  const { place, connection, owner } = access;
  if (place.kind === 'pool') {
    const { path } = await connection.createVolume(place.name, volumeXml(target, owner));
    const made = { ...target, path, ...(await inodeOf(path)) };
    await onMade(made);
    return made;
  }
  const path = join(place.path, target.name);
  return await createWholeFile(path, access.onNotice, async (temporary) => {
    await createImage({ location: temporary, format: target.format }, { sizeBytes: target.sizeBytes });
    await chmod(temporary, PRIVATE_MODE);
    if (isForeign(owner) && process.getuid?.() === 0) await chown(temporary, owner.uid, owner.gid);
    const made = { ...target, path, ...(await inodeOf(temporary)) };
    await onMade(made);
    return made;
  });
}

/**
 * Removes what was made for a disk, if it is still what we made; a sentence about what is left, if anything may be.
 * @throws ApplianceError IO_FAILED, those of libvirt
 */
export async function removeTarget(access: PlaceAccess, target: MigrationTarget): Promise<string | undefined> {
  const { place, connection } = access;
  const { path, inode } = target;
  if (place.kind === 'directory') {
    await removeDeadFiles(place.path);
    if (path === undefined || inode === undefined || (await inodeOf(path)).inode !== inode) return undefined;
    await removeFile(path);
    return undefined;
  }
  if (path === undefined) return await nameVolume(connection, place.name, target.name);
  if (inode !== undefined && (await inodeOf(path)).inode !== inode) return undefined;
  try {
    await connection.deleteVolume(place.name, target.name);
  } catch (error) {
    if (!hasCode(error, 'VOLUME_NOT_FOUND')) throw error;
  }
  return undefined;
}

export function placeWords(place: MigrationPlace): string {
  return place.kind === 'pool' ? `the pool ${place.name}` : place.path;
}

async function findPool(connection: LibvirtConnection, name: string): Promise<StoragePool> {
  const pool = await connection.storagePool(name);
  if (FILE_POOLS.includes(pool.type)) return pool;
  throw new ApplianceError('NOT_SUPPORTED', `${name} is a pool of the type ${pool.type}, whose volumes are not files`, {
    hint: `Choose a pool of one of the types ${FILE_POOLS.join(', ')}, or a directory with --dir.`,
  });
}

async function checkNoVolume(connection: LibvirtConnection, pool: string, volume: string): Promise<void> {
  try {
    await connection.storageVolume(pool, volume);
  } catch (error) {
    if (hasCode(error, 'VOLUME_NOT_FOUND')) return;
    throw error;
  }
  throw new ApplianceError('TARGET_EXISTS', `the pool ${pool} has a volume ${volume} already`);
}

/** Between the making of a volume and its record a crash leaves it unknown whose it is: it is named, not removed. */
async function nameVolume(connection: LibvirtConnection, pool: string, volume: string): Promise<string | undefined> {
  try {
    await connection.storageVolume(pool, volume);
    return `The volume ${volume} of the pool ${pool} may be a leftover of an interrupted migration.`;
  } catch (error) {
    if (hasCode(error, 'VOLUME_NOT_FOUND')) return undefined;
    throw error;
  }
}

function volumeXml(target: MigrationTarget, owner: QemuOwner | undefined): string {
  const permissions = isForeign(owner)
    ? [
        element('permissions', {}, [
          element('mode', {}, ['0600']),
          element('owner', {}, [String(owner.uid)]),
          element('group', {}, [String(owner.gid)]),
        ]),
      ]
    : [];
  const compat = target.format === 'qcow2' ? [element('compat', {}, ['1.1'])] : [];
  const storage = [element('format', { type: target.format }), ...permissions, ...compat];
  return formatXml(
    element('volume', {}, [
      element('name', {}, [target.name]),
      element('capacity', { unit: 'bytes' }, [String(target.sizeBytes)]),
      element('allocation', { unit: 'bytes' }, ['0']),
      element('target', {}, storage),
    ]),
  );
}

function overheadOf({ format, sizeBytes }: MigrationTarget): number {
  return IMAGE_OVERHEAD_BYTES + (format === 'qcow2' ? Math.ceil(sizeBytes / TABLE_SHARE) : 0);
}

/** Empty when there is no such file, or none that we may look at. */
async function inodeOf(path: string): Promise<{ inode?: string }> {
  try {
    const { dev, ino } = await stat(path, { bigint: true });
    return { inode: `${dev}:${ino}` };
  } catch (error) {
    if (systemErrorCode(error) === 'ENOENT' || systemErrorCode(error) === 'EACCES') return {};
    throw storageError(error, 'look at', path);
  }
}

async function removeFile(path: string): Promise<void> {
  try {
    await rm(path, { force: true });
  } catch (error) {
    throw storageError(error, 'remove', path);
  }
  await syncDirectory(dirname(path));
}
