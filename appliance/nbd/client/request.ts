// SPDX-License-Identifier: Apache-2.0
import { MAX_EXTENTS_PER_QUERY } from '../../block/block-device.ts';
import { ApplianceError, type ErrorContext } from '../../core/errors.ts';
import { CMD, CMD_FLAG, NBD_ERRNO } from '../protocol.ts';
import { Coverage } from './coverage.ts';

/** A run of bytes with the flags that a meta context gives it; offsets follow from the order. */
export interface StatusExtent {
  length: number;
  readonly flags: number;
}

/** An error reply: the value of the wire (unknown ones count as EINVAL), the server's words, where it happened. */
export interface ServerError {
  readonly errno: number;
  readonly message: string;
  readonly offset: number | undefined;
}

const COMMAND_NAMES = new Map<number, string>(Object.entries(CMD).map(([name, value]) => [value, name]));
const ERRNO_NAMES = new Map<number, string>(Object.entries(NBD_ERRNO).map(([name, value]) => [value, name]));

/** One request and what has been received for it. It lives until its promise is settled, over several connections. */
export class Request {
  readonly command: number;
  readonly flags: number;
  readonly offset: number;
  readonly length: number;
  /** Where a read goes, or what a write sends. */
  readonly buffer: Buffer | undefined;
  readonly settled: Promise<void>;
  readonly resolve: () => void;
  readonly reject: (error: Error) => void;

  /** Set anew for each connection that it is sent on. */
  cookie = 0;
  /** `Clock.elapsedMs` of its last sending. */
  sentMs = 0;
  hasTimedOut = false;
  /** How often it was sent. */
  attempts = 0;
  /** Order of the modifications of a device; 0 for other requests. */
  writeNumber = 0;

  error: ServerError | undefined;
  coverage: Coverage = new Coverage();
  /** By name, what each meta context answered. */
  status: Map<string, StatusExtent[]> | undefined;

  constructor(command: number, parts: { offset: number; length: number; flags?: number; buffer?: Buffer }) {
    this.command = command;
    this.flags = parts.flags ?? 0;
    this.offset = parts.offset;
    this.length = parts.length;
    this.buffer = parts.buffer;
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    this.settled = promise;
    this.resolve = resolve;
    this.reject = reject;
  }

  /** May be sent again when its answer was lost. */
  get isRepeatable(): boolean {
    return this.command === CMD.READ || this.command === CMD.BLOCK_STATUS || this.command === CMD.CACHE;
  }

  /** Changes data, so that a later flush has to cover it. */
  get isModification(): boolean {
    return this.command === CMD.WRITE || this.command === CMD.WRITE_ZEROES || this.command === CMD.TRIM;
  }

  get isDurable(): boolean {
    return this.flags % 2 === CMD_FLAG.FUA;
  }

  get payloadBytes(): number {
    return this.buffer?.length ?? 0;
  }

  /** Forgets what a lost connection delivered. */
  restart(): void {
    this.error = undefined;
    this.coverage = new Coverage();
    this.status = undefined;
  }

  /**
   * Adds one extent of a context's answer: cut at the request's end, merged with an equal neighbour, at most
   * `MAX_EXTENTS_PER_QUERY` of them. Returns the bytes covered so far.
   */
  addExtent(extents: StatusExtent[], covered: number, extent: StatusExtent): number {
    const length = Math.min(extent.length, this.length - covered);
    if (length === 0) return covered;
    const last = extents.at(-1);
    if (last !== undefined && last.flags === extent.flags) last.length += length;
    else if (extents.length < MAX_EXTENTS_PER_QUERY) extents.push({ length, flags: extent.flags });
    else return this.length;
    return covered + length;
  }

  describe(): string {
    const name = COMMAND_NAMES.get(this.command) ?? `command ${this.command}`;
    return this.command === CMD.FLUSH ? name : `${name} of ${this.length} bytes at ${this.offset}`;
  }

  /** The operating error for a server's error reply. */
  toError(error: ServerError): ApplianceError {
    const errnoName = ERRNO_NAMES.get(error.errno) ?? String(error.errno);
    const said = error.message === '' ? '' : `: ${error.message}`;
    const message = `the NBD server answered ${this.describe()} with ${errnoName}${said}`;
    const context: ErrorContext = {
      details: { errno: errnoName, offset: this.offset, length: this.length, errorOffset: error.offset },
    };
    if (error.errno === NBD_ERRNO.ENOSPC) return new ApplianceError('NO_SPACE', message, context);
    if (error.errno === NBD_ERRNO.ESHUTDOWN) return new ApplianceError('NBD_CONNECTION_LOST', message, context);
    const isTooSlow = this.command === CMD.WRITE_ZEROES && error.errno === NBD_ERRNO.ENOTSUP;
    return new ApplianceError(isTooSlow ? 'NOT_SUPPORTED' : 'NBD_SERVER_ERROR', message, context);
  }
}
