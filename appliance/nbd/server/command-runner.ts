// SPDX-License-Identifier: Apache-2.0
import { CMD, CMD_FLAG, NBD_ERRNO } from '../protocol.ts';
import { answerBlockStatus } from './block-status.ts';
import { type Failure, failureOf } from './device-errors.ts';
import type { SelectedContext, Session } from './haggling.ts';
import type { NbdExport } from './nbd-export.ts';
import type { Outbox } from './outbox.ts';
import { ReplyWriter } from './reply-writer.ts';
import type { Request } from './request.ts';
import type { RequestCheck } from './request-check.ts';
import { nbdServerTotals } from './server-totals.ts';
import type { Slab, SlabPool } from './slab-pool.ts';
import { decodeStatusPayload } from './status-payload.ts';

/** The payload of a request. A slab, when there is one, is what it lies in, and goes back to the pool afterwards. */
export interface Payload {
  readonly bytes: Buffer;
  readonly slab: Slab | undefined;
}

/** An accepted request with what it holds. */
export interface Job {
  readonly request: Request;
  readonly costBytes: number;
  readonly payload: Payload | undefined;
  /** When it began, if its time is taken, otherwise 0; see `NbdServerTotals`. Made with 0. */
  beganMs: number;
}

/** So much is written at once at most: it takes the main thread some 30 µs. */
const MAX_GATHERED_BYTES: number = 96 * 1024;

/**
 * Executes accepted requests of one session on its device. Each job ends in exactly one reply (of one or more chunks)
 * through the outbox, with the job's cost.
 */
export class CommandRunner {
  readonly #export: NbdExport;
  readonly #session: Session;
  readonly #outbox: Outbox;
  readonly #writer: ReplyWriter;
  readonly #pool: SlabPool;
  readonly #check: RequestCheck;
  readonly #maxDirectBytes: number;
  #gathered: (Job & { readonly payload: Payload })[] = [];
  #gatheredBytes = 0;

  constructor(session: Session, check: RequestCheck, outbox: Outbox, pool: SlabPool) {
    this.#session = session;
    this.#export = session.export;
    this.#check = check;
    this.#outbox = outbox;
    this.#writer = new ReplyWriter(outbox, session.style);
    this.#pool = pool;
    this.#maxDirectBytes = session.export.device.limits.maximumBytes;
  }

  /** What it leaves for `endBurst` are writes that may be done at once, together. */
  run(job: Job): void {
    this.#export.requests += 1;
    const { request } = job;
    job.beganMs = nbdServerTotals.begin(request.type);
    if (request.type === CMD.READ) {
      this.#read(job);
      return;
    }
    if (this.#gather(job)) return;
    // Changes keep the order in which they came, although nobody may rely on it.
    this.endBurst();
    this.#runSlowly(job);
  }

  #runSlowly(job: Job): void {
    this.#runOther(job).catch((error: unknown) => this.refuse(job, failureOf(error, job.request)));
  }

  /** Answers with an error. */
  refuse(job: Job, failure: Failure): void {
    this.#export.errors += 1;
    nbdServerTotals.errors += 1;
    ended(job);
    this.#writer.sendError(job.request, failure, job.costBytes);
  }

  /** Memory that a read holds until its reply is gone. */
  readCost(request: Request): number {
    return this.#writer.readHeaderBytes + request.length;
  }

  /** The hot path: the device writes its bytes right behind the header, in place, when it can at once. */
  #read(job: Job): void {
    const { request, costBytes } = job;
    const { offset, length } = request;
    if (length === 0) {
      this.#writer.sendOk(request, costBytes);
      return;
    }
    const { device, access } = this.#export;
    const piece = this.#writer.reserveRead(request);
    const into = piece.slab.buffer.subarray(piece.start + this.#writer.readHeaderBytes, piece.end);
    const fail = (error: unknown): void => {
      this.#outbox.abandon(piece);
      this.refuse(job, failureOf(error, request));
    };
    const finish = (): void => {
      this.#export.bytesRead += length;
      nbdServerTotals.bytesRead += length;
      this.#writer.sendRead(request, piece, costBytes);
      ended(job);
    };
    try {
      const isDirect = length <= this.#maxDirectBytes && access.isAligned(offset, length);
      if (isDirect && device.readCached !== undefined && device.readCached(offset, into)) finish();
      else (isDirect ? device.read(offset, into) : access.read(offset, into)).then(finish, fail);
    } catch (error) {
      fail(error);
    }
  }

  /** Everything that `run` has left. */
  endBurst(): void {
    const jobs = this.#gathered;
    if (jobs.length === 0) return;
    this.#gathered = [];
    this.#gatheredBytes = 0;
    const writes = jobs.map(({ request, payload }) => ({ offset: request.offset, data: payload.bytes }));
    if (!this.#export.access.writeNow(writes)) {
      for (const job of jobs) this.#runSlowly(job);
      return;
    }
    for (const job of jobs) {
      const { request, payload, costBytes } = job;
      if (payload.slab !== undefined) this.#pool.give(payload.slab);
      this.#countWritten(request.length);
      this.#writer.sendOk(request, costBytes);
      ended(job);
    }
  }

  #gather(job: Job): boolean {
    const { request, payload } = job;
    const isPlainWrite = request.type === CMD.WRITE && (request.flags & CMD_FLAG.FUA) === 0;
    const { length } = request;
    if (!isPlainWrite || payload === undefined || length === 0 || length > MAX_GATHERED_BYTES) return false;
    if (this.#export.device.writeNow === undefined) return false;
    if (this.#gatheredBytes + length > MAX_GATHERED_BYTES) this.endBurst();
    this.#gathered.push(job as Job & { readonly payload: Payload });
    this.#gatheredBytes += length;
    return true;
  }

  async #runOther(job: Job): Promise<void> {
    const { request, payload, costBytes } = job;
    try {
      if (request.type === CMD.BLOCK_STATUS) {
        await this.#blockStatus(job);
        return;
      }
      await this.#change(request, payload?.bytes);
    } finally {
      if (payload?.slab !== undefined) this.#pool.give(payload.slab);
    }
    this.#writer.sendOk(request, costBytes);
    ended(job);
  }

  async #change(request: Request, payload: Buffer | undefined): Promise<void> {
    const { type, flags, offset, length } = request;
    const { access } = this.#export;
    const fua = (flags & CMD_FLAG.FUA) !== 0;
    const range = { offset, length };
    if (type === CMD.FLUSH) return await access.flush();
    if (length === 0) return;
    switch (type) {
      case CMD.WRITE:
        if (payload === undefined) return;
        await access.write(offset, payload, { fua });
        this.#countWritten(length);
        return;
      case CMD.TRIM:
        return await access.trim(range, { fua });
      case CMD.CACHE:
        return await access.cache(range);
      default:
        return await access.zero(range, {
          fua,
          keepAllocated: (flags & CMD_FLAG.NO_HOLE) !== 0,
          fastOnly: (flags & CMD_FLAG.FAST_ZERO) !== 0,
        });
    }
  }

  async #blockStatus(job: Job): Promise<void> {
    const { request, payload, costBytes } = job;
    const asked = this.#statusEffect(request, payload);
    const refusal =
      asked === undefined
        ? { errno: NBD_ERRNO.EINVAL, message: 'the payload of block status is malformed' }
        : this.#check.blockStatusRefusal(request.offset, asked.length);
    if (asked === undefined || refusal !== undefined) {
      if (refusal !== undefined) this.refuse(job, refusal);
      return;
    }
    const answers = await answerBlockStatus({
      range: { offset: request.offset, length: asked.length },
      contexts: asked.contexts,
      isOneOnly: (request.flags & CMD_FLAG.REQ_ONE) !== 0,
    });
    this.#writer.sendBlockStatus(request, answers, costBytes);
    ended(job);
  }

  #countWritten(bytes: number): void {
    this.#export.bytesWritten += bytes;
    nbdServerTotals.bytesWritten += bytes;
  }

  #statusEffect(
    request: Request,
    payload: Payload | undefined,
  ): { readonly length: number; readonly contexts: readonly SelectedContext[] } | undefined {
    if (payload === undefined) return { length: request.length, contexts: this.#session.contexts };
    return decodeStatusPayload(payload.bytes, this.#session.contexts);
  }
}

function ended({ request, beganMs }: Job): void {
  if (beganMs > 0) nbdServerTotals.end(request.type, beganMs);
}
