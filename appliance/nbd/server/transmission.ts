// SPDX-License-Identifier: Apache-2.0
import type { Writable } from 'node:stream';
import type { Clock } from '../../core/clock.ts';
import { CMD, CMD_FLAG, EXTENDED_REQUEST_BYTES, NBD_ERRNO, REQUEST_BYTES } from '../protocol.ts';
import { ArrivalWatch } from './arrival-watch.ts';
import type { BudgetWaiter, ByteBudget } from './byte-budget.ts';
import type { ByteQueue } from './byte-queue.ts';
import { CommandRunner, type Payload } from './command-runner.ts';
import type { Failure } from './device-errors.ts';
import type { Session } from './haggling.ts';
import { BARE_REQUEST_COST_BYTES, BLOCK_STATUS_COST_BYTES, MAX_SKIPPED_BYTES, type ServerLimits } from './limits.ts';
import { Outbox, type OutboxOwner } from './outbox.ts';
import { commandName, decodeExtendedRequest, decodeRequest, type Request } from './request.ts';
import { RequestCheck } from './request-check.ts';
import { type Slab, type SlabPool, SMALL_SLAB_BYTES } from './slab-pool.ts';

/** What the transmission needs from its connection. */
export interface TransmissionHost {
  readonly limits: ServerLimits;
  readonly budget: ByteBudget;
  readonly pool: SlabPool;
  /** No request is left and none will come: close. */
  onTransmissionDone(): void;
  /** The peer broke the framing: nothing it sends can be understood any more. */
  onViolation(message: string): void;
  readonly clock: Clock;
  /** Room has become free; more input may be taken. */
  onInputWanted(): void;
}

/** A request whose payload is arriving. Without a target the bytes are dropped. */
interface Arrival {
  readonly request: Request;
  readonly costBytes: number;
  readonly refusal: Failure | undefined;
  readonly payload: Payload | undefined;
  receivedBytes: number;
}

/** So much is started at most before others get their turn on the event loop: copying it takes a few milliseconds. */
const MAX_BURST_BYTES: number = 4 * 1024 * 1024;

const DRAINING: Failure = { errno: NBD_ERRNO.ESHUTDOWN, message: 'the server is shutting down' };

/**
 * The transmission phase of one connection: takes requests from what has arrived, accepts them within the limits, and
 * has them executed.
 *
 * Invariants: `#inFlight` = requests accepted whose reply is not gone, `#heldBytes` = the sum of their costs, and the
 * same is taken from the shared budget.
 */
export class Transmission implements OutboxOwner, BudgetWaiter {
  readonly session: Session;
  readonly #host: TransmissionHost;
  readonly #outbox: Outbox;
  readonly #runner: CommandRunner;
  readonly #check: RequestCheck;
  readonly #headerBytes: number;
  readonly #isExtended: boolean;
  readonly #watch: ArrivalWatch | undefined;
  #phase: 'open' | 'draining' | 'ended' | 'closed' = 'open';
  #arrival: Arrival | undefined;
  #inFlight = 0;
  #heldBytes = 0;
  #burstBytes = 0;
  #isBlocked = false;
  #isTaking = false;

  constructor(host: TransmissionHost, session: Session, stream: Writable) {
    this.session = session;
    this.#host = host;
    this.#isExtended = session.style === 'extended';
    this.#headerBytes = this.#isExtended ? EXTENDED_REQUEST_BYTES : REQUEST_BYTES;
    this.#outbox = new Outbox(stream, host.pool, this);
    this.#check = new RequestCheck(session, host.limits.maxPayloadBytes);
    this.#watch = session.export.isWatched ? new ArrivalWatch({ clock: host.clock }) : undefined;
    this.#runner = new CommandRunner(session, this.#check, this.#outbox, host.pool);
  }

  /** Holds memory while it is the peer's turn to do something. */
  get isWaitingForPeer(): boolean {
    return this.#heldBytes > 0 && (this.#outbox.isWaitingForPeer || this.#arrival !== undefined);
  }

  /** There is a request at the head of the input that does not fit the limits now; `onInputWanted` will be called. */
  get isBlocked(): boolean {
    return this.#isBlocked;
  }

  /** Processes what it can of the input; returns when more is needed or the limits are reached. */
  take(input: ByteQueue): void {
    if (this.#isTaking) return;
    this.#isTaking = true;
    this.#watch?.arrived();
    this.#isBlocked = false;
    this.#burstBytes = 0;
    this.#outbox.beginBurst();
    while (this.#phase === 'open' || this.#phase === 'draining') {
      if (this.#burstBytes > MAX_BURST_BYTES) {
        this.#isBlocked = true;
        setImmediate(() => this.#host.onInputWanted());
        break;
      }
      if (this.#arrival !== undefined) {
        if (!this.#receive(input, this.#arrival)) break;
      } else if (!input.hasHead(this.#headerBytes) || !this.#next(input)) break;
    }
    if (this.#phase === 'ended') input.clear();
    this.#runner.endBurst();
    this.#outbox.endBurst();
    this.#isTaking = false;
    this.#finishWhenIdle();
  }

  /** The peer will send nothing more. A request that arrived in part is dropped. */
  endInput(): void {
    if (this.#phase === 'closed') return;
    this.#phase = 'ended';
    this.#dropArrival();
    this.#finishWhenIdle();
  }

  /** From now on new requests are answered with ESHUTDOWN, and the end comes with the last reply. */
  drain(): void {
    if (this.#phase === 'open') this.#phase = 'draining';
    this.#finishWhenIdle();
  }

  /** The connection is gone. What runs on the device goes on to its end, without a reply. */
  close(): void {
    if (this.#phase === 'closed') return;
    this.#phase = 'closed';
    this.#watch?.close();
    this.#host.budget.forget(this);
    this.#dropArrival();
    this.#outbox.close();
  }

  onRepliesGone(replies: number, costBytes: number): void {
    this.#inFlight -= replies;
    this.#heldBytes -= costBytes;
    this.#host.budget.give(costBytes);
    if (this.#phase === 'closed') return;
    if (this.#inFlight === 0) this.#watch?.answered();
    if (this.#isBlocked) this.#host.onInputWanted();
    else this.#finishWhenIdle();
  }

  onBudgetFreed(): void {
    this.#host.onInputWanted();
  }

  /** Takes the request at the head of the input; false when it must wait or nothing more is to be read. */
  #next(input: ByteQueue): boolean {
    const { buffer, offset } = input;
    const request = this.#isExtended ? decodeExtendedRequest(buffer, offset) : decodeRequest(buffer, offset);
    if (request === undefined) {
      this.#violate('a request does not start with the magic number');
      return false;
    }
    if (request.type === CMD.DISC) {
      this.#phase = 'ended';
      return false;
    }
    const payloadBytes = this.#payloadBytes(request);
    if (payloadBytes > MAX_SKIPPED_BYTES && payloadBytes > this.#host.limits.maxPayloadBytes) {
      this.#violate(`${commandName(request.type)} with a payload of ${payloadBytes} bytes`);
      return false;
    }
    const refusal = this.#refusal(request);
    const costBytes = this.#cost(request, refusal);
    if (!this.#accept(costBytes)) return false;
    input.skip(this.#headerBytes);
    if (payloadBytes > 0) this.#expect(input, request, costBytes, refusal);
    else {
      const job = { request, costBytes, payload: undefined, beganMs: 0 };
      if (refusal === undefined) this.#runner.run(job);
      else this.#runner.refuse(job, refusal);
    }
    return true;
  }

  #payloadBytes(request: Request): number {
    const hasPayload = request.type === CMD.WRITE || (this.#isExtended && (request.flags & CMD_FLAG.PAYLOAD_LEN) !== 0);
    return hasPayload ? request.length : 0;
  }

  #refusal(request: Request): Failure | undefined {
    if (this.#phase === 'draining') return DRAINING;
    const refusal = this.#check.refusal(request);
    if (refusal !== undefined || request.type === CMD.WRITE) return refusal;
    const maxBytes = 8 + 4 * this.#host.limits.maxMetaContexts;
    if (this.#payloadBytes(request) <= maxBytes) return undefined;
    return { errno: NBD_ERRNO.EINVAL, message: 'the payload is too long' };
  }

  #cost(request: Request, refusal: Failure | undefined): number {
    if (refusal !== undefined) return BARE_REQUEST_COST_BYTES;
    if (request.type === CMD.READ) return this.#runner.readCost(request);
    if (request.type === CMD.WRITE) return BARE_REQUEST_COST_BYTES + request.length;
    return request.type === CMD.BLOCK_STATUS ? BLOCK_STATUS_COST_BYTES : BARE_REQUEST_COST_BYTES;
  }

  #accept(costBytes: number): boolean {
    const { limits, budget } = this.#host;
    const isFull =
      this.#inFlight >= limits.maxRequestsInFlight ||
      (this.#heldBytes > 0 && this.#heldBytes + costBytes > limits.maxConnectionBytes);
    if (isFull || !budget.tryTake(costBytes, this)) {
      this.#isBlocked = true;
      return false;
    }
    this.#inFlight += 1;
    if (this.#inFlight > 1) this.#watch?.crowded();
    this.#heldBytes += costBytes;
    this.#burstBytes += costBytes;
    return true;
  }

  /** Begins to receive a payload; one that has arrived as a whole is used where it lies. */
  #expect(input: ByteQueue, request: Request, costBytes: number, refusal: Failure | undefined): void {
    const { length } = request;
    if (refusal === undefined && input.buffer.length - input.offset >= length) {
      const payload = { bytes: input.take(length), slab: undefined };
      this.#runner.run({ request, costBytes, payload, beganMs: 0 });
      return;
    }
    const payload = refusal === undefined ? this.#payloadBuffer(length) : undefined;
    this.#arrival = { request, costBytes, refusal, payload, receivedBytes: 0 };
  }

  #payloadBuffer(length: number): Payload {
    if (length <= SMALL_SLAB_BYTES / 2 && this.#inFlight > 1)
      return { bytes: Buffer.allocUnsafeSlow(length), slab: undefined };
    const slab: Slab = this.#host.pool.take(length);
    return { bytes: slab.buffer.subarray(0, length), slab };
  }

  /** True when the payload is complete and the request on its way. */
  #receive(input: ByteQueue, arrival: Arrival): boolean {
    const { request, payload, refusal, costBytes } = arrival;
    const left = request.length - arrival.receivedBytes;
    arrival.receivedBytes +=
      payload === undefined ? input.skip(left) : input.copyTo(payload.bytes, arrival.receivedBytes);
    if (arrival.receivedBytes < request.length) return false;
    this.#arrival = undefined;
    if (refusal === undefined) this.#runner.run({ request, costBytes, payload, beganMs: 0 });
    else this.#runner.refuse({ request, costBytes, payload: undefined, beganMs: 0 }, refusal);
    return true;
  }

  #dropArrival(): void {
    const arrival = this.#arrival;
    if (arrival === undefined) return;
    this.#arrival = undefined;
    if (arrival.payload?.slab !== undefined) this.#host.pool.give(arrival.payload.slab);
    this.onRepliesGone(1, arrival.costBytes);
  }

  #violate(message: string): void {
    this.#phase = 'ended';
    this.#host.onViolation(message);
  }

  #finishWhenIdle(): void {
    if (this.#inFlight > 0 || this.#isTaking) return;
    if (this.#phase === 'ended' || this.#phase === 'draining') this.#host.onTransmissionDone();
  }
}
