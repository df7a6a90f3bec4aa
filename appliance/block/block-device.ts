// SPDX-License-Identifier: Apache-2.0
import type { Extent, Range } from '../core/extents.ts';

/** What a device asks of its callers. All are powers of two, `minimumBytes <= preferredBytes <= maximumBytes`. */
export interface BlockLimits {
  /** Offsets and lengths must be multiples of it (1 when any byte can be addressed). */
  readonly minimumBytes: number;
  /** Requests of this size and alignment are served without read-modify-write. */
  readonly preferredBytes: number;
  /** Largest payload of one read or write. Zeroes, trims and extent queries may be longer. */
  readonly maximumBytes: number;
}

/** What a device can do besides reading. A method whose claim is false throws NOT_SUPPORTED (READ_ONLY on a read-only device). */
export interface BlockFeatures {
  readonly isReadOnly: boolean;
  readonly canFlush: boolean;
  readonly canFua: boolean;
  readonly canTrim: boolean;
  readonly canZero: boolean;
  /** `zero` with `fastOnly` either is quick or fails with NOT_SUPPORTED and changes nothing. */
  readonly canFastZero: boolean;
  readonly canCache: boolean;
  /** `extents` tells more than "everything is data". */
  readonly canExtents: boolean;
  /** A flush on one connection covers writes acknowledged on every other. */
  readonly isMultiConnSafe: boolean;
}

/** Bytes and where they belong. */
export interface DataWrite {
  readonly offset: number;
  readonly data: Buffer;
}

export interface WriteOptions {
  /** Settle only when this write is on stable storage. */
  readonly fua?: boolean;
}

export interface ZeroOptions extends WriteOptions {
  /** Keep the area allocated (NBD's NO_HOLE). */
  readonly keepAllocated?: boolean;
  /** Fail with NOT_SUPPORTED, changing nothing, unless zeroing is faster than writing zeroes. */
  readonly fastOnly?: boolean;
}

/**
 * A disk-like thing: everything that reads or writes the bytes of a disk in this appliance goes through it.
 *
 * Contract, checked once by `checked()` in `checked-device.ts`, so that implementations may assume valid arguments:
 * offset and length are safe integers, inside `[0, sizeBytes]`, multiples of `limits.minimumBytes`; the length of a read
 * or write equals its buffer's and is at most `limits.maximumBytes`; a request of length 0 never arrives.
 *
 * Requests may run at the same time and finish in any order; overlapping ones have no defined order until the first has
 * settled. A write that has settled is seen by every later read. Data is durable after `flush` (for writes settled before
 * it was called) or with `fua`. An operation either does all it was asked for or throws; a failed write leaves its area
 * undefined (old, new or mixed), and nothing else.
 */
export interface BlockDevice extends AsyncDisposable {
  readonly sizeBytes: number;
  readonly limits: BlockLimits;
  readonly features: BlockFeatures;

  /**
   * Fills all of `into` (its length is the request's) from `offset`. The buffer belongs to the device until the promise
   * settles; after an error its content is undefined.
   */
  read(offset: number, into: Buffer): Promise<void>;

  /**
   * Optional shortcut of `read` for devices that hold the bytes in memory: fills all of `into` before it returns and says
   * true, or says false (content of `into` undefined) and the caller uses `read`. Never blocks, never throws for a
   * request that `read` would take, and keeps `into` no longer than the call. Closed devices say false.
   */
  readCached?(offset: number, into: Buffer): boolean;

  /** Writes all of `data` at `offset`. The buffer belongs to the device until the promise settles. */
  write(offset: number, data: Buffer, options?: WriteOptions): Promise<void>;

  /**
   * Optional shortcut of `write` for devices that need not wait for anything: does all these writes, in order, before it
   * returns and says true, or does nothing that counts and says false, and the caller uses `write`, which does it or says what
   * is wrong. Never throws, and keeps the buffers no longer than the call.
   */
  writeNow?(writes: readonly DataWrite[]): boolean;

  /** Makes the range read as zeroes, always. */
  zero(range: Range, options?: ZeroOptions): Promise<void>;

  /** Tells that the range's content does not matter any more. It then reads as zeroes or unchanged, the same at every read. */
  trim(range: Range, options?: WriteOptions): Promise<void>;

  flush(): Promise<void>;

  /** Brings the range closer, if that means anything; never changes content. */
  cache(range: Range): Promise<void>;

  /**
   * What the range holds, from `range.offset` on: at least one extent; it may stop early (at least one byte is covered)
   * but never reports beyond the range. Bounded work: at most `MAX_EXTENTS_PER_QUERY` extents.
   */
  extents(range: Range): Promise<Extent[]>;

  /** Releases everything; idempotent. Requests in flight settle first or fail with CLOSED. Does not flush. */
  close(): Promise<void>;
}

/** Upper bound of one `extents` answer, and so of the memory that one query takes (NBD allows 2^20 per reply). */
export const MAX_EXTENTS_PER_QUERY = 65_536;

/** Limits of a device that takes any byte. */
export const BYTE_LIMITS: BlockLimits = { minimumBytes: 1, preferredBytes: 4096, maximumBytes: 32 * 1024 * 1024 };
