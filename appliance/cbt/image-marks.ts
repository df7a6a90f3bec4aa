// SPDX-License-Identifier: Apache-2.0
import { stat } from 'node:fs/promises';
import { systemErrorCode } from '../core/errors.ts';
import { storageError } from '../core/file-system.ts';
import type { Machine } from '../hypervisor/libvirt/inventory.ts';
import { localPath } from './plan-disks.ts';

/**
 * What shows that an image file was not touched since: inode, size, and the times of the last change of content and of
 * anything else, which nobody can set back. As text, by disk in the order of the machine.
 *
 * A point of a shut-off machine leaves no checkpoint of its own, and the bitmap that it continued from does not know of
 * it. Were an older copy of the image put back afterwards, that bitmap would be there, and wrong.
 * @throws ApplianceError IO_FAILED
 */
export async function imageMarks(machine: Machine): Promise<string> {
  const marks: string[] = [];
  for (const disk of machine.disks) {
    const path = disk.protection.kind === 'none' ? undefined : localPath(disk.source);
    if (path !== undefined) marks.push(`${disk.target}=${await markOf(path)}`);
  }
  return marks.join(' ');
}

async function markOf(path: string): Promise<string> {
  try {
    const { ino, size, mtimeNs, ctimeNs } = await stat(path, { bigint: true });
    return [ino, size, mtimeNs, ctimeNs].join('-');
  } catch (error) {
    if (systemErrorCode(error) === 'ENOENT' || systemErrorCode(error) === 'EACCES') return 'unknown';
    throw storageError(error, 'look at', path);
  }
}
