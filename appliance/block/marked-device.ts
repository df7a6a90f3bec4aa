// SPDX-License-Identifier: Apache-2.0
import { type Extent, endOf, type Range } from '../core/extents.ts';
import type { BlockDevice, BlockFeatures, BlockLimits, WriteOptions, ZeroOptions } from './block-device.ts';

/** What one mark stands for. */
export const MARK_BYTES: number = 64 * 1024;

/** Where a disk was written to lately, and where anything was trimmed since the marks were made; a byte for each unit. */
export class WriteMarks {
  #written: Uint8Array;
  /** Of the period before: a write may have been on its way when the marks were renewed. */
  #writtenBefore: Uint8Array;
  readonly #trimmed: Uint8Array;

  constructor(sizeBytes: number) {
    const units = Math.ceil(sizeBytes / MARK_BYTES);
    this.#written = new Uint8Array(units);
    this.#writtenBefore = new Uint8Array(units);
    this.#trimmed = new Uint8Array(units);
  }

  write(range: Range): void {
    this.#written.fill(1, ...unitsOf(range));
  }

  trim(range: Range): void {
    this.#trimmed.fill(1, ...unitsOf(range));
  }

  /** Writes count from the last call on. Trims stay: what they leave may differ from place to place. */
  renew(): void {
    const oldest = this.#writtenBefore;
    this.#writtenBefore = this.#written;
    this.#written = oldest.fill(0);
  }

  /** Whether the range was touched. */
  has(range: Range): boolean {
    const [from, to] = unitsOf(range);
    for (let unit = from; unit < to; unit++) {
      if (this.#written[unit] === 1 || this.#writtenBefore[unit] === 1 || this.#trimmed[unit] === 1) return true;
    }
    return false;
  }
}

/**
 * The device, with marks of what changes it while there are any. A mark is there before the change begins. Closing it
 * closes the device.
 */
export class MarkedDevice implements BlockDevice {
  readonly sizeBytes: number;
  readonly limits: BlockLimits;
  readonly features: BlockFeatures;
  readonly readCached?: (offset: number, into: Buffer) => boolean;
  /** Set by whoever wants to know. */
  marks: WriteMarks | undefined;
  readonly #device: BlockDevice;

  constructor(device: BlockDevice) {
    this.#device = device;
    this.sizeBytes = device.sizeBytes;
    this.limits = device.limits;
    this.features = device.features;
    if (device.readCached !== undefined) {
      this.readCached = (offset, into) => device.readCached?.(offset, into) === true;
    }
  }

  read(offset: number, into: Buffer): Promise<void> {
    return this.#device.read(offset, into);
  }

  write(offset: number, data: Buffer, options?: WriteOptions): Promise<void> {
    this.marks?.write({ offset, length: data.length });
    return this.#device.write(offset, data, options);
  }

  zero(range: Range, options?: ZeroOptions): Promise<void> {
    this.marks?.write(range);
    return this.#device.zero(range, options);
  }

  trim(range: Range, options?: WriteOptions): Promise<void> {
    this.marks?.trim(range);
    return this.#device.trim(range, options);
  }

  flush(): Promise<void> {
    return this.#device.flush();
  }

  cache(range: Range): Promise<void> {
    return this.#device.cache(range);
  }

  extents(range: Range): Promise<Extent[]> {
    return this.#device.extents(range);
  }

  close(): Promise<void> {
    return this.#device.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}

/** First unit, and the one behind the last. */
function unitsOf(range: Range): [number, number] {
  return [Math.floor(range.offset / MARK_BYTES), Math.ceil(endOf(range) / MARK_BYTES)];
}
