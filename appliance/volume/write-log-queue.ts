// SPDX-License-Identifier: Apache-2.0
import type { Appended } from './write-layer.ts';
import { type Change, encodedBytes } from './write-log-batch.ts';

/** Changes that wait are written together up to this many bytes and changes. */
const MAX_BATCH_BYTES: number = 4 * 1024 * 1024;
const MAX_BATCH_CHANGES = 512;

interface Waiting {
  readonly change: Change;
  readonly resolve: (appended: Appended) => void;
  readonly reject: (error: Error) => void;
}

export interface AppendQueueOptions {
  /** Least bytes that a batch may have; it never holds more than 4 MiB unless it is a single change. */
  readonly maxBatchBytes: number;
  /** Writes a batch; settles with one answer for each change. Never called again before it has settled. */
  readonly write: (changes: readonly Change[]) => Promise<readonly Appended[]>;
  /** Called once for each batch that failed; what it returns, its writers and all who wait get. */
  readonly failed: (error: unknown) => Error;
}

/**
 * Changes that wait to be written, in order. What is asked for while a batch is being written, or in the same turn, is
 * written together.
 */
export class AppendQueue {
  private readonly options: AppendQueueOptions;
  private readonly maxBatchBytes: number;
  private waiting: Waiting[] = [];
  private drain: Promise<void> | undefined;

  constructor(options: AppendQueueOptions) {
    this.options = options;
    this.maxBatchBytes = Math.min(MAX_BATCH_BYTES, options.maxBatchBytes);
  }

  /** Settles when the change has been written. */
  push(change: Change): Promise<Appended> {
    return new Promise<Appended>((resolve, reject) => {
      this.waiting.push({ change, resolve, reject });
      this.drain ??= this.writeWaiting();
    });
  }

  /** Nothing waits or is being written. */
  get isIdle(): boolean {
    return this.drain === undefined;
  }

  /** Settles when nothing waits or is being written. */
  async idle(): Promise<void> {
    while (this.drain !== undefined) await this.drain;
  }

  /** Writes batch after batch until nothing waits. Never rejects. */
  private async writeWaiting(): Promise<void> {
    // What is asked for in the same turn goes into one batch.
    await Promise.resolve();
    while (this.waiting.length > 0) {
      const batch = this.takeBatch();
      try {
        const appended = await this.options.write(batch.map((one) => one.change));
        for (const [index, one] of batch.entries()) one.resolve(appended[index] ?? invariantBroken());
      } catch (error) {
        const problem = this.options.failed(error);
        // What waits behind it fails too: nothing that was asked for later is in the log without it.
        for (const one of [...batch, ...this.waiting.splice(0)]) one.reject(problem);
      }
    }
    this.drain = undefined;
  }

  private takeBatch(): Waiting[] {
    let bytes = 0;
    let count = 0;
    for (const { change } of this.waiting) {
      bytes += encodedBytes(change);
      if (count > 0 && (bytes > this.maxBatchBytes || count === MAX_BATCH_CHANGES)) break;
      count += 1;
    }
    return this.waiting.splice(0, count);
  }
}

function invariantBroken(): never {
  throw new Error('every change of a batch has one last record');
}
