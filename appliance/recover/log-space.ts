// SPDX-License-Identifier: Apache-2.0
import { statfs } from 'node:fs/promises';
import { storageError } from '../core/file-system.ts';

/** Below it the operator is warned, and again once there was twice as much. */
const LOW_BYTES: number = 1024 * 1024 * 1024;
/** With less than this a guest that was paused is not let go on: its next writes would pause it again. */
const FULL_BYTES: number = 4 * 1024 * 1024;
const MIB = 1024 * 1024;

/**
 * Watches the file system that the logs of booted machines grow on. When it is full QEMU pauses a guest at the write that
 * has no room, and nothing of it is lost; this says so, early and when it happens, and when it is over.
 */
export class LogSpace {
  readonly #directory: string;
  readonly #onNotice: (sentence: string) => void;
  readonly #paused = new Set<string>();
  #freeBytes: number = Number.POSITIVE_INFINITY;
  #isWarned = false;

  /** `directory` is the state directory. */
  constructor(directory: string, onNotice: (sentence: string) => void) {
    this.#directory = directory;
    this.#onNotice = onNotice;
  }

  /** No room even for a few writes. */
  get isFull(): boolean {
    return this.#freeBytes < FULL_BYTES;
  }

  /** Looks how much room there is for so many machines. @throws ApplianceError IO_FAILED */
  async look(machines: number): Promise<void> {
    this.#freeBytes = await freeBytesIn(this.#directory);
    if (this.#freeBytes >= 2 * LOW_BYTES) this.#isWarned = false;
    if (this.#isWarned || machines === 0 || this.#freeBytes >= LOW_BYTES) return;
    this.#isWarned = true;
    this.#onNotice(
      `Only ${Math.floor(this.#freeBytes / MIB)} MiB are free in ${this.#directory}, where ${machines} booted ` +
        `machine${machines === 1 ? ' writes' : 's write'}. Without room they are paused. Free space, or move them with \`understudy migrate\`.`,
    );
  }

  /** A guest was found paused because of an error of its disk. */
  paused(name: string): void {
    if (!this.isFull || this.#paused.has(name)) return;
    this.#paused.add(name);
    this.#onNotice(
      `${name} is paused: there is no room for what it writes in ${this.#directory}. Nothing of it is lost, and it goes on by itself when there is some.`,
    );
  }

  /** A guest runs. */
  runs(name: string): void {
    if (this.#paused.delete(name)) this.#onNotice(`${name} goes on: there is room again.`);
  }

  /** What the operator should know of a machine, in a sentence; null for nothing. */
  problemOf(name: string): string | null {
    if (this.#paused.has(name)) return `paused: no room for its log in ${this.#directory}`;
    if (this.#freeBytes >= LOW_BYTES) return null;
    return `only ${Math.floor(this.#freeBytes / MIB)} MiB are free for its log`;
  }
}

async function freeBytesIn(directory: string): Promise<number> {
  try {
    const { bavail, bsize } = await statfs(directory);
    return bavail * bsize;
  } catch (error) {
    throw storageError(error, 'look at', directory);
  }
}
