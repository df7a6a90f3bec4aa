// SPDX-License-Identifier: Apache-2.0
import {
  type BlockDevice,
  type BlockFeatures,
  type BlockLimits,
  MAX_EXTENTS_PER_QUERY,
  type WriteOptions,
  type ZeroOptions,
} from '../../block/block-device.ts';
import { ApplianceError, hasCode } from '../../core/errors.ts';
import { appendExtent, type Extent, type ExtentKind, type Range } from '../../core/extents.ts';
import { ALLOCATION_STATE, BASE_ALLOCATION, CMD, CMD_FLAG, FLAG } from '../protocol.ts';
import type { Negotiated } from './negotiate.ts';
import type { ConnectionPool } from './pool.ts';
import { Request, type StatusExtent } from './request.ts';
import { alignStatus } from './status-alignment.ts';

/** Longest zero, trim, cache or block status request without extended headers, whose lengths have 32 bits. */
const MAX_SHORT_LENGTH: number = 2 ** 31;
/** Longest one with them: a request is still answered within its deadline. */
const MAX_LONG_LENGTH: number = 2 ** 40;
/** A read is not split further than this when the server finds it too long; every server must take as much. */
const MIN_SPLIT_BYTES = 65_536;

/**
 * An export of an NBD server as a block device. Made by `connectNbd`.
 *
 * Besides the block device's contract: a request that the server's limits or flags forbid is refused with BAD_ARGUMENT,
 * OUT_OF_RANGE, READ_ONLY or NOT_SUPPORTED before it is sent. When a connection is lost, reads and queries wait for the
 * server and are repeated; writes in flight fail with NBD_CONNECTION_LOST, and when acknowledged writes were not flushed
 * yet, so do all later writes and flushes. After NBD_PROTOCOL or NBD_EXPORT_CHANGED everything fails with that error.
 */
export class NbdDevice implements BlockDevice {
  readonly sizeBytes: number;
  readonly limits: BlockLimits;
  readonly features: BlockFeatures;
  readonly exportName: string;
  /** The server's words about the export. */
  readonly description: string | undefined;
  readonly isTls: boolean;
  readonly replies: 'simple' | 'structured' | 'extended';
  /** Names of the meta contexts that `blockStatus` can be asked about. */
  readonly contexts: ReadonlySet<string>;
  readonly #pool: ConnectionPool;
  readonly #isStrict: boolean;

  constructor(pool: ConnectionPool, isStrict: boolean) {
    const { negotiated } = pool;
    this.#pool = pool;
    this.#isStrict = isStrict;
    this.sizeBytes = negotiated.sizeBytes;
    this.limits = negotiated.limits;
    this.exportName = negotiated.exportName;
    this.description = negotiated.description;
    this.isTls = negotiated.isTls;
    this.replies = negotiated.replies;
    this.contexts = new Set(negotiated.contexts.values());
    this.features = featuresOf(negotiated);
  }

  /** Connections that are open now. */
  get connections(): number {
    return this.#pool.connections;
  }

  async read(offset: number, into: Buffer): Promise<void> {
    if (this.#isNothing({ offset, length: into.length }, true)) return;
    try {
      await this.#pool.perform(new Request(CMD.READ, { offset, length: into.length, buffer: into }));
    } catch (error) {
      const half = into.length / 2;
      if (!isOverflow(error) || half < MIN_SPLIT_BYTES || half % this.limits.minimumBytes !== 0) throw error;
      await this.read(offset, into.subarray(0, half));
      await this.read(offset + half, into.subarray(half));
    }
  }

  async write(offset: number, data: Buffer, options: WriteOptions = {}): Promise<void> {
    this.#checkWritable(true, 'writing');
    const flags = this.#fuaFlag(options);
    if (this.#isNothing({ offset, length: data.length }, true)) return;
    await this.#pool.perform(new Request(CMD.WRITE, { offset, length: data.length, buffer: data, flags }));
  }

  async zero(range: Range, options: ZeroOptions = {}): Promise<void> {
    this.#checkWritable(this.features.canZero, 'zeroing');
    if (options.fastOnly === true) this.#checkFeature(this.features.canFastZero, 'fast zeroing');
    const flags = this.#fuaFlag(options) + (options.keepAllocated === true ? CMD_FLAG.NO_HOLE : 0);
    if (this.#isNothing(range, false)) return;
    const fastFlags = flags + (options.fastOnly === true ? CMD_FLAG.FAST_ZERO : 0);
    await this.#inParts(range, async (part, isFirst) => {
      try {
        await this.#pool.perform(new Request(CMD.WRITE_ZEROES, { ...part, flags: fastFlags }));
      } catch (error) {
        // Once a part has been zeroed, "changes nothing" holds no more: the rest is done the slow way.
        if (isFirst || flags === fastFlags || !hasCode(error, 'NOT_SUPPORTED')) throw error;
        await this.#pool.perform(new Request(CMD.WRITE_ZEROES, { ...part, flags }));
      }
    });
  }

  async trim(range: Range, options: WriteOptions = {}): Promise<void> {
    this.#checkWritable(this.features.canTrim, 'trimming');
    const flags = this.#fuaFlag(options);
    if (this.#isNothing(range, false)) return;
    await this.#inParts(range, (part) => this.#pool.perform(new Request(CMD.TRIM, { ...part, flags })));
  }

  async flush(): Promise<void> {
    this.#checkFeature(this.features.canFlush, 'flushing');
    await this.#pool.flush(new Request(CMD.FLUSH, { offset: 0, length: 0 }));
  }

  async cache(range: Range): Promise<void> {
    this.#checkFeature(this.features.canCache, 'caching');
    if (this.#isNothing(range, false)) return;
    await this.#inParts(range, (part) => this.#pool.perform(new Request(CMD.CACHE, part)));
  }

  async extents(range: Range): Promise<Extent[]> {
    if (this.#isNothing(range, false)) return [];
    if (!this.contexts.has(BASE_ALLOCATION)) return [{ offset: range.offset, length: range.length, kind: 'data' }];
    return allocationExtents(range.offset, await this.blockStatus(range, BASE_ALLOCATION));
  }

  /**
   * What one meta context says about the range, from `range.offset` on: at least one extent, neighbours with equal flags
   * merged, cut at the range's end, possibly shorter than the range; lengths are multiples of `limits.minimumBytes`.
   *
   * @throws NBD_META_CONTEXT_MISSING when `contexts` does not have it
   */
  async blockStatus(range: Range, context: string): Promise<StatusExtent[]> {
    if (!this.contexts.has(context)) {
      throw new ApplianceError('NBD_META_CONTEXT_MISSING', `${context} was not negotiated`, { details: { context } });
    }
    return (await this.blockStatusAll(range)).get(context) ?? [];
  }

  /** The same for all contexts with one request; each may cover another part of the range. */
  async blockStatusAll(range: Range): Promise<Map<string, StatusExtent[]>> {
    if (this.#isNothing(range, false)) return new Map();
    const { offset } = range;
    for (let limit = this.#longestRequest; ; limit = this.limits.maximumBytes) {
      const length = Math.min(range.length, limit);
      const request = new Request(CMD.BLOCK_STATUS, { offset, length });
      try {
        await this.#pool.perform(request);
        return this.#alignAll(request.status);
      } catch (error) {
        if (!isTooLong(error) || length <= this.limits.maximumBytes) throw error;
      }
    }
  }

  /** Idempotent. Requests in flight are answered first; those that still wait for their turn fail with CLOSED. */
  close(): Promise<void> {
    return this.#pool.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  get #longestRequest(): number {
    return this.replies === 'extended' ? MAX_LONG_LENGTH : MAX_SHORT_LENGTH;
  }

  #alignAll(status: ReadonlyMap<string, StatusExtent[]> | undefined): Map<string, StatusExtent[]> {
    const aligned = new Map<string, StatusExtent[]>();
    for (const [name, extents] of status ?? []) {
      aligned.set(name, alignStatus(extents, this.limits.minimumBytes, name).slice(0, MAX_EXTENTS_PER_QUERY));
    }
    return aligned;
  }

  /** Sends a long request in parts, in smaller ones when the server finds a part too long. */
  async #inParts(range: Range, send: (part: Range, isFirst: boolean) => Promise<void>): Promise<void> {
    let limit = this.#longestRequest;
    let done = 0;
    do {
      const part = { offset: range.offset + done, length: Math.min(range.length - done, limit) };
      try {
        await send(part, done === 0);
        done += part.length;
      } catch (error) {
        if (!isTooLong(error) || part.length <= this.limits.maximumBytes) throw error;
        limit = this.limits.maximumBytes;
      }
    } while (done < range.length);
  }

  /** Checks a range; true when there is nothing to do for it. */
  #isNothing(range: Range, hasPayload: boolean): boolean {
    const { offset, length } = range;
    this.#pool.checkOpen();
    if (!Number.isSafeInteger(offset) || offset < 0 || !Number.isSafeInteger(length) || length < 0) {
      throw new ApplianceError('BAD_ARGUMENT', `${length} bytes at ${offset} are no range of bytes`);
    }
    if (!this.#isStrict) return false;
    this.#checkLimits(range, hasPayload);
    return length === 0;
  }

  #checkLimits({ offset, length }: Range, hasPayload: boolean): void {
    const { minimumBytes, maximumBytes } = this.limits;
    if (offset > this.sizeBytes - length) {
      throw new ApplianceError('OUT_OF_RANGE', `${length} bytes at ${offset} exceed the export's ${this.sizeBytes}`);
    }
    if (offset % minimumBytes !== 0 || length % minimumBytes !== 0) {
      throw new ApplianceError(
        'BAD_ARGUMENT',
        `${length} bytes at ${offset} are not on blocks of ${minimumBytes} bytes`,
      );
    }
    if (hasPayload && length > maximumBytes) {
      throw new ApplianceError('BAD_ARGUMENT', `a request of ${length} bytes exceeds the limit of ${maximumBytes}`);
    }
  }

  #checkWritable(canDo: boolean, what: string): void {
    this.#pool.checkOpen();
    if (!this.#isStrict) return;
    if (this.features.isReadOnly) throw new ApplianceError('READ_ONLY', `the export ${this.exportName} is read-only`);
    this.#checkFeature(canDo, what);
  }

  #checkFeature(canDo: boolean, what: string): void {
    if (canDo || !this.#isStrict) return;
    throw new ApplianceError('NOT_SUPPORTED', `the NBD server does not offer ${what} for ${this.exportName}`);
  }

  #fuaFlag(options: WriteOptions): number {
    if (options.fua !== true) return 0;
    this.#checkFeature(this.features.canFua, 'FUA');
    return CMD_FLAG.FUA;
  }
}

function featuresOf({ transmissionFlags, contexts }: Negotiated): BlockFeatures {
  const has = (flag: number): boolean => (transmissionFlags & flag) !== 0;
  const isReadOnly = has(FLAG.READ_ONLY);
  const canZero = has(FLAG.SEND_WRITE_ZEROES) && !isReadOnly;
  return {
    isReadOnly,
    canFlush: has(FLAG.SEND_FLUSH),
    canFua: has(FLAG.SEND_FUA) && !isReadOnly,
    canTrim: has(FLAG.SEND_TRIM) && !isReadOnly,
    canZero,
    canFastZero: canZero && has(FLAG.SEND_FAST_ZERO),
    canCache: has(FLAG.SEND_CACHE),
    canExtents: [...contexts.values()].includes(BASE_ALLOCATION),
    isMultiConnSafe: has(FLAG.CAN_MULTI_CONN),
  };
}

/** `base:allocation` as extents. HOLE without ZERO is data: its content is undefined. Other bits are ignored. */
function allocationExtents(start: number, status: readonly StatusExtent[]): Extent[] {
  const extents: { offset: number; length: number; kind: ExtentKind }[] = [];
  let offset = start;
  for (const { length, flags } of status) {
    const isHole = (flags & ALLOCATION_STATE.HOLE) !== 0;
    const kind = (flags & ALLOCATION_STATE.ZERO) === 0 ? 'data' : isHole ? 'hole' : 'zero';
    appendExtent(extents, { offset, length, kind });
    offset += length;
  }
  return extents;
}

/** The answers that mean, or may mean, that a shorter request would do. */
function isTooLong(error: unknown): boolean {
  return hasCode(error, 'NBD_SERVER_ERROR') && ['EOVERFLOW', 'EINVAL'].includes(String(error.details['errno']));
}

function isOverflow(error: unknown): boolean {
  return hasCode(error, 'NBD_SERVER_ERROR') && error.details['errno'] === 'EOVERFLOW';
}
