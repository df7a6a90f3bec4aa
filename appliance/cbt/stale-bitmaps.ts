// SPDX-License-Identifier: Apache-2.0
import { hasCode, toError } from '../core/errors.ts';
import type { LibvirtConnection } from '../hypervisor/libvirt/connection.ts';
import { parseEndpoint } from '../hypervisor/libvirt/endpoint.ts';
import type { Machine } from '../hypervisor/libvirt/inventory.ts';
import { changeBitmap, imageInfo } from '../hypervisor/qemu-img.ts';
import { isOwnCheckpointName } from './checkpoints.ts';
import { localPath } from './plan-disks.ts';

/** A dirty bitmap of ours in an image, which no checkpoint refers to any more. QEMU keeps it up to date with every write. */
export interface StaleBitmap {
  readonly disk: string;
  readonly path: string;
  readonly name: string;
}

export interface StaleBitmapQuery {
  readonly connection: LibvirtConnection;
  readonly machine: Machine;
  readonly repositoryId: string;
}

/**
 * Finds what is left when libvirt forgot a checkpoint and its bitmap stayed: the machine was redefined, an older copy of the
 * image was put back, or the bitmap was broken so that the checkpoint could only be deleted as metadata. Only names that
 * this repository's appliance gives count, and only when no machine of the connection has a checkpoint of that name (two
 * may share an image). Images on other hosts are not looked into.
 * @throws ApplianceError those of libvirt
 */
export async function findStaleBitmaps(query: StaleBitmapQuery): Promise<StaleBitmap[]> {
  const { connection, machine, repositoryId } = query;
  if (parseEndpoint(connection.uri).kind !== 'local') return [];
  const found: StaleBitmap[] = [];
  for (const disk of machine.disks) {
    const path = localPath(disk.source);
    if (path === undefined || disk.format !== 'qcow2' || disk.protection.kind === 'none') continue;
    const names = await bitmapsIn(path);
    for (const name of names)
      if (isOwnCheckpointName(name, repositoryId)) found.push({ disk: disk.target, path, name });
  }
  if (found.length === 0) return [];
  const known = await allCheckpoints(connection);
  return found.filter(({ name }) => !known.has(name));
}

/**
 * Removes them from the images of a shut-off machine; qemu-img takes the lock of the image, and is refused when anybody has
 * it open. Settles with sentences about what was done and what could not be.
 */
export async function removeStaleBitmaps(query: StaleBitmapQuery): Promise<string[]> {
  const sentences: string[] = [];
  for (const { disk, path, name } of await findStaleBitmaps(query)) {
    try {
      await changeBitmap(path, { action: 'remove', name });
      sentences.push(`the dirty bitmap ${name} of ${disk}, to which no checkpoint refers, was removed from the image`);
    } catch (error) {
      sentences.push(`the stale dirty bitmap ${name} of ${disk} could not be removed: ${toError(error).message}`);
    }
  }
  return sentences;
}

/** What `machine show` says of them. */
export function describeStaleBitmaps(stale: readonly StaleBitmap[]): string[] {
  return [...Map.groupBy(stale, ({ disk }) => disk)].map(
    ([disk, bitmaps]) =>
      `${disk}: no checkpoint refers to ${bitmaps.map(({ name }) => name).join(', ')}; ` +
      'the next backup while the machine is shut off removes such dirty bitmaps',
  );
}

/** An image that cannot be looked into has none, as far as anybody can tell. */
async function bitmapsIn(location: string): Promise<string[]> {
  try {
    return (await imageInfo({ location, format: 'qcow2' }, { isShared: true })).bitmaps.map(({ name }) => name);
  } catch (error) {
    if (hasCode(error, 'TOOL_FAILED', 'TOOL_MISSING', 'TIMED_OUT')) return [];
    throw error;
  }
}

async function allCheckpoints(connection: LibvirtConnection): Promise<Set<string>> {
  const names = new Set<string>();
  for (const { domain } of await connection.domains()) {
    try {
      for (const { name } of await domain.checkpoints()) names.add(name);
    } catch (error) {
      if (!hasCode(error, 'DOMAIN_NOT_FOUND')) throw error;
    }
  }
  return names;
}
