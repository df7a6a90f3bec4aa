// SPDX-License-Identifier: Apache-2.0
import { chown, copyFile, link, stat } from 'node:fs/promises';
import { dirname } from 'node:path';
import { syncDirectory } from '../core/durable-file.ts';
import { isSystemError, storageError } from '../core/file-system.ts';
import { createWholeFile } from './new-file.ts';

/**
 * Gives the variables of the firmware, which a running machine writes, a second name outside of the session: the same
 * file, so that nothing that the firmware writes is lost. On another file system it is a copy of now. Nothing happens
 * when that was done before. Settles with a sentence. @throws ApplianceError IO_FAILED, NO_SPACE
 */
export async function moveNvram(
  from: string,
  to: string,
  onNotice: (sentence: string) => void,
): Promise<string | undefined> {
  if (await isThere(to)) return `The firmware's variables are in ${to}.`;
  try {
    await link(from, to);
    await syncDirectory(dirname(to));
    return `The firmware's variables are in ${to}.`;
  } catch (error) {
    if (!isSystemError(error, 'EXDEV', 'EPERM', 'EMLINK', 'ENOTSUP', 'EOPNOTSUPP'))
      throw storageError(error, 'link', to);
  }
  const { uid, gid } = await stat(from);
  await createWholeFile(to, onNotice, async (temporary) => {
    await copyFile(from, temporary);
    if (process.getuid?.() === 0) await chown(temporary, uid, gid);
  });
  return `The firmware's variables of now are in ${to}; what the firmware changes before the machine is shut off is lost.`;
}

export async function isThere(path: string): Promise<boolean> {
  try {
    await stat(path);
    return true;
  } catch (error) {
    if (isSystemError(error, 'ENOENT')) return false;
    throw storageError(error, 'look at', path);
  }
}
