// SPDX-License-Identifier: Apache-2.0
import type { ErrorCode } from '../core/error-codes.ts';
import { ApplianceError } from '../core/errors.ts';
import { type Extent, endOf, type Range } from '../core/extents.ts';
import { invariant } from '../core/invariant.ts';
import {
  type BlockDevice,
  type BlockFeatures,
  type BlockLimits,
  type DataWrite,
  MAX_EXTENTS_PER_QUERY,
  type WriteOptions,
  type ZeroOptions,
} from './block-device.ts';

/**
 * The one place that checks the contract of `BlockDevice` (see there): wraps an implementation, which may then assume
 * valid arguments, an open device and kept claims, and is closed only after its last request has settled. Requests of
 * length 0 are answered here.
 *
 * Errors: BAD_ARGUMENT (not a safe integer, not aligned, payload too long), OUT_OF_RANGE, READ_ONLY, NOT_SUPPORTED (a
 * feature that is not claimed), CLOSED.
 */
export function checked(device: BlockDevice): BlockDevice {
  return device instanceof CheckedDevice ? device : new CheckedDevice(device);
}

class CheckedDevice implements BlockDevice {
  readonly sizeBytes: number;
  readonly limits: BlockLimits;
  readonly features: BlockFeatures;
  readonly readCached?: (offset: number, into: Buffer) => boolean;
  readonly writeNow?: (writes: readonly DataWrite[]) => boolean;
  private readonly device: BlockDevice;
  private running = 0;
  private closing: Promise<void> | undefined;
  private whenIdle: (() => void) | undefined;

  constructor(device: BlockDevice) {
    invariant(Number.isSafeInteger(device.sizeBytes) && device.sizeBytes >= 0, 'a device has a size in bytes');
    this.device = device;
    this.sizeBytes = device.sizeBytes;
    this.limits = device.limits;
    this.features = device.features;
    if (device.readCached !== undefined) this.readCached = (offset, into) => this.tryCached(offset, into);
    if (device.writeNow !== undefined) this.writeNow = (writes) => this.tryNow(writes);
  }

  async read(offset: number, into: Buffer): Promise<void> {
    this.checkOpen();
    this.checkPayload('read', offset, into.length);
    if (into.length === 0) return;
    this.running += 1;
    try {
      await this.device.read(offset, into);
    } finally {
      this.leave();
    }
  }

  async write(offset: number, data: Buffer, options: WriteOptions = {}): Promise<void> {
    this.checkOpen();
    this.checkWritable();
    this.checkPayload('write', offset, data.length);
    this.checkFua(options);
    if (data.length === 0) return;
    this.running += 1;
    try {
      await this.device.write(offset, data, options);
    } finally {
      this.leave();
    }
  }

  async zero(range: Range, options: ZeroOptions = {}): Promise<void> {
    this.checkOpen();
    this.checkWritable();
    this.checkRange('zero', range);
    this.checkFua(options);
    this.checkClaim(this.features.canZero, 'write zeroes');
    if (options.fastOnly === true) this.checkClaim(this.features.canFastZero, 'zero quickly');
    if (range.length > 0) await this.run(() => this.device.zero(range, options));
  }

  async trim(range: Range, options: WriteOptions = {}): Promise<void> {
    this.checkOpen();
    this.checkWritable();
    this.checkRange('trim', range);
    this.checkFua(options);
    this.checkClaim(this.features.canTrim, 'trim');
    if (range.length > 0) await this.run(() => this.device.trim(range, options));
  }

  async flush(): Promise<void> {
    this.checkOpen();
    this.checkClaim(this.features.canFlush, 'flush');
    await this.run(() => this.device.flush());
  }

  async cache(range: Range): Promise<void> {
    this.checkOpen();
    this.checkRange('cache', range);
    this.checkClaim(this.features.canCache, 'cache');
    if (range.length > 0) await this.run(() => this.device.cache(range));
  }

  async extents(range: Range): Promise<Extent[]> {
    this.checkOpen();
    this.checkRange('ask for the extents of', range);
    if (range.length === 0) return [];
    if (!this.features.canExtents) return [{ offset: range.offset, length: range.length, kind: 'data' }];
    const extents = await this.run(() => this.device.extents(range));
    checkExtents(range, extents);
    return extents;
  }

  close(): Promise<void> {
    this.closing ??= this.closeWhenIdle();
    return this.closing;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  private tryCached(offset: number, into: Buffer): boolean {
    if (this.closing !== undefined || into.length > this.limits.maximumBytes) return false;
    return into.length > 0 && this.isValid(offset, into.length) && this.device.readCached?.(offset, into) === true;
  }

  private tryNow(writes: readonly DataWrite[]): boolean {
    if (this.closing !== undefined || this.features.isReadOnly) return false;
    for (const { offset, data } of writes) {
      const isPayload = data.length > 0 && data.length <= this.limits.maximumBytes;
      if (!isPayload || !this.isValid(offset, data.length)) return false;
    }
    return this.device.writeNow?.(writes) === true;
  }

  private async closeWhenIdle(): Promise<void> {
    if (this.running > 0) {
      await new Promise<void>((resolve) => {
        this.whenIdle = resolve;
      });
    }
    await this.device.close();
  }

  private async run<T>(request: () => Promise<T>): Promise<T> {
    this.running += 1;
    try {
      return await request();
    } finally {
      this.leave();
    }
  }

  private leave(): void {
    this.running -= 1;
    if (this.running === 0) this.whenIdle?.();
  }

  private checkOpen(): void {
    if (this.closing !== undefined) throw new ApplianceError('CLOSED', 'the device is closed');
  }

  private checkWritable(): void {
    if (this.features.isReadOnly) throw new ApplianceError('READ_ONLY', 'the device is read-only');
  }

  private checkClaim(claim: boolean, what: string): void {
    if (!claim) throw new ApplianceError('NOT_SUPPORTED', `the device cannot ${what}`);
  }

  private checkFua(options: WriteOptions): void {
    if (options.fua === true) this.checkClaim(this.features.canFua, 'write through to stable storage');
  }

  private checkPayload(verb: string, offset: number, length: number): void {
    if (!this.isValid(offset, length)) throw this.problem(verb, { offset, length });
    if (length > this.limits.maximumBytes) {
      const message = `cannot ${verb} ${length} bytes at once; the device takes ${this.limits.maximumBytes}`;
      throw new ApplianceError('BAD_ARGUMENT', message, { details: { offset, length } });
    }
  }

  private checkRange(verb: string, range: Range): void {
    if (!this.isValid(range.offset, range.length)) throw this.problem(verb, range);
  }

  private isValid(offset: number, length: number): boolean {
    const { minimumBytes } = this.limits;
    const isInside = offset >= 0 && length >= 0 && offset <= this.sizeBytes - length;
    if (!isInside || !Number.isSafeInteger(offset) || !Number.isSafeInteger(length)) return false;
    return minimumBytes === 1 || (offset % minimumBytes === 0 && length % minimumBytes === 0);
  }

  private problem(verb: string, range: Range): ApplianceError {
    const { offset, length } = range;
    const details = { offset, length, sizeBytes: this.sizeBytes, minimumBytes: this.limits.minimumBytes };
    let code: ErrorCode = 'BAD_ARGUMENT';
    let reason = `not a multiple of ${this.limits.minimumBytes}`;
    if (!Number.isSafeInteger(offset) || !Number.isSafeInteger(length) || offset < 0 || length < 0) {
      reason = 'not a range of bytes';
    } else if (offset > this.sizeBytes - length) {
      code = 'OUT_OF_RANGE';
      reason = `the device ends at ${this.sizeBytes}`;
    }
    return new ApplianceError(code, `cannot ${verb} ${length} bytes at ${offset}: ${reason}`, { details });
  }
}

/** What an implementation promises about its answer; who speaks to a peer checks the peer's answer itself. */
function checkExtents(range: Range, extents: readonly Extent[]): void {
  const first = extents[0];
  const last = extents.at(-1);
  invariant(first !== undefined && last !== undefined, 'an answer about extents has one at least');
  invariant(extents.length <= MAX_EXTENTS_PER_QUERY, 'an answer about extents is bounded');
  invariant(first.offset === range.offset && first.length > 0, 'extents start at the range');
  invariant(last.length > 0 && endOf(last) <= endOf(range), 'extents stay inside the range');
}
