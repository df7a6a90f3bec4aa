// SPDX-License-Identifier: Apache-2.0
import { randomBytes } from 'node:crypto';
import { constants } from 'node:fs';
import { type FileHandle, open, stat } from 'node:fs/promises';
import { extname, resolve } from 'node:path';
import type { BlockDevice } from '../block/block-device.ts';
import { type CopyOptions, copyDevice } from '../block/copy-device.ts';
import { createFileDevice, openFileDevice } from '../block/file-device.ts';
import { ApplianceError, systemErrorCode } from '../core/errors.ts';
import { storageError } from '../core/file-system.ts';
import { invariant } from '../core/invariant.ts';
import { convertImage, imageInfo } from '../hypervisor/qemu-img.ts';
import { connectNbd } from '../nbd/client/connect.ts';
import type { PointDisk } from '../repository/manifest.ts';
import type { RecoverContext, RecoverParts } from './context.ts';
import { createWholeFile } from './new-file.ts';
import { exportUri } from './point-exports.ts';
import type { RestoredTarget, RestoreFormat } from './restore-request.ts';
import type { StateDisks } from './state-disks.ts';

/** Where a disk goes, as the caller named it. */
export type RestoreTarget =
  | { readonly kind: 'file'; readonly path: string; readonly format: RestoreFormat }
  | { readonly kind: 'block'; readonly path: string }
  | { readonly kind: 'nbd'; readonly uri: string };

export interface DiskRestore {
  readonly parts: RecoverParts;
  /** The state that the disk is of. */
  readonly disks: StateDisks;
  readonly disk: PointDisk;
  readonly target: RestoreTarget;
  readonly context: RecoverContext;
}

const FORMAT_BY_EXTENSION: Readonly<Record<string, RestoreFormat>> = { '.qcow2': 'qcow2', '.vmdk': 'vmdk' };
/** What a disk in an image format is rounded up to. (qemu-img: BDRV_SECTOR_SIZE) */
const SECTOR_BYTES = 512;
const DRAIN_MS = 5_000;

/**
 * Finds out what `to` is. Without a format a file's extension decides (`.qcow2`, `.vmdk`, else raw).
 * @throws ApplianceError BAD_ARGUMENT, IO_FAILED
 */
export async function resolveTarget(to: string, format: RestoreFormat | undefined): Promise<RestoreTarget> {
  const isUri = /^nbds?(\+unix)?:\/\//i.test(to);
  const path = resolve(to);
  if (!isUri && !(await isBlockDevice(path))) {
    return { kind: 'file', path, format: format ?? FORMAT_BY_EXTENSION[extname(path).toLowerCase()] ?? 'raw' };
  }
  if (format !== undefined && format !== 'raw') {
    throw new ApplianceError('BAD_ARGUMENT', `${to} takes the bytes of the disk as they are; ${format} needs a file`);
  }
  return isUri ? { kind: 'nbd', uri: to } : { kind: 'block', path };
}

/**
 * Writes a disk of a state to its target. A file appears under its name only when it is complete and on stable storage;
 * it is never replaced. Block devices and NBD exports are overwritten from the start of the disk's size on, and are
 * undefined after an error.
 * @throws ApplianceError TARGET_EXISTS, TARGET_TOO_SMALL, LOCKED, NO_SPACE, IO_FAILED, ABORTED; TOOL_MISSING, TOOL_FAILED
 *   (other formats than raw); those of NBD; those of the repository when the point is damaged
 */
export async function restoreDisk(restore: DiskRestore): Promise<RestoredTarget> {
  const { target, disk } = restore;
  switch (target.kind) {
    case 'file': {
      const write = target.format === 'raw' ? writeRaw : writeImage;
      const writtenBytes = await createWholeFile(target.path, restore.context.onNotice, (temporary) =>
        write(restore, { path: temporary, format: target.format }),
      );
      return { disk: disk.name, to: target.path, sizeBytes: disk.sizeBytes, writtenBytes };
    }
    case 'block': {
      const writtenBytes = await writeBlockDevice(restore, target.path);
      return { disk: disk.name, to: target.path, sizeBytes: disk.sizeBytes, writtenBytes };
    }
    case 'nbd': {
      await using device = await connectNbd(target.uri, { signal: restore.context.signal });
      const writtenBytes = await copyTo(restore, device, {});
      return { disk: disk.name, to: target.uri, sizeBytes: disk.sizeBytes, writtenBytes };
    }
  }
}

interface NewImage {
  readonly path: string;
  readonly format: RestoreFormat;
}

async function writeRaw(restore: DiskRestore, image: NewImage): Promise<number> {
  const { sizeBytes } = restore.disk;
  await using device = await createFileDevice(image.path, sizeBytes);
  const writtenBytes = await copyTo(restore, device, { isTargetZero: true });
  const found = await stat(image.path);
  invariant(found.size === sizeBytes, 'a raw file is as long as its disk');
  return writtenBytes;
}

/** By qemu-img, which reads the disk from an export of ours. */
async function writeImage(restore: DiskRestore, image: NewImage): Promise<number> {
  const { parts, disks, disk, context } = restore;
  const name = `restore-${randomBytes(8).toString('hex')}`;
  await using device = disks.device(disk);
  parts.nbd.addExport({ name, device, isListed: false });
  try {
    const source = { location: exportUri(parts.nbd.address, name), format: 'raw' };
    await convertImage(
      source,
      { location: image.path, format: image.format },
      {
        signal: context.signal,
        onProgress: (fraction) => report(restore, Math.floor(fraction * disk.sizeBytes)),
      },
    );
  } finally {
    await parts.nbd.removeExport(name, { drainMs: DRAIN_MS });
  }
  const { virtualSizeBytes } = await imageInfo({ location: image.path, format: image.format });
  const expected = Math.ceil(disk.sizeBytes / SECTOR_BYTES) * SECTOR_BYTES;
  if (virtualSizeBytes !== expected) {
    const details = { expected, virtualSizeBytes };
    throw new ApplianceError('TOOL_FAILED', `qemu-img made a disk of ${virtualSizeBytes} bytes`, { details });
  }
  return disk.dataBytes;
}

async function writeBlockDevice(restore: DiskRestore, path: string): Promise<number> {
  // Held while we write: with O_EXCL nobody else has the device mounted or claimed, nor can from now on. (open(2))
  const claim = await claimBlockDevice(path);
  try {
    await using device = await openFileDevice(path, 'read-write');
    return await copyTo(restore, device, {});
  } finally {
    await claim.close();
  }
}

async function claimBlockDevice(path: string): Promise<FileHandle> {
  try {
    return await open(path, constants.O_RDWR + constants.O_EXCL);
  } catch (error) {
    if (systemErrorCode(error) !== 'EBUSY') throw storageError(error, 'open', path);
    throw new ApplianceError('LOCKED', `${path} is in use`, {
      cause: error,
      details: { path },
      hint: 'Unmount it, and take it out of volume groups and arrays, before a disk is restored to it.',
    });
  }
}

/** Copies the disk to a device and settles with the bytes that were written. */
async function copyTo(restore: DiskRestore, target: BlockDevice, options: CopyOptions): Promise<number> {
  const { disks, disk, context } = restore;
  await using source = disks.device(disk);
  const result = await copyDevice(source, target, {
    ...options,
    signal: context.signal,
    onProgress: ({ doneBytes }) => report(restore, doneBytes),
  });
  return result.copiedBytes + result.zeroedBytes;
}

function report({ context, disk }: DiskRestore, done: number): void {
  context.onProgress({ phase: `restoring ${disk.name}`, done, total: disk.sizeBytes, unit: 'bytes' });
}

async function isBlockDevice(path: string): Promise<boolean> {
  try {
    return (await stat(path)).isBlockDevice();
  } catch (error) {
    if (systemErrorCode(error) === 'ENOENT') return false;
    throw storageError(error, 'look at', path);
  }
}
