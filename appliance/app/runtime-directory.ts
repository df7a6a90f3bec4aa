// SPDX-License-Identifier: Apache-2.0
import { lstat, mkdir } from 'node:fs/promises';
import { ApplianceError } from '../core/errors.ts';
import { storageError } from '../core/file-system.ts';

/** QEMU may run as another user: it must be able to pass through, and no more. */
export const PASS_THROUGH_MODE = 0o711;
const WRITABLE_BY_OTHERS = 0o022;

/**
 * Makes the directory of the sockets, or takes the one that is there. It may lie in `/tmp`, where anybody can have made it
 * first: whoever owns it, or may write to it, could put a socket of their own in the place of ours and serve machines what
 * they like. @throws ApplianceError IO_FAILED
 */
export async function prepareRuntimeDirectory(path: string): Promise<string> {
  try {
    await mkdir(path, { recursive: true, mode: PASS_THROUGH_MODE });
    const { uid, mode, isDirectory } = await look(path);
    const doubt = !isDirectory
      ? 'is not a directory'
      : uid !== process.getuid?.()
        ? `belongs to user ${uid}`
        : (mode & WRITABLE_BY_OTHERS) !== 0
          ? 'can be written by others'
          : undefined;
    if (doubt === undefined) return path;
    throw new ApplianceError('IO_FAILED', `the directory ${path} is not safe for sockets: it ${doubt}`, {
      details: { path, uid, mode: mode % 0o10000 },
      hint: 'Remove it, or use a state directory with a shorter path.',
    });
  } catch (error) {
    throw storageError(error, 'create the directory', path);
  }
}

/** A symbolic link counts as what it is. */
async function look(path: string): Promise<{ uid: number; mode: number; isDirectory: boolean }> {
  const found = await lstat(path);
  return { uid: found.uid, mode: found.mode, isDirectory: found.isDirectory() };
}
