// SPDX-License-Identifier: Apache-2.0
import { ApplianceError, systemErrorCode } from './errors.ts';
import { type OpenFile, realFileSystem, storageError } from './file-system.ts';
import { lockExclusively } from './libc.ts';

/** The holder's process id and a line feed; longer content was not written by us. */
const MAX_HOLDER_BYTES = 32;

/**
 * An exclusive lock on a file. The kernel releases it when the process ends, however it ends (flock(2): the lock belongs
 * to the open file description), so there is no stale lock. The file stays in place after release, with the process id
 * of its last holder in it: that is for messages only and decides nothing.
 */
export class FileLock implements AsyncDisposable {
  readonly path: string;
  private readonly file: OpenFile;

  private constructor(path: string, file: OpenFile) {
    this.path = path;
    this.file = file;
  }

  /**
   * Takes the lock or throws LOCKED at once, with `details.pid` of the holder when the file tells it. The file is
   * created when missing; its directory must exist. Also a second lock in this process is refused. IO_FAILED, NO_SPACE.
   */
  static async acquire(path: string): Promise<FileLock> {
    const file = await openLockFile(path);
    try {
      lockExclusively(file.fd);
      await file.truncate(0);
      await file.write(Buffer.from(`${process.pid}\n`), 0);
      return new FileLock(path, file);
    } catch (error) {
      const refused = systemErrorCode(error) === 'EAGAIN' ? await refusal(path, file) : undefined;
      await file.close();
      throw refused ?? storageError(error, 'lock', path);
    }
  }

  /** Gives the lock back; idempotent. */
  async release(): Promise<void> {
    await this.file.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.release();
  }
}

async function openLockFile(path: string): Promise<OpenFile> {
  try {
    return await realFileSystem.open(path, 'update-or-create');
  } catch (error) {
    throw storageError(error, 'open the lock file', path);
  }
}

async function refusal(path: string, file: OpenFile): Promise<ApplianceError> {
  const content = Buffer.alloc(MAX_HOLDER_BYTES);
  const length = await file.read(content, 0);
  const match = /^([1-9][0-9]{0,9})\n$/.exec(content.toString('latin1', 0, length));
  const pid = match?.[1] === undefined ? undefined : Number(match[1]);
  const holder = pid === undefined ? 'another process' : `process ${pid}`;
  return new ApplianceError('LOCKED', `${path} is in use by ${holder}`, {
    details: { path, ...(pid === undefined ? {} : { pid }) },
  });
}
