// SPDX-License-Identifier: Apache-2.0
import type { Extent, Range } from '../core/extents.ts';
import type { BlockDevice, BlockFeatures, BlockLimits } from './block-device.ts';
import { checked } from './checked-device.ts';

/** The device without its ways to change content: they throw READ_ONLY. Closing it closes the device. */
export function readOnly(device: BlockDevice): BlockDevice {
  return device.features.isReadOnly ? checked(device) : checked(new ReadOnlyDevice(device));
}

class ReadOnlyDevice implements BlockDevice {
  readonly sizeBytes: number;
  readonly limits: BlockLimits;
  readonly features: BlockFeatures;
  readonly readCached?: (offset: number, into: Buffer) => boolean;
  private readonly device: BlockDevice;

  constructor(device: BlockDevice) {
    this.device = device;
    this.sizeBytes = device.sizeBytes;
    if (device.readCached !== undefined) {
      this.readCached = (offset, into) => device.readCached?.(offset, into) === true;
    }
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
    await this.device.read(offset, into);
  }

  /** The three that `checked` never lets through. */
  async write(): Promise<void> {}
  async zero(): Promise<void> {}
  async trim(): Promise<void> {}

  async flush(): Promise<void> {
    await this.device.flush();
  }

  async cache(range: Range): Promise<void> {
    await this.device.cache(range);
  }

  async extents(range: Range): Promise<Extent[]> {
    return await this.device.extents(range);
  }

  async close(): Promise<void> {
    await this.device.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}
