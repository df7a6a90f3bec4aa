// SPDX-License-Identifier: Apache-2.0
import type { DataWrite } from '../block/block-device.ts';
import type { Slice } from '../core/extent-map.ts';
import type { Journal } from '../volume/journal.ts';
import type { Appended, DiskRange } from '../volume/write-layer.ts';
import type { OverlayLog } from './overlay.ts';

/**
 * The journal of a booted machine as its disks see it. Its guest writes through it, waits for it, and is told that a write is
 * complete only when the journal has it: each prefix of what the guest wrote is a crash-consistent state of all its disks, so
 * a stretch lasts from the machine's start to its end. Whoever starts the machine, the first write of it begins a stretch in
 * the same turn, so that no write of a running guest stands outside of one.
 *
 * A restart of the service is no gap: the guest waits for its disks (or is paused at the request that failed, which it makes
 * again), what it was told is complete is in the journal, and what it was not told is asked for again.
 */
export class StageLog implements OverlayLog {
  readonly #journal: Journal;
  #isOpen: boolean;
  #beginsByItself: boolean;
  #writtenBytes = 0;

  /** `isLeaving`: its disks may have moved elsewhere, in part; what it writes here alone is no state of it. */
  constructor(journal: Journal, isLeaving: boolean) {
    this.#journal = journal;
    this.#isOpen = journal.openStretch !== undefined;
    this.#beginsByItself = !isLeaving;
  }

  /** True while every write is part of a state that can be opened. */
  get isOpen(): boolean {
    return this.#isOpen;
  }

  /** False from `leave` until the next `begin`: what is written is no state of the machine. */
  get isWhole(): boolean {
    return this.#isOpen || this.#beginsByItself;
  }

  /** Bytes that the guest wrote, or zeroed, since this was made. */
  get writtenBytes(): number {
    return this.#writtenBytes;
  }

  /** The machine starts: from here on every write is kept as a moment. Nothing happens when it is so. Errors of the journal. */
  async begin(): Promise<void> {
    this.#beginsByItself = true;
    if (this.#isOpen) return;
    this.#isOpen = true;
    try {
      await this.#journal.beginStretch('writes');
    } catch (error) {
      this.#isOpen = false;
      throw error;
    }
  }

  /** The machine does not run any more. The next write, or `begin`, begins another stretch. Errors of the journal. */
  async end(reason: string): Promise<void> {
    if (!this.#isOpen) return;
    this.#isOpen = false;
    await this.#journal.endStretch(reason);
  }

  /** The disks are about to go elsewhere, one by one: what comes from now on is no state of the machine. Durable when settled. */
  async leave(reason: string): Promise<void> {
    this.#beginsByItself = false;
    await this.end(reason);
    await this.#journal.flush();
  }

  append(write: { disk: number; offset: number; data: Buffer }): Promise<Appended> {
    if (!this.#isOpen) this.#beginByItself();
    this.#writtenBytes += write.data.length;
    return this.#journal.append(write);
  }

  appendNow(disk: number, writes: readonly DataWrite[]): Appended | undefined {
    if (!this.#isOpen) return undefined;
    const appended = this.#journal.appendNow(disk, writes);
    if (appended !== undefined) for (const { data } of writes) this.#writtenBytes += data.length;
    return appended;
  }

  appendZero(range: DiskRange, kind: 'zero' | 'trim' = 'zero'): Promise<Appended> {
    if (!this.#isOpen) this.#beginByItself();
    this.#writtenBytes += range.length;
    return this.#journal.appendZero(range, kind);
  }

  flush(): Promise<void> {
    return this.#journal.flush();
  }

  slices(place: DiskRange): Slice<number>[] {
    return this.#journal.slices(place);
  }

  sliceIterator(place: DiskRange): Generator<Slice<number>, void, undefined> {
    return this.#journal.sliceIterator(place);
  }

  read(location: number, from: number, into: Buffer): Promise<void> {
    return this.#journal.read(location, from, into);
  }

  readCached(location: number, from: number, into: Buffer): boolean {
    return this.#journal.readCached(location, from, into);
  }

  /** Flushes unless the journal has failed, which stays open. */
  async close(): Promise<void> {
    if (this.#journal.failedWith === undefined) await this.#journal.flush();
  }

  #beginByItself(): void {
    if (!this.#beginsByItself) return;
    // The write behind it meets what it failed with; it is in no stretch then, and the next one tries again.
    this.begin().catch(() => undefined);
  }
}
