// SPDX-License-Identifier: Apache-2.0
import { lstat, readdir, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { temporaryPath } from '../core/durable-file.ts';
import { hasCode, systemErrorCode } from '../core/errors.ts';
import { FileLock } from '../core/file-lock.ts';
import { storageError } from '../core/file-system.ts';

/** `.temporary-…` with this behind it is a file that is locked for as long as the process that writes the other one lives. */
const OWNER_SUFFIX = '.owner';
const WRITABLE_BY_OTHERS = 0o022;
/** Only the owner of a file can remove or rename it there. */
const STICKY = 0o1000;
const OWNER_NAME = /^(\.temporary-[0-9a-f]{16})\.owner$/;

/** A name for a file that is being written, with a file beside it that says that somebody does. */
export class UnfinishedFile implements AsyncDisposable {
  readonly path: string;
  readonly #owner: FileLock;

  private constructor(path: string, owner: FileLock) {
    this.path = path;
    this.#owner = owner;
  }

  /** The file itself is not made. @throws ApplianceError IO_FAILED, NO_SPACE */
  static async reserve(directory: string): Promise<UnfinishedFile> {
    for (;;) {
      const path = temporaryPath(directory);
      const owner = await tryLock(path + OWNER_SUFFIX);
      // Between its making and its locking somebody who tidies up can have taken it for a dead one.
      if (owner !== undefined && (await exists(owner.path))) return new UnfinishedFile(path, owner);
      await owner?.release();
    }
  }

  /** Removes whatever is still there under both names. */
  async [Symbol.asyncDispose](): Promise<void> {
    await rm(this.path, { force: true });
    await rm(this.#owner.path, { force: true });
    await this.#owner.release();
  }
}

/**
 * Removes unfinished files whose writers are dead, which the kernel tells: it gives up a lock with its process. Settles with
 * their paths. Only files of this user, and only where nobody else could put another file, or a link, in the place of one.
 * @throws ApplianceError IO_FAILED
 */
export async function removeDeadFiles(directory: string): Promise<string[]> {
  const removed: string[] = [];
  if (!(await isOursToTidy(directory))) return removed;
  for (const name of await namesIn(directory)) {
    const unfinished = OWNER_NAME.exec(name)?.[1];
    if (unfinished === undefined || !(await isOwnFile(join(directory, name)))) continue;
    const owner = await tryLock(join(directory, name));
    if (owner === undefined) continue;
    try {
      const path = join(directory, unfinished);
      if (await exists(path)) removed.push(path);
      await rm(path, { force: true });
      await rm(owner.path, { force: true });
    } catch (error) {
      throw storageError(error, 'remove', owner.path);
    } finally {
      await owner.release();
    }
  }
  return removed;
}

/** Undefined when somebody has it. */
async function tryLock(path: string): Promise<FileLock | undefined> {
  try {
    return await FileLock.acquire(path);
  } catch (error) {
    if (hasCode(error, 'LOCKED')) return undefined;
    throw error;
  }
}

async function exists(path: string): Promise<boolean> {
  try {
    await stat(path);
    return true;
  } catch (error) {
    if (systemErrorCode(error) === 'ENOENT') return false;
    throw storageError(error, 'look at', path);
  }
}

async function isOursToTidy(directory: string): Promise<boolean> {
  try {
    const { uid, mode } = await stat(directory);
    return (uid === 0 || uid === process.getuid?.()) && ((mode & WRITABLE_BY_OTHERS) === 0 || (mode & STICKY) !== 0);
  } catch (error) {
    throw storageError(error, 'look at', directory);
  }
}

async function isOwnFile(path: string): Promise<boolean> {
  try {
    const found = await lstat(path);
    return found.isFile() && found.nlink === 1 && found.uid === process.getuid?.();
  } catch (error) {
    if (systemErrorCode(error) === 'ENOENT') return false;
    throw storageError(error, 'look at', path);
  }
}

async function namesIn(directory: string): Promise<string[]> {
  try {
    return await readdir(directory);
  } catch (error) {
    throw storageError(error, 'list', directory);
  }
}
