// SPDX-License-Identifier: Apache-2.0
import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { ApplianceError, systemErrorCode } from '../core/errors.ts';
import { storageError } from '../core/file-system.ts';
import { CONFIG_KEY } from '../repository/config.ts';
import { DirectoryStore } from '../repository/directory-store.ts';

/** Whether there is a repository in the directory, whole or not. @throws ApplianceError IO_FAILED */
export async function isRepository(directory: string): Promise<boolean> {
  const path = join(directory, CONFIG_KEY);
  try {
    await stat(path);
    return true;
  } catch (error) {
    const code = systemErrorCode(error);
    if (code === 'ENOENT' || code === 'ENOTDIR') return false;
    throw storageError(error, 'look at', path);
  }
}

/**
 * Opens the store of a repository that must be there. An empty directory may be a mount point without its disk: nothing
 * is written below it. @throws ApplianceError REPOSITORY_NOT_FOUND, IO_FAILED
 */
export async function openRepositoryStore(directory: string): Promise<DirectoryStore> {
  if (!(await isRepository(directory))) {
    throw new ApplianceError('REPOSITORY_NOT_FOUND', `there is no repository in ${directory}`, {
      hint: 'Is the disk that holds it mounted? Create a new one with `understudy init`.',
    });
  }
  return DirectoryStore.openExisting(directory);
}
