// SPDX-License-Identifier: Apache-2.0
import type { Server, Socket } from 'node:net';
import { type Clock, systemClock } from '../../core/clock.ts';
import { ApplianceError } from '../../core/errors.ts';
import { MAX_STRING_BYTES } from '../protocol.ts';
import { ByteBudget } from './byte-budget.ts';
import { Connection, type ConnectionEvent, type ConnectionHost } from './connection.ts';
import { DEFAULT_LIMITS, type ServerLimits } from './limits.ts';
import { boundAddress, type ListenAddress, listenSocket } from './listen-socket.ts';
import { type ExportOptions, type ExportUser, NbdExport } from './nbd-export.ts';
import { checkTls, type ServerTls } from './server-tls.ts';
import { SlabPool } from './slab-pool.ts';

/** What happened on a server, for logs; connections are numbered from 1. `refused`: one could not be accepted. */
export type ServerEvent =
  | ({ readonly connection: number } & ConnectionEvent)
  | { readonly kind: 'refused'; readonly reason: Error };

export interface ServerOptions {
  readonly listen: ListenAddress;
  /** Makes TLS mandatory (FORCEDTLS); without it there is none (NOTLS). */
  readonly tls?: ServerTls;
  readonly limits?: Partial<ServerLimits>;
  readonly onEvent?: (event: ServerEvent) => void;
  readonly clock?: Clock;
}

export interface RemoveOptions {
  /** So long requests in flight may take; then the connections of the export are cut. */
  readonly drainMs: number;
}

export interface CloseOptions {
  /** So long requests in flight may take; then all connections are cut. */
  readonly deadlineMs: number;
}

/** The largest minimum block size of the protocol. */
const MAX_MINIMUM_BLOCK_BYTES = 65_536;
const DISPOSE_DEADLINE_MS = 2_000;

/**
 * An NBD server: many exports on one unix socket or TCP port, each a `BlockDevice`. Exports come and go at run time.
 * (NetworkBlockDevice/nbd, doc/proto.md, and extension-ext-header; docs/protocols/nbd.md says what of it)
 */
export class NbdServer implements AsyncDisposable {
  readonly #options: ServerOptions;
  readonly #limits: ServerLimits;
  readonly #exports = new Map<string, NbdExport>();
  readonly #connections = new Set<Connection>();
  readonly #connectionHost: ConnectionHost;
  readonly #stallTimer: NodeJS.Timeout;
  #socket: Server | undefined;
  #address: ListenAddress;
  #isShuttingDown = false;
  #closing: Promise<void> | undefined;
  #connectionCount = 0;

  private constructor(options: ServerOptions) {
    this.#options = options;
    this.#address = options.listen;
    this.#limits = { ...DEFAULT_LIMITS, ...options.limits };
    this.#connectionHost = this.#hostOfConnections();
    this.#stallTimer = setInterval(() => this.#cutStalled(), Math.max(this.#limits.stallMs / 4, 10)).unref();
  }

  /** Starts to listen. Errors: LOCKED (somebody listens there), NBD_LISTEN_FAILED, NBD_TLS_FAILED, BAD_ARGUMENT. */
  static async listen(options: ServerOptions): Promise<NbdServer> {
    if (options.tls !== undefined) checkTls(options.tls);
    const server = new NbdServer(options);
    try {
      server.#socket = await listenSocket(options.listen, {
        onSocket: (socket) => server.#accept(socket),
        onRefused: (reason) => options.onEvent?.({ kind: 'refused', reason }),
      });
    } catch (error) {
      clearInterval(server.#stallTimer);
      throw error;
    }
    server.#socket.maxConnections = server.#limits.maxConnections;
    server.#address = boundAddress(options.listen, server.#socket);
    return server;
  }

  /** Where it listens, with the real port. */
  get address(): ListenAddress {
    return this.#address;
  }

  get connectionCount(): number {
    return this.#connections.size;
  }

  /** Memory that requests in flight hold now; at most `maxTotalBytes` (or one request). */
  get bytesInFlight(): number {
    return this.#connectionHost.budget.usedBytes;
  }

  /** Offers a device under a name, from now on. Errors: NBD_EXPORT_EXISTS, BAD_ARGUMENT, NOT_SUPPORTED, CLOSED. */
  addExport(options: ExportOptions): NbdExport {
    if (this.#isShuttingDown) throw new ApplianceError('CLOSED', 'the NBD server is closed');
    checkExport(options);
    if (this.#exports.has(options.name)) {
      throw new ApplianceError('NBD_EXPORT_EXISTS', `there is an export "${options.name}" already`);
    }
    const added = new NbdExport(options, this.#limits.maxPayloadBytes);
    this.#exports.set(added.name, added);
    return added;
  }

  /** The exports of this moment, each with its live statistics. */
  exports(): NbdExport[] {
    return [...this.#exports.values()];
  }

  /**
   * Takes the export out of the list at once, lets its connections finish what runs, answers their new requests with
   * ESHUTDOWN and closes them. When it settles, no connection is left and, if the drain was in time, nothing runs on the
   * device any more. Errors: NBD_EXPORT_UNKNOWN.
   */
  async removeExport(name: string, options: RemoveOptions): Promise<void> {
    const removed = this.#exports.get(name);
    if (removed === undefined) throw new ApplianceError('NBD_EXPORT_UNKNOWN', `there is no export "${name}"`);
    this.#exports.delete(name);
    await drainAll(removed.users, options.drainMs);
    if (removed.ownsDevice) await removed.device.close();
  }

  /** Stops listening, drains all connections as `removeExport` does, closes owned devices. Idempotent. */
  close(options: CloseOptions = { deadlineMs: DISPOSE_DEADLINE_MS }): Promise<void> {
    this.#closing ??= this.#close(options.deadlineMs);
    return this.#closing;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #close(deadlineMs: number): Promise<void> {
    this.#isShuttingDown = true;
    clearInterval(this.#stallTimer);
    const { promise: stopped, resolve } = Promise.withResolvers<void>();
    this.#socket?.close(() => resolve());
    // Clients that are still haggling get ERR_SHUTDOWN until those in transmission have finished.
    const haggling = [...this.#connections].filter((connection) => connection.isHaggling);
    const others = [...this.#connections].filter((connection) => !connection.isHaggling);
    await drainAll(new Set(others), deadlineMs);
    await drainAll(new Set([...haggling, ...this.#connections]), 0);
    await stopped;
    const owned = this.exports().filter((each) => each.ownsDevice);
    this.#exports.clear();
    await Promise.all(owned.map((each) => each.device.close()));
  }

  #accept(socket: Socket): void {
    if (this.#isShuttingDown) {
      socket.destroy();
      return;
    }
    this.#connectionCount += 1;
    this.#connections.add(new Connection(this.#connectionCount, this.#connectionHost, socket));
  }

  #hostOfConnections(): ConnectionHost {
    return {
      limits: this.#limits,
      tls: this.#options.tls,
      budget: new ByteBudget(this.#limits.maxTotalBytes),
      pool: new SlabPool(this.#limits.maxRetainedBytes),
      clock: this.#options.clock ?? systemClock,
      isShuttingDown: () => this.#isShuttingDown,
      findExport: (name) => this.#exports.get(name),
      listedExports: () => this.exports().filter((each) => each.isListed),
      onEvent: (connection, event) => {
        if (event.kind === 'closed') this.#connections.delete(connection);
        this.#options.onEvent?.({ connection: connection.id, ...event });
      },
    };
  }

  /** Memory is short: cut those that hold some of it and do nothing. */
  #cutStalled(): void {
    if (!this.#connectionHost.budget.hasWaiters) return;
    for (const connection of this.#connections) {
      if (connection.stalledMs() < this.#limits.stallMs) continue;
      void connection.terminate(new ApplianceError('TIMED_OUT', 'the peer neither took replies nor sent its payload'));
    }
  }
}

/** Drains all; those that have not finished in time are cut. Settles when all are closed. */
async function drainAll(users: ReadonlySet<ExportUser>, drainMs: number): Promise<void> {
  const all = [...users];
  if (all.length === 0) return;
  const drained = Promise.all(all.map((user) => user.drain()));
  const timer = setTimeout(() => {
    for (const user of all) void user.terminate();
  }, drainMs);
  await drained;
  clearTimeout(timer);
}

function checkExport(options: ExportOptions): void {
  const { name, description = '', device } = options;
  const isName = (text: string): boolean => Buffer.byteLength(text) <= MAX_STRING_BYTES && !text.includes('\0');
  const contexts = [...(options.extraContexts?.keys() ?? [])];
  if (![name, description, ...contexts].every((text) => isName(text) && text.isWellFormed())) {
    throw new ApplianceError('BAD_ARGUMENT', 'names in NBD are at most 4096 bytes of UTF-8 without NUL');
  }
  if (device.limits.minimumBytes > MAX_MINIMUM_BLOCK_BYTES) {
    throw new ApplianceError('BAD_ARGUMENT', 'NBD has no blocks larger than 65536 bytes');
  }
}
