// SPDX-License-Identifier: Apache-2.0
import { lstat, open, stat } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import { publishDurably, renameDurably } from '../core/durable-file.ts';
import { ApplianceError, hasCode, systemErrorCode, toError } from '../core/errors.ts';
import { isSystemError, storageError } from '../core/file-system.ts';
import { removeDeadFiles, UnfinishedFile } from './unfinished-file.ts';

/** File systems without hard links answer one of these to link(2). */
const NO_LINKS = ['EPERM', 'EOPNOTSUPP', 'ENOTSUP', 'ENOSYS', 'EMLINK'] as const;

/**
 * Makes a file that is complete or not there: `write` fills a file of a temporary name (`.temporary-…`) in the same
 * directory, which gets its name when its content is on stable storage. A file of that name is never replaced. After an
 * error nothing is left; a process that is killed leaves the temporary file, which the next one removes that makes a file
 * in the directory, and says so.
 * @throws ApplianceError TARGET_EXISTS, NO_SPACE, IO_FAILED, and whatever `write` throws
 */
export async function createWholeFile<T>(
  path: string,
  onNotice: (sentence: string) => void,
  write: (temporary: string) => Promise<T>,
): Promise<T> {
  const target = resolve(path);
  await checkAbsent(target);
  await tidyUp(dirname(target), onNotice);
  await using unfinished = await UnfinishedFile.reserve(dirname(target));
  try {
    const result = await write(unfinished.path);
    await syncFile(unfinished.path);
    await publish(unfinished.path, target);
    return result;
  } catch (error) {
    throw hasCode(error, 'OBJECT_EXISTS') ? targetExists(target, error) : storageError(error, 'write', target);
  }
}

/** What cannot be tidied up is not in the way of a new file. */
async function tidyUp(directory: string, onNotice: (sentence: string) => void): Promise<void> {
  try {
    for (const path of await removeDeadFiles(directory)) {
      onNotice(`${path} was removed: a restore that was killed had left it unfinished`);
    }
  } catch (error) {
    onNotice(`what killed restores may have left in ${directory} stays: ${toError(error).message}`);
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
