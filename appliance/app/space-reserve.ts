// SPDX-License-Identifier: Apache-2.0
import { randomFillSync } from 'node:crypto';
import { statfs } from 'node:fs/promises';
import { join } from 'node:path';
import { writeDurably } from '../core/durable-file.ts';
import { hasCode } from '../core/errors.ts';
import { realFileSystem, storageError } from '../core/file-system.ts';

/** What the catalog needs to be opened and to note deletions: a log, a table, a manifest of LevelDB. */
const RESERVE_BYTES: number = 8 * 1024 * 1024;
/** The reserve is taken only where this much stays free besides. */
const MIN_ROOM_BYTES: number = RESERVE_BYTES;

/**
 * Room that is set aside in the state directory, as a file, so that a full disk can be made less full: without it the
 * catalog could not even be opened to list, restore or delete. Backups run only while it is held; what frees space, or
 * cannot open the catalog otherwise, gives it up, and it is taken again when there is room.
 */
export class SpaceReserve {
  readonly #directory: string;
  readonly #path: string;

  constructor(directory: string) {
    this.#directory = directory;
    this.#path = join(directory, 'reserve');
  }

  /** Takes the room if it is not held yet. False when there is too little. @throws ApplianceError IO_FAILED */
  async hold(): Promise<boolean> {
    if (await this.#isHeld()) return true;
    if ((await this.#freeBytes()) < RESERVE_BYTES + MIN_ROOM_BYTES) return false;
    try {
      // Noise: a file system that compresses would store zeroes in no room at all.
      await writeDurably(this.#path, randomFillSync(Buffer.alloc(RESERVE_BYTES)));
      return true;
    } catch (error) {
      if (hasCode(error, 'NO_SPACE')) return false;
      throw error;
    }
  }

  /** Gives the room up. False when there was none to give up. @throws ApplianceError IO_FAILED */
  async release(): Promise<boolean> {
    if (!(await this.#isHeld())) return false;
    try {
      await realFileSystem.unlink(this.#path);
      return true;
    } catch (error) {
      throw storageError(error, 'remove', this.#path);
    }
  }

  /** Gives the room up when there is hardly any other: for what is about to free space. @throws ApplianceError IO_FAILED */
  async releaseIfShort(): Promise<void> {
    if ((await this.#freeBytes()) < RESERVE_BYTES) await this.release();
  }

  async #isHeld(): Promise<boolean> {
    try {
      return (await realFileSystem.stat(this.#path)) !== undefined;
    } catch (error) {
      throw storageError(error, 'look at', this.#path);
    }
  }

  async #freeBytes(): Promise<number> {
    try {
      const { bavail, bsize } = await statfs(this.#directory);
      return bavail * bsize;
    } catch (error) {
      throw storageError(error, 'look at', this.#directory);
    }
  }
}
