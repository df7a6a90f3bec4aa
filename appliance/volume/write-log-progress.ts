// SPDX-License-Identifier: Apache-2.0
import type { ApplianceError } from '../core/errors.ts';
import { storageError } from '../core/file-system.ts';
import type { RecordFacts } from './write-log-format.ts';
import type { WriteLogTail } from './write-log-tail.ts';

/** Data that nobody flushes is synced after this much, so that no flush and no new segment has to wait for long. */
const BACKGROUND_SYNC_BYTES: number = 32 * 1024 * 1024;
/** When nothing follows a flush for this long, a barrier records that it happened. */
const BARRIER_DELAY_MS = 50;

export interface ProgressOptions {
  readonly tail: WriteLogTail;
  readonly directory: string;
  readonly lastSequence: number;
  /** Appends a record that says nothing but how far the log is durable. */
  readonly appendBarrier: () => Promise<unknown>;
}

/**
 * How far a log is written, how much of that is on stable storage, and the error that ended it, if one did: the first one,
 * for good.
 *
 * Invariants: durable <= written, asked <= written; a sync covers what was written when it began, never more.
 */
export class WriteLogProgress {
  /** The error that ended the log. */
  failure: ApplianceError | undefined;
  private readonly options: ProgressOptions;
  private writtenSequence: number;
  /** The newest record that somebody asked for (not a barrier). */
  private askedSequence: number;
  // Records that survived in the page cache alone are not durable yet: the first flush syncs the last old segment.
  private durableSequence = 0;
  /** The durable sequence that the newest record states. */
  private statedDurable = 0;
  /** Bytes appended by this process, and how many of them are on stable storage. */
  private appendedBytes = 0;
  private syncedBytes = 0;
  private sync: Promise<void> | undefined;
  private barrier: NodeJS.Timeout | undefined;
  private isFinishing = false;

  constructor(options: ProgressOptions) {
    this.options = options;
    this.writtenSequence = options.lastSequence;
    this.askedSequence = options.lastSequence;
  }

  /** Sequence of the newest record; 0 in an empty log. */
  get written(): number {
    return this.writtenSequence;
  }

  /** All records up to it are on stable storage, as far as this process knows. */
  get durable(): number {
    return this.durableSequence;
  }

  /** A record has been written whole. */
  appended(facts: RecordFacts): void {
    this.writtenSequence = facts.sequence;
    if (facts.kind !== 'barrier') this.askedSequence = facts.sequence;
    this.statedDurable = facts.durableSequence;
  }

  /** So many bytes have been written. */
  advanced(bytes: number): void {
    this.appendedBytes += bytes;
    const unsyncedBytes = this.appendedBytes - this.syncedBytes;
    if (unsyncedBytes >= BACKGROUND_SYNC_BYTES && this.sync === undefined) this.syncInBackground();
  }

  /** Everything that is written has been synced by somebody else. */
  synced(): void {
    this.durableSequence = this.writtenSequence;
  }

  fail(error: ApplianceError): ApplianceError {
    this.failure ??= error;
    return this.failure;
  }

  /** Settles when everything that was asked for before this call is on stable storage. */
  async flush(): Promise<void> {
    const target = this.askedSequence;
    while (this.durableSequence < target) {
      this.sync ??= this.syncOnce();
      await this.sync;
    }
  }

  /** Flushes unless the log has failed, states it in the log, and settles when no sync runs. Nothing is appended any more. */
  async finish(): Promise<void> {
    this.isFinishing = true;
    clearTimeout(this.barrier);
    if (this.failure === undefined) await this.flush();
    await this.writeBarrier();
    while (this.sync !== undefined) await this.sync;
  }

  async syncLastSegment(): Promise<void> {
    const covered = this.writtenSequence;
    const { last } = this.options.tail;
    const bytes = this.appendedBytes;
    if (last === undefined || this.durableSequence >= covered) return;
    try {
      await last.file.syncData();
    } catch (error) {
      // The kernel may have dropped the pages and will not say so again: what is on the disk is unknown for good.
      throw this.fail(storageError(error, 'sync', last.path));
    }
    if (this.failure !== undefined) throw this.failure;
    this.durableSequence = Math.max(this.durableSequence, covered);
    this.syncedBytes = Math.max(this.syncedBytes, bytes);
  }

  private async syncOnce(): Promise<void> {
    try {
      await this.syncLastSegment();
    } finally {
      this.sync = undefined;
    }
    if (this.durableSequence > this.statedDurable) this.scheduleBarrier();
  }

  private syncInBackground(): void {
    const sync = this.syncOnce();
    this.sync = sync;
    // A failure has ended the log already; whoever appends or flushes next gets it.
    sync.catch((error: unknown) => this.fail(storageError(error, 'sync', this.options.directory)));
  }

  private scheduleBarrier(): void {
    if (this.barrier !== undefined || this.isFinishing) return;
    this.barrier = setTimeout(() => {
      this.barrier = undefined;
      void this.writeBarrier();
    }, BARRIER_DELAY_MS);
    this.barrier.unref();
  }

  /** States in the log how far it is durable, so that later damage there is not taken for a torn tail. Never rejects. */
  private async writeBarrier(): Promise<void> {
    const isStated = !this.options.tail.isOpen || this.durableSequence <= this.statedDurable;
    if (this.failure !== undefined || isStated || this.durableSequence < this.askedSequence) return;
    try {
      await this.options.appendBarrier();
    } catch {
      // Without room it can be left out; other failures have ended the log, and whoever uses it next gets them.
    }
  }
}
