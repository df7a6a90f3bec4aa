// SPDX-License-Identifier: Apache-2.0
import { lstat, open, rm, stat } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import { publishDurably, renameDurably, temporaryPath } from '../core/durable-file.ts';
import { ApplianceError, hasCode, systemErrorCode } from '../core/errors.ts';
import { isSystemError, storageError } from '../core/file-system.ts';

/** File systems without hard links answer one of these to link(2). */
const NO_LINKS = ['EPERM', 'EOPNOTSUPP', 'ENOTSUP', 'ENOSYS', 'EMLINK'] as const;

/**
 * Makes a file that is complete or not there: `write` fills a file of a temporary name (`.temporary-…`) in the same
 * directory, which gets its name when its content is on stable storage. A file of that name is never replaced. After an
 * error nothing is left; a process that is killed leaves the temporary file.
 * @throws ApplianceError TARGET_EXISTS, NO_SPACE, IO_FAILED, and whatever `write` throws
 */
export async function createWholeFile<T>(path: string, write: (temporary: string) => Promise<T>): Promise<T> {
  const target = resolve(path);
  await checkAbsent(target);
  const temporary = temporaryPath(dirname(target));
  try {
    const result = await write(temporary);
    await syncFile(temporary);
    await publish(temporary, target);
    return result;
  } catch (error) {
    await rm(temporary, { force: true });
    throw hasCode(error, 'OBJECT_EXISTS') ? targetExists(target, error) : storageError(error, 'write', target);
  }
}

/** @throws ApplianceError TARGET_EXISTS; IO_FAILED when the directory is not there or cannot be looked at */
export async function checkAbsent(path: string): Promise<void> {
  try {
    await stat(dirname(path));
    await lstat(path);
  } catch (error) {
    if (systemErrorCode(error) === 'ENOENT' && (await isDirectory(dirname(path)))) return;
    throw storageError(error, 'restore to', path);
  }
  throw targetExists(path);
}

async function isDirectory(path: string): Promise<boolean> {
  return stat(path).then(
    (found) => found.isDirectory(),
    () => false,
  );
}

async function publish(temporary: string, target: string): Promise<void> {
  try {
    await publishDurably(temporary, target);
  } catch (error) {
    if (!isSystemError(error, ...NO_LINKS)) throw error;
    // Without links the name is looked at once more; between that and the rename somebody else could take it.
    await checkAbsent(target);
    await renameDurably(temporary, target);
  }
}

/** fsync(2), also for what other processes wrote to the file. */
async function syncFile(path: string): Promise<void> {
  const file = await open(path, 'r+');
  try {
    await file.sync();
  } catch (error) {
    throw storageError(error, 'sync', path);
  } finally {
    await file.close();
  }
}

function targetExists(path: string, cause?: unknown): ApplianceError {
  return new ApplianceError('TARGET_EXISTS', `${path} exists already`, {
    cause,
    details: { path },
    hint: 'A restore never replaces a file. Choose another name, or remove the file first.',
  });
}
