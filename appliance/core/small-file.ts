// SPDX-License-Identifier: Apache-2.0
import { ApplianceError } from './errors.ts';
import { type FileSystem, readExactly, realFileSystem, storageError } from './file-system.ts';

/** Most bytes of a small file, when nothing else is said. */
const MAX_SMALL_FILE_BYTES: number = 16 * 1024 * 1024;

/**
 * All of a file that `writeDurably` wrote, or undefined when there is none of that name.
 * @throws ApplianceError IO_FAILED, also for a file that is larger than `maxBytes`
 */
export async function readSmallFile(
  path: string,
  options: { readonly maxBytes?: number; readonly fileSystem?: FileSystem } = {},
): Promise<Buffer | undefined> {
  const { maxBytes = MAX_SMALL_FILE_BYTES, fileSystem = realFileSystem } = options;
  try {
    const found = await fileSystem.stat(path);
    if (found === undefined) return undefined;
    const file = await fileSystem.open(path, 'read');
    try {
      // Of the open file: the name may have another one since the look at it.
      const sizeBytes = await file.sizeBytes();
      if (sizeBytes > maxBytes) {
        const details = { path, sizeBytes, maxBytes };
        throw new ApplianceError('IO_FAILED', `${path} has ${sizeBytes} bytes; ${maxBytes} are the limit`, { details });
      }
      const bytes = Buffer.alloc(sizeBytes);
      await readExactly(file, bytes, 0, path);
      return bytes;
    } finally {
      await file.close();
    }
  } catch (error) {
    throw storageError(error, 'read', path);
  }
}
