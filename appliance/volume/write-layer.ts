// SPDX-License-Identifier: Apache-2.0
import type { DataWrite } from '../block/block-device.ts';
import type { Slice } from '../core/extent-map.ts';
import type { Range } from '../core/extents.ts';

/** A place on a disk of the machine. */
export interface DiskRange extends Range {
  /** 0, 1, 2, … below 65,535. */
  readonly disk: number;
}

/** When a change took place in the log: the sequence of its last record, and its time. */
export interface Appended {
  readonly sequence: number;
  /** Microseconds since the Unix epoch. */
  readonly timeUs: number;
}

/** Writes over a base that somebody else has: of a log up to now, or up to a moment. */
export interface WriteLayer {
  /**
   * What covers a range of a disk: a record (its location, to be given to `read`), zeroes (`isZeroes`), or nothing
   * (undefined: the base shows through). The answer is a copy; later changes of the layer do not change it.
   */
  slices(place: DiskRange): Slice<number>[];
  /** The same one by one, for ranges that may have many; the layer must not change until the iteration has ended. */
  sliceIterator(place: DiskRange): Generator<Slice<number>, void, undefined>;
  /** Fills `into` from byte `from` on of a record's data. WRITE_LOG_CORRUPT when it is not what was written; IO_FAILED. */
  read(location: number, from: number, into: Buffer): Promise<void>;
  /** The same at once, when the record is at hand; false otherwise. */
  readCached(location: number, from: number, into: Buffer): boolean;
}

/** Where changes go. */
export interface WriteSink {
  /** Appends a write. The buffer belongs to the sink until the promise settles. */
  append(write: { disk: number; offset: number; data: Buffer }): Promise<Appended>;
  /**
   * Optional shortcut of `append`: appends all these writes (at least one), in order, before it returns with the place of the
   * last, or does nothing that counts (undefined), and the caller uses `append`, which does it or says what is wrong. Never
   * throws, and keeps the buffers no longer than the call.
   */
  appendNow?(disk: number, writes: readonly DataWrite[]): Appended | undefined;
  /** Appends that a range reads as zeroes from now on; `trim` says that the guest trimmed it. Default: `zero`. */
  appendZero(range: DiskRange, kind?: 'zero' | 'trim'): Promise<Appended>;
  /** Settles when everything whose append settled before this call is on stable storage. */
  flush(): Promise<void>;
}

/** True for a location whose range reads as zeroes: the negative of that of the record which says so. */
export function isZeroes(location: number): boolean {
  return location < 0;
}
