// SPDX-License-Identifier: Apache-2.0
import { statfs } from 'node:fs/promises';
import { ApplianceError, toError } from '../core/errors.ts';

const POLL_MS = 1000;
/** Below it the backup gives way: a guest whose scratch file is full would be stopped by QEMU. */
const LOW_WATER_BYTES: number = 256 * 1024 * 1024;

/**
 * Watches the file systems that a running backup's scratch files grow on, and ends the backup before they are full: a
 * backup may fail, a guest may not stop for it.
 */
export class SpaceWatch {
  readonly #directories: readonly string[];
  readonly #end: () => Promise<void>;
  readonly #timer: NodeJS.Timeout;
  #failure: ApplianceError | undefined;

  constructor(directories: readonly string[], end: () => Promise<void>) {
    this.#directories = [...new Set(directories)];
    this.#end = end;
    this.#timer = setInterval(() => {
      this.#poll().catch((error) => this.#fail(toError(error).message));
    }, POLL_MS);
    this.#timer.unref();
  }

  stop(): void {
    clearInterval(this.#timer);
  }

  /** @throws ApplianceError NO_SPACE when the backup was ended for want of space */
  throwIfLow(): void {
    if (this.#failure !== undefined) throw this.#failure;
  }

  async #poll(): Promise<void> {
    for (const directory of this.#directories) {
      const { bavail, bsize } = await statfs(directory);
      if (bavail * bsize >= LOW_WATER_BYTES) continue;
      this.#fail(
        `less than ${LOW_WATER_BYTES / 2 ** 20} MiB are free in ${directory}, where the guest's old blocks are kept meanwhile`,
      );
      this.stop();
      await this.#end();
      return;
    }
  }

  #fail(message: string): void {
    this.#failure ??= new ApplianceError('NO_SPACE', `the backup was ended to keep the guest running: ${message}`);
  }
}
