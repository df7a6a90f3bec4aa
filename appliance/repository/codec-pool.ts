// SPDX-License-Identifier: Apache-2.0
import { Worker } from 'node:worker_threads';
import type { ErrorCode } from '../core/error-codes.ts';
import { ApplianceError, toError } from '../core/errors.ts';
import { invariant } from '../core/invariant.ts';
import type { Arena } from './arena.ts';
import type {
  CodecJob,
  CodecReply,
  CodecRequest,
  CodecWorkerData,
  DecodeJob,
  EncodedFrames,
  EncodeJob,
  FrameProblem,
  HashJob,
  VerifyJob,
} from './codec-protocol.ts';
import type { RepositoryKeys } from './keys.ts';

/** Decode jobs that one message carries at most: enough to make messages cheap, few enough to keep all workers busy. */
const MAX_JOBS_PER_MESSAGE = 8;
/** How long a thread may take to end by itself: the job that it is at, or its start. */
const STOP_LIMIT_MS = 20_000;

export interface CodecPoolOptions {
  readonly threads: number;
  readonly zstdLevel: number;
  /** Called once when a thread died, with what every job fails with from then on; not after `close`. */
  readonly onFailure?: ((error: ApplianceError) => void) | undefined;
}

interface Pending {
  readonly request: CodecRequest;
  readonly costBytes: number;
  readonly resolve: (reply: CodecReply) => void;
  readonly reject: (error: Error) => void;
}

interface Member {
  readonly worker: Worker;
  /** Estimated work that was given and not answered yet. */
  loadBytes: number;
  readonly pending: Map<number, Pending>;
  readonly exited: Promise<void>;
  outbox: CodecRequest[];
}

/**
 * The threads that hash, compress, encrypt, decrypt and verify. Jobs given in one turn of the event loop travel in few
 * messages. When a worker dies, the others are ended too, everything that was under way fails, and the pool stays failed:
 * nothing is retried blindly, since what a dead thread was writing to is in doubt. `onFailure` hears of it: a process that
 * lives on has to be started anew.
 */
export class CodecPool {
  readonly arena: Arena;
  readonly #members: Member[] = [];
  readonly #data: CodecWorkerData;
  readonly #threads: number;
  #nextTicket = 1;
  #isFlushPlanned = false;
  #failure: Error | undefined;
  #ended: Promise<void> = Promise.resolve();
  readonly #onFailure: (error: ApplianceError) => void;

  constructor(arena: Arena, keys: RepositoryKeys, options: CodecPoolOptions) {
    this.arena = arena;
    this.#onFailure = options.onFailure ?? ((): void => undefined);
    this.#threads = options.threads;
    this.#data = {
      stop: new Int32Array(new SharedArrayBuffer(4)),
      arena: arena.shared,
      chunkIdKey: new Uint8Array(keys.chunkId.export()),
      nodeIdKey: new Uint8Array(keys.nodeId.export()),
      packRoot: new Uint8Array(keys.packRoot),
      isEncrypted: keys.isEncrypted,
      zstdLevel: options.zstdLevel,
    };
  }

  /** Starts the threads, which the first job would do otherwise. Idempotent. */
  start(): void {
    while (this.#failure === undefined && this.#members.length < this.#threads) this.#members.push(this.#startMember());
  }

  async hash(job: Omit<HashJob, 'op'>): Promise<void> {
    await this.#submit({ op: 'hash', ...job }, job.itemBytes * job.count);
  }

  /** The frames, in the order of the items. */
  async encode(job: Omit<EncodeJob, 'op'>): Promise<EncodedFrames> {
    const { frames } = await this.#submit({ op: 'encode', ...job }, 4 * job.itemBytes * job.items.length);
    invariant(frames?.lengths.length === job.items.length, 'an encode job answers with a frame for each item');
    return frames;
  }

  /** Lengths of the contents that could be decoded, in order, and the frames that could not. */
  async decode(job: Omit<DecodeJob, 'op'>): Promise<DecodedFrames> {
    const cost = 2 * job.outBytes * job.frames.length;
    const { plainBytes, problems } = await this.#submit({ op: 'decode', ...job }, cost);
    invariant(plainBytes !== undefined && problems !== undefined, 'a decode job answers with lengths and problems');
    invariant(plainBytes.length + problems.length === job.frames.length, 'each frame has a length or a problem');
    return { plainBytes, problems };
  }

  /** Reads and decodes frames without keeping their contents; settles with those that did not verify. */
  async verify(job: Omit<VerifyJob, 'op'>): Promise<readonly FrameProblem[]> {
    const storedBytes = job.frames.reduce((sum, frame) => sum + frame.frameBytes, 0);
    const { problems } = await this.#submit({ op: 'verify', ...job }, 3 * storedBytes);
    invariant(problems !== undefined, 'a verify job answers with the problems');
    return problems;
  }

  /** Makes every thread close these packs; until then a deleted pack still takes its room. */
  async forgetPacks(packIds: readonly string[]): Promise<void> {
    if (this.#failure !== undefined) throw this.#failure;
    await Promise.all(this.#members.map((member) => this.#submitTo(member, { op: 'forget', packIds }, 0)));
  }

  /** Settles when every thread has come to an end of what it was given before. @throws ApplianceError INTERNAL (one died), CLOSED */
  ping(): Promise<void> {
    return this.forgetPacks([]);
  }

  async close(): Promise<void> {
    this.#fail(new ApplianceError('CLOSED', 'the repository was closed'));
    await this.#ended;
  }

  #startMember(): Member {
    const worker = new Worker(new URL('./codec-worker.ts', import.meta.url), {
      workerData: this.#data,
      name: 'codec',
      resourceLimits: { maxOldGenerationSizeMb: 64, maxYoungGenerationSizeMb: 16 },
    });
    const { promise: exited, resolve } = Promise.withResolvers<void>();
    const member: Member = { worker, loadBytes: 0, pending: new Map(), exited, outbox: [] };
    worker.unref();
    worker.on('message', (replies: readonly CodecReply[]) => {
      for (const reply of replies) this.#settle(member, reply);
    });
    worker.on('error', (error) => this.#lose(toError(error)));
    worker.on('exit', (code) => {
      resolve();
      this.#lose(new Error(`it ended with code ${code}`));
    });
    return member;
  }

  #submit(job: CodecJob, costBytes: number): Promise<CodecReply> {
    this.start();
    return this.#submitTo(this.#leastLoaded(), job, costBytes);
  }

  #leastLoaded(): Member | undefined {
    let member = this.#members[0];
    for (const other of this.#members) if (other.loadBytes < (member?.loadBytes ?? 0)) member = other;
    return member;
  }

  #submitTo(chosen: Member | undefined, job: CodecJob, costBytes: number): Promise<CodecReply> {
    if (this.#failure !== undefined) return Promise.reject(this.#failure);
    invariant(chosen !== undefined, 'the pool has a thread');
    return new Promise((resolve, reject) => {
      const request = { ticket: this.#nextTicket++, job };
      if (chosen.pending.size === 0) chosen.worker.ref();
      chosen.pending.set(request.ticket, { request, costBytes, resolve, reject });
      chosen.loadBytes += costBytes;
      chosen.outbox.push(request);
      if (chosen.outbox.length >= MAX_JOBS_PER_MESSAGE) this.#send(chosen);
      else this.#planFlush();
    });
  }

  #planFlush(): void {
    if (this.#isFlushPlanned) return;
    this.#isFlushPlanned = true;
    queueMicrotask(() => {
      this.#isFlushPlanned = false;
      for (const member of this.#members) this.#send(member);
    });
  }

  #send(member: Member): void {
    if (member.outbox.length === 0) return;
    member.worker.postMessage(member.outbox);
    member.outbox = [];
  }

  #settle(member: Member, reply: CodecReply): void {
    const pending = member.pending.get(reply.ticket);
    if (pending === undefined) return;
    member.pending.delete(reply.ticket);
    member.loadBytes -= pending.costBytes;
    if (member.pending.size === 0) member.worker.unref();
    if (reply.error === undefined) pending.resolve(reply);
    else pending.reject(asError(reply.error));
  }

  #lose(cause: Error): void {
    if (this.#failure !== undefined) return;
    const error = new ApplianceError('INTERNAL', `a codec thread died: ${cause.message}`, {
      cause,
      hint: 'Nothing half-done is listed. Run the command again; a service ends, and has to be started again.',
    });
    this.#fail(error);
    this.#onFailure(error);
  }

  /** The end of the pool, whatever the reason; only the first counts. */
  #fail(error: Error): void {
    if (this.#failure !== undefined) return;
    this.#failure = error;
    this.#ended = this.#end(error);
  }

  /**
   * Threads write where their jobs say: nobody hears of the end, and uses such a place anew, before all of them are gone.
   * They end by themselves, after the job that they are at: `terminate` in the middle of a call into a native module, or
   * while it is loaded, ends the whole process.
   */
  async #end(error: Error): Promise<void> {
    Atomics.store(this.#data.stop, 0, 1);
    await Promise.all(this.#members.map((member) => stop(member)));
    for (const { pending } of this.#members) {
      for (const { reject } of pending.values()) reject(error);
      pending.clear();
    }
  }
}

async function stop({ worker, exited }: Member): Promise<void> {
  // Idle workers are unreferenced: without this nothing would keep the process until they have ended.
  worker.ref();
  worker.postMessage([]);
  const limit = Promise.withResolvers<void>();
  const timer = setTimeout(() => limit.resolve(worker.terminate().then(() => undefined)), STOP_LIMIT_MS);
  await Promise.race([exited, limit.promise]);
  clearTimeout(timer);
}

/** What `decode` settles with. */
export interface DecodedFrames {
  readonly plainBytes: readonly number[];
  readonly problems: readonly FrameProblem[];
}

function asError(error: { readonly code: ErrorCode | undefined; readonly message: string }): Error {
  return new ApplianceError(error.code ?? 'INTERNAL', error.message);
}
