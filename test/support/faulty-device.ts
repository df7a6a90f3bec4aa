// SPDX-License-Identifier: Apache-2.0
import type {
  BlockDevice,
  BlockFeatures,
  BlockLimits,
  WriteOptions,
  ZeroOptions,
} from '../../appliance/block/block-device.ts';
import type { Extent, Range } from '../../appliance/core/extents.ts';

export type DeviceOperation = 'read' | 'write' | 'zero' | 'trim' | 'flush' | 'cache' | 'extents' | 'close';

export interface DeviceRequest {
  readonly operation: DeviceOperation;
  readonly range: Range;
}

/**
 * A device that tells about each request before it is passed on. `before` may throw (the request then fails and the
 * device beneath is not touched) or wait. Closing it closes the device.
 */
export class FaultyDevice implements BlockDevice {
  readonly sizeBytes: number;
  readonly limits: BlockLimits;
  readonly features: BlockFeatures;
  /** Requests so far, by operation. */
  readonly counts: Record<DeviceOperation, number> = {
    read: 0,
    write: 0,
    zero: 0,
    trim: 0,
    flush: 0,
    cache: 0,
    extents: 0,
    close: 0,
  };
  /** Bytes of the requests so far, by operation. */
  readonly bytes: Record<DeviceOperation, number> = { ...this.counts };
  /** Requests that run now, and the most that ever did. */
  running = 0;
  mostRunning = 0;
  private readonly device: BlockDevice;
  private readonly before: (request: DeviceRequest) => Promise<void> | void;

  constructor(device: BlockDevice, before: (request: DeviceRequest) => Promise<void> | void = () => undefined) {
    this.device = device;
    this.before = before;
    this.sizeBytes = device.sizeBytes;
    this.limits = device.limits;
    this.features = device.features;
  }

  async read(offset: number, into: Buffer): Promise<void> {
    await this.pass('read', { offset, length: into.length }, () => this.device.read(offset, into));
  }

  async write(offset: number, data: Buffer, options?: WriteOptions): Promise<void> {
    await this.pass('write', { offset, length: data.length }, () => this.device.write(offset, data, options));
  }

  async zero(range: Range, options?: ZeroOptions): Promise<void> {
    await this.pass('zero', range, () => this.device.zero(range, options));
  }

  async trim(range: Range, options?: WriteOptions): Promise<void> {
    await this.pass('trim', range, () => this.device.trim(range, options));
  }

  async flush(): Promise<void> {
    await this.pass('flush', { offset: 0, length: 0 }, () => this.device.flush());
  }

  async cache(range: Range): Promise<void> {
    await this.pass('cache', range, () => this.device.cache(range));
  }

  async extents(range: Range): Promise<Extent[]> {
    return await this.pass('extents', range, () => this.device.extents(range));
  }

  async close(): Promise<void> {
    await this.pass('close', { offset: 0, length: 0 }, () => this.device.close());
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  private async pass<T>(operation: DeviceOperation, range: Range, request: () => Promise<T>): Promise<T> {
    this.counts[operation] += 1;
    this.bytes[operation] += range.length;
    this.running += 1;
    this.mostRunning = Math.max(this.mostRunning, this.running);
    try {
      await this.before({ operation, range });
      return await request();
    } finally {
      this.running -= 1;
    }
  }
}

/** Waits for a few turns of the event loop, so that requests really overlap. */
export async function someTurns(count: number): Promise<void> {
  for (let turn = 0; turn < count; turn++) await new Promise((resolve) => setImmediate(resolve));
}
