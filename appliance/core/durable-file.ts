// SPDX-License-Identifier: Apache-2.0
import { randomBytes } from 'node:crypto';
import { basename, dirname, join } from 'node:path';
import { ApplianceError, systemErrorCode } from './errors.ts';
import { type FileSystem, realFileSystem, storageError } from './file-system.ts';

export interface DurableWriteOptions {
  /** Permissions of the file, before the umask; default 0o600. */
  readonly mode?: number;
  /** Put if absent: OBJECT_EXISTS, with nothing changed, when the name is taken. */
  readonly ifAbsent?: boolean;
  readonly fileSystem?: FileSystem;
}

/** Names of unfinished files; nothing else in a state directory or repository may be called so. */
const TEMPORARY_NAME = /^\.temporary-[0-9a-f]{16}$/;

/**
 * Writes a small file so that after a crash at any moment the name holds its old content or all of the new one. Steps:
 * temporary file in the same directory, write, fdatasync, rename (or link and unlink with `ifAbsent`), sync of the
 * directory. Settles when content and name are durable. After an error the old state holds, except that a failure after
 * the rename or link leaves the new content visible but perhaps not durable.
 *
 * Errors: OBJECT_EXISTS (`ifAbsent`; the object that is there is durable), NO_SPACE, IO_FAILED with `details.path`.
 */
export async function writeDurably(
  path: string,
  data: Uint8Array | string | readonly Buffer[],
  options: DurableWriteOptions = {},
): Promise<void> {
  const fileSystem = options.fileSystem ?? realFileSystem;
  const temporary = temporaryPath(dirname(path));
  try {
    await writeAndSync(fileSystem, { path: temporary, mode: options.mode ?? 0o600 }, toParts(data));
    if (options.ifAbsent === true) await fileSystem.link(temporary, path);
    else await fileSystem.rename(temporary, path);
  } catch (error) {
    await removeIfThere(fileSystem, temporary, error);
    if (options.ifAbsent === true && systemErrorCode(error) === 'EEXIST')
      throw await alreadyThere(fileSystem, path, error);
    throw storageError(error, 'write', path);
  }
  if (options.ifAbsent === true) await removeIfThere(fileSystem, temporary, undefined);
  await syncDirectory(dirname(path), fileSystem);
}

/** A fresh name for an unfinished file in `directory`; `removeStaleTemporaries` finds it when it is left behind. */
export function temporaryPath(directory: string): string {
  return join(directory, `.temporary-${randomBytes(8).toString('hex')}`);
}

/** True for names that `temporaryPath` makes. */
export function isTemporaryName(name: string): boolean {
  return TEMPORARY_NAME.test(basename(name));
}

/** Renames a file that was synced before, replacing what is there, and syncs both directories. NO_SPACE, IO_FAILED. */
export async function renameDurably(from: string, to: string, fileSystem: FileSystem = realFileSystem): Promise<void> {
  try {
    await fileSystem.rename(from, to);
  } catch (error) {
    throw storageError(error, 'rename', from);
  }
  await syncDirectory(dirname(to), fileSystem);
  if (dirname(from) !== dirname(to)) await syncDirectory(dirname(from), fileSystem);
}

/**
 * Gives a file that was synced before a second, final name, only if that name is free (OBJECT_EXISTS otherwise, nothing
 * changed), removes the first one, and syncs both directories. NO_SPACE, IO_FAILED.
 */
export async function publishDurably(from: string, to: string, fileSystem: FileSystem = realFileSystem): Promise<void> {
  try {
    await fileSystem.link(from, to);
  } catch (error) {
    if (systemErrorCode(error) === 'EEXIST') throw await alreadyThere(fileSystem, to, error);
    throw storageError(error, 'create', to);
  }
  await removeIfThere(fileSystem, from, undefined);
  await syncDirectory(dirname(to), fileSystem);
  if (dirname(from) !== dirname(to)) await syncDirectory(dirname(from), fileSystem);
}

/** Makes the names in a directory durable: IO_FAILED when that fails. */
export async function syncDirectory(path: string, fileSystem: FileSystem = realFileSystem): Promise<void> {
  try {
    await fileSystem.syncDirectory(path);
  } catch (error) {
    throw storageError(error, 'sync the directory', path);
  }
}

/** Creates the directory and its missing parents, each durable in its own parent. IO_FAILED, NO_SPACE. */
export async function makeDirectoryDurably(path: string, fileSystem: FileSystem = realFileSystem): Promise<void> {
  try {
    const found = await fileSystem.stat(path);
    if (found?.kind === 'directory') return await syncParentOfExisting(path, fileSystem);
    if (dirname(path) !== path) await makeDirectoryDurably(dirname(path), fileSystem);
    await fileSystem.makeDirectory(path);
  } catch (error) {
    if (systemErrorCode(error) !== 'EEXIST' || (await fileSystem.stat(path))?.kind !== 'directory') {
      throw storageError(error, 'create the directory', path);
    }
  }
  await syncDirectory(dirname(path), fileSystem);
}

/**
 * A process that was killed may have made the directory without syncing its parent. A parent that we may not even open
 * is not one in which we made it.
 */
async function syncParentOfExisting(path: string, fileSystem: FileSystem): Promise<void> {
  try {
    await fileSystem.syncDirectory(dirname(path));
  } catch (error) {
    if (systemErrorCode(error) !== 'EACCES') throw error;
  }
}

/**
 * Removes unfinished files that a crash left in `directory`; settles with their count. Only for the one process that
 * holds the lock on the directory: a running `writeDurably` would lose its file.
 */
export async function removeStaleTemporaries(
  directory: string,
  fileSystem: FileSystem = realFileSystem,
): Promise<number> {
  let removed = 0;
  try {
    for (const entry of await fileSystem.readDirectory(directory)) {
      if (!isTemporaryName(entry.name) || entry.kind === 'directory') continue;
      await fileSystem.unlink(join(directory, entry.name));
      removed += 1;
    }
  } catch (error) {
    throw storageError(error, 'remove unfinished files in', directory);
  }
  return removed;
}

async function writeAndSync(
  fileSystem: FileSystem,
  target: { readonly path: string; readonly mode: number },
  parts: readonly Buffer[],
): Promise<void> {
  const file = await fileSystem.open(target.path, 'create', target.mode);
  try {
    await file.write(parts, 0);
    await file.syncData();
  } finally {
    await file.close();
  }
}

/** Removes a temporary file; when that fails beside another error, the other error is the one to report. */
async function removeIfThere(fileSystem: FileSystem, path: string, because: unknown): Promise<void> {
  try {
    await fileSystem.unlink(path);
  } catch (error) {
    if (because === undefined && systemErrorCode(error) !== 'ENOENT') throw storageError(error, 'remove', path);
  }
}

/** Who puts the same object twice goes on with the first one, so its name must be durable before we say that it is there. */
async function alreadyThere(fileSystem: FileSystem, path: string, cause: unknown): Promise<ApplianceError> {
  await syncDirectory(dirname(path), fileSystem);
  return new ApplianceError('OBJECT_EXISTS', `${path} exists already`, { cause, details: { path } });
}

function toParts(data: Uint8Array | string | readonly Buffer[]): readonly Buffer[] {
  if (typeof data === 'string') return [Buffer.from(data, 'utf8')];
  if (!(data instanceof Uint8Array)) return data;
  return [Buffer.from(data.buffer, data.byteOffset, data.byteLength)];
}
