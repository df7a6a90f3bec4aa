// SPDX-License-Identifier: Apache-2.0
import { execFile } from 'node:child_process';
import { mkdir, open, rm, statfs } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { systemErrorCode } from '../../appliance/core/errors.ts';

const execute = promisify(execFile);
const STEP_BYTES: number = 1024 * 1024;
const SMALL_STEP_BYTES = 4096;
const FILLER = 'filler';

/** Mounting takes root; others skip with this reason. */
export const MOUNT_REQUIREMENTS: readonly string[] =
  process.getuid?.() === 0 ? ['mount', 'umount'] : ['/needs-root-to-mount'];

/** A file system in memory that is full soon, below a directory of a test. */
export class SmallFileSystem implements AsyncDisposable {
  readonly path: string;

  private constructor(path: string) {
    this.path = path;
  }

  static async mount(path: string, sizeBytes: number): Promise<SmallFileSystem> {
    await mkdir(path, { recursive: true });
    await execute('mount', ['-t', 'tmpfs', '-o', `size=${sizeBytes}`, 'understudy-test', path]);
    return new SmallFileSystem(path);
  }

  async freeBytes(): Promise<number> {
    const { bavail, bsize } = await statfs(this.path);
    return bavail * bsize;
  }

  /** Takes all room that is left. */
  async fill(): Promise<void> {
    const file = await open(join(this.path, FILLER), 'a');
    try {
      for (const step of [STEP_BYTES, SMALL_STEP_BYTES]) {
        try {
          for (;;) await file.write(Buffer.alloc(step, 1));
        } catch (error) {
          if (systemErrorCode(error) !== 'ENOSPC') throw error;
        }
      }
    } finally {
      await file.close();
    }
  }

  /** Gives back what `fill` took. */
  async release(): Promise<void> {
    await rm(join(this.path, FILLER), { force: true });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await execute('umount', [this.path]);
  }
}
