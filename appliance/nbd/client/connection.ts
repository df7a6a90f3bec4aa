// SPDX-License-Identifier: Apache-2.0
import { type Clock, systemClock } from '../../core/clock.ts';
import { ApplianceError, toError } from '../../core/errors.ts';
import {
  CMD,
  CMD_FLAG,
  EXTENDED_REQUEST_BYTES,
  EXTENDED_REQUEST_MAGIC,
  REQUEST_BYTES,
  REQUEST_MAGIC,
} from '../protocol.ts';
import type { ByteSink, Channel } from './channel.ts';
import type { Negotiated } from './negotiate.ts';
import { ReplyParser } from './reply-parser.ts';
import { Request } from './request.ts';

/** Who owns a connection and the requests on it. */
export interface ConnectionOwner {
  /** The server answered a request, with or without an error. */
  onAnswered(connection: Connection, request: Request): void;
  /** The connection is dead, for the first and last time; these requests have no answer. */
  onLost(connection: Connection, error: ApplianceError, unanswered: readonly Request[]): void;
}

const TWO_32 = 2 ** 32;

/**
 * The transmission phase of one connection. Requests given within one turn of the event loop leave in one system call;
 * payloads are not copied. Once dead it stays dead: the first error decides, and nothing that arrives later counts.
 */
export class Connection implements ByteSink {
  readonly negotiated: Negotiated;
  readonly #channel: Channel;
  readonly #owner: ConnectionOwner;
  readonly #parser: ReplyParser;
  readonly #timeoutMs: number;
  readonly #clock: Clock = systemClock;
  readonly #inFlight = new Map<number, Request>();
  #inFlightBytes = 0;
  #outgoing: Request[] = [];
  #isFlushPlanned = false;
  #lastCookie = 0;
  #timer: NodeJS.Timeout | undefined;
  #phase: 'open' | 'retiring' | 'dead' = 'open';
  #retired: PromiseWithResolvers<void> | undefined;

  constructor(channel: Channel, negotiated: Negotiated, owner: ConnectionOwner, timeoutMs: number) {
    this.negotiated = negotiated;
    this.#channel = channel;
    this.#owner = owner;
    this.#timeoutMs = timeoutMs;
    this.#parser = new ReplyParser({
      replies: negotiated.replies,
      contexts: negotiated.contexts,
      inFlight: this.#inFlight,
      onDone: (request) => this.#onDone(request),
    });
    channel.setSink(this);
  }

  get inFlightRequests(): number {
    return this.#inFlight.size;
  }

  get inFlightBytes(): number {
    return this.#inFlightBytes;
  }

  get isOpen(): boolean {
    return this.#phase === 'open';
  }

  /** Sends a request; its owner hears of its end exactly once. Only while `isOpen`. */
  send(request: Request): void {
    this.#lastCookie += 1;
    request.cookie = this.#lastCookie;
    request.attempts += 1;
    request.sentMs = this.#clock.elapsedMs();
    this.#inFlight.set(request.cookie, request);
    this.#inFlightBytes += request.payloadBytes;
    this.#outgoing.push(request);
    this.#timer ??= setTimeout(this.#onTimer, this.#timeoutMs);
    if (this.#isFlushPlanned) return;
    this.#isFlushPlanned = true;
    process.nextTick(this.#flush);
  }

  /** Takes no more requests, waits for the answers that are due (or their deadlines), says DISC, closes. Idempotent. */
  retire(): Promise<void> {
    if (this.#phase === 'dead') return Promise.resolve();
    this.#phase = 'retiring';
    this.#retired ??= Promise.withResolvers<void>();
    if (this.#inFlight.size === 0) this.#disconnect();
    return this.#retired.promise;
  }

  /** Ends at once; unanswered requests are reported as lost with this error. */
  fail(error: ApplianceError): void {
    if (this.#phase === 'dead') return;
    this.#phase = 'dead';
    clearTimeout(this.#timer);
    this.#channel.destroy();
    const unanswered = [...this.#inFlight.values()];
    this.#inFlight.clear();
    this.#outgoing = [];
    this.#owner.onLost(this, error, unanswered);
    this.#retired?.resolve();
  }

  onBytes(buffer: Buffer, start: number, end: number): void {
    try {
      this.#parser.feed(buffer, start, end);
    } catch (error) {
      this.#onParserError(error);
    }
  }

  directTarget(): Uint8Array | undefined {
    return this.#phase === 'dead' ? undefined : this.#parser.directTarget();
  }

  onDirectBytes(length: number): void {
    try {
      this.#parser.onDirectBytes(length);
    } catch (error) {
      this.#onParserError(error);
    }
  }

  onEnd(cause: Error | undefined): void {
    const reason = cause === undefined ? 'the server closed it' : cause.message;
    this.fail(new ApplianceError('NBD_CONNECTION_LOST', `the NBD connection was lost: ${reason}`, { cause }));
  }

  onDrain(): void {
    this.#flush();
  }

  #onParserError(thrown: unknown): void {
    if (thrown instanceof ApplianceError) return this.fail(thrown);
    const cause = toError(thrown);
    this.fail(new ApplianceError('INTERNAL', `reading an NBD reply failed: ${cause.message}`, { cause }));
  }

  #onDone(request: Request): void {
    this.#inFlight.delete(request.cookie);
    this.#inFlightBytes -= request.payloadBytes;
    this.#owner.onAnswered(this, request);
    if (this.#phase === 'retiring' && this.#inFlight.size === 0) this.#disconnect();
  }

  #disconnect(): void {
    if (this.#phase === 'dead') return;
    this.#phase = 'dead';
    clearTimeout(this.#timer);
    const header = Buffer.allocUnsafe(this.#headerBytes);
    this.#encode(new Request(CMD.DISC, { offset: 0, length: 0 }), header, 0);
    this.#channel.send(header);
    void this.#channel.end().then(() => this.#retired?.resolve());
  }

  /** One timer watches the oldest request; every request has the same time, so the others are due later. */
  readonly #onTimer = (): void => {
    this.#timer = undefined;
    const [oldest] = this.#inFlight.values();
    if (oldest === undefined) return;
    const nowMs = this.#clock.elapsedMs();
    const leftMs = oldest.sentMs + this.#timeoutMs - nowMs;
    if (leftMs > 0) {
      this.#timer = setTimeout(this.#onTimer, Math.ceil(leftMs));
      return;
    }
    for (const request of this.#inFlight.values()) {
      if (request.sentMs + this.#timeoutMs <= nowMs) request.hasTimedOut = true;
    }
    const message = `the NBD server did not answer ${oldest.describe()} within ${this.#timeoutMs} ms`;
    this.fail(new ApplianceError('TIMED_OUT', message));
  };

  readonly #flush = (): void => {
    this.#isFlushPlanned = false;
    const requests = this.#outgoing;
    if (requests.length === 0 || this.#phase === 'dead' || !this.#channel.isWritable) return;
    this.#outgoing = [];
    const headers = Buffer.allocUnsafe(requests.length * this.#headerBytes);
    let sent = 0;
    let encoded = 0;
    this.#channel.cork();
    for (const request of requests) {
      encoded = this.#encode(request, headers, encoded);
      if (request.command !== CMD.WRITE || request.buffer === undefined) continue;
      this.#channel.send(headers.subarray(sent, encoded));
      this.#channel.send(request.buffer);
      sent = encoded;
    }
    if (sent < encoded) this.#channel.send(headers.subarray(sent, encoded));
    this.#channel.uncork();
  };

  get #headerBytes(): number {
    return this.negotiated.replies === 'extended' ? EXTENDED_REQUEST_BYTES : REQUEST_BYTES;
  }

  /** Writes the header of a request; returns the position behind it. */
  #encode(request: Request, into: Buffer, start: number): number {
    const isExtended = this.negotiated.replies === 'extended';
    const payloadFlag = isExtended && request.command === CMD.WRITE ? CMD_FLAG.PAYLOAD_LEN : 0;
    into.writeUInt32BE(isExtended ? EXTENDED_REQUEST_MAGIC : REQUEST_MAGIC, start);
    into.writeUInt16BE(request.flags + payloadFlag, start + 4);
    into.writeUInt16BE(request.command, start + 6);
    writeUInt64(into, request.cookie, start + 8);
    writeUInt64(into, request.offset, start + 16);
    if (isExtended) return writeUInt64(into, request.length, start + 24);
    return into.writeUInt32BE(request.length, start + 24);
  }
}

function writeUInt64(into: Buffer, value: number, start: number): number {
  into.writeUInt32BE(Math.floor(value / TWO_32), start);
  return into.writeUInt32BE(value % TWO_32, start + 4);
}
