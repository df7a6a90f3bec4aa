// SPDX-License-Identifier: Apache-2.0
import { Worker } from 'node:worker_threads';
import type { ErrorCode } from '../core/error-codes.ts';
import { ApplianceError, toError } from '../core/errors.ts';
import type { SealingTask } from './segment-sealer.ts';

export type SealingRequest =
  | { readonly op: 'begin'; readonly task: SealingTask }
  | { readonly op: 'feed'; readonly bytes: ArrayBuffer }
  | { readonly op: 'finish' };

export interface SealingReply {
  readonly blocks: readonly Uint8Array<ArrayBuffer>[];
  readonly error?: { readonly code: ErrorCode; readonly message: string };
}

/** Turns the bytes of one segment after the other into sealed ones (`SegmentSealer`); each call gives what comes next. */
export interface Sealing extends AsyncDisposable {
  begin(task: SealingTask): Promise<Buffer[]>;
  /** The memory of `bytes` is given away. */
  feed(bytes: ArrayBuffer): Promise<Buffer[]>;
  finish(): Promise<Buffer[]>;
}

interface Waiting {
  readonly resolve: (blocks: Buffer[]) => void;
  readonly reject: (error: Error) => void;
}

/**
 * A thread that seals segments (`SegmentSealer`), one after the other. It is started for the work and ended after it: that
 * costs some 50 ms each time, and no memory in between. A thread that dies fails what it was asked.
 */
export class SealingThread implements Sealing {
  private readonly worker: Worker;
  private readonly waiting: Waiting[] = [];
  private failure: Error | undefined;

  constructor() {
    this.worker = new Worker(new URL('./sealing-worker.ts', import.meta.url), {
      name: 'sealing',
      resourceLimits: { maxOldGenerationSizeMb: 96, maxYoungGenerationSizeMb: 16 },
    });
    this.worker.on('message', (reply: SealingReply) => this.settle(reply));
    this.worker.on('error', (error) => this.fail(toError(error)));
    this.worker.on('exit', (code) => this.fail(new Error(`it ended with code ${code}`)));
  }

  begin(task: SealingTask): Promise<Buffer[]> {
    return this.ask({ op: 'begin', task });
  }

  feed(bytes: ArrayBuffer): Promise<Buffer[]> {
    return this.ask({ op: 'feed', bytes }, [bytes]);
  }

  finish(): Promise<Buffer[]> {
    return this.ask({ op: 'finish' });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.worker.terminate();
  }

  private ask(request: SealingRequest, transfer: ArrayBuffer[] = []): Promise<Buffer[]> {
    if (this.failure !== undefined) return Promise.reject(this.failure);
    return new Promise((resolve, reject) => {
      this.waiting.push({ resolve, reject });
      this.worker.postMessage(request, transfer);
    });
  }

  private settle(reply: SealingReply): void {
    const first = this.waiting.shift();
    if (first === undefined) return;
    if (reply.error !== undefined) first.reject(new ApplianceError(reply.error.code, reply.error.message));
    else first.resolve(reply.blocks.map(({ buffer }) => Buffer.from(buffer)));
  }

  private fail(cause: Error): void {
    this.failure ??= new ApplianceError('INTERNAL', `the sealing thread died: ${cause.message}`, { cause });
    for (const { reject } of this.waiting.splice(0)) reject(this.failure);
  }
}
