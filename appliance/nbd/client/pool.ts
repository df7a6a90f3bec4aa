// SPDX-License-Identifier: Apache-2.0
import { ApplianceError, hasCode } from '../../core/errors.ts';
import { CMD, FLAG, NBD_ERRNO } from '../protocol.ts';
import type { Connection, ConnectionOwner } from './connection.ts';
import type { Negotiated } from './negotiate.ts';
import type { NbdReconnectOptions } from './options.ts';
import { differenceOf, reconnect } from './reconnect.ts';
import type { Request } from './request.ts';
import { WriteLedger } from './write-ledger.ts';

/** How a pool makes and uses its connections. */
export interface PoolOptions {
  /** Makes one more connection to the same export. */
  readonly open: (owner: ConnectionOwner, signal: AbortSignal | undefined, timeoutMs?: number) => Promise<Connection>;
  readonly maximumConnections: number;
  readonly maximumRequests: number;
  readonly maximumInFlightBytes: number;
  readonly reconnect: NbdReconnectOptions | undefined;
}

/** A connection with this many requests in flight is busy enough for another one to help. */
const BUSY_REQUESTS = 4;

/**
 * Spreads requests over the connections to one export, keeps what is in flight bounded (the rest waits in order), and
 * brings a lost server back for requests that may be repeated.
 *
 * Invariants: a request is settled exactly once; a modification is sent at most once; after `#failure` is set nothing is
 * sent and everything fails with it.
 */
export class ConnectionPool implements ConnectionOwner {
  readonly negotiated: Negotiated;
  readonly #options: PoolOptions;
  readonly #connections: Connection[] = [];
  readonly #leaving = new Set<Promise<void>>();
  readonly #stop = new AbortController();
  readonly #writes = new WriteLedger();
  #waiting: Request[] = [];
  #inFlightRequests = 0;
  #inFlightBytes = 0;
  #failure: ApplianceError | undefined;
  #isClosing = false;
  #mayGrow: boolean;
  /** Opens connections in the background: one more, or the first again. */
  #opening: Promise<void> | undefined;

  private constructor(first: Negotiated, options: PoolOptions) {
    this.negotiated = first;
    this.#options = options;
    const isMultiConn = Math.floor(first.transmissionFlags / FLAG.CAN_MULTI_CONN) % 2 === 1;
    this.#mayGrow = isMultiConn && options.maximumConnections > 1;
  }

  /** Makes the first connection. */
  static async open(options: PoolOptions, signal: AbortSignal | undefined): Promise<ConnectionPool> {
    const slot: { pool?: ConnectionPool } = {};
    const first = await options.open(
      {
        onAnswered: (connection, request) => slot.pool?.onAnswered(connection, request),
        onLost: (connection, error, unanswered) => slot.pool?.onLost(connection, error, unanswered),
      },
      signal,
    );
    const pool = new ConnectionPool(first.negotiated, options);
    slot.pool = pool;
    if (first.isOpen) pool.#connections.push(first);
    return pool;
  }

  get connections(): number {
    return this.#connections.length;
  }

  /** Throws CLOSED, or what the device failed with. */
  checkOpen(): void {
    if (this.#failure !== undefined) throw this.#failure;
    if (this.#isClosing) throw closedError();
  }

  /** Settles when the server has answered, or when it never will. */
  perform(request: Request): Promise<void> {
    const refusal = this.#refusalOf(request);
    if (refusal !== undefined) return Promise.reject(refusal);
    this.#writes.begin(request);
    this.#waiting.push(request);
    this.#pump();
    return request.settled;
  }

  /** Flushes everything whose writes were begun before; sent when they are answered on all connections. */
  async flush(request: Request): Promise<void> {
    const upTo = await this.#writes.settled();
    await this.perform(request);
    this.#writes.flushed(upTo);
  }

  /** Waits for what is in flight, refuses what waits, and takes leave of the server. Idempotent. */
  async close(): Promise<void> {
    if (!this.#isClosing) {
      this.#isClosing = true;
      this.#stop.abort();
      this.#rejectWaiting(closedError());
    }
    await this.#opening;
    await Promise.all([...this.#connections.map((connection) => connection.retire()), ...this.#leaving]);
    this.#connections.length = 0;
  }

  onAnswered(connection: Connection, request: Request): void {
    this.#leaveFlight(request);
    const { error } = request;
    if (error?.errno === NBD_ERRNO.ESHUTDOWN && connection.isOpen) {
      this.#retire(connection);
      // What comes back may be another server, to which unflushed writes mean nothing.
      this.#writes.connectionLost(request.toError(error), []);
    }
    if (error === undefined) {
      this.#writes.end(request, true);
      request.resolve();
    } else if (error.errno !== NBD_ERRNO.ESHUTDOWN || !this.#repeat(request)) {
      this.#writes.end(request, false);
      request.reject(request.toError(error));
    }
    if (this.#waiting.length > 0) this.#pump();
  }

  onLost(connection: Connection, error: ApplianceError, unanswered: readonly Request[]): void {
    this.#remove(connection);
    this.#writes.connectionLost(error, unanswered);
    if (!isTransient(error)) this.#failure ??= error;
    for (const request of unanswered) {
      this.#leaveFlight(request);
      if (request.hasTimedOut || !this.#repeat(request)) {
        this.#writes.end(request, false);
        request.reject(this.#failure ?? (request.hasTimedOut ? error : lossOf(request, error)));
      }
    }
    if (this.#failure !== undefined) this.#fail(this.#failure);
    else if (this.#connections.length === 0 && this.#options.reconnect === undefined) this.#fail(error);
    else this.#pump();
  }

  #refusalOf(request: Request): ApplianceError | undefined {
    if (this.#failure !== undefined) return this.#failure;
    if (this.#isClosing) return closedError();
    return request.isModification || request.command === CMD.FLUSH ? this.#writes.failure : undefined;
  }

  #pump(): void {
    if (this.#isClosing || this.#failure !== undefined) return;
    let sent = 0;
    for (const request of this.#waiting) {
      const refusal = this.#refusalOf(request);
      if (refusal !== undefined) {
        this.#writes.end(request, false);
        request.reject(refusal);
      } else {
        const connection = this.#hasRoomFor(request) ? this.#leastBusy() : undefined;
        if (connection === undefined) break;
        this.#inFlightRequests += 1;
        this.#inFlightBytes += request.payloadBytes;
        connection.send(request);
      }
      sent += 1;
    }
    if (sent > 0) this.#waiting = this.#waiting.slice(sent);
    this.#openMore();
  }

  /** One request always fits, however large it is. */
  #hasRoomFor(request: Request): boolean {
    if (this.#inFlightRequests === 0) return true;
    if (this.#inFlightRequests >= this.#options.maximumRequests) return false;
    return this.#inFlightBytes + request.payloadBytes <= this.#options.maximumInFlightBytes;
  }

  #leastBusy(): Connection | undefined {
    let best: Connection | undefined;
    for (const connection of this.#connections) {
      if (best === undefined || connection.inFlightRequests < best.inFlightRequests) best = connection;
    }
    return best;
  }

  #openMore(): void {
    if (this.#opening !== undefined) return;
    if (this.#connections.length === 0) {
      if (this.#waiting.length > 0) this.#open(this.#reopen());
    } else if (
      this.#mayGrow &&
      this.#connections.length < this.#options.maximumConnections &&
      this.#connections.every((connection) => connection.inFlightRequests >= BUSY_REQUESTS)
    ) {
      this.#open(this.#grow());
    }
  }

  #open(work: Promise<void>): void {
    this.#opening = work.finally(() => {
      this.#opening = undefined;
      this.#pump();
    });
  }

  /** One more connection. A server that has no more of them, or another export there, is no failure of this device. */
  async #grow(): Promise<void> {
    try {
      const connection = await this.#options.open(this, this.#stop.signal);
      if (differenceOf(this.negotiated, connection.negotiated) === undefined) return this.#admit(connection);
      this.#mayGrow = false;
      this.#depart(connection);
    } catch (error) {
      if (!(error instanceof ApplianceError)) throw error;
      this.#mayGrow = false;
    }
  }

  async #reopen(): Promise<void> {
    const limits = this.#options.reconnect;
    try {
      if (limits === undefined) throw new ApplianceError('NBD_CONNECTION_LOST', 'the NBD connection was lost');
      const open = (timeoutMs: number): Promise<Connection> => this.#options.open(this, this.#stop.signal, timeoutMs);
      this.#admit(await reconnect({ open, expected: this.negotiated, limits, signal: this.#stop.signal }));
    } catch (error) {
      if (!(error instanceof ApplianceError)) throw error;
      if (!this.#isClosing) this.#fail(error);
    }
  }

  #admit(connection: Connection): void {
    if (!connection.isOpen) return;
    if (this.#isClosing || this.#failure !== undefined) this.#depart(connection);
    else this.#connections.push(connection);
  }

  /** Puts a request back in front of those that wait, if it may be sent again. */
  #repeat(request: Request): boolean {
    const limits = this.#options.reconnect;
    if (limits === undefined || this.#isClosing || this.#failure !== undefined) return false;
    if (!request.isRepeatable || request.attempts > limits.requestAttempts) return false;
    request.restart();
    this.#waiting.unshift(request);
    return true;
  }

  #leaveFlight(request: Request): void {
    this.#inFlightRequests -= 1;
    this.#inFlightBytes -= request.payloadBytes;
  }

  #retire(connection: Connection): void {
    this.#remove(connection);
    this.#depart(connection);
  }

  #depart(connection: Connection): void {
    const leaving = connection.retire().finally(() => this.#leaving.delete(leaving));
    this.#leaving.add(leaving);
  }

  #remove(connection: Connection): void {
    const index = this.#connections.indexOf(connection);
    if (index >= 0) this.#connections.splice(index, 1);
  }

  /** The end of the device: the first error stays. */
  #fail(error: ApplianceError): void {
    this.#failure ??= error;
    this.#rejectWaiting(this.#failure);
    // Each failing connection is removed from the list by `onLost`.
    for (let first = this.#connections[0]; first !== undefined; first = this.#connections[0]) first.fail(this.#failure);
  }

  #rejectWaiting(error: ApplianceError): void {
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const request of waiting) {
      this.#writes.end(request, false);
      request.reject(error);
    }
  }
}

function isTransient(error: ApplianceError): boolean {
  return hasCode(error, 'NBD_CONNECTION_LOST', 'TIMED_OUT');
}

function lossOf(request: Request, cause: ApplianceError): ApplianceError {
  const message = `the NBD connection was lost before ${request.describe()} was answered`;
  return new ApplianceError('NBD_CONNECTION_LOST', message, { cause });
}

function closedError(): ApplianceError {
  return new ApplianceError('CLOSED', 'the NBD device was closed');
}
