// SPDX-License-Identifier: Apache-2.0
import { setTimeout as delay } from 'node:timers/promises';
import type { Clock } from '../core/clock.ts';
import { ApplianceError } from '../core/errors.ts';
import type { Extent, Range } from '../core/extents.ts';
import type { BlockDevice, BlockFeatures, BlockLimits } from './block-device.ts';
import { checked } from './checked-device.ts';

/**
 * Lets through so many bytes per second, of all who ask together. Whoever asks waits until what was let through before has had its
 * time; nothing is saved up while nobody asks.
 */
export class Throttle {
  readonly #bytesPerSecond: number;
  readonly #clock: Clock;
  readonly #signal: AbortSignal;
  #freeAtMs = Number.NEGATIVE_INFINITY;

  constructor(bytesPerSecond: number, clock: Clock, signal: AbortSignal) {
    this.#bytesPerSecond = bytesPerSecond;
    this.#clock = clock;
    this.#signal = signal;
  }

  /** Settles when the bytes may pass. @throws ApplianceError ABORTED */
  async pass(bytes: number): Promise<void> {
    const nowMs = this.#clock.elapsedMs();
    const beginMs = Math.max(nowMs, this.#freeAtMs);
    this.#freeAtMs = beginMs + (bytes / this.#bytesPerSecond) * 1000;
    if (beginMs <= nowMs) return;
    try {
      await delay(beginMs - nowMs, undefined, { signal: this.#signal });
    } catch (cause) {
      throw new ApplianceError('ABORTED', 'interrupted while it waited for its bandwidth', { cause });
    }
  }
}

/** The device, its reads slowed down; it cannot be written. Closing it closes the device. */
export function throttled(device: BlockDevice, throttle: Throttle): BlockDevice {
  return checked(new ThrottledDevice(device, throttle));
}

class ThrottledDevice implements BlockDevice {
  readonly sizeBytes: number;
  readonly limits: BlockLimits;
  readonly features: BlockFeatures;
  readonly #device: BlockDevice;
  readonly #throttle: Throttle;

  constructor(device: BlockDevice, throttle: Throttle) {
    this.#device = device;
    this.#throttle = throttle;
    this.sizeBytes = device.sizeBytes;
    this.limits = device.limits;
    this.features = {
      ...device.features,
      isReadOnly: true,
      canFua: false,
      canTrim: false,
      canZero: false,
      canFastZero: false,
    };
  }

  async read(offset: number, into: Buffer): Promise<void> {
    await this.#throttle.pass(into.length);
    await this.#device.read(offset, into);
  }

  /** The three that `checked` never lets through. */
  async write(): Promise<void> {}
  async zero(): Promise<void> {}
  async trim(): Promise<void> {}

  async flush(): Promise<void> {
    await this.#device.flush();
  }

  async cache(range: Range): Promise<void> {
    await this.#device.cache(range);
  }

  async extents(range: Range): Promise<Extent[]> {
    return await this.#device.extents(range);
  }

  async close(): Promise<void> {
    await this.#device.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}
