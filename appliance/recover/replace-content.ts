// SPDX-License-Identifier: Apache-2.0
import { chown, readFile, stat } from 'node:fs/promises';
import { writeDurably } from '../core/durable-file.ts';
import { systemErrorCode } from '../core/errors.ts';
import { storageError } from '../core/file-system.ts';

/**
 * Gives a small file new content, with its mode, and its owner when we may (libvirt sets it at the next start anyway).
 * A file that is not there is created. False when it has that content already. @throws ApplianceError NO_SPACE, IO_FAILED
 */
export async function replaceContent(path: string, bytes: Buffer): Promise<boolean> {
  try {
    const before = await attributesOf(path);
    if (before !== undefined && (await readFile(path)).equals(bytes)) return false;
    await writeDurably(path, bytes, { mode: before?.mode ?? 0o600 });
    if (before !== undefined && process.getuid?.() === 0) await chown(path, before.uid, before.gid);
    return true;
  } catch (error) {
    throw storageError(error, 'replace the content of', path);
  }
}

async function attributesOf(path: string): Promise<{ mode: number; uid: number; gid: number } | undefined> {
  try {
    const { mode, uid, gid } = await stat(path);
    return { mode: mode % 0o1000, uid, gid };
  } catch (error) {
    if (systemErrorCode(error) === 'ENOENT') return undefined;
    throw error;
  }
}
